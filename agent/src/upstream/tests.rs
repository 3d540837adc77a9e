//! The client of an upstream against servers that do what they should, and what they should not.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};

use bytes::Bytes;
use culvert_config::endpoint::Trust;
use culvert_policy::{Action, CallFacts, CanonicalTarget, Decision, Mode, Policy, RuleSpec, Soap};
use culvert_proto::code::ErrorCode;
use culvert_proto::head::BodyLength;
use culvert_session::tls::pin_of;
use http::{HeaderMap, Method};
use http_body::Body;

use super::*;
use crate::testing::{Connection as Peer, Identity, Server, endpoint};

/// A permit as calls get it: from a policy that allows everything.
fn permit() -> Permit {
    let policy = Policy::compile(vec![RuleSpec::new("all", Action::Allow)]).unwrap();
    let target = CanonicalTarget::parse("/", Default::default()).unwrap();
    let facts = CallFacts {
        endpoint: "api",
        mode: Mode::Http,
        method: "GET",
        target: Some(&target),
        caller: "somebody",
        scopes: &[],
        soap: Soap::No,
        upgrade: None,
        source: None,
    };
    match policy.decide(&facts) {
        Decision::Allow(permit) => permit,
        Decision::Deny(denial) => panic!("{denial:?}"),
    }
}

impl Upstream {
    async fn call(&self, method: Method) -> Result<Answer, UpstreamError> {
        let parts = RequestParts {
            method,
            target: Bytes::from_static(b"/api?x=1"),
            headers: HeaderMap::new(),
            authority: Bytes::from_static(b"api--acme.relay.example"),
            source: None,
            length: BodyLength::Empty,
        };
        let request = self.request(parts, RequestBody::empty()).unwrap();
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
async fn a_connection_is_used_again_after_a_clean_end() {
    let server = Server::answering(None, HELLO).await;
    let upstream = upstream(&server);
    for _ in 0..5 {
        assert_eq!(text(&upstream).await, "hello");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn answers_without_a_body_keep_their_connection_too() {
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let server = Server::answering(None, answer).await;
        let upstream = upstream(&server);
        for _ in 0..2 {
            let answer = upstream.get().await.unwrap();
            assert_eq!(answer.head.body, BodyLength::Empty);
            assert_eq!(read(answer.body).await.unwrap(), b"");
        }
        assert_eq!(server.connections(), 1, "{answer}");
    }
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
async fn calls_at_once_have_connections_of_their_own() {
    let server = Server::answering(None, HELLO).await;
    let upstream = upstream(&server);
    let (one, two) = tokio::join!(upstream.get(), upstream.get());
    read(one.unwrap().body).await.unwrap();
    read(two.unwrap().body).await.unwrap();
    assert_eq!(server.connections(), 2);
    assert_eq!(upstream.pool.len(), 2);
}

/// Answers once per connection; a second request on it only closes it.
async fn forgetful() -> Server {
    Server::start(None, |mut connection: Peer| async move {
        connection.request().await;
        connection.send(HELLO).await;
        connection.request().await;
    })
    .await
}

#[tokio::test]
async fn a_get_on_a_connection_that_dies_unanswered_is_sent_once_more() {
    let server = forgetful().await;
    let upstream = upstream(&server);
    assert_eq!(text(&upstream).await, "hello");
    assert_eq!(text(&upstream).await, "hello");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_write_is_never_sent_twice() {
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let server = forgetful().await;
        let upstream = upstream(&server);
        assert_eq!(text(&upstream).await, "hello");
        let error = upstream.call(method.clone()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamProtocol, "{method}");
        assert_eq!(server.connections(), 1, "{method}");
    }
}

#[tokio::test]
async fn a_request_is_not_sent_again_once_a_byte_of_an_answer_has_come() {
    let server = Server::start(None, |mut connection: Peer| async move {
        connection.request().await;
        connection.send(HELLO).await;
        connection.request().await;
        connection.send("HTTP/1.1 2").await;
    })
    .await;
    let upstream = upstream(&server);
    assert_eq!(text(&upstream).await, "hello");
    assert_eq!(
        upstream.get().await.unwrap_err().code(),
        ErrorCode::UpstreamProtocol
    );
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_fresh_connection_that_dies_unanswered_is_an_error_at_once() {
    let server = Server::start(None, |mut connection: Peer| async move {
        connection.request().await;
    })
    .await;
    let upstream = upstream(&server);
    assert_eq!(
        upstream.get().await.unwrap_err().code(),
        ErrorCode::UpstreamProtocol
    );
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_upstream_has_closed_is_not_used_again() {
    let mut server = Server::start(None, |mut connection: Peer| async move {
        connection.request().await;
        connection.send(HELLO).await;
    })
    .await;
    let upstream = upstream(&server);
    assert_eq!(text(&upstream).await, "hello");
    server.ended(1).await;
    // Even a write may follow: the old connection is seen to be closed before anything is sent.
    let answer = upstream.call(Method::POST).await.unwrap();
    assert_eq!(read(answer.body).await.unwrap(), b"hello");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_connection_on_which_the_upstream_speaks_unasked_is_discarded() {
    let mut server = Server::start(None, |mut connection: Peer| async move {
        connection.request().await;
        connection.send(HELLO).await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            .await;
        connection.closed().await;
    })
    .await;
    let upstream = upstream(&server);
    assert_eq!(text(&upstream).await, "hello");
    while server.connections() == 1 {
        assert_eq!(text(&upstream).await, "hello");
        tokio::task::yield_now().await;
    }
    server.ended(1).await;
}

#[tokio::test]
async fn surplus_bytes_behind_an_answer_never_reach_the_next_caller() {
    let server = Server::start(None, |mut connection: Peer| async move {
        let number = connection.number;
        while connection.request().await.is_some() {
            let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            let surplus = if number == 1 { evil } else { "" };
            connection.send(format!("{HELLO}{surplus}")).await;
        }
    })
    .await;
    let upstream = upstream(&server);
    assert_eq!(text(&upstream).await, "hello");
    assert_eq!(text(&upstream).await, "hello");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_answer_that_is_cut_short_is_an_error_and_costs_its_connection() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let server = Server::start(None, move |mut connection: Peer| async move {
            connection.request().await;
            connection.send(answer).await;
        })
        .await;
        let upstream = upstream(&server);
        let answered = upstream.get().await.unwrap();
        let error = read(answered.body).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamProtocol, "{answer}");
        assert_eq!(upstream.pool.len(), 0);
    }
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

#[tokio::test]
async fn an_answer_over_tls_without_a_length_needs_a_proper_end_of_tls() {
    let identity = Identity::new(&["127.0.0.1"]);
    let server = Server::start(Some(&identity), |mut connection: Peer| async move {
        connection.request().await;
        // Dropped without close_notify: somebody on the way may have cut it.
        connection
            .send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
            .await;
    })
    .await;
    let pin = Trust::Pins(vec![pin_of(&identity.certificate)]);
    let upstream = Upstream::new(&server.endpoint(Some(pin))).unwrap();
    let answer = upstream.get().await.unwrap();
    assert!(read(answer.body).await.is_err());
}

#[tokio::test]
async fn malformed_and_ambiguous_answers_are_refused_whole() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(11);
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-Many: 1\r\n".repeat(101));
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: a\r\n\r\n",
        "HTTP/1.1 99 No\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "hello",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        interim.as_str(),
        large.as_str(),
        many.as_str(),
    ] {
        let owned = answer.to_owned();
        let mut server = Server::start(None, move |mut connection: Peer| {
            let answer = owned.clone();
            async move {
                connection.request().await;
                connection.send(answer).await;
                connection.closed().await;
            }
        })
        .await;
        let upstream = upstream(&server);
        let shown = &answer[..answer.len().min(80)];
        let error = upstream.get().await.map(|answer| answer.head).unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamProtocol, "{shown:?}");
        server.ended(1).await;
        assert_eq!(server.connections(), 1, "{shown:?}: not tried again");
    }
}

#[tokio::test]
async fn a_few_interim_answers_are_skipped() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(10);
    let answer: &'static str = Box::leak(format!("{interim}{HELLO}").into_boxed_str());
    let server = Server::answering(None, answer).await;
    assert_eq!(text(&upstream(&server)).await, "hello");
}

#[tokio::test]
async fn redirects_are_passed_on_and_not_followed() {
    let redirect =
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let server = Server::answering(None, redirect).await;
    let answer = upstream(&server).get().await.unwrap();
    assert_eq!(answer.head.status, 302);
    assert_eq!(
        answer.head.headers.get("location").unwrap(),
        "http://127.0.0.1:1/"
    );
}

#[tokio::test]
async fn a_call_that_is_given_up_closes_its_connection() {
    let (sender, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let mut server = Server::start(None, move |mut connection: Peer| {
        let sender = sender.clone();
        async move {
            connection.request().await;
            sender.send(()).unwrap();
            connection.closed().await;
        }
    })
    .await;
    let upstream = upstream(&server);
    {
        let mut call = pin!(upstream.get());
        tokio::select! {
            _ = &mut call => panic!("there is no answer"),
            _ = arrived.recv() => {}
        }
    }
    server.ended(1).await;
}

#[tokio::test]
async fn an_answer_that_is_not_read_to_its_end_closes_its_connection() {
    let mut server = Server::start(None, |mut connection: Peer| async move {
        connection.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello")
            .await;
        connection.closed().await;
    })
    .await;
    let upstream = upstream(&server);
    let answer = upstream.get().await.unwrap();
    drop(answer);
    server.ended(1).await;
    assert_eq!(upstream.pool.len(), 0);
}

#[tokio::test]
async fn an_upstream_that_is_down_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let upstream = Upstream::new(&endpoint(&format!("http://{address}"), Trust::SystemRoots));
    let error = upstream.unwrap().get().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamUnreachable);
    assert!(
        error.to_string().contains(&address.port().to_string()),
        "{error}"
    );
    assert!(
        error.detail().contains("connection refused"),
        "{}",
        error.detail()
    );
    assert!(
        !error.detail().contains("127.0.0.1"),
        "the caller learns no inner address"
    );
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_unreachable() {
    let endpoint = endpoint("http://name.invalid", Trust::SystemRoots);
    let error = Upstream::new(&endpoint).unwrap().get().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamUnreachable);
    assert!(
        !error.detail().contains("name.invalid"),
        "the caller learns no inner name"
    );
}

#[tokio::test]
async fn localhost_speaks_for_itself_and_is_reached() {
    let server = Server::answering(None, HELLO).await;
    let port = server.address.port();
    let endpoint = endpoint(&format!("http://localhost:{port}"), Trust::SystemRoots);
    assert_eq!(text(&Upstream::new(&endpoint).unwrap()).await, "hello");
}

fn ca_file(identity: &Identity) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &identity.pem).unwrap();
    file
}

#[tokio::test]
async fn the_certificate_of_the_ca_or_the_pin_is_accepted() {
    let identity = Identity::new(&["127.0.0.1"]);
    let server = Server::answering(Some(&identity), HELLO).await;
    let ca = ca_file(&identity);
    for trust in [
        Trust::Ca(ca.path().to_owned()),
        Trust::Pins(vec![[7; 32], pin_of(&identity.certificate)]),
    ] {
        let upstream = Upstream::new(&server.endpoint(Some(trust))).unwrap();
        assert_eq!(text(&upstream).await, "hello");
        assert_eq!(text(&upstream).await, "hello");
    }
    assert_eq!(
        server.connections(),
        2,
        "TLS connections are kept like others"
    );
}

#[tokio::test]
async fn another_certificate_is_refused_with_its_pin_in_the_log_before_a_byte_is_sent() {
    let identity = Identity::new(&["127.0.0.1"]);
    let other = Identity::new(&["127.0.0.1"]);
    let elsewhere = Identity::new(&["elsewhere.example"]);
    let (ca, elsewhere_ca) = (ca_file(&other), ca_file(&elsewhere));
    let pin = |identity: &Identity| {
        let pin = pin_of(&identity.certificate);
        pin.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    for (server_identity, trust, problem) in [
        (
            &identity,
            Trust::Ca(ca.path().to_owned()),
            "not signed by an authority",
        ),
        (
            &identity,
            Trust::Pins(vec![pin_of(&other.certificate)]),
            "not the pinned one",
        ),
        (
            &elsewhere,
            Trust::Ca(elsewhere_ca.path().to_owned()),
            "for another name",
        ),
    ] {
        let server = Server::start(Some(server_identity), |mut connection: Peer| async move {
            assert_eq!(connection.request().await, None);
        })
        .await;
        let upstream = Upstream::new(&server.endpoint(Some(trust))).unwrap();
        let error = upstream.get().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamTls);
        assert!(error.detail().contains(problem), "{}", error.detail());
        assert!(error.to_string().contains(&pin(server_identity)), "{error}");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_tls_says_so() {
    let server = Server::start(None, |mut connection: Peer| async move {
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        connection.closed().await;
    })
    .await;
    let upstream = Upstream::new(&server.endpoint(Some(Trust::Pins(vec![[7; 32]])))).unwrap();
    let error = upstream.get().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamTls);
    assert!(
        error.detail().contains("does not speak TLS"),
        "{}",
        error.detail()
    );
}

#[tokio::test]
async fn a_resolved_name_that_leads_home_is_not_dialled() {
    let found = |addresses: &[&str]| {
        let parsed: Vec<std::net::SocketAddr> = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        dial::permitted("vc.example", address::Scope::Network, parsed.into_iter())
    };
    let error = found(&["127.0.0.1:443", "[::1]:443"]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamUnreachable);
    assert!(error.detail().contains("loopback"), "{}", error.detail());
    let mixed = found(&["169.254.169.254:443", "10.0.0.7:443"]).unwrap();
    assert_eq!(
        mixed,
        ["10.0.0.7:443".parse().unwrap()],
        "only what was checked is dialled"
    );
}

#[tokio::test]
async fn idle_connections_are_swept_when_they_are_old_or_dead() {
    let (sender, hang_up) = tokio::sync::watch::channel(false);
    let mut server = Server::start(None, move |mut connection: Peer| {
        let mut hang_up = hang_up.clone();
        async move {
            connection.request().await;
            connection.send(HELLO).await;
            let _ = hang_up.wait_for(|now| *now).await;
        }
    })
    .await;
    let upstream = upstream(&server);
    assert_eq!(text(&upstream).await, "hello");
    upstream.sweep();
    assert_eq!(upstream.pool.len(), 1, "alive and young");
    sender.send_replace(true);
    server.ended(1).await;
    while upstream.pool.len() > 0 {
        upstream.sweep();
        tokio::task::yield_now().await;
    }
}

/// An error as the agent's own code makes it, for what is hard to bring about.
#[test]
fn words_for_the_caller_name_no_inner_host() {
    let host = "vc.sddc.local".to_owned();
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    for error in [
        UpstreamError::Resolve {
            name: host.clone(),
            source: refused(),
        },
        UpstreamError::Connect {
            host: host.clone(),
            port: 443,
            source: refused(),
        },
        UpstreamError::Tls {
            host: host.clone(),
            source: refused(),
            pin: None,
        },
    ] {
        assert!(error.to_string().contains(&host));
        assert!(!error.detail().contains(&host), "{}", error.detail());
    }
}
