//! What becomes of calls while nodes of a cluster die, stand still, or do not reach each other. Callers
//! call all the time, and the local API counts what arrives.

use culvert_tests::cluster::Cluster;
use culvert_tests::load::{Events, Instant, Trouble};
use culvert_tests::stack::caller_token;
use culvert_tests::wait::{eventually_within, until};
use culvert_tests::{Nginx, Stack};
use rustix::process::Signal;
use std::time::Duration;

/// Longer than a node that says nothing is believed to be there.
const NOTICED: Duration = Duration::from_secs(40);

fn three_relays(upstream: &str) -> Cluster {
    let options = Stack::options().endpoint("vcenter", upstream).sessions(2);
    Cluster::start(3, options)
}

/// Whether so many calls in a row by way of a node succeed.
fn all_succeed(cluster: &Cluster, relay: usize) -> bool {
    (0..10).all(|_| cluster.call(relay, "/api/read").run().status == 200)
}

/// A node is killed while callers call: the calls that it held may fail and no others, every report
/// that succeeded has arrived once, and none twice, whatever became of it.
#[test]
fn a_killed_node_costs_no_call_that_it_did_not_hold() {
    let events = Events::of("acme");
    let mut cluster = three_relays(&events.url());
    cluster.start_agent();
    cluster.start_agent();
    cluster.await_endpoint();
    until("the agents have all their sessions", || {
        cluster.sessions().iter().sum::<usize>() == 4
    });
    let callers = events.callers(6, cluster.balancer.port(), caller_token(), "event-");
    callers.await_calls(100);
    let sessions = cluster.sessions();
    let most = (0..3).max_by_key(|relay| sessions[*relay]).unwrap();
    let killed = Instant::now();
    cluster.kill(most);
    until("the agents have all their sessions again", || {
        cluster.sessions().iter().sum::<usize>() == 4
    });
    callers.await_calls(100);
    cluster.restart(most);
    callers.await_calls(100);
    let book = callers.stop();
    let findings = events.findings(&book, &[Trouble::death(killed)]);
    assert!(
        findings.are_as_promised(),
        "{findings:?} {:?}",
        book.failures()
    );
    assert!(findings.once > 100, "{findings:?}");
}

/// A node stands still, with all of its connections: others find out, and send it nothing any more.
/// When it goes on, what it has held does no harm: nothing arrives twice.
#[test]
fn a_node_that_stands_still_is_gone_around_and_does_no_harm_when_it_goes_on() {
    let events = Events::of("acme");
    let mut cluster = three_relays(&events.url());
    let port = |relay: usize| cluster.relays[relay].public;
    let ports = [port(0), port(1), port(2)];
    // The agent is with the first two, callers come by way of the third.
    cluster.balancer.set(&ports[..2]);
    cluster.start_agent();
    until("the agent is with two nodes", || {
        cluster.agents.len() == 1 && cluster.agent_status(0)["nodes"] == 2
    });
    cluster.await_endpoint();
    let callers = events.callers(3, ports[2], caller_token(), "event-");
    callers.await_calls(30);
    cluster.balancer.set(&ports[1..]);
    let stopped = Instant::now();
    cluster.relays[0].process.signal(Signal::STOP);
    eventually_within(
        NOTICED,
        "calls go around the node that stands still",
        || all_succeed(&cluster, 2).then_some(()),
    );
    until("the agent is with two nodes again", || {
        cluster.sessions_of(&[1, 2]) == 2
    });
    let around = Instant::now();
    callers.await_calls(50);
    cluster.relays[0].process.signal(Signal::CONT);
    callers.await_calls(50);
    until("the node that goes on reaches the endpoint", || {
        all_succeed(&cluster, 0)
    });
    let book = callers.stop();
    let trouble = Trouble {
        from: stopped,
        until: around,
    };
    let findings = events.findings(&book, &[trouble]);
    assert!(
        findings.are_as_promised(),
        "{findings:?} {:?}",
        book.failures()
    );
    for failed in book.failures() {
        assert!(failed.why.contains("session-lost"), "{failed:?}");
    }
}

/// One node is reached by no other one: calls go through nodes that reach an agent, and where none
/// does, the caller hears so by a typed error. Agents of the node and callers that come to it notice
/// nothing.
#[test]
fn nodes_that_do_not_reach_each_other_use_those_that_they_reach() {
    let nginx = Nginx::start();
    let mut cluster = three_relays(&nginx.url());
    let port = |relay: usize| cluster.relays[relay].public;
    let ports = [port(0), port(1), port(2)];
    cluster.balancer.set(&ports[..2]);
    cluster.start_agent();
    let only_there = Stack::options()
        .endpoint("second", &nginx.url())
        .sessions(1);
    cluster.start_agent_at(ports[0], &only_there);
    until("everybody knows both endpoints", || {
        cluster.places(2) == (0, 2) && cluster.places_of(2, "acme", "second") == (0, 1)
    });
    let second = |cluster: &Cluster, relay: usize| {
        let port = cluster.relays[relay].public;
        let url = format!("https://second--acme.localhost:{port}/api/vm");
        culvert_tests::Curl::new(&url).token(caller_token()).run()
    };
    assert_eq!(second(&cluster, 2).status, 200);
    cluster.relays[0].between.lose();
    eventually_within(NOTICED, "what only the lost node has is offline", || {
        let answer = second(&cluster, 2);
        (answer.code() == "endpoint-offline").then(|| {
            answer.assert_refused(503, "endpoint-offline", "relay");
        })
    });
    assert!(
        all_succeed(&cluster, 2),
        "the other node of the agent is there"
    );
    assert!(all_succeed(&cluster, 1));
    assert!(all_succeed(&cluster, 0));
    assert_eq!(second(&cluster, 0).status, 200);
    cluster.relays[0].between.heal();
    until("what only the lost node has is back", || {
        second(&cluster, 2).status == 200
    });
}
