//! A relay fails, and everybody it had comes to the others at once.

use std::time::Duration;

use culvert_tests::Stack;
use culvert_tests::cluster::Cluster;
use culvert_tests::swarm::Swarm;
use culvert_tests::wait::{eventually_within, until};

/// Agents, unless `CULVERT_STORM_AGENTS` says how many.
const AGENTS: u64 = 400;

/// Handshakes that a node may work on at once, unless `CULVERT_STORM_HANDSHAKES` says how many: few, so
/// that the queue is needed.
const HANDSHAKES: u64 = 4;

/// For thousands of agents on a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().expect("a number"))
}

/// What a gauge or counter of a relay stands at.
fn metric(cluster: &Cluster, relay: usize, name: &str) -> u64 {
    let metrics = cluster.admin(relay, "/metrics").text();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(&format!("culvert_relay_{name} ")));
    let value = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    value.parse().expect("a number")
}

/// Every agent is back, spread over the nodes that are left, and no node works on more handshakes at
/// once than it may, whenever one looks.
#[test]
fn agents_of_a_failed_node_are_back_and_no_node_is_above_its_limit() {
    let agents = number("CULVERT_STORM_AGENTS", AGENTS);
    let handshakes = number("CULVERT_STORM_HANDSHAKES", HANDSHAKES);
    let options = Stack::options().relay(&format!(
        "\n[limits]\nhandshakes = {handshakes}\nsessions = 20000\ntenant_max_sessions = 20000\n\
         unauthenticated_per_source = 20000\ntenant_max_endpoints = 20000\n"
    ));
    let mut cluster = Cluster::start(3, options);
    let ports: Vec<_> = cluster.relays.iter().map(|relay| relay.public).collect();
    let swarm = Swarm::start(agents as usize, &ports);
    let mut most = 0;
    let mut all_up = |cluster: &Cluster, relays: &[usize]| {
        for relay in relays {
            most = most.max(metric(cluster, *relay, "handshakes"));
        }
        let sessions = relays
            .iter()
            .map(|relay| metric(cluster, *relay, "sessions"));
        swarm.up() as u64 == agents && sessions.sum::<u64>() == agents
    };
    eventually_within(LONG, "every agent has a session", || {
        all_up(&cluster, &[0, 1, 2]).then_some(())
    });
    let had = metric(&cluster, 0, "sessions");
    assert!(had > agents / 5, "{had}");
    let begun = std::time::Instant::now();
    cluster.kill(0);
    until("the agents have noticed", || (swarm.up() as u64) < agents);
    eventually_within(LONG, "every agent has a session again", || {
        all_up(&cluster, &[1, 2]).then_some(())
    });
    eprintln!(
        "{had} of {agents} agents were back after {:.1} s; {} were told to come later",
        begun.elapsed().as_secs_f64(),
        swarm.refused()
    );
    assert!(most <= handshakes, "{most}");
    let spread = [1, 2].map(|relay| metric(&cluster, relay, "sessions"));
    assert!(
        spread.iter().all(|sessions| *sessions > agents / 3),
        "{spread:?}"
    );
}
