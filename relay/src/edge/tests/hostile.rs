//! Callers that mean no good, or do not know better.

use std::time::Duration;

use bytes::Bytes;
use culvert_http::Alpn;
use culvert_proto::code::ResetCode;
use culvert_proto::head::BodyLength;
use culvert_proto::mux::{Item, StreamError};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::rig::*;

#[tokio::test]
async fn a_malformed_request_gets_a_400_that_says_why_and_nothing_reaches_the_agent() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let bearer = rig.bearer();
    let cases = [
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "both",
        ),
        (
            "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "chunked",
        ),
        ("Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "chunk's size"),
        (
            "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nxyz\r\n",
            "chunk's size",
        ),
        ("Host: other\r\n\r\n", "more than one Host"),
        ("X: a\0b\r\n\r\n", "control character"),
        ("X: a\r\n folded\r\n\r\n", "folded"),
    ];
    for (rest, word) in cases {
        let request =
            format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{bearer}{rest}GET / HTTP/1.1\r\n");
        let reply = rig.exchange(request).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "bad-request"),
            "{rest:?}"
        );
        assert!(
            reply.detail().contains(word),
            "{rest:?}: {}",
            reply.detail()
        );
        assert_eq!(reply.header("connection"), "close");
    }
    let targets = [
        "/a/../b",
        "/a//b",
        "/a%00b",
        "/%2e%2e/",
        "/a?_method=DELETE",
        "/a%5cb",
    ];
    for target in targets {
        let reply = rig.exchange(Rig::get(target, &bearer)).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "bad-request"),
            "{target}"
        );
        assert!(
            reply.detail().starts_with("the target is not accepted: "),
            "{target}"
        );
    }
    let upgrade = "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}{bearer}\r\n");
    let mut caller = rig.connect(Alpn::Http1);
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 4096];
    let length = caller.read(&mut bytes).await.unwrap();
    assert_eq!(Reply::parse(&bytes[..length]).status, 400);
    assert!(agent.is_untouched().await);
}

#[tokio::test]
async fn a_body_that_turns_out_malformed_breaks_the_call_off() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect(Alpn::Http1);
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\n{}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        rig.bearer()
    );
    caller.write_all(head.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    caller.write_all(b"zz\r\n").await.unwrap();
    let end = loop {
        match stream.recv.item().await {
            Ok(Item::Data(_)) => {}
            other => break other,
        }
    };
    assert!(
        matches!(end, Err(StreamError::Reset(ResetCode::Truncated))),
        "{end:?}"
    );
    let reply = Reply::read_to_end(&mut caller).await;
    assert_eq!((reply.status, &*reply.code()), (400, "bad-request"));
    assert!(
        reply.detail().contains("chunk's size"),
        "{}",
        reply.detail()
    );
}

#[tokio::test]
async fn http_2_requests_are_held_to_the_same_rules() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut sender = rig.http2().await;
    let request = || rig.request("GET", "/", "");
    type Change = fn(&mut http::Request<Full<Bytes>>);
    let cases: [(&str, Change); 10] = [
        ("differ", |r| {
            _ = r
                .headers_mut()
                .insert("host", "nsx--acme.relay.test".parse().unwrap())
        }),
        ("https", |r| {
            *r.uri_mut() = format!("http://{HOST}/").parse().unwrap()
        }),
        ("Host", |r| {
            *r.uri_mut() = format!("https://u@{HOST}/").parse().unwrap()
        }),
        ("upper-case", |r| *r.method_mut() = "get".parse().unwrap()),
        ("upper-case", |r| *r.method_mut() = "M_1".parse().unwrap()),
        ("method", |r| *r.method_mut() = http::Method::TRACE),
        ("target", |r| {
            *r.uri_mut() = format!("https://{HOST}/a/../b").parse().unwrap()
        }),
        ("fields", |r| {
            (0..101).for_each(|_| _ = r.headers_mut().append("x", "y".parse().unwrap()));
        }),
        ("fields", |r| {
            let long = "y".repeat(70_000);
            r.headers_mut().insert("x", long.parse().unwrap());
        }),
        ("Host", |r| {
            r.headers_mut().append("host", HOST.parse().unwrap());
            r.headers_mut().append("host", HOST.parse().unwrap());
        }),
    ];
    for (word, change) in cases {
        let mut request = request();
        change(&mut request);
        let reply = Reply::of(sender.send_request(request).await.unwrap()).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "bad-request"),
            "{word}"
        );
        assert!(reply.detail().contains(word), "{word}: {}", reply.detail());
    }
    assert!(agent.is_untouched().await);
}

#[tokio::test]
async fn many_small_calls_on_one_http_2_connection_are_no_flood() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    tokio::spawn(async move {
        while let Some((_, mut stream)) = agent.calls.accept().await {
            answer(&mut stream, 204, &[], b"").await;
        }
    });
    let mut sender = rig.http2().await;
    let request = rig.request("GET", "/", "");
    for _ in 0..3000 {
        let response = sender.send_request(request.clone()).await.unwrap();
        assert_eq!(response.status(), 204);
    }
}

#[tokio::test]
async fn nobody_guesses_tokens_in_peace() {
    let rig = Rig::new();
    let mut caller = rig.connect(Alpn::Http1);
    let guess =
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nCulvert-Authorization: Bearer a.b.c\r\n\r\n");
    let guesses = guess.repeat(30);
    let _ = caller.write_all(guesses.as_bytes()).await;
    let mut bytes = Vec::new();
    tokio::time::timeout(SOON, caller.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("HTTP/1.1 401").count(), 10);

    let mut sender = rig.http2().await;
    let mut refused = 0;
    for _ in 0..30 {
        let mut request = rig.request("GET", "/", "");
        request
            .headers_mut()
            .insert("culvert-authorization", "Bearer a.b.c".parse().unwrap());
        match sender.send_request(request).await {
            Ok(response) => refused += i32::from(response.status() == 401),
            Err(_) => break,
        }
    }
    assert!((10..13).contains(&refused), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_ends_the_call_but_a_long_poll_goes_on() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect(Alpn::Http1);
    let head = format!(
        "PUT / HTTP/1.1\r\nHost: {HOST}\r\n{}Content-Length: 9\r\n\r\nab",
        rig.bearer()
    );
    let start = Instant::now();
    caller.write_all(head.as_bytes()).await.unwrap();
    let (_, _stream) = agent.accept().await;
    let reply = Reply::read_to_end(&mut caller).await;
    assert_eq!((reply.status, &*reply.code()), (400, "bad-request"));
    assert_eq!(start.elapsed().as_secs(), 30);

    for alpn in [Alpn::Http1, Alpn::H2] {
        let mut sender = rig.http2().await;
        let mut caller = rig.connect(Alpn::Http1);
        let sent = tokio::spawn({
            let request = rig.request("GET", "/", "");
            let head = Rig::get("/", &rig.bearer());
            async move {
                if alpn == Alpn::H2 {
                    Reply::of(sender.send_request(request).await.unwrap())
                        .await
                        .status
                } else {
                    caller.write_all(head.as_bytes()).await.unwrap();
                    let mut bytes = Vec::new();
                    caller.read_to_end(&mut bytes).await.unwrap();
                    Reply::parse(&bytes).status
                }
            }
        });
        let (_, mut stream) = agent.accept().await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        answer(&mut stream, 200, &[], b"changed").await;
        assert_eq!(sent.await.unwrap(), 200, "{alpn:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_take_its_answer_is_cut_off() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect_through(Alpn::Http1, 1024);
    caller
        .write_all(Rig::get("/", &rig.bearer()).as_bytes())
        .await
        .unwrap();
    let (_, mut stream) = agent.accept().await;
    let start = Instant::now();
    stream
        .send
        .send_head(&response(200, &[], BodyLength::Unknown))
        .await
        .unwrap();
    let flood = async {
        loop {
            if let Err(error) = stream
                .send
                .write_bytes(Bytes::from_static(&[0; 4096]))
                .await
            {
                return error;
            }
        }
    };
    let error = flood.await;
    assert!(
        matches!(error, StreamError::Reset(_) | StreamError::Stopped(_)),
        "{error}"
    );
    assert!(
        (30..=35).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_stuck_http_2_stream_is_reset_and_the_others_go_on() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let io = hyper_util::rt::TokioIo::new(rig.connect(Alpn::H2));
    let (mut sender, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .initial_stream_window_size(16 * 1024)
            .handshake(io)
            .await
            .unwrap();
    tokio::spawn(connection);
    let sent = tokio::spawn(sender.send_request(rig.request("GET", "/stuck", "")));
    let (_, mut stuck) = agent.accept().await;
    stuck
        .send
        .send_head(&response(200, &[], BodyLength::Unknown))
        .await
        .unwrap();
    let response = sent.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let start = Instant::now();
    let mut flood = std::pin::pin!(async {
        loop {
            if let Err(error) = stuck.send.write_bytes(Bytes::from_static(&[0; 4096])).await {
                return error;
            }
        }
    });
    // Meanwhile the connection is good for others.
    let sent = tokio::spawn(sender.send_request(rig.request("GET", "/other", "")));
    let other = async {
        let (_, mut stream) = agent.accept().await;
        answer(&mut stream, 200, &[], b"fine").await;
    };
    tokio::select! {
        error = &mut flood => panic!("{error}"),
        () = other => {}
    }
    let reply = Reply::of(sent.await.unwrap().unwrap()).await;
    assert_eq!(show(&reply.body), "fine");
    let error = flood.await;
    assert!(
        matches!(error, StreamError::Reset(_) | StreamError::Stopped(_)),
        "{error}"
    );
    assert!(
        (29..=35).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    assert!(response.into_body().collect().await.is_err());
    assert!(sender.ready().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn idle_connections_end() {
    let rig = Rig::new();
    let start = Instant::now();
    let mut silent = rig.connect(Alpn::Http1);
    let mut bytes = Vec::new();
    silent.read_to_end(&mut bytes).await.unwrap();
    assert_eq!((bytes.len(), start.elapsed().as_secs()), (0, 10));

    let start = Instant::now();
    let mut silent = rig.connect(Alpn::H2);
    // h2 says its settings, and then that it had enough.
    silent.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 10);

    rig.agent("vc").await.echo();
    let mut sender = rig.http2().await;
    let response = sender
        .send_request(rig.request("GET", "/", ""))
        .await
        .unwrap();
    Reply::of(response).await;
    let start = Instant::now();
    while sender.ready().await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(
            start.elapsed() < Duration::from_secs(70),
            "an idle connection stays"
        );
    }
    assert!(
        start.elapsed() >= Duration::from_secs(59),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn one_credential_twice_or_in_the_query_is_none_and_a_bad_one_is_not_mended_by_the_next() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let token = rig.token(json!({}));
    let second =
        format!("Proxy-Authorization: Basic eDp5\r\nCulvert-Authorization: Bearer {token}\r\n");
    let twice = format!("Proxy-Authorization: Bearer {token}\r\n").repeat(2);
    for request in [
        Rig::get("/", &second),
        Rig::get("/", &twice),
        Rig::get(&format!("/?access_token={token}"), ""),
        Rig::get("/", &format!("Authorization: Bearer {token}\r\n")),
    ] {
        let reply = rig.exchange(request).await;
        assert_eq!((reply.status, &*reply.code()), (401, "unauthenticated"));
    }
    assert!(agent.is_untouched().await);
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_outlive_the_callers_token_by_more_than_30_s() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let token = rig.token(json!({"exp": now + 300}));
    let request = Rig::get("/", &format!("Culvert-Authorization: Bearer {token}\r\n"));
    for answered in [false, true] {
        let start = Instant::now();
        let mut caller = rig.connect(Alpn::Http1);
        caller.write_all(request.as_bytes()).await.unwrap();
        let (_, mut stream) = agent.accept().await;
        if answered {
            let head = response(200, &[], BodyLength::Unknown);
            stream.send.send_head(&head).await.unwrap();
            // Whoever streams without a pause is cut as well.
            tokio::spawn(async move {
                while stream
                    .send
                    .write_bytes(Bytes::from_static(b"x"))
                    .await
                    .is_ok()
                {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(400), caller.read_to_end(&mut bytes));
        read.await.unwrap().unwrap();
        let reply = Reply::parse(&bytes);
        assert_eq!(reply.status, if answered { 200 } else { 401 });
        assert!(!reply.body.ends_with(b"0\r\n\r\n"));
        assert!(
            (328..=331).contains(&start.elapsed().as_secs()),
            "{:?}",
            start.elapsed()
        );
    }
}
