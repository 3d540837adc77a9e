//! The engines that a registry may lie in, each as its operators run it.

use culvert_tests::Nginx;
use culvert_tests::Stack;
use culvert_tests::cluster::Cluster;
use culvert_tests::load::Events;
use culvert_tests::redis::{Engine, Redis, Sentinels, Shards};
use culvert_tests::stack::caller_token;
use culvert_tests::wait::until;

/// What `docs/scaling.md` says that the user of relays needs: every word of the line that gives it.
fn rights() -> String {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/scaling.md");
    let docs = std::fs::read_to_string(docs).expect("docs/scaling.md");
    let line = docs
        .lines()
        .find_map(|line| line.strip_prefix("user culvert on >PASSWORD "));
    line.expect("docs/scaling.md shows the user").to_owned()
}

fn two_relays<E: Engine>(engine: E, upstream: &str) -> Cluster<E> {
    let options = Stack::options().endpoint("vcenter", upstream).sessions(1);
    let mut cluster = Cluster::over(engine, 2, options);
    cluster.start_agent_of(0);
    cluster.await_endpoint();
    cluster
}

/// The rights that the documentation names are enough, over TLS, and nothing that relays do needs
/// more: a call reaches the other node's agent, and the server refuses no command.
#[test]
fn a_user_with_no_more_than_the_documented_rights_is_enough() {
    let nginx = Nginx::start();
    let mut cluster = two_relays(Redis::guarded(&rights()), &nginx.url());
    assert_eq!(cluster.call(1, "/api/vm").ok().status, 200);
    // What changes is told: hints, renewals and the farewell of a node too.
    cluster.relays[0].process.terminate();
    assert!(cluster.relays[0].process.wait().success());
    cluster.restart(0);
    cluster.await_endpoint();
    for relay in 0..2 {
        let log = cluster.relays[relay].process.log();
        assert!(!log.contains("NOPERM"), "{log}");
        assert!(!log.contains("the registry fails"), "{log}");
    }
}

/// The primary fails: Sentinels choose another one, nobody's call fails, and what changes afterwards
/// is seen.
#[test]
fn a_primary_that_sentinels_replace_costs_no_call() {
    let events = Events::of("acme");
    let mut cluster = two_relays(Sentinels::start(), &events.url());
    let balancer = cluster.balancer.port();
    let callers = events.callers(4, balancer, caller_token(), "event-");
    callers.await_calls(50);
    cluster.redis.primary.kill();
    until("the Sentinels have made the replica the primary", || {
        cluster.redis.has_changed()
    });
    until("both nodes have said again what they serve", || {
        cluster.redis.replica.command(&["SCARD", "{culvert}:nodes"]) == "2"
    });
    callers.await_calls(50);
    let book = callers.stop();
    let findings = events.findings(&book, &[]);
    assert!(
        findings.are_as_promised(),
        "{findings:?} {:?}",
        book.failures()
    );

    // An agent that moves is found by way of the new primary.
    cluster.kill_agent(0);
    until("the endpoint is offline", || {
        cluster.call(1, "/api/vm").run().code() == "endpoint-offline"
    });
    cluster.restart_agent(0);
    cluster.await_endpoint();
}

/// A Redis Cluster: all keys of the registry are in one slot, and the node that has it is found.
#[test]
fn a_redis_cluster_of_three_primaries_holds_the_registry() {
    let nginx = Nginx::start();
    let mut cluster = two_relays(Shards::start(), &nginx.url());
    assert_eq!(cluster.call(1, "/api/vm").ok().status, 200);
    let holders = |cluster: &Cluster<Shards>| {
        let keys = cluster.redis.servers.iter();
        keys.filter(|server| server.command(&["DBSIZE"]) != "0")
            .count()
    };
    assert_eq!(holders(&cluster), 1);
    cluster.relays[0].process.terminate();
    assert!(cluster.relays[0].process.wait().success());
    until("the node that has left is forgotten", || {
        cluster.places(1) == (0, 0)
    });
    cluster.restart(0);
    cluster.await_endpoint();
}
