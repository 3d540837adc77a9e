//! Kinds of calls on such a connection: bodies, consoles, SOAP.

use culvert_session::tls::pin_of;
use tokio::sync::Notify;

use super::*;
use crate::testing::Server;

const CONSOLE: &str = r#"
[[rule]]
id = "console"
action = "allow"
path = ["/ticket/**"]
upgrade = ["websocket"]
"#;

/// The fields of a request for a WebSocket, and the answer that grants it.
const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_never_ends_cleanly() {
    let mut agent = Terminating::new(RULES).await;
    let (mut caller, mut upstream) = agent.under_way("GET /api/half", "").await;
    upstream
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .await;
    drop(upstream);
    let mut all = Vec::new();
    let ended = caller.read_to_end(&mut all).await;
    assert!(ended.is_err(), "no close_notify");
    assert!(!all.ends_with(b"0\r\n\r\n"));
    drop(caller);
    assert_eq!(agent.lines().await[0]["outcome"], "truncated");
}

#[tokio::test(start_paused = true)]
async fn a_silent_caller_is_let_go() {
    let agent = Terminating::new(RULES).await;
    // No ClientHello, and no request.
    let mut silent = agent.way().await;
    let mut idle = agent.http1().await;
    let begun = tokio::time::Instant::now();
    assert!(matches!(
        silent.recv.item().await,
        Err(StreamError::Reset(_))
    ));
    assert_eq!(
        begun.elapsed().as_secs(),
        60,
        "timeouts.tls of the endpoint"
    );
    assert!(!matches!(idle.read(&mut [0; 1]).await, Ok(1..)));
    let lines = agent.lines().await;
    assert_eq!(lines.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_websocket_inside_carries_bytes_until_either_side_goes() {
    let rules = format!("{RULES}{CONSOLE}");
    let mut agent = Terminating::new(&rules).await;
    for upstream_goes in [false, true] {
        let (mut caller, mut upstream) = agent.under_way("GET /ticket/1", WEBSOCKET).await;
        upstream.send(SWITCHING).await;
        let (head, _) = read_answer(&mut caller).await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("culvert-call: "), "{head}");
        let mut upstream = upstream.into_io();
        caller.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        upstream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
        upstream.write_all(b"pong").await.unwrap();
        upstream.flush().await.unwrap();
        caller.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"pong");
        if upstream_goes {
            drop(upstream);
            let mut rest = Vec::new();
            let _ = caller.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        } else {
            drop(caller);
            let gone = upstream.read(&mut word).await;
            assert!(!matches!(gone, Ok(1..)), "{gone:?}");
        }
    }
    let lines = agent.lines().await;
    let upgrades = lines.iter().filter(|line| line["upgrade"] == "websocket");
    assert!(
        upgrades
            .clone()
            .all(|line| line["bytes_in"] == 4 && line["bytes_out"] == 4)
    );
    assert_eq!(upgrades.count(), 2);
}

/// The upstream says its last word, and is gone altogether before it has heard the caller's.
#[tokio::test]
async fn a_websocket_whose_upstream_does_not_hear_the_goodbye_has_ended_all_the_same() {
    let rules = format!("{RULES}{CONSOLE}");
    let leave = Arc::new(Notify::new());
    let identity = Certificate::new(&["127.0.0.1"]);
    let mut server = Server::start(Some(&identity), {
        let leave = leave.clone();
        move |mut connection| {
            let leave = leave.clone();
            async move {
                connection.request().await.unwrap();
                connection.send(SWITCHING).await;
                let mut io = connection.into_io();
                io.shutdown().await.unwrap();
                leave.notified().await;
            }
        }
    })
    .await;
    let trust = Trust::Pins(vec![pin_of(&identity.certificate)]);
    let agent = Terminating::dialling(&rules, server.endpoint(Some(trust))).await;
    let mut caller = agent.http1().await;
    let request = request("GET /ticket/1", WEBSOCKET);
    caller.write_all(request.as_bytes()).await.unwrap();
    let (head, _) = read_answer(&mut caller).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert_eq!(caller.read(&mut [0]).await.unwrap(), 0);
    // Closed with this unread, or sent this once closed, the upstream's end answers with a reset.
    caller.write_all(b"too late").await.unwrap();
    leave.notify_one();
    server.ended(1).await;
    caller.shutdown().await.unwrap();
    let lines = agent.lines().await;
    assert_eq!(lines[0]["upgrade"], "websocket");
    assert_eq!(lines[0]["outcome"], "answered", "{}", lines[0]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_told_of_a_defect_of_the_agent() {
    // No configuration has such a patience, and no clock holds the sum: that is a panic.
    let defective = |endpoint: &mut Endpoint| endpoint.timeouts.head = Span(Duration::MAX);
    let agent = Terminating::with(RULES, defective).await;
    let mut caller = agent.http1().await;
    let request = request("GET /api/1", "");
    caller.write_all(request.as_bytes()).await.unwrap();
    let (head, body) = read_answer(&mut caller).await;
    assert!(head.starts_with("http/1.1 502 "), "{head}");
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["layer"], "agent");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("a defect of the agent"), "{detail}");
    drop(caller);
    let lines = agent.lines().await;
    assert_eq!(lines[0]["target"], "/api/1");
    assert_eq!(lines[0]["outcome"], "defect");
}

#[tokio::test(start_paused = true)]
async fn a_denied_soap_call_gets_a_fault() {
    let rules = format!(
        "{RULES}[[rule]]\nid = \"soap\"\naction = \"allow\"\npath = [\"/sdk\"]\n\
         soap_op = [\"CurrentTime\"]\n"
    );
    let mut agent = Terminating::new(&rules).await;
    let mut caller = agent.http1().await;
    let call = |operation: &str| {
        let body = format!(
            "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\">\
             <soapenv:Body><{operation} xmlns=\"urn:vim25\"/></soapenv:Body></soapenv:Envelope>"
        );
        let fields = format!(
            "Content-Type: text/xml\r\nContent-Length: {}\r\n",
            body.len()
        );
        request("POST /sdk", &fields) + &body
    };
    caller
        .write_all(call("Destroy_Task").as_bytes())
        .await
        .unwrap();
    let (head, body) = read_answer(&mut caller).await;
    assert!(head.starts_with("http/1.1 500 "), "{head}");
    assert!(body.contains("NoPermission"), "{body}");
    agent.tunnel.assert_untouched();
    caller
        .write_all(call("CurrentTime").as_bytes())
        .await
        .unwrap();
    let mut upstream = agent.tunnel.connection().await;
    let seen = upstream.request().await.unwrap();
    assert!(seen.starts_with("POST /sdk "), "{seen}");
    upstream.send(HELLO).await;
    read_answer(&mut caller).await;
}
