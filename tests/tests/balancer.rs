//! A balancer in front of the relay that says where connections come from.

use culvert_tests::haproxy::Haproxy;
use culvert_tests::stack::caller_token;
use culvert_tests::wait::until;
use culvert_tests::{Answer, Curl, Nginx, Stack};

const BALANCER: &str = "127.0.0.2";

fn stack(nginx: &Nginx) -> Stack {
    Stack::options()
        .endpoint("vcenter", &nginx.url())
        .listen(&format!("proxy_protocol = [\"{BALANCER}\"]\n"))
        .start()
}

/// A call by way of the balancer, from an address of its own.
fn call(balancer: &Haproxy, path: &str) -> Answer {
    Curl::new(&format!(
        "https://vcenter--acme.localhost:{}{path}",
        balancer.port
    ))
    .token(caller_token())
    .args(["--interface", "127.0.0.9"])
    .run()
}

/// Both versions; the agent's audit log has the caller's address, and so have the relay's lines.
#[test]
fn what_a_known_balancer_says_is_where_the_caller_is() {
    let nginx = Nginx::start();
    let stack = stack(&nginx);
    for (version, words) in [("one", "send-proxy"), ("two", "send-proxy-v2")] {
        let balancer = Haproxy::to(stack.public, BALANCER, words);
        let path = format!("/api/{version}");
        let answer = call(&balancer, &path);
        assert_eq!(answer.status, 200, "{answer}");
        until("the agent's line says where the caller is", || {
            let log = stack.agent.log();
            let target = format!("\"target\":\"{path}\"");
            let line = log.lines().find(|line| line.contains(&target));
            line.is_some_and(|line| line.contains("\"source\":\"127.0.0.9\""))
        });
        until("and so does the relay's", || {
            stack.relay.log().contains("peer=127.0.0.9:")
        });
    }
}

/// A header of somebody else is not believed, and a balancer without one is not either.
#[test]
fn a_header_counts_from_named_balancers_alone_and_is_demanded_of_them() {
    let nginx = Nginx::start();
    let stack = stack(&nginx);
    for (source, words) in [
        ("127.0.0.1", "send-proxy"),
        ("127.0.0.1", "send-proxy-v2"),
        (BALANCER, ""),
    ] {
        let balancer = Haproxy::to(stack.public, source, words);
        let answer = call(&balancer, "/api/vm");
        assert_ne!(answer.exit, Some(0), "{answer}");
    }
    assert!(nginx.access_log().is_empty(), "{}", nginx.access_log());
    // Everybody else needs none.
    assert_eq!(stack.call("/api/vm").ok().status, 200);
}
