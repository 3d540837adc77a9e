//! The many ways in which a call ends, and who learns of it.

use std::time::Duration;

use culvert_config::endpoint::{Timeouts, Trust};
use culvert_config::units::Span;
use culvert_proto::code::{ErrorCode, GoawayCode};
use culvert_session::tls::pin_of;
use tokio::time::Instant;

use super::heads::{FILES, dav};
use super::*;
use crate::testing::{Identity, Server};

#[tokio::test]
async fn an_upstream_that_is_down_is_an_error_of_its_own() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoint = endpoint(&format!("http://{address}"), Trust::SystemRoots);
    let tunnel = Tunnel::dialling(POLICY, &endpoint).await;
    let refusal = refusal(&mut tunnel.call(&get("/api/vms"), "")).await;
    assert_eq!(refusal.code, ErrorCode::UpstreamUnreachable);
    assert!(
        refusal.detail.contains("connection refused"),
        "{}",
        refusal.detail
    );
}

#[tokio::test]
async fn a_wrong_pin_is_refused_and_the_right_one_is_served() {
    let identity = Identity::new(&["127.0.0.1"]);
    let server = Server::answering(Some(&identity), HELLO).await;
    let wrong = server.endpoint(Some(Trust::Pins(vec![[7; 32]])));
    let tunnel = Tunnel::dialling(POLICY, &wrong).await;
    let refused = refusal(&mut tunnel.call(&get("/api/vms"), "")).await;
    assert_eq!(refused.code, ErrorCode::UpstreamTls);
    let right = server.endpoint(Some(Trust::Pins(vec![pin_of(&identity.certificate)])));
    let tunnel = Tunnel::dialling(POLICY, &right).await;
    assert_eq!(
        body_of(&mut tunnel.call(&get("/api/vms"), "")).await,
        b"hello"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let mut tunnel = Tunnel::new(POLICY).await;
        let (mut call, mut upstream) = tunnel.under_way(&get("/api/vms")).await;
        upstream.send(cut).await;
        answer(&mut call).await;
        drop(upstream);
        let (_, end) = body(&mut call).await;
        assert_reset(end, ResetCode::Truncated);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_hangs_up_without_a_word_is_a_protocol_error() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.call(&get("/api/vms"), "");
    tunnel.connection().await.request().await.unwrap();
    let refusal = refusal(&mut call).await;
    assert_eq!(refusal.code, ErrorCode::UpstreamProtocol);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_before_the_answer_closes_the_upstream_connection() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (call, mut upstream) = tunnel.under_way(&get("/api/long-poll")).await;
    drop(call);
    upstream.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_amid_the_answer_closes_the_upstream_connection() {
    for amid_upload in [false, true] {
        let mut tunnel = Tunnel::new(POLICY).await;
        let mut call = if amid_upload {
            tunnel.upload(&post("/api/vms", BodyLength::Unknown))
        } else {
            tunnel.call(&get("/api/vms"), "")
        };
        let mut upstream = tunnel.asked().await;
        upstream
            .send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
            .await;
        answer(&mut call).await;
        drop(call);
        upstream.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_lost_closes_the_upstream_connections_of_its_calls() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (_call, mut upstream) = tunnel.under_way(&get("/api/long-poll")).await;
    tunnel.relay.close(GoawayCode::Internal, "gone");
    upstream.closed().await;
}

pub(super) fn patient(timeouts: Timeouts) -> Endpoint {
    let mut endpoint = endpoint("http://127.0.0.1:9", Trust::SystemRoots);
    endpoint.timeouts = timeouts;
    endpoint
}

fn secs(head: u64, idle: u64) -> Timeouts {
    Timeouts {
        head: Span::secs(head),
        idle: Span::secs(idle),
        ..Timeouts::default()
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_the_time_for_its_head_that_the_endpoint_gives() {
    let mut tunnel = Tunnel::with(POLICY, &patient(secs(1800, 5))).await;
    let mut call = tunnel.call(&get("/api/long-poll"), "");
    let started = Instant::now();
    let mut upstream = tunnel.asked().await;
    let refusal = refusal(&mut call).await;
    assert_eq!(refusal.code, ErrorCode::UpstreamTimeout);
    assert!(refusal.detail.contains("1800 s"), "{}", refusal.detail);
    assert_eq!(started.elapsed().as_secs(), 1800);
    upstream.closed().await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_the_head_begins_when_the_request_is_out() {
    let mut tunnel = Tunnel::with(POLICY, &patient(secs(10, 60))).await;
    let mut call = tunnel.upload(&post("/api/upload", BodyLength::Unknown));
    let started = Instant::now();
    let _upstream = tunnel.asked().await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        call.send
            .write_bytes(Bytes::from_static(b"bytes"))
            .await
            .unwrap();
    }
    call.send.finish().unwrap();
    assert_eq!(refusal(&mut call).await.code, ErrorCode::UpstreamTimeout);
    assert_eq!(started.elapsed().as_secs(), 160);
}

/// Behind trailers nothing comes, and nobody asks for the end.
#[tokio::test(start_paused = true)]
async fn a_request_that_ends_with_trailers_is_out() {
    let mut tunnel = Tunnel::with(POLICY, &patient(secs(1800, 5))).await;
    let mut head = post("/api/long-poll", BodyLength::Unknown);
    for (name, value) in [("te", "trailers"), ("trailer", "x-sum")] {
        head.headers.insert(name, value.parse().unwrap());
    }
    let mut call = tunnel.upload(&head);
    call.send.write_bytes("hello".into()).await.unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    let trailers = Head::Trailers(trailers);
    call.send.send_head(&trailers).await.unwrap();
    call.send.finish().unwrap();
    let mut upstream = tunnel.asked().await;
    const SENT: &[u8] = b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
    assert_eq!(upstream.body(SENT.len()).await.unwrap(), SENT);
    tokio::time::sleep(Duration::from_secs(60)).await;
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_falls_silent_is_broken_off() {
    let mut tunnel = Tunnel::with(POLICY, &patient(secs(5, 60))).await;
    let (mut call, mut upstream) = tunnel.under_way(&get("/api/vms")).await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        .await;
    answer(&mut call).await;
    let started = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        upstream.send("hello").await;
    }
    let (bytes, end) = body(&mut call).await;
    assert_eq!(bytes, b"hellohellohello");
    assert_reset(end, ResetCode::Timeout);
    assert_eq!(started.elapsed().as_secs(), 210);
    upstream.closed().await;
}

/// An upstream may answer first and then take what the caller sends.
#[tokio::test(start_paused = true)]
async fn a_request_that_flows_beside_a_silent_answer_is_not_broken_off() {
    let mut tunnel = Tunnel::with(POLICY, &patient(secs(5, 60))).await;
    let (mut call, mut upstream) = tunnel
        .uploading(&post("/api/upload", BodyLength::Unknown))
        .await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        .await;
    answer(&mut call).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        call.send.write_bytes("bytes".into()).await.unwrap();
    }
    call.send.finish().unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    upstream.send("hello").await;
    assert_eq!(body(&mut call).await, (b"hello".to_vec(), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_falls_silent_is_given_up() {
    let mut tunnel = Tunnel::with(POLICY, &patient(secs(5, 60))).await;
    let (mut call, mut upstream) = tunnel
        .uploading(&post("/api/upload", BodyLength::Exact(100)))
        .await;
    assert_eq!(refusal(&mut call).await.code, ErrorCode::UpstreamTimeout);
    upstream.closed().await;
}

const NOTHING: &str = "version = 1\n[[rule]]\nid = \"no\"\naction = \"deny\"\n";

#[tokio::test(start_paused = true)]
async fn a_new_policy_ends_the_live_calls_that_it_forbids() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut waiting, mut first) = tunnel.under_way(&get("/api/long-poll")).await;
    let (mut streaming, mut second) = tunnel.under_way(&get("/api/download")).await;
    second
        .send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
        .await;
    answer(&mut streaming).await;

    tunnel.policy.send_replace(policy(NOTHING));
    assert_eq!(refusal(&mut waiting).await.code, ErrorCode::PolicyDenied);
    let (_, end) = body(&mut streaming).await;
    assert_reset(end, ResetCode::Withdrawn);
    first.closed().await;
    second.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_policy_ends_a_move_to_where_nothing_may_go_any_more() {
    let mut tunnel = Tunnel::new(FILES).await;
    let (mut moving, mut upstream) = tunnel.under_way(&dav("MOVE", &["/files/bin/a"])).await;
    let bin = "[[rule]]\nid = \"bin\"\naction = \"deny\"\npath = [\"/files/bin/**\"]\n";
    tunnel.policy.send_replace(policy(&format!("{FILES}{bin}")));
    let refusal = refusal(&mut moving).await;
    assert_eq!(refusal.code, ErrorCode::PolicyDenied);
    assert!(refusal.detail.contains("Destination"), "{refusal:?}");
    upstream.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_policy_leaves_the_calls_alone_that_it_allows() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel.under_way(&get("/api/long-poll")).await;
    for _ in 0..3 {
        tunnel.policy.send_replace(policy(POLICY));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
}

/// A call in progress, and the agent draining with a limit of 30 s.
async fn draining() -> (
    Tunnel,
    Stream,
    Connection,
    tokio::task::JoinHandle<Duration>,
) {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (call, upstream) = tunnel.under_way(&get("/api/vms")).await;
    let (agent, serving) = (tunnel.agent.clone(), tunnel.serving.clone());
    let drain = tokio::spawn(async move {
        let started = Instant::now();
        let limit = Duration::from_secs(30);
        crate::drain::drain(&[agent], serving.calls(), limit, std::future::pending()).await;
        started.elapsed()
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    (tunnel, call, upstream, drain)
}

/// What follows its head may have been read from the caller already: it can go nowhere else.
#[tokio::test]
async fn a_call_that_is_on_its_way_when_the_agent_begins_to_drain_is_served() {
    let mut tunnel = Tunnel::new(POLICY).await;
    tunnel.agent.drain(Duration::ZERO);
    // Neither side has heard of the other's yet.
    let mut call = tunnel.call(&get("/api/vms"), "");
    let (agent, serving) = (tunnel.agent.clone(), tunnel.serving.clone());
    let drain = tokio::spawn(async move {
        let limit = Duration::from_secs(30);
        crate::drain::drain(&[agent], serving.calls(), limit, std::future::pending()).await;
    });
    let mut upstream = tunnel.asked().await;
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
    tunnel.relay.close(GoawayCode::Drain, "all done");
    drain.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_calls_finish_and_the_relay_read_their_answers() {
    let (tunnel, mut call, mut upstream, drain) = draining().await;
    upstream.send(HELLO).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        body_of(&mut call).await,
        b"hello",
        "read long after the agent was done"
    );
    tunnel.relay.close(GoawayCode::Drain, "all done");
    assert_eq!(
        drain.await.unwrap().as_secs(),
        13,
        "not a moment longer than needed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_relay_that_never_ends_the_session() {
    let (_tunnel, mut call, mut upstream, drain) = draining().await;
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
    assert_eq!(
        drain.await.unwrap(),
        Duration::from_secs(10) + crate::drain::LINGER
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_breaks_off_what_does_not_finish_in_time() {
    let (_tunnel, mut call, _upstream, drain) = draining().await;
    assert_eq!(drain.await.unwrap().as_secs(), 30);
    assert_eq!(
        first(&mut call).await.unwrap_err(),
        StreamError::SessionLost
    );
}
