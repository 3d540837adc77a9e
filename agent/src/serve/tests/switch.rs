//! Calls that ask to switch protocols.

use culvert_proto::code::ErrorCode;
use culvert_session::upgrade::accept_key;
use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const RULES: &str = r#"
version = 1
[[rule]]
id = "console"
action = "allow"
method = ["GET", "POST"]
path = ["/ticket/**"]
upgrade = ["websocket", "spdy/3.1", "h2c"]
[[rule]]
id = "read"
action = "allow"
path = ["/api/**"]
"#;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A call over HTTP/1.1: with the caller's own key.
fn websocket(target: &'static str) -> CallHead {
    let mut head = CallHead {
        upgrade: Some("websocket".into()),
        ..get(target)
    };
    for (name, value) in [
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "binary, vmware-vvc"),
    ] {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    head
}

fn open(tunnel: &Tunnel, head: &CallHead) -> Stream {
    tunnel.relay.open(head, Bytes::new(), false).unwrap()
}

fn switching(key: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: WebSocket\r\nSec-WebSocket-Accept: {}\r\n\
         Sec-WebSocket-Protocol: binary\r\n\r\n",
        accept_key(key.as_bytes())
    )
}

/// The value of a header of a request.
fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = request.lines().filter_map(|line| line.split_once(": "));
    lines
        .find(|(have, _)| have.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// A console that is open, with the upstream's end of it.
async fn console(tunnel: &mut Tunnel) -> (Stream, Box<dyn crate::testing::Io>) {
    let mut call = open(tunnel, &websocket("/ticket/1"));
    let mut upstream = tunnel.asked().await;
    upstream.send(switching(KEY)).await;
    assert_eq!(answer(&mut call).await.status, 101);
    (call, upstream.into_io())
}

#[tokio::test(start_paused = true)]
async fn a_console_gets_its_upgrade_and_then_bytes_pass_both_ways() {
    let mut tunnel = Tunnel::new(RULES).await;
    let mut call = open(&tunnel, &websocket("/ticket/1"));
    // A relay that does not wait for the answer: none of this may go ahead of it.
    call.send.write_bytes("early".into()).await.unwrap();
    let mut upstream = tunnel.connection().await;
    let request = upstream.request().await.unwrap();
    assert!(
        request.starts_with("GET /ticket/1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert_eq!(header(&request, "connection"), Some("Upgrade"));
    assert_eq!(header(&request, "upgrade"), Some("websocket"));
    assert_eq!(header(&request, "sec-websocket-key"), Some(KEY));
    assert_eq!(
        header(&request, "sec-websocket-protocol"),
        Some("binary, vmware-vvc")
    );
    assert_eq!(header(&request, "content-length"), None);
    let nothing = tokio::time::timeout(std::time::Duration::from_secs(5), upstream.body(1));
    assert!(nothing.await.is_err(), "bytes went ahead of the 101");

    upstream.send(switching(KEY) + "together with it").await;
    let head = answer(&mut call).await;
    assert_eq!(
        (head.status.as_u16(), head.body),
        (101, BodyLength::Unknown)
    );
    assert_eq!(head.headers["sec-websocket-protocol"], "binary");
    assert_eq!(
        head.headers["sec-websocket-accept"],
        accept_key(KEY.as_bytes())
    );
    assert!(!head.headers.contains_key("upgrade") && !head.headers.contains_key("connection"));
    assert_eq!(upstream.body(5).await.unwrap(), b"early");
    let mut bytes = [0; 16];
    call.recv.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"together with it");

    // Either side ends its half for itself.
    let mut io = upstream.into_io();
    io.write_all(b"last").await.unwrap();
    io.shutdown().await.unwrap();
    assert_eq!(body(&mut call).await, (b"last".to_vec(), Ok(())));
    call.write_all(b"still").await.unwrap();
    call.shutdown().await.unwrap();
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"still");
}

/// HTTP/2 has no key and no accept (RFC 8441, 5).
#[tokio::test(start_paused = true)]
async fn a_console_over_http2_gets_a_key_of_the_agents() {
    let mut tunnel = Tunnel::new(RULES).await;
    let mut head = websocket("/ticket/1");
    head.headers.remove("sec-websocket-key");
    let mut call = open(&tunnel, &head);
    let mut upstream = tunnel.connection().await;
    let request = upstream.request().await.unwrap();
    let key = header(&request, "sec-websocket-key").unwrap().to_owned();
    assert_eq!(key.len(), 24);
    upstream.send(switching(&key)).await;
    let head = answer(&mut call).await;
    assert_eq!(head.status, 101);
    assert!(!head.headers.contains_key("sec-websocket-accept"));
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_takes_a_rule_that_names_it() {
    let mut tunnel = Tunnel::new(RULES).await;
    let other = CallHead {
        upgrade: Some("irc".into()),
        ..get("/ticket/1")
    };
    for head in [websocket("/api/1"), other] {
        let refusal = refusal(&mut open(&tunnel, &head)).await;
        assert_eq!(refusal.code, ErrorCode::PolicyDenied);
    }
    // And such a rule takes an upgrade.
    let plain = refusal(&mut tunnel.call(&get("/ticket/1"), "")).await;
    assert_eq!(plain.code, ErrorCode::PolicyDenied);
    tunnel.assert_untouched();

    let spdy = CallHead {
        upgrade: Some("spdy/3.1".into()),
        ..get("/ticket/1")
    };
    let _call = open(&tunnel, &spdy);
    let request = tunnel.connection().await.request().await.unwrap();
    assert_eq!(header(&request, "upgrade"), Some("spdy/3.1"));
    assert_eq!(header(&request, "sec-websocket-key"), None);
}

/// Whatever the policy says.
#[tokio::test(start_paused = true)]
async fn an_upgrade_to_another_http_or_of_anything_but_a_get_is_refused() {
    let mut tunnel = Tunnel::new(RULES).await;
    let mut heads = ["h2c", "h2", "http", "tls"].map(websocket_named).to_vec();
    heads.push(CallHead {
        method: Method::POST,
        ..websocket("/ticket/1")
    });
    heads.push(CallHead {
        body: BodyLength::Unknown,
        ..websocket("/ticket/1")
    });
    for head in heads {
        let refusal = refusal(&mut open(&tunnel, &head)).await;
        assert_eq!(refusal.code, ErrorCode::BadRequest, "{head:?}");
    }
    tunnel.assert_untouched();
}

fn websocket_named(protocol: &str) -> CallHead {
    CallHead {
        upgrade: Some(protocol.into()),
        ..get("/ticket/1")
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_stays_with_http_is_answered_and_its_connection_is_never_used_again() {
    let mut tunnel = Tunnel::new(RULES).await;
    for status in ["403 Forbidden", "200 OK"] {
        let mut call = open(&tunnel, &websocket("/ticket/1"));
        let mut upstream = tunnel.asked().await;
        upstream
            .send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno"))
            .await;
        assert!(status.starts_with(answer(&mut call).await.status.as_str()));
        assert_eq!(body(&mut call).await, (b"no".to_vec(), Ok(())));
        upstream.closed().await;
        // An idle connection is not asked to switch either: what it is used for is HTTP.
        let (mut plain, mut upstream) = tunnel.under_way(&get("/api/1")).await;
        upstream.send(HELLO.replace("keep", "close")).await;
        assert_eq!(body_of(&mut plain).await, b"hello");
        drop(upstream);
    }
}

#[tokio::test(start_paused = true)]
async fn a_101_that_is_not_the_one_that_was_asked_for_is_an_error() {
    let right = switching(KEY);
    let wrong = [
        right.replace("Upgrade: WebSocket\r\n", ""),
        right.replace("Upgrade: WebSocket", "Upgrade: h2c"),
        right.replace("Upgrade: WebSocket", "Upgrade: websocket\r\nUpgrade: x"),
        right.replace("keep-alive, Upgrade", "keep-alive"),
        right.replace("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x"),
        right.replace("Sec-WebSocket-Accept", "X-Accept"),
    ];
    let mut tunnel = Tunnel::new(RULES).await;
    for answer in wrong {
        let mut call = open(&tunnel, &websocket("/ticket/1"));
        let mut upstream = tunnel.asked().await;
        upstream.send(&answer).await;
        let refusal = refusal(&mut call).await;
        assert_eq!(refusal.code, ErrorCode::UpstreamProtocol, "{answer}");
        upstream.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_a_console_closes_the_upstream() {
    let mut tunnel = Tunnel::new(RULES).await;
    let (call, mut upstream) = console(&mut tunnel).await;
    drop(call);
    assert_eq!(upstream.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_forbids_an_open_console_ends_it() {
    let mut tunnel = Tunnel::new(RULES).await;
    let (mut call, mut upstream) = console(&mut tunnel).await;
    tunnel.policy.send_replace(policy(POLICY));
    assert_reset(body(&mut call).await.1, ResetCode::Withdrawn);
    assert_eq!(upstream.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_console_ends_when_the_endpoints_patience_does() {
    let mut tunnel = Tunnel::new(RULES).await;
    let (mut call, mut upstream) = console(&mut tunnel).await;
    tokio::time::sleep(std::time::Duration::from_secs(50)).await;
    upstream.write_all(b"x").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(50)).await;
    call.write_all(b"x").await.unwrap();
    let begun = tokio::time::Instant::now();
    let (bytes, end) = body(&mut call).await;
    assert_eq!(bytes, b"x");
    assert_reset(end, ResetCode::Timeout);
    assert!(begun.elapsed() >= std::time::Duration::from_secs(60));
}
