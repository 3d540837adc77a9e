//! Calls and their answers.

use std::sync::Arc;

use bytes::Bytes;
use culvert_proto::code::{ErrorCode, GoawayCode, ResetCode};
use culvert_proto::head::{BodyLength, Head, Mode, Refusal};
use culvert_proto::mux::{Item, StreamError};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::*;
use crate::listener::Alpn;

#[tokio::test]
async fn an_allowed_call_reaches_the_agent_parsed_and_its_answer_the_caller() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let request = format!(
        "POST /api/%76m?x=%2f HTTP/1.1\r\nHost: VC--acme.relay.test:8443\r\n\
         Authorization: Basic eDp5\r\nCookie: a=b\r\nvmware-api-session-id: s\r\n\
         X-Forwarded-For: 10.0.0.1\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n{}\
         Content-Length: 5\r\n\r\nhello",
        rig.bearer()
    );
    let agent_side = async {
        let (head, mut stream) = agent.accept().await;
        assert_eq!(head.endpoint.as_str(), "vc");
        assert_eq!(head.mode, Mode::Http);
        assert_eq!(head.method, "POST");
        assert_eq!(show(&head.target), "/api/vm?x=%2f");
        assert_eq!(show(&head.authority), "VC--acme.relay.test:8443");
        assert_eq!(head.body, BodyLength::Exact(5));
        assert_eq!(head.source, Some("192.0.2.7".parse().unwrap()));
        assert_eq!(head.caller.tenant, tenant("acme"));
        assert_eq!(head.caller.subject, "director-7");
        assert!(head.caller.has_scope("vcenter.read"));
        let mut names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "cookie", "vmware-api-session-id"]);
        assert_eq!(read_body(&mut stream).await, "hello");
        let fields = [
            ("set-cookie", "k=v"),
            ("culvert-call", "forged"),
            ("etag", "e"),
        ];
        answer(&mut stream, 201, &fields, b"done").await;
        head.call
    };
    let (reply, call) = tokio::join!(rig.exchange(request), agent_side);
    assert_eq!((reply.status, show(&reply.body)), (201, "done"));
    assert_eq!(reply.header("culvert-call"), call.to_string());
    assert_eq!(reply.headers.get_all("culvert-call").iter().count(), 1);
    assert_eq!(reply.header("content-length"), "4");
    assert_eq!(reply.header("set-cookie"), "k=v");
    assert_eq!(reply.header("etag"), "e");
    let text = rig.metrics.render().unwrap();
    assert!(text.contains("culvert_relay_calls_total{outcome=\"answered\",code=\"2xx\"} 1"));
    assert!(text.contains("culvert_relay_received_bytes_total 5\n"));
    assert!(text.contains("culvert_relay_sent_bytes_total 4\n"));
}

#[tokio::test]
async fn http_2_calls_share_a_connection() {
    let rig = Rig::new();
    rig.agent("vc").await.echo();
    let sender = rig.http2().await;
    let calls = (0..50).map(|_| {
        let mut sender = sender.clone();
        let request = rig.request("PUT", "/a?b", "body");
        async move { Reply::of(sender.send_request(request).await.unwrap()).await }
    });
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!((reply.status, show(&reply.body)), (200, "PUT /a?b body"));
        assert_eq!(reply.header("culvert-call").len(), 32);
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_turn_on_one_connection() {
    let rig = Rig::new();
    rig.agent("vc").await.echo();
    let one = |path, last| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{last}{}\r\n",
            rig.bearer()
        )
    };
    let requests = [
        one("/1", ""),
        one("/2", ""),
        one("/3", "Connection: close\r\n"),
    ]
    .concat();
    let mut caller = rig.connect(Alpn::Http1);
    caller.write_all(requests.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(SOON, caller.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let at: Vec<_> = ["GET /1 ", "GET /2 ", "GET /3 "]
        .map(|body| text.find(body).unwrap())
        .into();
    assert!(
        at.is_sorted() && text.matches("HTTP/1.1 200 OK").count() == 3,
        "{text}"
    );
}

#[tokio::test]
async fn a_small_body_travels_with_the_head() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\n{}Content-Length: 5\r\n\r\nhello",
        rig.bearer()
    );
    let mut caller = rig.connect(Alpn::Http1);
    caller.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    // Together with the stream itself, so without a wait.
    let first = futures_util::FutureExt::now_or_never(stream.recv.item());
    assert!(matches!(first, Some(Ok(Item::Data(data))) if data == "hello"));
    let end = futures_util::FutureExt::now_or_never(stream.recv.item());
    assert!(matches!(end, Some(Ok(Item::Finished))));
}

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
async fn who_may_call_what_is_decided_before_anything_is_looked_up() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    rig.agent("lost").await.relay.close(GoawayCode::Drain, "");
    let token = |changes| rig.token(changes);
    let good = token(json!({}));
    let (host, vc) = (DOMAIN, HOST);
    let other = format!("vc--umbrella.{host}");
    let none = format!("nothing--acme.{host}");
    let cases = [
        ("no token", vc, String::new(), 401, "unauthenticated"),
        (
            "no token, no endpoint",
            &none,
            String::new(),
            401,
            "unauthenticated",
        ),
        (
            "no token, no host",
            "else.test",
            String::new(),
            401,
            "unauthenticated",
        ),
        ("nonsense", vc, "a.b.c".into(), 401, "unauthenticated"),
        (
            "expired",
            vc,
            token(json!({"exp": 1})),
            401,
            "unauthenticated",
        ),
        (
            "audience",
            vc,
            token(json!({"aud": "x"})),
            401,
            "unauthenticated",
        ),
        (
            "another's endpoint",
            &other,
            good.clone(),
            404,
            "unknown-endpoint",
        ),
        ("no endpoint", &none, good.clone(), 404, "unknown-endpoint"),
        (
            "no host",
            "else.test",
            good.clone(),
            404,
            "unknown-endpoint",
        ),
        ("scope", vc, token(json!({"scope": "x"})), 403, "forbidden"),
        (
            "scope, another's",
            &other,
            token(json!({"scope": "x"})),
            403,
            "forbidden",
        ),
        (
            "endpoints",
            vc,
            token(json!({"culvert_endpoints": ["n*"]})),
            403,
            "forbidden",
        ),
        (
            "tenant",
            vc,
            token(json!({"tenant": "umbrella"})),
            404,
            "unknown-endpoint",
        ),
    ];
    for (name, host, token, status, code) in cases {
        let credential = match &*token {
            "" => String::new(),
            token => format!("Proxy-Authorization: Bearer {token}\r\n"),
        };
        let request =
            format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{credential}\r\n");
        let reply = rig.exchange(request).await;
        assert_eq!((reply.status, &*reply.code()), (status, code), "{name}");
        let challenged = reply.headers.contains_key("www-authenticate");
        assert_eq!(challenged, matches!(status, 401 | 403), "{name}");
    }
    assert!(agent.is_untouched().await);
}

#[tokio::test]
async fn another_tenants_endpoint_looks_like_none() {
    let rig = Rig::new();
    let _agent = rig.agent("vc").await;
    let credential = format!(
        "Culvert-Authorization: Bearer {}\r\n",
        rig.token(json!({"tenant": "umbrella"}))
    );
    let mut replies = Vec::new();
    for host in [
        HOST,
        "nothing--acme.relay.test",
        "nothing--umbrella.relay.test",
    ] {
        let request =
            format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{credential}\r\n");
        let reply = rig.exchange(request).await;
        let id = reply.header("culvert-call").to_owned();
        let head = format!("{:?}", reply.headers).replace(&id, "ID");
        let date = reply.header("date").to_owned();
        replies.push((
            reply.status,
            head.replace(&date, ""),
            show(&reply.body).replace(&id, "ID"),
        ));
    }
    assert_eq!(replies[0], replies[1]);
    assert_eq!(replies[0], replies[2]);
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

#[tokio::test]
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
    let agent_side = async {
        for _ in 0..3 {
            let (_, mut stream) = agent.accept().await;
            stream.send.reset(ResetCode::Refused);
        }
    };
    let (reply, ()) = tokio::join!(rig.exchange(&request), agent_side);
    assert_eq!((reply.status, &*reply.code()), (503, "overloaded"));
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
async fn a_stream_that_breaks_before_the_answer_is_a_typed_failure() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let cases = [
        (ResetCode::Timeout, 504, "upstream-timeout"),
        (ResetCode::Truncated, 502, "upstream-protocol"),
        (ResetCode::Protocol, 502, "upstream-protocol"),
        (ResetCode::Withdrawn, 403, "policy-denied"),
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
async fn interim_answers_do_not_reach_the_caller() {
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
    assert_eq!((reply.status, show(&reply.body)), (200, "at last"));
}

#[tokio::test]
async fn an_answer_cut_short_is_visible_and_never_a_clean_end() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    for length in [BodyLength::Exact(10), BodyLength::Unknown] {
        // HTTP/1.1: the connection ends before the length or the last chunk.
        let agent_side = async {
            let (_, mut stream) = agent.accept().await;
            stream
                .send
                .send_head(&response(200, &[], length))
                .await
                .unwrap();
            stream
                .send
                .write_bytes(Bytes::from_static(b"part"))
                .await
                .unwrap();
            let _ = stream.recv.item().await;
            stream
        };
        let mut caller = rig.connect(Alpn::Http1);
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", rig.bearer());
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut stream = agent_side.await;
        let mut bytes = Vec::new();
        while !String::from_utf8_lossy(&bytes).contains("part") {
            caller.read_buf(&mut bytes).await.unwrap();
        }
        stream.send.reset(ResetCode::Truncated);
        tokio::time::timeout(SOON, caller.read_to_end(&mut bytes))
            .await
            .unwrap()
            .unwrap();
        let reply = Reply::parse(&bytes);
        assert_eq!(reply.status, 200);
        assert!(
            !show(&reply.body).ends_with("0\r\n\r\n"),
            "{}",
            show(&reply.body)
        );
        assert!(reply.body.len() < 10 || reply.headers.contains_key("transfer-encoding"));

        // HTTP/2: the stream is reset.
        let agent_side = async {
            let (_, mut stream) = agent.accept().await;
            stream
                .send
                .send_head(&response(200, &[], length))
                .await
                .unwrap();
            stream
                .send
                .write_bytes(Bytes::from_static(b"part"))
                .await
                .unwrap();
            stream.send.reset(ResetCode::Truncated);
        };
        let mut sender = rig.http2().await;
        let (sent, ()) = tokio::join!(sender.send_request(rig.request("GET", "/", "")), agent_side);
        // The reset may overtake the answer's head, which then is a 502.
        let response = sent.unwrap();
        if response.status() == 200 {
            assert!(response.into_body().collect().await.is_err());
        } else {
            assert_eq!(response.status(), 502);
        }
    }
    let text = rig.metrics.render().unwrap();
    assert!(
        !text.contains("outcome=\"cut-short\",code=\"\"} 0"),
        "{text}"
    );
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_keep_the_connection() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    tokio::spawn(async move {
        while let Some((head, mut stream)) = agent.calls.accept().await {
            let (status, fields): (u16, &[_]) = match &*head.target {
                b"/204" => (204, &[]),
                b"/304" => (304, &[("content-length", "7"), ("etag", "e")]),
                b"/0" => (200, &[]),
                _ => (200, &[("content-length", "7")]),
            };
            answer(&mut stream, status, fields, b"").await;
        }
    });
    let mut caller = rig.connect(Alpn::Http1);
    for (method, path, status, length) in [
        ("HEAD", "/", 200, Some("7")),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, None),
        ("GET", "/0", 200, Some("0")),
        ("DELETE", "/204", 204, None),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n",
            rig.bearer()
        );
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            assert_ne!(caller.read_buf(&mut bytes).await.unwrap(), 0);
        }
        let reply = Reply::parse(&bytes);
        assert_eq!(reply.status, status, "{method} {path}");
        let found = reply
            .headers
            .get("content-length")
            .map(|value| value.to_str().unwrap());
        assert_eq!(found, length, "{method} {path}");
        assert_eq!(reply.body, b"");
    }
    let mut sender = rig.http2().await;
    let reply = Reply::of(
        sender
            .send_request(rig.request("HEAD", "/", ""))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        (reply.status, reply.header("content-length"), &*reply.body),
        (200, "7", &b""[..])
    );
    drop(caller);
    let text = rig.metrics.render().unwrap();
    assert!(
        text.contains("outcome=\"caller-gone\",code=\"\"} 0"),
        "{text}"
    );
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once_unchanged() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    // Sends back what it gets, as it gets it.
    tokio::spawn(async move {
        while let Some((_, stream)) = agent.calls.accept().await {
            let (mut send, mut recv) = stream.split();
            send.send_head(&response(200, &[], BodyLength::Unknown))
                .await
                .unwrap();
            while let Item::Data(data) = recv.item().await.unwrap() {
                send.write_bytes(data).await.unwrap();
            }
            send.finish().unwrap();
        }
    });
    let size = 8 * 1024 * 1024;
    let body: Vec<u8> = (0..size).map(|at: u32| (at ^ (at >> 8)) as u8).collect();
    let body = Bytes::from(body);
    for alpn in [Alpn::Http1, Alpn::H2] {
        let io = hyper_util::rt::TokioIo::new(rig.connect(alpn));
        let full = http_body_util::Full::new(body.clone());
        let request = rig.request("PUT", "/", "").map(|_| full);
        let response = if alpn == Alpn::H2 {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
                .await
                .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            let (mut head, body) = request.into_parts();
            head.uri = "/".parse().unwrap();
            head.headers.insert("host", HOST.parse().unwrap());
            sender
                .send_request(http::Request::from_parts(head, body))
                .await
                .unwrap()
        };
        assert_eq!(response.status(), 200);
        let back = response.into_body().collect().await.unwrap().to_bytes();
        assert!(back == body, "{alpn:?}: {} bytes", back.len());
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_and_only_those_that_may() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\n{}TE: trailers\r\nTrailer: x-sum\r\nConnection: close\
         \r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n",
        rig.bearer()
    );
    let agent_side = async {
        let (head, mut stream) = agent.accept().await;
        assert_eq!(head.headers["trailer"], "x-sum");
        assert!(!head.headers.contains_key("te"));
        assert_eq!(head.body, BodyLength::Unknown);
        let mut body = Vec::new();
        let trailers = loop {
            match stream.recv.item().await.unwrap() {
                Item::Data(data) => body.extend_from_slice(&data),
                Item::Head(Head::Trailers(trailers)) => break trailers,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(body, b"ab");
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["x-sum"], "1");
        let head = response(
            200,
            &[("trailer", "x-status, set-cookie")],
            BodyLength::Unknown,
        );
        stream.send.send_head(&head).await.unwrap();
        stream
            .send
            .write_bytes(Bytes::from_static(b"cd"))
            .await
            .unwrap();
        let Head::Response(trailers) = response(
            200,
            &[("x-status", "ok"), ("set-cookie", "a=b")],
            BodyLength::Empty,
        ) else {
            unreachable!()
        };
        stream
            .send
            .send_head(&Head::Trailers(trailers.headers))
            .await
            .unwrap();
        stream.send.finish().unwrap();
    };
    let (reply, ()) = tokio::join!(rig.exchange(request), agent_side);
    assert_eq!(show(&reply.body), "2\r\ncd\r\n0\r\nx-status: ok\r\n\r\n");
}

#[tokio::test]
async fn a_caller_that_waits_for_100_continue_gets_it() {
    let rig = Rig::new();
    rig.agent("vc").await.echo();
    let mut caller = rig.connect(Alpn::Http1);
    let head = format!(
        "PUT / HTTP/1.1\r\nHost: {HOST}\r\n{}Expect: 100-continue\r\nConnection: close\r\n\
         Content-Length: 3\r\n\r\n",
        rig.bearer()
    );
    caller.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    caller.read_exact(&mut interim).await.unwrap();
    assert_eq!(show(&interim), "HTTP/1.1 100 Continue\r\n\r\n");
    caller.write_all(b"abc").await.unwrap();
    let reply = Reply::read_to_end(&mut caller).await;
    assert_eq!((reply.status, show(&reply.body)), (200, "PUT / abc"));
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

#[tokio::test]
async fn a_drain_lets_calls_finish_and_takes_no_more() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut busy = rig.connect(Alpn::Http1);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", rig.bearer());
    busy.write_all(request.as_bytes()).await.unwrap();
    let (_, mut one) = agent.accept().await;
    let mut sender = rig.http2().await;
    let sent = tokio::spawn(sender.send_request(rig.request("GET", "/", "")));
    let (_, mut two) = agent.accept().await;
    let mut idle = rig.connect(Alpn::Http1);
    rig.drain.cancel();
    let mut nothing = Vec::new();
    tokio::time::timeout(SOON, idle.read_to_end(&mut nothing))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(nothing, b"");
    answer(&mut one, 200, &[], b"one").await;
    answer(&mut two, 200, &[], b"two").await;
    let reply = Reply::read_to_end(&mut busy).await;
    assert_eq!(
        (show(&reply.body), reply.header("connection")),
        ("one", "close")
    );
    let reply = Reply::of(sent.await.unwrap().unwrap()).await;
    assert_eq!(show(&reply.body), "two");
    assert!(
        sender
            .send_request(rig.request("GET", "/", ""))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_relays_own_name_serves_the_errors_and_nothing_else() {
    let rig = Rig::new();
    let get = |path, method| {
        format!("{method} {path} HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n")
    };
    let page = rig.exchange(get("/.culvert/errors", "GET")).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(show(&page.body).contains("<h2 id=\"policy-denied\">"));
    assert_eq!(page.header("culvert-call").len(), 32);
    let head = rig.exchange(get("/.culvert/errors", "HEAD")).await;
    assert_eq!(head.header("content-length"), page.header("content-length"));
    assert_eq!(head.body, b"");
    for (path, method) in [
        ("/", "GET"),
        ("/.culvert", "GET"),
        ("/.culvert/errors", "POST"),
    ] {
        let reply = rig.exchange(get(path, method)).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (404, "unknown-endpoint"),
            "{path}"
        );
    }
    let reply = rig.exchange(get("/.culvert/v1/session", "GET")).await;
    assert_eq!((reply.status, &*reply.code()), (426, "bad-request"));
    assert_eq!(reply.header("upgrade"), "websocket");
}

/// Collects log lines.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_call_leaves_one_access_line_without_secrets_however_it_ends() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let rig = Rig::new();
    let token = rig.token(json!({}));
    let mut agent = rig.agent("vc").await;

    let request = Rig::get(
        "/a?key=hidden",
        &format!("Culvert-Authorization: Bearer {token}\r\n"),
    );
    let agent_side = async {
        let (_, mut stream) = agent.accept().await;
        answer(&mut stream, 200, &[], b"ok").await;
    };
    let (answered, ()) = tokio::join!(rig.exchange(&request), agent_side);
    let refused = rig.exchange(Rig::get("/b", "Host: x\r\n")).await;
    let bad = rig
        .exchange(Rig::get("/c", "Culvert-Authorization: Bearer a.b.c\r\n"))
        .await;
    let mut gone = rig.connect(Alpn::Http1);
    gone.write_all(request.as_bytes()).await.unwrap();
    let (head, mut stream) = agent.accept().await;
    drop(gone);
    stream.send.stopped().await;

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let parts: Vec<_> = token.split('.').collect();
    assert!(
        !text.contains(parts[1]) && !text.contains(parts[2]),
        "a token in the log"
    );
    let access: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["target"] == "culvert::access")
        .collect();
    let of = |call: &str| -> Vec<_> { access.iter().filter(|line| line["call"] == call).collect() };
    let expected = [
        (
            answered.header("culvert-call").to_owned(),
            "answered",
            json!(200),
            json!(null),
        ),
        (
            refused.header("culvert-call").to_owned(),
            "refused",
            json!(400),
            json!("bad-request"),
        ),
        (
            bad.header("culvert-call").to_owned(),
            "refused",
            json!(401),
            json!("unauthenticated"),
        ),
        (
            head.call.to_string(),
            "caller-gone",
            json!(null),
            json!(null),
        ),
    ];
    assert_eq!(access.len(), expected.len(), "{text}");
    for (call, outcome, status, code) in expected {
        let lines = of(&call);
        assert_eq!(lines.len(), 1, "{outcome}: {text}");
        assert_eq!(lines[0]["outcome"], outcome);
        assert_eq!(lines[0]["status"], status);
        assert_eq!(lines[0]["code"], code);
    }
    let line = of(answered.header("culvert-call"))[0];
    assert_eq!(line["tenant"], "acme");
    assert_eq!(line["endpoint"], "vc");
    assert_eq!(line["caller"], "director-7");
    assert_eq!(line["mode"], "http");
    assert_eq!(line["method"], "GET");
    assert_eq!(line["path"], "/a");
    assert_eq!(line["sent"], 2);
}
