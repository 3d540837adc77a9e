//! Many agents at a cluster; and what it costs, by size: the figures in `docs/scaling.md`.
//!
//! ```sh
//! cargo test --workspace --test scaling -- --ignored --nocapture
//! ```

use std::time::{Duration, Instant};

use culvert_tests::Stack;
use culvert_tests::cluster::Cluster;
use culvert_tests::redis::Redis;
use culvert_tests::swarm::Swarm;
use culvert_tests::wait::eventually_within;

/// How long a quiet cluster is watched.
const QUIET: Duration = Duration::from_secs(30);

/// Bytes that the engine has taken and given, and what it holds.
#[derive(Debug, Clone, Copy)]
struct Engine {
    taken: u64,
    given: u64,
    held: u64,
    commands: u64,
}

impl Engine {
    fn read(redis: &Redis) -> Self {
        let info = redis.command(&["INFO"]);
        let number = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or(0)
        };
        Self {
            taken: number("total_net_input_bytes:"),
            given: number("total_net_output_bytes:"),
            held: number("used_memory:"),
            commands: number("total_commands_processed:"),
        }
    }
}

fn endpoints(cluster: &Cluster, relay: usize) -> usize {
    let status = cluster.admin(relay, "/api/v1/status").json();
    let all = status["endpoints"].as_array();
    let served = all.into_iter().flatten().filter(|endpoint| {
        endpoint["sessions"].as_u64() > Some(0) || endpoint["elsewhere"].as_u64() > Some(0)
    });
    served.count()
}

/// Waits until each node knows as many endpoints that are served.
fn await_endpoints(cluster: &Cluster, count: usize) {
    let known = || (0..cluster.relays.len()).all(|relay| endpoints(cluster, relay) == count);
    let what = format!("everybody knows {count} endpoints");
    eventually_within(Duration::from_secs(120), &what, || known().then_some(()));
}

fn mean_memory(cluster: &Cluster) -> u64 {
    let memory = cluster.relays.iter().map(|relay| relay.process.memory());
    memory.sum::<u64>() / cluster.relays.len() as u64
}

/// A line of the table: so many nodes and agents, each with one session and one endpoint.
fn measure(nodes: usize, agents: usize) {
    // The lease that is the default.
    let options = Stack::options().lease("15s").relay(
        "\n[limits]\nsessions = 20000\ntenant_max_sessions = 20000\n\
         unauthenticated_per_source = 20000\ntenant_max_endpoints = 20000\n",
    );
    let cluster = Cluster::start(nodes, options);
    let empty = mean_memory(&cluster);
    let held = Engine::read(&cluster.redis).held;
    let ports: Vec<_> = cluster.relays.iter().map(|relay| relay.public).collect();
    let begun = Instant::now();
    let before = Engine::read(&cluster.redis);
    let swarm = Swarm::start(agents, &ports);
    await_endpoints(&cluster, agents);
    let joined = begun.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(5));
    let full = mean_memory(&cluster);
    let start = Engine::read(&cluster.redis);
    std::thread::sleep(QUIET);
    let end = Engine::read(&cluster.redis);
    let rate = |from: u64, to: u64| (to - from) as f64 / QUIET.as_secs_f64();
    eprintln!(
        "| {nodes} | {agents} | {joined:.1} | {} | {} | {:.1} | {} | {:.2} | {:.2} | {:.1} |",
        (start.taken - before.taken) / 1024,
        (start.given - before.given) / 1024,
        empty as f64 / f64::from(1 << 20),
        full.saturating_sub(empty) * nodes as u64 / agents.max(1) as u64 / 1024,
        rate(start.taken, end.taken) / 1024.0,
        rate(start.given, end.given) / 1024.0,
        rate(start.commands, end.commands),
    );
    eprintln!(
        "engine held {} KiB more",
        end.held.saturating_sub(held) / 1024
    );
    // One agent goes: what a change costs.
    drop(swarm);
}

#[test]
fn every_node_knows_what_the_agents_of_all_serve_and_that_they_have_gone() {
    const AGENTS: usize = 60;
    let cluster = Cluster::start(3, Stack::options());
    let ports: Vec<_> = cluster.relays.iter().map(|relay| relay.public).collect();
    let swarm = Swarm::start(AGENTS, &ports);
    await_endpoints(&cluster, AGENTS);
    drop(swarm);
    await_endpoints(&cluster, 0);
}

#[test]
#[ignore = "takes minutes; prints figures and asserts nothing but that it works"]
fn what_nodes_and_agents_cost() {
    eprintln!(
        "| nodes | agents | s to join | KiB to the engine | KiB from it | MiB of an empty node \
         | KiB a session | KiB/s to it, quiet | KiB/s from it | commands/s |"
    );
    for (nodes, agents) in [
        (2, 0),
        (4, 0),
        (8, 0),
        (2, 500),
        (4, 500),
        (4, 1000),
        (4, 2000),
    ] {
        measure(nodes, agents);
    }
}
