//! HTTP/2: connections that calls share, requests that may be sent again, and servers that break
//! the protocol.

use std::time::Duration;

use culvert_config::endpoint::UpstreamProtocol;
use culvert_config::units::Span;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::*;
use crate::testing::Connections;

/// A call as the server sees it, and on which connection, from 1.
struct Arrived {
    connection: usize,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

/// A server in memory.
struct Server {
    arrived: mpsc::UnboundedReceiver<Arrived>,
    /// Connections up to this one are told to go away.
    leave: watch::Sender<usize>,
}

impl Server {
    /// Each connection takes `streams` calls at once.
    fn start(mut connections: Connections, streams: u32) -> Self {
        let (sender, arrived) = mpsc::unbounded_channel();
        let (leave, leaving) = watch::channel(0);
        tokio::spawn(async move {
            let mut number = 0;
            while let Some(io) = connections.recv().await {
                number += 1;
                tokio::spawn(serve(io, number, streams, sender.clone(), leaving.clone()));
            }
        });
        Self { arrived, leave }
    }

    async fn next(&mut self) -> Arrived {
        self.arrived.recv().await.unwrap()
    }
}

async fn serve(
    io: DuplexStream,
    number: usize,
    streams: u32,
    sender: mpsc::UnboundedSender<Arrived>,
    mut leaving: watch::Receiver<usize>,
) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams);
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    let mut left = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let _ = sender.send(Arrived { connection: number, request, respond });
                }
                Some(Err(_)) | None => return,
            },
            _ = leaving.wait_for(|upto| *upto >= number), if !left => {
                left = true;
                connection.graceful_shutdown();
            }
        }
    }
}

impl Arrived {
    fn answer(mut self, text: &'static str) {
        let mut body = self
            .respond
            .send_response(Response::new(()), false)
            .unwrap();
        body.send_data(Bytes::from_static(text.as_bytes()), true)
            .unwrap();
    }

    fn refuse(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

fn endpoint_over(protocol: UpstreamProtocol) -> Endpoint {
    let mut endpoint = endpoint("http://127.0.0.1:9", Trust::SystemRoots);
    endpoint.upstream_protocol = protocol;
    endpoint
}

fn over_http2() -> (Arc<Upstream>, Connections) {
    let (upstream, connections) = Upstream::in_memory(&endpoint_over(UpstreamProtocol::H2));
    (Arc::new(upstream), connections)
}

/// A call of its own task, to its answer's last byte.
fn begin(
    upstream: &Arc<Upstream>,
    method: Method,
) -> tokio::task::JoinHandle<Result<Vec<u8>, UpstreamError>> {
    let upstream = upstream.clone();
    tokio::spawn(async move { read(upstream.call(method).await?.body).await })
}

#[tokio::test(start_paused = true)]
async fn a_request_arrives_as_http_2_has_it_and_its_answer_comes_back_with_trailers() {
    let (upstream, connections) = over_http2();
    let mut server = Server::start(connections, 10);
    let call = tokio::spawn({
        let upstream = upstream.clone();
        async move { upstream.call(Method::POST).await }
    });
    let mut arrived = server.next().await;
    let request = &arrived.request;
    assert_eq!(request.uri().to_string(), "http://127.0.0.1:9/api?x=1");
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.headers()["content-length"], "0");
    assert_eq!(
        request.headers()["x-forwarded-host"],
        "api--acme.relay.example"
    );
    assert!(!request.headers().contains_key("host"));
    assert!(!request.headers().contains_key("transfer-encoding"));
    assert!(request.body().is_end_stream());

    let head = Response::builder()
        .header("x-a", "1")
        .header("culvert-call", "forged");
    let mut body = arrived
        .respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap();
    body.send_data(Bytes::from_static(b"hello"), false).unwrap();
    body.send_trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]))
    .unwrap();
    let mut answer = call.await.unwrap().unwrap();
    assert_eq!(answer.head.body, BodyLength::Unknown);
    assert_eq!(answer.head.headers["x-a"], "1");
    assert!(!answer.head.headers.contains_key("culvert-call"));
    let mut frames = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut answer.body).poll_frame(cx)).await {
        frames.push(frame.unwrap());
    }
    assert_eq!(frames[0].data_ref().unwrap(), "hello");
    assert_eq!(frames[1].trailers_ref().unwrap()["grpc-status"], "0");
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_its_length_once_and_head_and_204_have_no_body() {
    let (upstream, connections) = over_http2();
    let mut server = Server::start(connections, 10);
    for (method, status, expected) in [
        (Method::GET, 200, BodyLength::Exact(5)),
        (Method::HEAD, 200, BodyLength::Empty),
        (Method::GET, 204, BodyLength::Empty),
        (Method::GET, 304, BodyLength::Empty),
    ] {
        let call = tokio::spawn({
            let (upstream, method) = (upstream.clone(), method.clone());
            async move { upstream.call(method).await }
        });
        let mut arrived = server.next().await;
        let head = Response::builder().status(status);
        let head = match status {
            200 => head.header("content-length", "5"),
            _ => head,
        };
        let mut body = arrived
            .respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        let content = if expected == BodyLength::Empty {
            ""
        } else {
            "hello"
        };
        body.send_data(Bytes::from_static(content.as_bytes()), true)
            .unwrap();
        let answer = call.await.unwrap().unwrap();
        assert_eq!(answer.head.body, expected, "{method} {status}");
        let told = answer.head.headers.contains_key("content-length");
        assert_eq!(told, method == Method::HEAD);
        assert_eq!(read(answer.body).await.unwrap(), content.as_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn calls_share_a_connection_as_far_as_the_upstream_allows_and_then_open_another() {
    let (upstream, connections) = over_http2();
    let mut server = Server::start(connections, 2);
    let calls: Vec<_> = (0..5).map(|_| begin(&upstream, Method::GET)).collect();
    let mut arrived = Vec::new();
    for _ in 0..5 {
        arrived.push(server.next().await);
    }
    let on = |number| {
        arrived
            .iter()
            .filter(|call| call.connection == number)
            .count()
    };
    assert_eq!([on(1), on(2), on(3)], [2, 2, 1]);
    arrived.into_iter().for_each(|call| call.answer("hello"));
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), b"hello");
    }
    // Once they are done, the oldest takes the next.
    let call = begin(&upstream, Method::GET);
    let next = server.next().await;
    assert_eq!(next.connection, 1);
    next.answer("hello");
    call.await.unwrap().unwrap();
    assert_eq!(upstream.shared.len(), 3);
}

/// What they were let in by may be trusted no more.
#[tokio::test(start_paused = true)]
async fn connections_of_an_earlier_era_carry_no_further_calls_and_end_with_those_that_they_have() {
    let (upstream, connections) = over_http2();
    let mut server = Server::start(connections, 10);
    let early = begin(&upstream, Method::GET);
    let first = server.next().await;
    upstream.shared.clear();
    let late = begin(&upstream, Method::GET);
    let second = server.next().await;
    assert_eq!((first.connection, second.connection), (1, 2));
    first.answer("hello");
    second.answer("hello");
    for call in [early, late] {
        assert_eq!(call.await.unwrap().unwrap(), b"hello");
    }
    assert_eq!(upstream.shared.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_let_go_and_busy_ones_are_not() {
    let mut endpoint = endpoint_over(UpstreamProtocol::H2);
    endpoint.timeouts.head = Span::secs(3_600);
    let (upstream, connections) = Upstream::in_memory(&endpoint);
    let upstream = Arc::new(upstream);
    let mut server = Server::start(connections, 1);
    let (idle, busy) = (begin(&upstream, Method::GET), begin(&upstream, Method::GET));
    let (one, two) = (server.next().await, server.next().await);
    one.answer("hello");
    tokio::time::sleep(Duration::from_secs(30)).await;
    upstream.sweep();
    assert_eq!(upstream.shared.len(), 2, "one is young, the other busy");
    tokio::time::sleep(Duration::from_secs(31)).await;
    upstream.sweep();
    assert_eq!(upstream.shared.len(), 1);
    two.answer("hello");
    for call in [idle, busy] {
        assert_eq!(call.await.unwrap().unwrap(), b"hello");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_refused_is_sent_again_even_a_write_but_not_for_ever() {
    for method in [Method::GET, Method::POST] {
        let (upstream, connections) = over_http2();
        let mut server = Server::start(connections, 10);
        let call = begin(&upstream, method.clone());
        server.next().await.refuse(Reason::REFUSED_STREAM);
        server.next().await.answer("hello");
        assert_eq!(call.await.unwrap().unwrap(), b"hello", "{method}");

        let call = begin(&upstream, method);
        for _ in 0..MAX_ATTEMPTS {
            server.next().await.refuse(Reason::REFUSED_STREAM);
        }
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamProtocol);
        assert!(error.detail().contains("refused"), "{}", error.detail());
        assert!(server.arrived.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_reset_otherwise_is_not_sent_again() {
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR] {
        let (upstream, connections) = over_http2();
        let mut server = Server::start(connections, 10);
        let call = begin(&upstream, Method::GET);
        server.next().await.refuse(reason);
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamProtocol, "{reason}");
        assert!(server.arrived.try_recv().is_err(), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_goes_away_finishes_its_calls_and_gets_no_new_ones() {
    let (upstream, connections) = over_http2();
    let mut server = Server::start(connections, 10);
    let old = begin(&upstream, Method::POST);
    let held = server.next().await;
    server.leave.send_replace(1);
    // Its GOAWAY takes two round trips; calls that meet it on the way are sent again.
    let new = loop {
        let call = begin(&upstream, Method::POST);
        let arrived = server.next().await;
        let connection = arrived.connection;
        arrived.answer("new");
        assert_eq!(call.await.unwrap().unwrap(), b"new");
        if connection == 2 {
            break connection;
        }
    };
    assert_eq!(new, 2);
    held.answer("old");
    assert_eq!(old.await.unwrap().unwrap(), b"old");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_goes_resets_its_stream_and_nothing_else() {
    let (upstream, connections) = over_http2();
    let mut server = Server::start(connections, 10);
    let (waiting, other) = (begin(&upstream, Method::GET), begin(&upstream, Method::GET));
    let (mut first, second) = (server.next().await, server.next().await);
    waiting.abort();
    let reset = poll_fn(|cx| first.respond.poll_reset(cx)).await.unwrap();
    assert_eq!(reset, Reason::CANCEL);
    second.answer("hello");
    assert_eq!(other.await.unwrap().unwrap(), b"hello");

    // The same in the middle of an answer.
    let call = tokio::spawn({
        let upstream = upstream.clone();
        async move { upstream.get().await.unwrap() }
    });
    let mut third = server.next().await;
    let mut body = third
        .respond
        .send_response(Response::new(()), false)
        .unwrap();
    drop(call.await.unwrap());
    let reset = poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
    assert_eq!(reset, Reason::CANCEL);
    assert_eq!(upstream.shared.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_that_read_nothing_hold_up_nobody_on_the_same_connection() {
    let (upstream, connections) = over_http2();
    let mut server = Server::start(connections, 200);
    let mut stuck = Vec::new();
    for _ in 0..crate::upstream::http2::MAX_STREAMS - 1 {
        let call = tokio::spawn({
            let upstream = upstream.clone();
            async move { upstream.get().await.unwrap() }
        });
        let mut arrived = server.next().await;
        let mut body = arrived
            .respond
            .send_response(Response::new(()), false)
            .unwrap();
        // As much as the stream's window takes, and more that waits.
        body.send_data(Bytes::from(vec![0; 512 * 1024]), true)
            .unwrap();
        stuck.push(call.await.unwrap());
    }
    for _ in 0..3 {
        let call = begin(&upstream, Method::GET);
        let arrived = server.next().await;
        assert_eq!(arrived.connection, 1);
        arrived.answer("hello");
        assert_eq!(call.await.unwrap().unwrap(), b"hello");
    }
    for answer in stuck {
        assert_eq!(read(answer.body).await.unwrap().len(), 512 * 1024);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_dies_fails_its_calls_and_only_what_asks_is_sent_again() {
    let (upstream, mut connections) = over_http2();
    let first = begin(&upstream, Method::GET);
    let io = connections.recv().await.unwrap();
    let mut dying = h2::server::handshake(io).await.unwrap();
    let mut held = vec![dying.accept().await.unwrap().unwrap()];
    let (get, post) = (
        begin(&upstream, Method::GET),
        begin(&upstream, Method::POST),
    );
    for _ in 0..2 {
        held.push(dying.accept().await.unwrap().unwrap());
    }
    drop((dying, held));
    // The call for which the connection was opened is not sent again, nor is the write.
    assert_eq!(
        first.await.unwrap().unwrap_err().code(),
        ErrorCode::UpstreamProtocol
    );
    assert_eq!(
        post.await.unwrap().unwrap_err().code(),
        ErrorCode::UpstreamProtocol
    );
    let mut server = Server::start(connections, 10);
    server.next().await.answer("hello");
    assert_eq!(get.await.unwrap().unwrap(), b"hello");
}

#[tokio::test(start_paused = true)]
async fn what_only_asks_is_sent_again_once_however_many_connections_die() {
    let (upstream, mut connections) = over_http2();
    let mut calls = vec![begin(&upstream, Method::GET)];
    for count in [3, 2] {
        let io = connections.recv().await.unwrap();
        let mut dying = h2::server::handshake(io).await.unwrap();
        let mut held = vec![dying.accept().await.unwrap().unwrap()];
        while calls.len() < count {
            calls.push(begin(&upstream, Method::GET));
        }
        while held.len() < count {
            held.push(dying.accept().await.unwrap().unwrap());
        }
    }
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamProtocol);
    }
    assert!(connections.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn every_phase_has_its_limit_and_its_name() {
    let mut endpoint = endpoint_over(UpstreamProtocol::H2);
    endpoint.timeouts.tls = Span::secs(3);
    endpoint.timeouts.head = Span::secs(7);
    let (upstream, mut connections) = Upstream::in_memory(&endpoint);
    // Takes the connection and says nothing.
    let start = Instant::now();
    let error = upstream.get().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamTimeout);
    assert!(
        error.detail().contains("start of HTTP/2"),
        "{}",
        error.detail()
    );
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    connections.recv().await.unwrap();
    // That is believed for a moment.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Takes the call and says nothing.
    let mut server = Server::start(connections, 10);
    let start = Instant::now();
    let error = upstream.get().await.unwrap_err();
    assert!(
        error.detail().contains("wait for the upstream's answer"),
        "{}",
        error.detail()
    );
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    let mut arrived = server.next().await;
    let reset = poll_fn(|cx| arrived.respond.poll_reset(cx)).await.unwrap();
    assert_eq!(reset, Reason::CANCEL);
}

/// Calls wait for the one that opens a connection, and not for one another.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_does_not_begin_is_waited_for_once() {
    let mut endpoint = endpoint_over(UpstreamProtocol::H2);
    endpoint.timeouts.tls = Span::secs(3);
    let (upstream, connections) = Upstream::in_memory(&endpoint);
    let upstream = Arc::new(upstream);
    let start = Instant::now();
    let calls: Vec<_> = (0..50).map(|_| begin(&upstream, Method::GET)).collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamTimeout);
    }
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    drop(connections);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_froze_is_noticed_by_a_ping_and_one_that_takes_its_time_is_not() {
    let mut endpoint = endpoint_over(UpstreamProtocol::H2);
    endpoint.timeouts.head = Span::secs(7_200);
    let (upstream, mut connections) = Upstream::in_memory(&endpoint);
    let upstream = Arc::new(upstream);
    let call = begin(&upstream, Method::POST);
    let io = connections.recv().await.unwrap();
    let mut server = h2::server::handshake(io).await.unwrap();
    let (_, respond) = server.accept().await.unwrap().unwrap();
    // A long poll: the server's connection is alive meanwhile.
    tokio::select! {
        _ = server.accept() => panic!("the connection ended"),
        () = tokio::time::sleep(Duration::from_secs(3_600)) => assert!(!call.is_finished()),
    }
    // From here on nobody moves its bytes, and nobody closes it.
    let start = Instant::now();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamProtocol);
    assert!(
        start.elapsed() < Duration::from_secs(700),
        "{:?}",
        start.elapsed()
    );
    drop((server, respond));
}
