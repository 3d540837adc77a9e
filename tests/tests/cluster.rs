//! Several relays behind one address.

use std::time::Duration;

use culvert_demo::tokens;
use culvert_tests::cluster::Cluster;
use culvert_tests::curl::Running;
use culvert_tests::issuer::{OTHER_AGENT, OTHER_CALLER, world};
use culvert_tests::load::Events;
use culvert_tests::stack::{self, POLICY, caller_token};
use culvert_tests::upstream::Then;
use culvert_tests::wait::until;
use culvert_tests::way::Way;
use culvert_tests::{Curl, Http, Nginx, Stack, Upstream};
use serde_json::Value;

const NAMES: &str = "mode = [\"http\", \"connect\"]\nconnect = [\"vcenter.sddc.local:443\"]";

/// Beside what the policy of all tests allows.
const WAY: &str = r#"
[[rule]]
id = "the-way"
action = "allow"
mode = ["connect"]
caller = ["caller-acme"]
"#;

fn cluster(relays: usize, nginx: &Nginx) -> Cluster {
    let options = Stack::options()
        .endpoint("vcenter", &nginx.url())
        .endpoint_settings(NAMES)
        .policy(&format!("{POLICY}{WAY}"))
        .sessions(2);
    Cluster::start(relays, options)
}

/// A way through a node that is open.
fn way(cluster: &Cluster, relay: usize) -> Way {
    let credential = format!("Proxy-Authorization: Bearer {}\r\n", caller_token());
    let port = cluster.relays[relay].public;
    let way = Way::open(port, "vcenter.sddc.local:443", &credential);
    assert_eq!(way.status(), 200, "{}", way.head);
    way
}

/// An agent is with one node, and callers reach it by way of the other, in every mode.
#[test]
fn a_call_reaches_the_agent_through_a_node_that_does_not_have_it() {
    let nginx = Nginx::start();
    let mut cluster = cluster(2, &nginx);
    cluster.start_agent_of(0);
    cluster.await_endpoint();
    until("both sessions are where they can be", || {
        (cluster.places(0), cluster.places(1)) == ((2, 0), (0, 1))
    });
    let body = nginx.files().join("source");
    std::fs::write(&body, vec![b'x'; 3_000_000]).unwrap();
    for http in Http::BOTH {
        let answer = cluster.call(1, "/api/vm?x=1").http(http).ok();
        assert_eq!(answer.json()["method"], "GET", "{answer}");

        let upload = cluster
            .call(1, "/files/copy")
            .args(["--upload-file", body.to_str().unwrap()])
            .http(http)
            .ok();
        assert!([201, 204].contains(&upload.status), "{upload}");
        let copy = cluster.call(1, "/files/copy").http(http).ok();
        assert_eq!(copy.body.len(), 3_000_000);
        assert!(copy.body.iter().all(|byte| *byte == b'x'));

        let denied = cluster.call(1, "/forbidden/x").http(http).run();
        denied.assert_refused(403, "policy-denied", "agent");
    }
    let _way = way(&cluster, 1);
    let metrics = cluster.admin(0, "/metrics").text();
    assert!(
        metrics.contains("culvert_relay_peer_calls_total{outcome=\"taken\"} "),
        "{metrics}"
    );
    let metrics = cluster.admin(1, "/metrics").text();
    for gauge in [
        "culvert_relay_cluster_nodes_reached 1\n",
        "culvert_relay_peer_certificate_expiry_timestamp_seconds{name=",
    ] {
        assert!(metrics.contains(gauge), "{metrics}");
    }
    // It went nowhere else: the agent has calls from its own node alone.
    assert_eq!(cluster.agent_status(0)["nodes"], 1);

    // To another tenant the endpoint does not exist, on whichever node it is asked for.
    let stranger = world().token(OTHER_CALLER);
    for relay in [0, 1] {
        let url = format!(
            "https://vcenter--acme.localhost:{}/api/vm",
            cluster.relays[relay].public
        );
        let answer = Curl::new(&url).token(&stranger).run();
        answer.assert_refused(404, "unknown-endpoint", "relay");
    }
}

/// While a node that stops waits for its own callers, its agents' sessions take calls, those that come through
/// other nodes too: the agent is told to go elsewhere afterwards.
#[test]
fn a_node_that_waits_for_its_callers_takes_other_nodes_calls_meanwhile() {
    let nginx = Nginx::start();
    let mut cluster = cluster(2, &nginx);
    cluster.start_agent_of(0);
    cluster.await_endpoint();
    let _way = way(&cluster, 0);
    cluster.relays[0].process.terminate();
    until("the node drains", || {
        cluster.admin(0, "/readyz").status == 503
    });
    cluster.call(1, "/api/vm").ok();
}

/// What callers of one tenant leave unread takes that tenant's part of the memory of both nodes, and a
/// call of another tenant, of which much waits too, is not broken off.
#[test]
fn answers_that_nobody_takes_leave_their_part_to_other_tenants_calls_between_nodes() {
    /// More than what lies between a caller and its node holds.
    const LENGTH: usize = 24 << 20;
    const GLOBEX: &str = r#"
[[rule]]
id = "everything-of-globex"
action = "allow"
path = ["/**"]
caller = ["caller-globex"]
"#;
    let nginx = Nginx::start();
    std::fs::write(nginx.files().join("large"), vec![b'x'; LENGTH]).unwrap();
    // Windows stay small: one stream alone is not to be too much.
    let limits = "\n[limits]\nwaiting_buffer = \"4 MiB\"\nreceive_buffer = \"64 KiB\"\n";
    let options = Stack::options()
        .endpoint("vcenter", &nginx.url())
        .policy(&format!("{POLICY}{GLOBEX}"))
        .relay(limits);
    let mut cluster = Cluster::start(2, options.clone());
    cluster.start_agent_of(0);
    cluster.start_agent_at(cluster.relays[0].public, &options.client(OTHER_AGENT));
    cluster.await_endpoint();
    let token = world().token(OTHER_CALLER);
    let other = |path: &str| {
        let port = cluster.relays[1].public;
        Curl::new(&format!("https://vcenter--globex.localhost:{port}{path}")).token(&token)
    };
    until("the other tenant's endpoint is reachable", || {
        other("/api/vm").run().status == 200
    });

    // Until the tenant's own calls are refused: its part is used up.
    let mut stuck = Vec::new();
    let mut refused = false;
    while !refused {
        assert!(stuck.len() < 200, "nothing is used up");
        let mut call = cluster.call(1, "/files/large").start();
        refused = call.head().status == 503;
        stuck.push(call);
    }
    let mut call = other("/files/large").start();
    let head = call.head();
    assert_eq!(head.status, 200, "{head}");
    let end = call.finish();
    assert_eq!((end.exit, end.body.len()), (Some(0), LENGTH), "{end}");
    for call in stuck {
        call.kill();
    }
}

/// An operator who asks one node sees what all of them do, and who is missing.
#[test]
fn a_node_shows_how_busy_the_cluster_is() {
    let nginx = Nginx::start();
    let mut cluster = cluster(3, &nginx);
    cluster.start_agent_of(1);
    cluster.await_endpoint();
    let shown = || {
        let status = cluster.admin(0, "/api/v1/status").json();
        assert_eq!(status["node"], "relay-0");
        status["cluster"].clone()
    };
    until("the others' load is known", || {
        let cluster = shown();
        let nodes = cluster["nodes"].as_array().unwrap();
        nodes.len() == 2
            && nodes.iter().all(|node| node["reached"] == true)
            && nodes[0]["load"]["sessions"] == 2
            && cluster["load"]["sessions"] == 2
    });
    let nodes = shown()["nodes"].clone();
    assert_eq!(
        (&nodes[0]["node"], &nodes[1]["node"]),
        (&"relay-1".into(), &"relay-2".into())
    );
    assert_eq!(
        (&nodes[0]["endpoints"], &nodes[1]["endpoints"]),
        (&1.into(), &0.into())
    );
    let connections = |load: &Value| load["connections"].as_u64().unwrap();
    assert!(connections(&nodes[0]["load"]) >= 2, "{nodes}");

    let admin = format!("http://127.0.0.1:{}", cluster.relays[0].admin);
    let output = stack::run("culvert-relay", &["status", "--admin", &admin]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cluster of 3 nodes: 2 sessions"), "{text}");
    let described = cluster.admin(0, "/api/v1/openapi.json").json();
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    for (schema, found) in [
        ("Cluster", &shown()),
        ("Node", &nodes[0]),
        ("Load", &nodes[0]["load"]),
    ] {
        let properties = &described["components"]["schemas"][schema]["properties"];
        assert_eq!(keys(properties), keys(found), "{schema}");
    }
}

/// Sessions go to different nodes, so one may fail: calls go on, and the agent finds another node.
#[test]
fn a_killed_node_costs_nothing_but_what_it_held() {
    let nginx = Nginx::start();
    let mut cluster = cluster(3, &nginx);
    cluster.start_agent();
    cluster.await_endpoint();
    until("the agent is with two nodes", || {
        cluster.agent_status(0)["nodes"] == 2
    });
    let had = (0..3)
        .position(|relay| cluster.places(relay).0 > 0)
        .unwrap();
    cluster.kill(had);
    for relay in (0..3).filter(|relay| *relay != had) {
        for _ in 0..20 {
            assert_eq!(cluster.call(relay, "/api/vm").ok().status, 200);
        }
    }
    until("the agent is with two nodes again", || {
        cluster.agent_status(0)["nodes"] == 2
    });
    cluster.restart(had);
    until("the node that is back knows what the others serve", || {
        cluster.call(had, "/forbidden/x").run().code() == "policy-denied"
    });
}

/// Callers that call all the time while each node in turn is replaced: none of their calls fails, and
/// none is done twice. `CULVERT_ROLLING_CALLS` goes on with it until there were so many, with more callers
/// where these are very many.
#[test]
fn nodes_are_replaced_one_by_one_without_a_failed_call() {
    let events = Events::of("acme");
    let options = Stack::options()
        .endpoint("vcenter", &events.url())
        .sessions(2);
    let mut cluster = Cluster::start(3, options);
    cluster.start_agent();
    cluster.start_agent();
    cluster.await_endpoint();
    until("the agents are with two nodes", || {
        (0..2).all(|agent| cluster.agent_status(agent)["nodes"] == 2)
    });
    let wanted = number("CULVERT_ROLLING_CALLS").unwrap_or(300);
    // Longer than any run takes.
    let token = world().forge(|claims| claims["exp"] = (tokens::now() + 24 * 3600).into());
    let many = if wanted > 10_000 { 80 } else { 6 };
    let callers = events.callers(many, cluster.balancer.port(), &token, "event-");
    let ports: Vec<_> = cluster.relays.iter().map(|relay| relay.public).collect();
    let mut replaced = 0;
    while replaced < 3 || callers.book().calls() < wanted {
        let relay = replaced % 3;
        let mut others = ports.clone();
        others.remove(relay);
        // What a balancer's health check sees of a node that is not ready.
        cluster.balancer.set(&others);
        cluster.relays[relay].process.terminate();
        assert!(cluster.relays[relay].process.wait().success());
        cluster.restart(relay);
        until("the node that is back reaches the endpoint", || {
            let port = cluster.relays[relay].public;
            let url = format!("https://vcenter--acme.localhost:{port}/forbidden/x");
            Curl::new(&url).token(&token).run().code() == "policy-denied"
        });
        cluster.balancer.set(&ports);
        callers.await_calls(20);
        replaced += 1;
    }
    let book = callers.stop();
    let findings = events.findings(&book, &[]);
    eprintln!(
        "{} calls, {replaced} nodes replaced: {findings:?}",
        book.calls()
    );
    assert!(
        findings.are_as_promised(),
        "{findings:?} {:?}",
        book.failures()
    );
}

/// The engine is for what changes: without it, nothing that is known stops working.
/// `CULVERT_ENGINE_DOWN_SECONDS` leaves it away for longer.
#[test]
fn without_redis_everything_that_is_known_goes_on() {
    let events = Events::of("acme");
    let options = Stack::options()
        .endpoint("vcenter", &events.url())
        .sessions(2);
    let mut cluster = Cluster::start(2, options);
    cluster.start_agent_of(0);
    cluster.await_endpoint();
    let callers = events.callers(3, cluster.balancer.port(), caller_token(), "event-");
    callers.await_calls(20);
    cluster.redis.kill();
    until("both nodes have noticed", || {
        (0..2).all(|relay| {
            let metrics = cluster.admin(relay, "/metrics").text();
            ["tell", "learn"].iter().all(|work| {
                let failed = format!(
                    "culvert_relay_registry_work_total{{work=\"{work}\",outcome=\"failed\"}} 0\n"
                );
                !metrics.contains(&failed)
            })
        })
    });
    // Longer than any lease: what another node serves outlives it.
    let away = number("CULVERT_ENGINE_DOWN_SECONDS").unwrap_or(5);
    std::thread::sleep(Duration::from_secs(away as u64));
    for relay in [0, 1] {
        assert_eq!(cluster.call(relay, "/api/vm").ok().status, 200);
        assert_eq!(cluster.admin(relay, "/readyz").status, 200);
    }
    cluster.redis.restart();
    let back = std::time::Instant::now();
    until("both have said again what they serve", || {
        cluster.redis.command(&["SCARD", "{culvert}:nodes"]) == "2"
    });
    let agreed = back.elapsed().as_secs_f64();
    assert_eq!(cluster.call(1, "/api/vm").ok().status, 200);
    let book = callers.stop();
    let findings = events.findings(&book, &[]);
    eprintln!(
        "{} calls, all said again after {agreed:.1} s: {findings:?}",
        book.calls()
    );
    assert!(
        findings.are_as_promised(),
        "{findings:?} {:?}",
        book.failures()
    );
}

/// Asks an operator's program for something on a node; gives what it says.
fn operate(cluster: &Cluster, relay: usize, what: &[&str]) -> String {
    let admin = format!("http://127.0.0.1:{}", cluster.relays[relay].admin);
    let arguments = [&what[..1], &["--admin", &admin], &what[1..]].concat();
    let output = stack::run("culvert-relay", &arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn revoke(cluster: &Cluster, relay: usize, subject: &str) -> String {
    let said = operate(
        cluster,
        relay,
        &["revoke", "--subject", subject, "--for", "1h"],
    );
    said.split(' ').nth(1).unwrap().to_owned()
}

/// Two nodes, one with an agent, whose upstream answers half of what is asked for as `/held`, and waits.
fn holding() -> (Cluster, Upstream) {
    let upstream = Upstream::start(|request, connection| {
        if request.target() == "/held" {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
            connection.closed_within(culvert_tests::wait::LONG);
            return Ok(Then::Close);
        }
        connection.answer("200 OK", b"hello")
    });
    let options = Stack::options().endpoint("vcenter", &upstream.url());
    let mut cluster = Cluster::start(2, options);
    cluster.start_agent_of(0);
    cluster.await_endpoint();
    (cluster, upstream)
}

/// A call through a node that has half of its answer.
fn held_call(cluster: &Cluster, relay: usize) -> Running {
    let mut held = cluster.call(relay, "/held").start();
    assert_eq!(held.head().status, 200);
    assert_eq!(held.body(5), b"first");
    held
}

/// What is revoked on one node ends in the middle, and stays out, on all: also on one that starts
/// later, and with an engine that has forgotten everything.
#[test]
fn what_is_revoked_on_one_node_is_revoked_on_all_until_it_is_lifted() {
    let (mut cluster, _upstream) = holding();
    let held = held_call(&cluster, 0);

    let id = revoke(&cluster, 1, "caller-acme");
    assert_ne!(held.finish().exit, Some(0), "it is broken off");
    let refused = |cluster: &Cluster| {
        for relay in 0..2 {
            let answer = cluster.call(relay, "/").run();
            answer.assert_refused(403, "forbidden", "relay");
        }
    };
    refused(&cluster);

    cluster.redis.kill();
    cluster.redis.restart();
    until("the engine knows it again", || {
        cluster.redis.command(&["SCARD", "{culvert}:revocations"]) == "1"
    });
    refused(&cluster);
    cluster.relays[1].process.terminate();
    cluster.relays[1].process.wait();
    cluster.restart(1);
    refused(&cluster);

    let said = operate(&cluster, 1, &["lift", &id]);
    assert!(!said.contains("cannot be told"), "{said}");
    until("calls are let through everywhere", || {
        (0..2).all(|relay| cluster.call(relay, "/").run().status == 200)
    });

    // The node that is asked answers at once though nobody else can be told.
    cluster.redis.kill();
    let said = operate(&cluster, 1, &["revoke", "--subject", "agent-acme"]);
    assert!(said.contains("other nodes cannot be told yet"), "{said}");
    let sessions = |cluster: &Cluster| {
        let status = cluster.admin(0, "/api/v1/status").json();
        status["sessions"].as_array().unwrap().len()
    };
    assert_eq!(sessions(&cluster), 1);
    cluster.redis.restart();
    until("the agent's session with the other node has ended", || {
        sessions(&cluster) == 0
    });
    let listed = operate(&cluster, 0, &["revocations"]);
    assert!(listed.contains("subject agent-acme"), "{listed}");
}

/// The node that a caller came to has not heard of it: the one that has the agent ends the call, and
/// refuses further ones.
#[test]
fn a_call_through_another_node_ends_when_the_agent_s_node_alone_knows_that_it_is_revoked() {
    let (mut cluster, _upstream) = holding();
    let held = held_call(&cluster, 1);

    cluster.redis.kill();
    let said = operate(&cluster, 0, &["revoke", "--subject", "caller-acme"]);
    assert!(said.contains("other nodes cannot be told yet"), "{said}");
    assert_ne!(held.finish().exit, Some(0), "it is broken off");
    let answer = cluster.call(1, "/").run();
    answer.assert_refused(403, "forbidden", "relay");
    let listed = operate(&cluster, 1, &["revocations"]);
    assert!(!listed.contains("caller-acme"), "{listed}");
    let metrics = cluster.admin(0, "/metrics").text();
    for count in [
        "culvert_relay_peer_calls_total{outcome=\"revoked\"} 1\n",
        "culvert_relay_revoked_total{outcome=\"call-ended\"} 1\n",
    ] {
        assert!(metrics.contains(count), "{count}: {metrics}");
    }
}

fn number(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}
