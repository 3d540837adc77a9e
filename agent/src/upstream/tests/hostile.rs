//! Upstreams that answer wrongly, by defect or by intent.

use super::*;

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
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
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
