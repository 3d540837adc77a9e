//! CONNECT: who gets a way, to what, and how it ends.

use culvert_http::Alpn;
use culvert_proto::code::{ErrorCode, ResetCode};
use culvert_proto::head::{BodyLength, Head, Mode, Refusal};
use culvert_session::{Item, Stream, StreamError};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::rig::{Reply, Rig, SOON, read_body, response, show};

pub(super) const NAME: &str = "vcenter.sddc.local:443";

pub(super) fn bearer(rig: &Rig) -> String {
    format!("Proxy-Authorization: Bearer {}\r\n", rig.token(json!({})))
}

/// A CONNECT by HTTP/1.1.
pub(super) fn connect(target: &str, fields: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n")
}

/// A way that is open, from both ends.
pub(super) async fn way(rig: &Rig, agent: &mut super::rig::FakeAgent) -> (DuplexStream, Stream) {
    let mut caller = rig.connect(Alpn::Http1);
    let request = connect(NAME, &bearer(rig));
    caller.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    let opened = response(200, &[], BodyLength::Unknown);
    stream.send.send_head(&opened).await.unwrap();
    let answer = read_head(&mut caller).await;
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    (caller, stream)
}

/// The head of an answer, and nothing behind it.
pub(super) async fn read_head(caller: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(SOON, caller.read_u8()).await.unwrap();
        head.push(byte.unwrap_or_else(|error| panic!("{error}: {}", head.escape_ascii())));
    }
    show(&head).to_lowercase()
}

#[tokio::test]
async fn a_declared_name_is_connected_and_each_direction_ends_for_itself() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    for (request, version) in [
        (
            connect("VCenter.sddc.local.:443", &bearer(&rig)),
            "http/1.1",
        ),
        (
            format!("CONNECT {NAME} HTTP/1.0\r\n{}\r\n", bearer(&rig)),
            "http/1.0",
        ),
    ] {
        let mut caller = rig.connect(Alpn::Http1);
        // What a caller sends before it is answered waits until it is.
        caller.write_all(request.as_bytes()).await.unwrap();
        caller.write_all(b"early ").await.unwrap();
        let (head, mut stream) = agent.accept().await;
        assert_eq!(
            (head.mode, head.method.as_str()),
            (Mode::Connect, "CONNECT")
        );
        assert_eq!((head.endpoint.as_str(), show(&head.target)), ("vc", NAME));
        assert!(head.headers.is_empty(), "the credential stays here");
        let opened = response(200, &[], BodyLength::Unknown);
        stream.send.send_head(&opened).await.unwrap();
        let answer = read_head(&mut caller).await;
        assert!(answer.starts_with(&format!("{version} 200 ")), "{answer}");
        assert!(answer.contains("culvert-call: "), "{answer}");
        assert!(!answer.contains("content-length") && !answer.contains("transfer-encoding"));

        caller.write_all(b"bytes").await.unwrap();
        caller.shutdown().await.unwrap();
        assert_eq!(read_body(&mut stream).await, "early bytes");
        stream.send.write_bytes("and back".into()).await.unwrap();
        stream.send.finish().unwrap();
        let mut back = Vec::new();
        caller.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"and back");
    }
}

#[tokio::test]
async fn what_is_not_declared_in_the_callers_tenant_does_not_exist() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let other = json!({"tenant": "globex"});
    let stranger = format!("Proxy-Authorization: Bearer {}\r\n", rig.token(other));
    let close = "Connection: close\r\n";
    let mut answers = Vec::new();
    for (target, credential) in [
        (NAME, &stranger),
        ("nsx.sddc.local:443", &stranger),
        ("vcenter.sddc.local:80", &bearer(&rig)),
        ("127.0.0.1:443", &bearer(&rig)),
    ] {
        let reply = rig
            .exchange(connect(target, &format!("{credential}{close}")))
            .await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (404, "unknown-endpoint"),
            "{target}"
        );
        let mut fields = reply.headers.clone();
        fields.remove("culvert-call");
        fields.remove("date");
        answers.push((fields, reply.detail()));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert!(agent.is_untouched().await);
}

/// Tools send everything to their proxy, its own addresses too, if nobody tells them otherwise.
#[tokio::test]
async fn a_connect_to_the_relay_itself_is_told_what_belongs_into_no_proxy() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let fields = format!("{}Connection: close\r\n", bearer(&rig));
    for name in ["relay.test", "vc--acme.relay.test", "no.such.relay.test"] {
        let reply = rig.exchange(connect(&format!("{name}:443"), &fields)).await;
        assert_eq!((reply.status, &*reply.code()), (404, "unknown-endpoint"));
        let detail = reply.detail();
        let names = detail.contains("relay.test and .relay.test into NO_PROXY");
        assert!(names, "{name}: {detail}");
    }
    assert!(agent.is_untouched().await);
}

#[tokio::test]
async fn without_a_good_credential_the_proxy_asks_for_one() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let upstreams = format!("Authorization: Bearer {}\r\n", rig.token(json!({})));
    for fields in ["", "Proxy-Authorization: Basic eDp5\r\n", &upstreams] {
        let reply = rig
            .exchange(connect(NAME, &format!("{fields}Connection: close\r\n")))
            .await;
        assert_eq!((reply.status, &*reply.code()), (407, "unauthenticated"));
        let challenges: Vec<_> = reply.headers.get_all("proxy-authenticate").iter().collect();
        assert!(challenges[0].to_str().unwrap().starts_with("Bearer realm="));
        assert_eq!(challenges[1], "Basic realm=\"culvert\"");
        assert!(!reply.headers.contains_key("www-authenticate"));
    }
    let narrow = json!({"culvert_endpoints": ["other"]});
    for claims in [json!({"scope": "other"}), narrow] {
        let fields = format!(
            "Proxy-Authorization: Bearer {}\r\nConnection: close\r\n",
            rig.token(claims)
        );
        let reply = rig.exchange(connect(NAME, &fields)).await;
        assert_eq!((reply.status, &*reply.code()), (403, "forbidden"));
    }
    assert!(agent.is_untouched().await);
}

#[tokio::test]
async fn a_connect_that_can_be_read_in_two_ways_is_refused() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let credential = bearer(&rig);
    for request in [
        format!("CONNECT {NAME} HTTP/1.1\r\nHost: other.sddc.local:443\r\n{credential}\r\n"),
        format!("CONNECT {NAME} HTTP/1.1\r\nHost: vcenter.sddc.local:80\r\n{credential}\r\n"),
        format!("CONNECT {NAME} HTTP/1.1\r\nHost: {NAME}\r\nHost: {NAME}\r\n{credential}\r\n"),
        format!("CONNECT {NAME} HTTP/1.1\r\n{credential}\r\n"),
        format!("CONNECT user@{NAME} HTTP/1.1\r\nHost: {NAME}\r\n{credential}\r\n"),
        format!("CONNECT https://{NAME}/ HTTP/1.1\r\nHost: {NAME}\r\n{credential}\r\n"),
        format!("CONNECT vcenter.sddc.local HTTP/1.1\r\nHost: {NAME}\r\n{credential}\r\n"),
        connect(NAME, &format!("{credential}Content-Length: 0\r\n")),
        connect(NAME, &format!("{credential}Content-Length: 5\r\n")),
        connect(NAME, &format!("{credential}Transfer-Encoding: chunked\r\n")),
        format!("GET https://{NAME}/ HTTP/1.1\r\nHost: {NAME}\r\n{credential}\r\n"),
    ] {
        let mut caller = rig.connect(Alpn::Http1);
        let request = request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        caller.write_all(request.as_bytes()).await.unwrap();
        let reply = Reply::read_to_end(&mut caller).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "bad-request"),
            "{request}"
        );
    }
    assert!(agent.is_untouched().await);
}

#[tokio::test]
async fn a_refusal_by_the_agent_is_the_answer_to_the_connect() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let mut caller = rig.connect(Alpn::Http1);
    let request = connect(NAME, &format!("{}Connection: close\r\n", bearer(&rig)));
    caller.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    let refusal = Refusal {
        code: ErrorCode::PolicyDenied,
        detail: "No rule allows it.".into(),
        rule: None,
        soap: false,
    };
    stream
        .send
        .send_head(&Head::Refusal(refusal))
        .await
        .unwrap();
    stream.send.finish().unwrap();
    let reply = Reply::read_to_end(&mut caller).await;
    assert_eq!((reply.status, &*reply.code()), (403, "policy-denied"));
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_way_with_it() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let mut caller = rig.connect(Alpn::Http1);
    caller
        .write_all(connect(NAME, &bearer(&rig)).as_bytes())
        .await
        .unwrap();
    let (_, mut waiting) = agent.accept().await;
    drop(caller);
    let why = timeout(SOON, waiting.send.stopped()).await.unwrap();
    assert_eq!(
        why,
        StreamError::Reset(ResetCode::Cancelled),
        "before the answer"
    );
}

/// HTTP/2: the streams of one connection are ways of their own.
#[tokio::test]
async fn a_way_over_http2_ends_or_breaks_as_its_stream_does() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let io = TokioIo::new(rig.connect(Alpn::H2));
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(io).await.unwrap();
    tokio::spawn(connection);
    let token = rig.token(json!({}));
    let mut open = async |agent: &mut super::rig::FakeAgent| {
        let request = Request::connect(NAME)
            .header("proxy-authorization", format!("Bearer {token}"))
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let answer = sender.send_request(request);
        let serve = async {
            let (_, mut stream) = agent.accept().await;
            let opened = response(200, &[], BodyLength::Unknown);
            stream.send.send_head(&opened).await.unwrap();
            stream
        };
        let (answer, stream) = tokio::join!(answer, serve);
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.headers().contains_key("culvert-call"));
        let way = hyper::upgrade::on(answer).await.unwrap();
        (TokioIo::new(way), stream)
    };

    let (mut way, mut stream) = open(&mut agent).await;
    way.write_all(b"there").await.unwrap();
    way.shutdown().await.unwrap();
    assert_eq!(read_body(&mut stream).await, "there");
    stream.send.write_bytes("back".into()).await.unwrap();
    stream.send.finish().unwrap();
    let mut back = String::new();
    way.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "back");

    let (mut way, mut stream) = open(&mut agent).await;
    stream
        .send
        .write_bytes("that was all".into())
        .await
        .unwrap();
    stream.send.finish().unwrap();
    let mut back = String::new();
    way.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "that was all");
    way.write_all(b"and this comes later").await.unwrap();
    way.shutdown().await.unwrap();
    assert_eq!(read_body(&mut stream).await, "and this comes later");

    let (way, mut stream) = open(&mut agent).await;
    drop(way);
    // hyper's client ends its half in good order when it is dropped, and resets the other one.
    let gone = async {
        while let Ok(Item::Data(_)) = stream.recv.item().await {}
        stream.send.stopped().await
    };
    timeout(SOON, gone).await.expect("the agent hears of it");

    let (mut way, mut stream) = open(&mut agent).await;
    stream.send.write_bytes("half of ".into()).await.unwrap();
    let mut half = [0; 8];
    way.read_exact(&mut half).await.unwrap();
    stream.send.reset(ResetCode::Truncated);
    // hyper shows a CANCEL as an end; that the stream was reset shows in what is written.
    let broken = async {
        while way.write_all(b"x").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, broken)
        .await
        .expect("the caller's stream is reset");
}
