//! Connections: kept, used again, given up, and requests that may or may not be sent again.

use std::io::{Read, Write};

use http::header::AUTHORIZATION;

use super::*;

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

/// The server knows the user by the connection: nobody else's request may come on it.
#[tokio::test]
async fn a_connection_that_belongs_to_one_user_is_not_used_again() {
    const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    const PROVED: &str =
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nWWW-Authenticate: Negotiate oYG2\r\n\r\n";
    const ASKED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\
         WWW-Authenticate: Basic realm=\"x\", nTLM\r\n\r\n";
    const BASIC: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\
         WWW-Authenticate: Basic realm=\"x\"\r\n\r\n";
    for (credential, answer, connections) in [
        (Some("Negotiate x"), PLAIN, 3),
        (Some("NTLM x"), PLAIN, 3),
        (Some("kerberos x"), PLAIN, 3),
        (Some("NEGOTIATE"), PLAIN, 3),
        (Some("Basic negotiate"), PLAIN, 1),
        (Some("Bearer x"), PLAIN, 1),
        (None, PROVED, 4),
        (None, ASKED, 4),
        (None, BASIC, 1),
    ] {
        let server = Server::answering(None, answer).await;
        let upstream = upstream(&server);
        let call = async |credential: Option<&'static str>| {
            let mut parts = parts(Method::GET);
            if let Some(credential) = credential {
                let credential = HeaderValue::from_static(credential);
                parts.headers.insert(AUTHORIZATION, credential);
            }
            let request = upstream.request(parts, RequestBody::empty()).unwrap();
            let answer = upstream.send(permit(), request, None).await.unwrap();
            read(answer.body).await.unwrap();
        };
        // The second one comes on a connection that was another's before; the fourth never does.
        for credential in [credential, None, credential, None] {
            call(credential).await;
        }
        assert_eq!(server.connections(), connections, "{credential:?} {answer}");
    }
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

/// A server that closes a kept connection without a word: what the kernel knows of it already, the runtime
/// may not have heard of yet.
#[tokio::test]
async fn a_write_does_not_go_out_on_a_connection_that_is_known_to_be_closed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (close, asked) = std::sync::mpsc::channel::<()>();
    let (gone, closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                connection.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            connection.write_all(HELLO.as_bytes()).unwrap();
            let _ = asked.recv();
            drop(connection);
            let _ = gone.send(());
        }
    });
    let upstream = Upstream::new(&endpoint(&url, Trust::SystemRoots)).unwrap();
    assert_eq!(text(&upstream).await, "hello");
    close.send(()).unwrap();
    // Waiting here holds the runtime up, too.
    closed.recv().unwrap();
    let answer = upstream.call(Method::POST).await.unwrap();
    assert_eq!(read(answer.body).await.unwrap(), b"hello");
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
