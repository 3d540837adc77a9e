//! The client of an upstream against servers that do what they should, and what they should not.

mod hostile;
mod http2;
mod http2_raw;
mod pool;
mod probe;
mod protocol;
mod reach;
mod trust;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};

use bytes::Bytes;
use culvert_config::endpoint::Trust;
use culvert_policy::{Action, CanonicalTarget, Decision, Policy, RuleSpec};
use culvert_proto::code::ErrorCode;
use culvert_proto::head::BodyLength;
use culvert_proto::limits::MAX_PHRASE;
use culvert_session::tls::pin_of;
use http::{HeaderMap, Method};
use http_body::Body;

use super::*;
use crate::testing::{Connection as Peer, Identity, Server, endpoint, get};

/// A permit as calls get it: from a policy that allows everything.
fn permit() -> Permit {
    let policy = Policy::compile(vec![RuleSpec::new("all", Action::Allow)]).unwrap();
    let target = CanonicalTarget::parse("/", Default::default()).unwrap();
    match policy.decide(&get(&target)) {
        Decision::Allow(permit) => permit,
        Decision::Deny(denial) => panic!("{denial:?}"),
    }
}

fn parts(method: Method) -> RequestParts {
    RequestParts {
        method,
        target: Bytes::from_static(b"/api?x=1"),
        headers: HeaderMap::new(),
        authority: Bytes::from_static(b"api--acme.relay.example"),
        keeps_name: false,
        source: None,
        length: BodyLength::Empty,
    }
}

impl Upstream {
    async fn call(&self, method: Method) -> Result<Answer, UpstreamError> {
        let request = self.request(parts(method), RequestBody::empty()).unwrap();
        self.send(permit(), request, None).await
    }

    async fn get(&self) -> Result<Answer, UpstreamError> {
        self.call(Method::GET).await
    }
}

/// Reads a body to its end.
async fn read(mut body: AnswerBody) -> Result<Vec<u8>, UpstreamError> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

async fn text(upstream: &Upstream) -> String {
    let answer = upstream.get().await.unwrap();
    String::from_utf8(read(answer.body).await.unwrap()).unwrap()
}

fn upstream(server: &Server) -> Upstream {
    Upstream::new(&server.endpoint(None)).unwrap()
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello";

#[tokio::test]
async fn a_request_arrives_as_it_was_permitted_and_its_answer_comes_back() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(None, move |mut connection: Peer| {
        let sender = sender.clone();
        async move {
            sender.send(connection.request().await.unwrap()).unwrap();
            connection.send(HELLO).await;
        }
    });
    let upstream = upstream(&server.await);
    let answer = upstream.get().await.unwrap();
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.body, BodyLength::Exact(5));
    assert_eq!(answer.head.headers.get("x-a").unwrap(), "1");
    assert!(
        !answer.head.headers.contains_key("content-length"),
        "the head says it once"
    );
    assert_eq!(read(answer.body).await.unwrap(), b"hello");
    let request = seen.recv().await.unwrap();
    assert!(
        request.starts_with("GET /api?x=1 HTTP/1.1\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn an_answer_to_head_tells_a_length_and_has_no_body() {
    let server = Server::answering(None, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await;
    let upstream = upstream(&server);
    let answer = upstream.call(Method::HEAD).await.unwrap();
    assert_eq!(answer.head.body, BodyLength::Empty);
    assert_eq!(answer.head.headers.get("content-length").unwrap(), "1234");
    assert_eq!(read(answer.body).await.unwrap(), b"");
}

#[tokio::test]
async fn what_an_upstream_says_beside_its_status_comes_back_where_it_is_its_own() {
    let long = "x".repeat(MAX_PHRASE + 1);
    for (line, phrase) in [
        ("503 Maintenance mode", Some("Maintenance mode")),
        ("503 Service Unavailable", None),
        // Tomcat's.
        ("200 ", None),
        ("200", None),
        // hyper has nothing of it.
        ("200 d\u{e9}sol\u{e9}", None),
        (&format!("200 {long}"), Some(&long[1..])),
    ] {
        let answer = format!("HTTP/1.1 {line}\r\nContent-Length: 5\r\n\r\nhello");
        let server = Server::answering(None, answer.leak()).await;
        let answer = upstream(&server).get().await.unwrap();
        assert_eq!(
            answer.head.phrase.as_deref(),
            phrase.map(str::as_bytes),
            "{line}"
        );
    }
}

/// A recipient may take them (RFC 9112, 2.2); what crosses the tunnel is no text any more.
#[tokio::test]
async fn line_feeds_alone_end_the_lines_of_an_answers_head() {
    let answer = "HTTP/1.1 200 OK\nContent-Length: 5\nX-A: 1\n\nhello";
    let answer = upstream(&Server::answering(None, answer).await)
        .get()
        .await
        .unwrap();
    assert_eq!(answer.head.headers.len(), 1);
    assert_eq!(answer.head.headers.get("x-a").unwrap(), "1");
    assert_eq!(read(answer.body).await.unwrap(), b"hello");
}

#[tokio::test]
async fn chunked_answers_and_their_trailers_are_read_to_the_end() {
    let server = Server::answering(
        None,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n",
    )
    .await;
    let upstream = upstream(&server);
    for _ in 0..2 {
        assert_eq!(text(&upstream).await, "hello world");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_its_connection() {
    let server = Server::start(None, |mut connection: Peer| async move {
        connection.request().await;
        connection.send("HTTP/1.0 200 OK\r\n\r\nhello").await;
    })
    .await;
    let upstream = upstream(&server);
    let answer = upstream.get().await.unwrap();
    assert_eq!(answer.head.body, BodyLength::Unknown);
    assert_eq!(read(answer.body).await.unwrap(), b"hello");
    assert_eq!(upstream.pool.len(), 0);
}
