//! Calls that get no answer from their upstream, and callers that go.

use culvert_config::relay::RelayLimits;
use culvert_http::Alpn;
use culvert_proto::code::{ErrorCode, GoawayCode, Layer, ResetCode};
use culvert_proto::head::{BodyLength, Head, Refusal};
use culvert_proto::mux::StreamError;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::{NAME, bearer, connect};
use super::rig::*;
use crate::edge::forward::lost;

#[tokio::test]
async fn a_refusal_of_the_agent_says_what_and_why() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let refusal = |soap| Refusal {
        code: ErrorCode::PolicyDenied,
        detail: "ask for the scope vcenter.write".into(),
        rule: Some("read-only".into()),
        soap,
    };
    for soap in [false, true] {
        let agent_side = async {
            let (_, mut stream) = agent.accept().await;
            stream
                .send
                .send_head(&Head::Refusal(refusal(soap)))
                .await
                .unwrap();
            stream.send.finish().unwrap();
        };
        let (reply, ()) = tokio::join!(rig.exchange(Rig::get("/", &rig.bearer())), agent_side);
        if soap {
            assert_eq!(reply.status, 500);
            let text = show(&reply.body);
            assert!(
                text.contains("ask for the scope vcenter.write (rule read-only)"),
                "{text}"
            );
        } else {
            assert_eq!((reply.status, &*reply.code()), (403, "policy-denied"));
            assert_eq!(reply.detail(), "ask for the scope vcenter.write");
            let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(
                (&problem["rule"], &problem["layer"]),
                (&json!("read-only"), &json!("agent"))
            );
        }
    }
}

#[tokio::test]
async fn an_endpoint_whose_agent_is_gone_is_offline() {
    let rig = Rig::new();
    let agent = rig.agent("vc").await;
    rig.directory
        .withdraw(&tenant("acme"), &"vc".parse().unwrap(), agent.id);
    let reply = rig.exchange(Rig::get("/", &rig.bearer())).await;
    assert_eq!((reply.status, &*reply.code()), (503, "endpoint-offline"));
    assert_eq!(reply.header("retry-after"), "5");
}

#[tokio::test]
async fn a_session_lost_before_the_answer_is_told_and_a_write_not_sent_twice() {
    let rig = Rig::new();
    let (mut first, mut second) = (rig.agent("vc").await, rig.agent("vc").await);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{}Content-Length: 1\r\n\r\nx",
        rig.bearer()
    );
    let agent_side = async {
        let (hit, other) = tokio::select! {
            call = first.calls.accept() => (call.map(|_| &first.session), &mut second),
            call = second.calls.accept() => (call.map(|_| &second.session), &mut first),
        };
        hit.unwrap().close(GoawayCode::Internal, "test");
        other
    };
    let (reply, other) = tokio::join!(rig.exchange(request), agent_side);
    assert_eq!((reply.status, &*reply.code()), (502, "session-lost"));
    assert!(other.is_untouched().await);
}

/// What a drain gives up: there is an answer, which says whose doing it is though the session ends in
/// the same moment; and no second try, which would be cut as well.
#[tokio::test]
async fn a_call_that_is_given_up_is_told_so_and_not_sent_twice() {
    for method in ["GET", "POST", "CONNECT"] {
        let rig = Rig::new();
        let mut first = rig.agent_with_names("vc", &[NAME]).await;
        let mut second = rig.agent_with_names("vc", &[NAME]).await;
        let request = match method {
            "CONNECT" => connect(NAME, &format!("{}Connection: close\r\n", bearer(&rig))),
            method => format!(
                "{method} / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{}Content-Length: 0\r\n\r\n",
                rig.bearer()
            ),
        };
        let agent_side = async {
            let (hit, other) = tokio::select! {
                call = first.calls.accept() => (call.map(|_| &first.relay), &mut second),
                call = second.calls.accept() => (call.map(|_| &second.relay), &mut first),
            };
            rig.tenants.give_up();
            hit.unwrap().close(GoawayCode::Drain, "test");
            other
        };
        let (reply, other) = tokio::join!(rig.exchange(request), agent_side);
        assert_eq!((reply.status, &*reply.code()), (502, "session-lost"));
        assert!(
            reply.detail().starts_with("this relay node stopped"),
            "{method}: {}",
            reply.detail()
        );
        assert!(other.is_untouched().await);
    }
}

#[tokio::test]
async fn a_read_whose_session_is_lost_goes_to_another_one_once() {
    let rig = Rig::new();
    let (mut first, mut second) = (rig.agent("vc").await, rig.agent("vc").await);
    let agent_side = async {
        let (hit, other) = tokio::select! {
            call = first.calls.accept() => (call.map(|_| &first.session), &mut second),
            call = second.calls.accept() => (call.map(|_| &second.session), &mut first),
        };
        hit.unwrap().close(GoawayCode::Internal, "test");
        let (head, mut stream) = other.accept().await;
        answer(&mut stream, 200, &[], b"again").await;
        head.call.to_string()
    };
    let (reply, call) = tokio::join!(rig.exchange(Rig::get("/", &rig.bearer())), agent_side);
    assert_eq!((reply.status, show(&reply.body)), (200, "again"));
    assert_eq!(reply.header("culvert-call"), call);
}

#[tokio::test]
async fn a_read_whose_only_session_is_lost_is_told_so() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let agent_side = async {
        let _call = agent.accept().await;
        agent.session.close(GoawayCode::Internal, "test");
    };
    let (reply, ()) = tokio::join!(rig.exchange(Rig::get("/", &rig.bearer())), agent_side);
    assert_eq!((reply.status, &*reply.code()), (502, "session-lost"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_agent_never_looked_at_is_sent_again_whatever_its_method() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{}Content-Length: 1\r\n\r\nx",
        rig.bearer()
    );
    let agent_side = async {
        let (_, mut stream) = agent.accept().await;
        stream.send.reset(ResetCode::Refused);
        let (_, mut stream) = agent.accept().await;
        assert_eq!(read_body(&mut stream).await, "x");
        answer(&mut stream, 200, &[], b"ok").await;
    };
    let (reply, ()) = tokio::join!(rig.exchange(&request), agent_side);
    assert_eq!(reply.status, 200);
    // One that never does is waited for as long as for a session.
    let open = RelayLimits::default().open.0;
    let began = tokio::time::Instant::now();
    let agent_side = async {
        loop {
            let (_, mut stream) = agent.accept().await;
            stream.send.reset(ResetCode::Refused);
        }
    };
    let reply = tokio::select! {
        reply = rig.exchange(&request) => reply,
        () = agent_side => unreachable!("it goes on for ever"),
    };
    assert_eq!((reply.status, &*reply.code()), (503, "overloaded"));
    let waited = began.elapsed();
    assert!((open..2 * open).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_with_its_hands_full_is_waited_for_and_then_reported() {
    let rig = Rig::new();
    let mut agent = rig.agent_that_takes("vc", 1).await;
    let mut busy = rig.connect(Alpn::Http1);
    busy.write_all(Rig::get("/1", &rig.bearer()).as_bytes())
        .await
        .unwrap();
    let (_, mut first) = agent.accept().await;
    let reply = rig.exchange(Rig::get("/2", &rig.bearer())).await;
    assert_eq!((reply.status, &*reply.code()), (503, "overloaded"));
    assert_eq!(reply.header("retry-after"), "1");

    let mut third = rig.connect(Alpn::Http1);
    third
        .write_all(Rig::get("/3", &rig.bearer()).as_bytes())
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    answer(&mut first, 204, &[], b"").await;
    read_body(&mut first).await;
    drop(first);
    let (head, mut stream) = agent.accept().await;
    assert_eq!(head.target, "/3");
    answer(&mut stream, 204, &[], b"").await;
    assert_eq!(Reply::read_to_end(&mut third).await.status, 204);
}

#[tokio::test]
async fn a_node_takes_no_more_calls_than_it_may() {
    let limits = RelayLimits {
        calls: 1,
        ..RelayLimits::default()
    };
    let rig = Rig::with_limits(limits);
    let mut agent = rig.agent("vc").await;
    let mut busy = rig.connect(Alpn::Http1);
    busy.write_all(Rig::get("/1", &rig.bearer()).as_bytes())
        .await
        .unwrap();
    let (_, mut first) = agent.accept().await;
    let reply = rig.exchange(Rig::get("/2", &rig.bearer())).await;
    assert_eq!((reply.status, &*reply.code()), (503, "overloaded"));
    assert_eq!(reply.header("retry-after"), "1");

    answer(&mut first, 204, &[], b"").await;
    read_body(&mut first).await;
    drop(first);
    assert_eq!(Reply::read_to_end(&mut busy).await.status, 204);
    let agent_side = async {
        let (_, mut stream) = agent.accept().await;
        answer(&mut stream, 204, &[], b"").await;
    };
    let (reply, ()) = tokio::join!(rig.exchange(Rig::get("/3", &rig.bearer())), agent_side);
    assert_eq!(reply.status, 204, "its place is free again");
}

#[tokio::test]
async fn a_stream_that_breaks_before_the_answer_is_a_typed_failure() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let cases = [
        (ResetCode::Timeout, 504, "upstream-timeout"),
        (ResetCode::Truncated, 502, "upstream-protocol"),
        (ResetCode::Protocol, 502, "upstream-protocol"),
        (ResetCode::Withdrawn, 403, "policy-denied"),
        (ResetCode::Overloaded, 503, "overloaded"),
        (ResetCode::Internal, 502, "session-lost"),
    ];
    for (reset, status, code) in cases {
        let agent_side = async {
            let (_, mut stream) = agent.accept().await;
            stream.send.reset(reset);
        };
        let (reply, ()) = tokio::join!(rig.exchange(Rig::get("/", &rig.bearer())), agent_side);
        assert_eq!((reply.status, &*reply.code()), (status, code));
    }
}

#[tokio::test]
async fn an_agent_that_is_at_fault_is_blamed_and_not_the_local_api() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    for (reset, code, words) in [
        // As the relay's end does for an answer that it cannot read.
        (
            ResetCode::Protocol,
            "upstream-protocol",
            "the agent's answer breaks the session protocol",
        ),
        (
            ResetCode::Internal,
            "session-lost",
            "a defect of the agent broke the call off",
        ),
    ] {
        let agent_side = async {
            let (_, mut stream) = agent.accept().await;
            stream.send.reset(reset);
        };
        let (reply, ()) = tokio::join!(rig.exchange(Rig::get("/", &rig.bearer())), agent_side);
        assert_eq!((reply.status, &*reply.code()), (502, code));
        let detail = reply.detail();
        assert!(detail.contains(words), "{detail}");
    }
}

/// The node that carries a call, or the agent that serves it.
#[test]
fn whose_defect_broke_a_call_off_depends_on_where_it_led() {
    for (elsewhere, layer) in [(false, Layer::Agent), (true, Layer::Relay)] {
        let problem = lost(StreamError::Reset(ResetCode::Internal), elsewhere);
        assert_eq!(
            (problem.code, problem.layer),
            (ErrorCode::SessionLost, layer)
        );
        let words = format!("a defect of the {} broke the call off", layer.as_str());
        assert!(problem.detail.contains(&words), "{}", problem.detail);
    }
}

#[tokio::test]
async fn an_answer_that_is_none_becomes_a_502() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let cases = [
        vec![response(101, &[], BodyLength::Empty)],
        vec![response(103, &[], BodyLength::Empty)],
        vec![response(
            200,
            &[("content-length", "5")],
            BodyLength::Exact(6),
        )],
        vec![response(
            200,
            &[("content-length", "5")],
            BodyLength::Unknown,
        )],
        vec![response(
            200,
            &[("content-length", "x")],
            BodyLength::Exact(6),
        )],
        vec![],
    ];
    for heads in cases {
        let agent_side = async {
            let (_, mut stream) = agent.accept().await;
            for head in &heads {
                stream.send.send_head(head).await.unwrap();
            }
            stream.send.finish().unwrap();
            // Held until the relay has seen all of it.
            let _ = stream.recv.item().await;
            stream.send.stopped().await;
        };
        let request = Rig::get("/", &rig.bearer());
        tokio::select! {
            reply = rig.exchange(request) => {
                assert_eq!((reply.status, &*reply.code()), (502, "upstream-protocol"), "{heads:?}");
            }
            () = async { agent_side.await; std::future::pending().await } => {}
        }
    }
}

#[tokio::test]
async fn ten_interim_answers_may_go_ahead_of_an_answer() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let Head::Response(interim) = response(103, &[], BodyLength::Empty) else {
        unreachable!()
    };
    let agent_side = async {
        let (_, mut stream) = agent.accept().await;
        for _ in 0..10 {
            stream
                .send
                .send_head(&Head::Interim(interim.clone()))
                .await
                .unwrap();
        }
        answer(&mut stream, 200, &[], b"at last").await;
    };
    let (reply, ()) = tokio::join!(rig.exchange(Rig::get("/", &rig.bearer())), agent_side);
    assert_eq!(reply.status, 103);
    let rest = show(&reply.body);
    assert_eq!(rest.matches("HTTP/1.1 103 Early Hints\r\n").count(), 9);
    assert!(
        rest.contains("HTTP/1.1 200 OK\r\n") && rest.ends_with("at last"),
        "{rest}"
    );
}

#[tokio::test]
async fn when_the_caller_goes_the_agent_learns_it_at_once() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    // While it waits, while it sends, while it receives.
    for phase in ["wait", "send", "receive"] {
        let mut caller = rig.connect(Alpn::Http1);
        let length = if phase == "send" {
            "Content-Length: 100\r\n"
        } else {
            ""
        };
        let request = format!(
            "PUT / HTTP/1.1\r\nHost: {HOST}\r\n{}{length}\r\n",
            rig.bearer()
        );
        caller.write_all(request.as_bytes()).await.unwrap();
        let (_, mut stream) = agent.accept().await;
        if phase == "receive" {
            stream
                .send
                .send_head(&response(200, &[], BodyLength::Unknown))
                .await
                .unwrap();
            let mut head = [0; 15];
            caller.read_exact(&mut head).await.unwrap();
        }
        drop(caller);
        let gone = tokio::time::timeout(SOON, stream.send.stopped())
            .await
            .expect(phase);
        assert!(
            matches!(gone, StreamError::Reset(_) | StreamError::Stopped(_)),
            "{phase}: {gone}"
        );
    }
    // One stream of an HTTP/2 connection.
    let mut sender = rig.http2().await;
    let sent = tokio::spawn(sender.send_request(rig.request("GET", "/", "")));
    let (_, mut stream) = agent.accept().await;
    sent.abort();
    let gone = tokio::time::timeout(SOON, stream.send.stopped())
        .await
        .unwrap();
    assert!(
        matches!(gone, StreamError::Reset(_) | StreamError::Stopped(_)),
        "{gone}"
    );
    assert!(sender.ready().await.is_ok(), "the connection goes on");
    let text = rig.metrics.render().unwrap();
    assert!(
        !text.contains("outcome=\"caller-gone\",code=\"\"} 0"),
        "{text}"
    );
}
