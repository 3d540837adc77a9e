//! Requests that no client should send: refused with 400 and a closed connection, before a byte
//! of them reaches the upstream, while everybody else goes on.

use std::time::Duration;

use culvert_tests::raw::{Raw, Received};
use culvert_tests::stack::{Stack, caller_token};
use culvert_tests::{Nginx, Upstream};

/// Long enough for an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

const HOST: &str = "vcenter--acme.localhost";

fn send(stack: &Stack, request: &[u8]) -> Received {
    let mut raw = Raw::connect(HOST, stack.public);
    raw.send(request);
    raw.receive(PATIENCE)
}

/// Fills in what every case has in common: `HOST`, and `AUTH`, the credential's header.
fn fill(request: &str) -> Vec<u8> {
    let auth = format!("Culvert-Authorization: Bearer {}", caller_token());
    request
        .replace("AUTH", &auth)
        .replace("HOST", &format!("Host: {HOST}"))
        .into_bytes()
}

/// Header lines that are ambiguous or malformed (RFC 9112), in an otherwise good request.
const LINES: &[(&str, &str)] = &[
    (
        "length and chunked",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
    ),
    (
        "chunked and length",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ),
    (
        "chunked twice",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    (
        "chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ),
    ("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
    ("chunked, gzip", "Transfer-Encoding: chunked, gzip"),
    ("chunked, chunked", "Transfer-Encoding: chunked, chunked"),
    ("xchunked", "Transfer-Encoding: xchunked"),
    ("quoted chunked", "Transfer-Encoding: \"chunked\""),
    ("no coding", "Transfer-Encoding:"),
    ("two lengths", "Content-Length: 5\r\nContent-Length: 6"),
    ("a length twice", "Content-Length: 5\r\nContent-Length: 5"),
    ("a list of lengths", "Content-Length: 5, 5"),
    ("a signed length", "Content-Length: +5"),
    ("a negative length", "Content-Length: -5"),
    ("a hexadecimal length", "Content-Length: 0x5"),
    ("a fraction", "Content-Length: 5.0"),
    ("no length", "Content-Length:"),
    (
        "an overflowing length",
        "Content-Length: 18446744073709551621",
    ),
    ("a second Host", "HOST"),
    ("another Host", "Host: nothing--acme.localhost"),
    ("space before the colon", "X-A : b"),
    ("an empty name", ": b"),
    ("a name with a space", "X A: b"),
    ("a line without a colon", "nonsense"),
    ("a folded line", "X-A: b\r\n c"),
    ("a bare CR in a value", "X-A: b\rc"),
    ("a NUL in a value", "X-A: b\0c"),
];

/// First lines that no caller of an endpoint has reason to send.
const FIRST_LINES: &[(&str, &str)] = &[
    (
        "absolute-form",
        "GET https://vcenter--acme.localhost/ HTTP/1.1",
    ),
    (
        "another scheme",
        "GET ftp://vcenter--acme.localhost/ HTTP/1.1",
    ),
    ("authority-form", "GET vcenter--acme.localhost:443 HTTP/1.1"),
    ("asterisk-form", "OPTIONS * HTTP/1.1"),
    ("a relative target", "GET api/vm HTTP/1.1"),
    ("a fragment", "GET /#x HTTP/1.1"),
    ("a space in the target", "GET /a b HTTP/1.1"),
    ("a control in the target", "GET /a\x01b HTTP/1.1"),
    ("TRACE", "TRACE / HTTP/1.1"),
    ("a lower-case method", "get / HTTP/1.1"),
    ("no version", "GET /"),
    ("HTTP/2.0 in text", "GET / HTTP/2.0"),
    ("HTTP/1.2", "GET / HTTP/1.2"),
];

/// What is said in place of the one good Host line.
const HOSTS: &[(&str, &str)] = &[
    ("no Host", ""),
    ("an empty Host", "Host:\r\n"),
    (
        "a Host with userinfo",
        "Host: a@vcenter--acme.localhost\r\n",
    ),
    ("a Host with a path", "Host: vcenter--acme.localhost/x\r\n"),
    ("a Host with a space", "Host: vcenter--acme .localhost\r\n"),
    (
        "a list of Hosts",
        "Host: vcenter--acme.localhost, a.localhost\r\n",
    ),
];

/// Requests with one thing wrong each, and its name.
fn malformed() -> Vec<(&'static str, String)> {
    let mut all = vec![
        (
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\nHOST\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        (
            "the preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        ),
    ];
    // Five bytes follow: a whole chunked body, and a whole body of that length.
    let body = "0\r\n\r\n";
    all.extend(LINES.iter().map(|(what, lines)| {
        (
            *what,
            format!("POST / HTTP/1.1\r\nHOST\r\nAUTH\r\n{lines}\r\n\r\n{body}"),
        )
    }));
    all.extend(
        FIRST_LINES
            .iter()
            .map(|(what, line)| (*what, format!("{line}\r\nHOST\r\nAUTH\r\n\r\n"))),
    );
    all.extend(
        HOSTS
            .iter()
            .map(|(what, host)| (*what, format!("GET / HTTP/1.1\r\n{host}AUTH\r\n\r\n"))),
    );
    all
}

#[test]
fn a_malformed_head_is_refused_and_nothing_reaches_the_upstream() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let mut wrong = Vec::new();
    let requests = malformed();
    for (what, request) in &requests {
        let received = send(&stack, &fill(request));
        let text = received.text();
        let status = text.split(' ').nth(1).unwrap_or("no answer").to_owned();
        let described = text.contains("application/problem+json") && text.contains("#bad-request");
        if status != "400" || !described || !received.closed {
            let closed = if received.closed {
                "closed"
            } else {
                "left open"
            };
            wrong.push(format!(
                "{what}: {status}, {closed}, described: {described}\n{text:.300}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        requests.len(),
        wrong.join("\n")
    );
    let reached: Vec<_> = upstream.requests();
    assert!(reached.is_empty(), "{reached:#?}");
    assert_eq!(stack.call("/").ok().status, 200, "others go on");
}

/// Damage in a chunked body shows only after its head was good: the request is not completed.
#[test]
fn a_malformed_chunk_never_ends_a_body_well() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let head = "POST /up HTTP/1.1\r\nHOST\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "xyz\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
    ] {
        let received = send(&stack, &fill(&format!("{head}{body}")));
        let text = received.text();
        assert!(
            !text.contains("hello from upstream"),
            "{body:?} was taken for a whole body"
        );
        assert!(received.closed, "{body:?} left the connection open");
    }
    assert_eq!(stack.call("/").ok().status, 200, "others go on");
}

/// The bytes after a refused request are never read as a request of their own.
#[test]
fn nothing_is_smuggled_behind_a_refused_request() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let smuggled = "GET /smuggled HTTP/1.1\r\nHOST\r\nAUTH\r\n\r\n";
    for (_, request) in malformed() {
        send(&stack, &fill(&format!("{request}{smuggled}")));
    }
    let reached = upstream.requests();
    assert!(reached.is_empty(), "{reached:#?}");
}

/// An upgrade that would leave HTTP/1.1, and the relay's reading of it, behind.
#[test]
fn an_upgrade_to_cleartext_http2_is_refused() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let request = "GET / HTTP/1.1\r\nHOST\r\nAUTH\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let text = send(&stack, &fill(request)).text();
    assert!(
        text.starts_with("HTTP/1.1 400 ") && text.contains("#bad-request"),
        "{text}"
    );
    assert_eq!(upstream.requests().len(), 0);
}

/// Requests that follow each other on a connection are separate calls.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let nginx = Nginx::start();
    let stack = Stack::start(&nginx.url());
    let request =
        |path: &str, last: &str| format!("GET /api/{path} HTTP/1.1\r\nHOST\r\nAUTH\r\n{last}\r\n");
    let requests = request("1", "") + &request("2", "") + &request("3", "Connection: close\r\n");
    let received = send(&stack, &fill(&requests));
    let text = received.text();
    let at = |path: &str| text.find(&format!("\"target\":\"/api/{path}\""));
    assert!(received.closed && at("1").is_some(), "{text}");
    assert!(at("1") < at("2") && at("2") < at("3"), "{text}");
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let long = format!(
        "GET / HTTP/1.1\r\nHOST\r\nAUTH\r\nX-Long: {}\r\n\r\n",
        "a".repeat(200_000)
    );
    let many: String = (0..300)
        .map(|number| format!("X-{number}: a\r\n"))
        .collect();
    let many = format!("GET / HTTP/1.1\r\nHOST\r\nAUTH\r\n{many}\r\n");
    let target = format!(
        "GET /{} HTTP/1.1\r\nHOST\r\nAUTH\r\n\r\n",
        "a".repeat(20_000)
    );
    for (what, request) in [
        ("a header", long),
        ("the headers", many),
        ("the target", target),
    ] {
        let received = send(&stack, &fill(&request));
        let text = received.text();
        let status = text.split(' ').nth(1).unwrap_or_default();
        assert!(
            ["400", "414", "431"].contains(&status),
            "{what}: {text:.300}"
        );
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(stack.call("/").ok().status, 200);
}

/// Paths that a lenient server would read otherwise than the policy did.
#[test]
fn a_target_that_could_mean_two_things_is_refused() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    for path in [
        "/open/../forbidden/x",
        "/open/%2e%2e/forbidden/x",
        "/./forbidden/x",
        "//forbidden/x",
        "/open%2fx",
        "/open%5cx",
        "/open\\x",
        "/open/%00",
        "/open/%zz",
        "/open/%",
        "/open;v=1/x",
        "/open%252e",
        "/open/%c0%af",
        "/open/%ff",
    ] {
        let answer = stack.call(path).run();
        assert!([400, 403].contains(&answer.status), "{path}: {answer}");
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn bytes_that_are_no_tls_at_all_disturb_nobody() {
    use std::io::Write;
    let upstream = Upstream::plain();
    let mut stack = Stack::start(&upstream.url());
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 4096],
        &[0x16, 3, 1, 0xff, 0xff],
    ] {
        let mut plain = std::net::TcpStream::connect(("127.0.0.1", stack.public)).unwrap();
        // The relay may close before it has taken all.
        let _ = plain.write_all(bytes);
    }
    stack.relay.assert_running();
    assert_eq!(stack.call("/").ok().status, 200);
}

/// The session path is for agents: callers' tokens, and what is no WebSocket, are turned away.
#[test]
fn the_agents_path_takes_agents_only() {
    use culvert_tests::curl::{Curl, Http};
    let stack = Stack::start(&Upstream::plain().url());
    let url = format!("https://localhost:{}/.culvert/v1/session", stack.public);
    let plain = Curl::new(&url).http(Http::One).ok();
    assert!([400, 401, 426].contains(&plain.status), "{plain}");
    let upgrade = |token: &str| {
        Curl::new(&url)
            .http(Http::One)
            .header("Connection: Upgrade")
            .header("Upgrade: websocket")
            .header("Sec-WebSocket-Version: 13")
            .header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Protocol: culvert.v1")
            .header(&format!("Authorization: Bearer {token}"))
            .ok()
    };
    let nobody = upgrade("garbage");
    assert_eq!(nobody.status, 401, "{nobody}");
    let caller = upgrade(caller_token());
    assert_eq!(caller.status, 403, "{caller}");
}
