//! Sessions over several connections, some of which are lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use culvert_tests::upstream::Then;
use culvert_tests::wait::{LONG, until};
use culvert_tests::{Stack, Upstream};

const LANES: usize = 3;

/// How many connections the relay's only session has.
fn lanes(stack: &Stack) -> usize {
    let status = stack.admin("/api/v1/status").json();
    let lanes = status["sessions"][0]["lanes"].as_u64().unwrap_or(0);
    usize::try_from(lanes).unwrap()
}

fn laned(upstream: &Upstream) -> Stack {
    let options = Stack::options().endpoint("vcenter", &upstream.url());
    let stack = options.link("lanes = 3").over_wires().start();
    until("every lane is up", || lanes(&stack) == LANES);
    stack
}

#[test]
fn a_lost_lane_costs_its_own_calls_and_is_replaced() {
    // Half of each answer comes at once, the other half when the test says so.
    let go = Arc::new(AtomicBool::new(false));
    let (arrived, called) = mpsc::channel();
    let told = go.clone();
    let upstream = Upstream::start(move |_, connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
        let _ = arrived.send(());
        while !told.load(Ordering::SeqCst) {
            if connection.closed_within(Duration::from_millis(10)) {
                return Ok(Then::Close);
            }
        }
        connection.send(" half")?;
        Ok(Then::KeepAlive)
    });
    let mut stack = laned(&upstream);
    let mut calls: Vec<_> = (0..2 * LANES).map(|_| stack.call("/").start()).collect();
    for call in &mut calls {
        assert_eq!(call.head().status, 200);
        assert_eq!(call.body(5), b"first");
        called.recv_timeout(LONG).unwrap();
    }
    // The session's own connection came first.
    stack.wires().cut(1);
    until("a lane is missing, or another in its place", || {
        stack.wires().opened() > LANES
    });
    go.store(true, Ordering::SeqCst);
    let whole = calls
        .into_iter()
        .filter_map(|call| {
            let end = call.finish();
            let whole = (end.exit, end.text().as_str()) == (Some(0), " half");
            assert!(whole || end.exit != Some(0), "{end}");
            whole.then_some(())
        })
        .count();
    assert_eq!(whole, 2 * LANES - 2, "two calls were on each lane");
    until("the lane is replaced", || lanes(&stack) == LANES);
    assert_eq!(stack.call("/").ok().text(), "first half");
    stack.agent.assert_running();
    stack.relay.assert_running();
}

#[test]
fn a_session_that_loses_its_first_connection_is_replaced_with_all_its_lanes() {
    let upstream = Upstream::plain();
    let mut stack = laned(&upstream);
    stack.wires().cut(0);
    until("another session has its lanes", || {
        stack.wires().opened() >= 2 * LANES && lanes(&stack) == LANES
    });
    stack.await_endpoint("vcenter");
    for _ in 0..2 * LANES {
        assert_eq!(stack.call("/").ok().status, 200);
    }
    let metrics = stack.admin("/metrics").text();
    assert!(metrics.contains("culvert_relay_lanes 2\n"), "{metrics}");
}

#[test]
fn an_agent_with_lanes_that_is_terminated_ends_in_order() {
    let mut stack = laned(&Upstream::plain());
    assert_eq!(stack.call("/").ok().status, 200);
    stack.agent.terminate();
    assert_eq!(stack.agent.wait().code(), Some(0));
    until("nothing is left of its session", || {
        let metrics = stack.admin("/metrics").text();
        metrics.contains("culvert_relay_lanes 0\n")
            && metrics.contains("culvert_relay_sessions 0\n")
    });
}
