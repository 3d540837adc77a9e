//! Callers that ask to switch protocols: WebSocket over HTTP/1.1 and HTTP/2.

use bytes::Bytes;
use culvert_http::Alpn;
use culvert_proto::code::ResetCode;
use culvert_proto::head::{BodyLength, CallHead};
use culvert_session::{Item, Stream, StreamError};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::connect::read_head;
use super::rig::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A WebSocket handshake of HTTP/1.1.
fn handshake(fields: &str) -> String {
    format!(
        "GET /ticket/1 HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: WebSocket\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: binary\r\n{fields}\r\n"
    )
}

async fn switch(stream: &mut Stream) {
    let fields = [
        ("sec-websocket-accept", "x"),
        ("sec-websocket-protocol", "binary"),
    ];
    let head = response(101, &fields, BodyLength::Unknown);
    stream.send.send_head(&head).await.unwrap();
}

/// A console over HTTP/1.1 that is open.
async fn console(rig: &Rig, agent: &mut FakeAgent) -> (DuplexStream, Stream) {
    let mut caller = rig.connect(Alpn::Http1);
    caller
        .write_all(handshake(&rig.bearer()).as_bytes())
        .await
        .unwrap();
    let (_, mut stream) = agent.accept().await;
    switch(&mut stream).await;
    read_head(&mut caller).await;
    (caller, stream)
}

type Console = (TokioIo<hyper::upgrade::Upgraded>, Stream);

/// What an extended CONNECT gets when the agent answers with `status`.
async fn extended(
    rig: &Rig,
    agent: &mut FakeAgent,
    status: u16,
) -> (CallHead, Response<Incoming>, Stream) {
    let mut caller = rig.http2().await;
    // Until the settings of the other side are known, nobody may ask.
    let nothing = caller.send_request(rig.request("TRACE", "/", ""));
    assert_eq!(nothing.await.unwrap().status(), 400);
    let request = Request::builder()
        .method("CONNECT")
        .uri(format!("https://{HOST}/ticket/1"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "binary")
        .header(
            "culvert-authorization",
            format!("Bearer {}", rig.token(json!({}))),
        )
        .body(Full::new(Bytes::new()))
        .unwrap();
    let asked = tokio::spawn(caller.send_request(request));
    let (head, mut stream) = agent.accept().await;
    if status == 101 {
        switch(&mut stream).await;
    } else {
        answer(&mut stream, status, &[], b"no").await;
    }
    let response = asked.await.unwrap().unwrap();
    tokio::spawn(async move {
        // As long as it is there the connection lives.
        let _caller = caller;
        std::future::pending::<()>().await;
    });
    (head, response, stream)
}

async fn console2(rig: &Rig, agent: &mut FakeAgent) -> Console {
    let (_, response, stream) = extended(rig, agent, 101).await;
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    (TokioIo::new(upgraded), stream)
}

async fn end_of(stream: &mut Stream) -> Result<(), StreamError> {
    loop {
        if let Item::Finished = stream.recv.item().await? {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn a_websocket_over_http1_is_bytes_once_the_agent_has_switched() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect(Alpn::Http1);
    let request = handshake(&rig.bearer()) + "early ";
    caller.write_all(request.as_bytes()).await.unwrap();
    let (head, mut stream) = agent.accept().await;
    assert_eq!(
        (head.method.as_str(), head.body),
        ("GET", BodyLength::Empty)
    );
    assert_eq!(head.upgrade.as_deref(), Some("websocket"));
    assert_eq!(head.headers["sec-websocket-key"], KEY);
    assert_eq!(head.headers["sec-websocket-protocol"], "binary");
    assert!(!head.headers.contains_key("upgrade") && !head.headers.contains_key("connection"));
    // What the caller sends before it is answered stays here.
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(50), stream.recv.item());
    assert!(nothing.await.is_err());

    switch(&mut stream).await;
    let answer = read_head(&mut caller).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    for field in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-accept: x\r\n",
        "sec-websocket-protocol: binary\r\n",
        "culvert-call: ",
    ] {
        assert!(answer.contains(field), "{field}: {answer}");
    }
    assert!(!answer.contains("content-length") && !answer.contains("transfer-encoding"));

    caller.write_all(b"and late").await.unwrap();
    caller.shutdown().await.unwrap();
    assert_eq!(read_body(&mut stream).await, "early and late");
    stream.send.write_bytes("back".into()).await.unwrap();
    stream.send.finish().unwrap();
    let mut back = Vec::new();
    caller.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"back");
}

#[tokio::test]
async fn a_websocket_over_http2_is_an_extended_connect() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let (head, response, mut stream) = extended(&rig, &mut agent, 101).await;
    assert_eq!(
        (head.method.as_str(), head.body),
        ("GET", BodyLength::Empty)
    );
    assert_eq!(head.upgrade.as_deref(), Some("websocket"));
    assert_eq!(show(&head.target), "/ticket/1");
    assert!(!head.headers.contains_key("sec-websocket-key"));
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["sec-websocket-protocol"], "binary");
    assert!(response.headers().contains_key("culvert-call"));
    let mut caller = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    caller.write_all(b"there").await.unwrap();
    stream.send.write_bytes("back".into()).await.unwrap();
    let mut back = [0; 4];
    caller.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"back");
    caller.shutdown().await.unwrap();
    assert_eq!(read_body(&mut stream).await, "there");
}

#[tokio::test]
async fn an_answer_without_a_switch_is_one_like_any_other() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect(Alpn::Http1);
    for status in [403, 200] {
        let request = handshake(&rig.bearer());
        caller.write_all(request.as_bytes()).await.unwrap();
        let (_, mut stream) = agent.accept().await;
        answer(&mut stream, status, &[], b"no").await;
        let answer = read_head(&mut caller).await;
        assert!(
            answer.starts_with(&format!("http/1.1 {status} ")),
            "{answer}"
        );
        let mut body = [0; 2];
        caller.read_exact(&mut body).await.unwrap();
        // The call's half ends in good order: there is no body.
        end_of(&mut stream).await.unwrap();
    }
    let (_, refused, mut stream) = extended(&rig, &mut agent, 403).await;
    assert_eq!(Reply::of(refused).await.body, b"no");
    end_of(&mut stream).await.unwrap();
    // To a caller over HTTP/2, success would mean that the protocol has changed.
    let (_, refused, _) = extended(&rig, &mut agent, 200).await;
    let refused = Reply::of(refused).await;
    assert_eq!(
        (refused.status, &*refused.code()),
        (502, "upstream-protocol")
    );
}

#[tokio::test]
async fn what_cannot_be_switched_is_refused_and_nobody_hears_of_it() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let good = handshake(&rig.bearer());
    let bad = [
        good.replace("WebSocket\r\n", "h2c\r\n"),
        good.replace("WebSocket\r\n", "websocket, h2c\r\n"),
        good.replace("WebSocket\r\n", "websocket\r\nUpgrade: x\r\n"),
        good.replace("keep-alive, Upgrade", "keep-alive"),
        good.replace("GET", "POST"),
        good.replace("Sec-WebSocket-Key: d", "Sec-WebSocket-Key: "),
        good.replace("Sec-WebSocket-Key", "X-Key"),
        good.replace("Sec-WebSocket-Version", "X-Version"),
        good.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx"),
    ];
    for request in bad {
        let request = request.replace("keep-alive", "close");
        let reply = rig.exchange(&request).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "bad-request"),
            "{request}"
        );
    }
    assert!(agent.is_untouched().await);
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_an_error() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let caller = rig.exchange(Rig::get("/", &rig.bearer()));
    let agent = async {
        let (_, mut stream) = agent.accept().await;
        switch(&mut stream).await;
        stream
    };
    let (reply, _) = tokio::join!(caller, agent);
    assert_eq!((reply.status, &*reply.code()), (502, "upstream-protocol"));
}

#[tokio::test]
async fn a_caller_that_goes_ends_the_call_and_a_call_that_breaks_off_is_no_clean_end() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    // A pipe in memory knows no reset: its end is that of the caller's direction.
    let (caller, mut stream) = console(&rig, &mut agent).await;
    drop(caller);
    end_of(&mut stream).await.unwrap();

    let (caller, mut stream) = console2(&rig, &mut agent).await;
    drop(caller);
    let gone = tokio::time::timeout(SOON, stream.send.stopped());
    assert!(matches!(
        gone.await,
        Ok(StreamError::Stopped(_) | StreamError::Reset(_))
    ));

    let (mut caller, mut stream) = console2(&rig, &mut agent).await;
    stream.send.reset(ResetCode::Truncated);
    let broken = caller.read(&mut [0]).await;
    // hyper takes CANCEL for an end; the stream itself was reset.
    assert!(broken.is_err() || caller.write_all(b"x").await.is_err());
}
