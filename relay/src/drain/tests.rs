//! Draining a node whose connections and sessions the tests play.

use std::sync::Arc;

use culvert_session::SessionEvent;
use tokio::sync::oneshot;

use super::*;
use crate::node::Node;
use crate::sessions::tests::rig::{Agent, Rig, good, soon};

const LIMIT: Duration = Duration::from_secs(30);

/// A caller's connection with a call in flight that ends when the test says so.
fn call(node: &Node) -> oneshot::Sender<()> {
    let (end, ended) = oneshot::channel();
    let socket = node.ending.socket();
    node.ending.spawn(async move {
        let _ = ended.await;
        drop(socket);
    });
    end
}

fn start(node: &Arc<Node>) -> tokio::task::JoinHandle<()> {
    let node = node.clone();
    tokio::spawn(async move { drain(&node.ending, &node.agents, &node.metrics, LIMIT, true).await })
}

async fn is_told_to_go(agent: &mut Agent) {
    match soon(agent.controls.recv()).await {
        Some(SessionEvent::Draining { code, .. }) => assert_eq!(code, GoawayCode::Drain),
        other => panic!("unexpected {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_work_stops_at_once() {
    let rig = Rig::new();
    let start = Instant::now();
    drain(
        &rig.node.ending,
        &rig.node.agents,
        &rig.node.metrics,
        LIMIT,
        true,
    )
    .await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(!rig.node.is_ready());
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_finish_and_agents_are_told_to_go_elsewhere_meanwhile() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &["vcenter"]).await;
    let end = call(&rig.node);
    let draining = start(&rig.node);
    is_told_to_go(&mut agent).await;
    assert!(rig.node.ending.drain.is_cancelled());
    let (head, _) = rig.ask(&rig.issuer.token(good())).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    tokio::time::sleep(LIMIT / 2).await;
    assert!(agent.session.is_open() && !draining.is_finished());
    end.send(()).unwrap();
    soon(draining).await.unwrap();
    soon(agent.session.closed()).await;
}

#[tokio::test(start_paused = true)]
async fn while_callers_wind_down_their_last_calls_still_find_the_agent() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &["vcenter"]).await;
    let end = call(&rig.node);
    let draining = start(&rig.node);
    tokio::time::sleep(CALLERS_FIRST / 2).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
    is_told_to_go(&mut agent).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "moving");
    drop(end);
    soon(draining).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_has_the_time_to_go_elsewhere_before_its_session_ends() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &["vcenter"]).await;
    let started = Instant::now();
    let draining = start(&rig.node);
    is_told_to_go(&mut agent).await;
    assert!(started.elapsed() < SPREAD, "no caller is waited for");
    assert!(rig.node.ending.moving.is_cancelled());
    soon(agent.session.closed()).await;
    assert_eq!(started.elapsed(), MOVING);
    soon(draining).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_the_only_node_waits_for_no_other() {
    let rig = Rig::new();
    let agent = rig.agent(good(), &["vcenter"]).await;
    let (node, started) = (&rig.node, Instant::now());
    drain(&node.ending, &node.agents, &node.metrics, LIMIT, false).await;
    assert!(started.elapsed() < MOVING);
    soon(agent.session.closed()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_limit_is_broken_off() {
    let rig = Rig::new();
    let started = Instant::now();
    let end = call(&rig.node);
    soon(start(&rig.node)).await.unwrap();
    assert_eq!(started.elapsed(), LIMIT + LAST_ANSWERS);
    assert!(end.is_closed(), "the connection is gone");
}

#[tokio::test(start_paused = true)]
async fn a_second_request_to_stop_waits_for_nobody() {
    let rig = Rig::new();
    let end = call(&rig.node);
    let draining = start(&rig.node);
    tokio::time::sleep(CALLERS_FIRST * 2).await;
    let asked = Instant::now();
    rig.node.ending.hurry.cancel();
    soon(draining).await.unwrap();
    assert_eq!(asked.elapsed(), LAST_ANSWERS);
    assert!(end.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_loses_its_session_before_its_connection() {
    let rig = Rig::new();
    let agent = rig.agent(good(), &["vcenter"]).await;
    let (session, node) = (
        rig.node.agents.records()[0].session.clone(),
        rig.node.clone(),
    );
    let (tell, told) = oneshot::channel();
    node.ending.spawn(async move {
        session.closed().await;
        tell.send("session-lost").unwrap();
    });
    soon(start(&node)).await.unwrap();
    assert_eq!(told.await, Ok("session-lost"));
    drop(agent);
}
