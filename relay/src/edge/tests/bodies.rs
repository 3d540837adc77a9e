//! Bodies, both ways: whole, empty, large, cut short.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use culvert_http::Alpn;
use culvert_proto::code::ResetCode;
use culvert_proto::head::{BodyLength, Head};
use culvert_proto::mux::Item;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::rig::*;

#[tokio::test]
async fn a_small_body_travels_with_the_head() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\n{}Content-Length: 5\r\n\r\nhello",
        rig.bearer()
    );
    let mut caller = rig.connect(Alpn::Http1);
    caller.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    // Together with the stream itself, so without a wait.
    let first = futures_util::FutureExt::now_or_never(stream.recv.item());
    assert!(matches!(first, Some(Ok(Item::Data(data))) if data == "hello"));
    let end = futures_util::FutureExt::now_or_never(stream.recv.item());
    assert!(matches!(end, Some(Ok(Item::Finished))));
}

#[tokio::test]
async fn bytes_are_counted_while_the_call_still_goes_on() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect(Alpn::Http1);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\n{}Content-Length: 100\r\n\r\nhello",
        rig.bearer()
    );
    caller.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    let head = response(200, &[], BodyLength::Exact(100));
    stream.send.send_head(&head).await.unwrap();
    let part = Bytes::from_static(b"part");
    stream.send.write_bytes(part).await.unwrap();
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains("part") {
        caller.read_buf(&mut bytes).await.unwrap();
    }
    let text = rig.metrics.render().unwrap();
    assert!(text.contains("culvert_relay_calls_in_flight 1\n"), "{text}");
    for counted in ["received_bytes_total 5", "sent_bytes_total 4"] {
        let line = format!("\nculvert_relay_{counted}\n");
        assert!(text.contains(&line), "{line}: {text}");
    }
}

#[tokio::test]
async fn an_answer_cut_short_is_visible_and_never_a_clean_end() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    for length in [BodyLength::Exact(10), BodyLength::Unknown] {
        // HTTP/1.1: the connection ends before the length or the last chunk.
        let agent_side = async {
            let (_, mut stream) = agent.accept().await;
            stream
                .send
                .send_head(&response(200, &[], length))
                .await
                .unwrap();
            stream
                .send
                .write_bytes(Bytes::from_static(b"part"))
                .await
                .unwrap();
            let _ = stream.recv.item().await;
            stream
        };
        let mut caller = rig.connect(Alpn::Http1);
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", rig.bearer());
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut stream = agent_side.await;
        let mut bytes = Vec::new();
        while !String::from_utf8_lossy(&bytes).contains("part") {
            caller.read_buf(&mut bytes).await.unwrap();
        }
        stream.send.reset(ResetCode::Truncated);
        tokio::time::timeout(SOON, caller.read_to_end(&mut bytes))
            .await
            .unwrap()
            .unwrap();
        let reply = Reply::parse(&bytes);
        assert_eq!(reply.status, 200);
        assert!(
            !show(&reply.body).ends_with("0\r\n\r\n"),
            "{}",
            show(&reply.body)
        );
        assert!(reply.body.len() < 10 || reply.headers.contains_key("transfer-encoding"));

        // HTTP/2: the stream is reset.
        let agent_side = async {
            let (_, mut stream) = agent.accept().await;
            stream
                .send
                .send_head(&response(200, &[], length))
                .await
                .unwrap();
            stream
                .send
                .write_bytes(Bytes::from_static(b"part"))
                .await
                .unwrap();
            stream.send.reset(ResetCode::Truncated);
        };
        let mut sender = rig.http2().await;
        let (sent, ()) = tokio::join!(sender.send_request(rig.request("GET", "/", "")), agent_side);
        // The reset may overtake the answer's head, which then is a 502.
        let response = sent.unwrap();
        if response.status() == 200 {
            assert!(response.into_body().collect().await.is_err());
        } else {
            assert_eq!(response.status(), 502);
        }
    }
    let text = rig.metrics.render().unwrap();
    assert!(
        !text.contains("outcome=\"cut-short\",code=\"\"} 0"),
        "{text}"
    );
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_keep_the_connection() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    tokio::spawn(async move {
        while let Some((head, mut stream)) = agent.calls.accept().await {
            let (status, fields): (u16, &[_]) = match &*head.target {
                b"/204" => (204, &[]),
                b"/304" => (304, &[("content-length", "7"), ("etag", "e")]),
                b"/0" => (200, &[]),
                _ => (200, &[("content-length", "7")]),
            };
            answer(&mut stream, status, fields, b"").await;
        }
    });
    let mut caller = rig.connect(Alpn::Http1);
    for (method, path, status, length) in [
        ("HEAD", "/", 200, Some("7")),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, None),
        ("GET", "/0", 200, Some("0")),
        ("DELETE", "/204", 204, None),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n",
            rig.bearer()
        );
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            assert_ne!(caller.read_buf(&mut bytes).await.unwrap(), 0);
        }
        let reply = Reply::parse(&bytes);
        assert_eq!(reply.status, status, "{method} {path}");
        let found = reply
            .headers
            .get("content-length")
            .map(|value| value.to_str().unwrap());
        assert_eq!(found, length, "{method} {path}");
        assert_eq!(reply.body, b"");
    }
    let mut sender = rig.http2().await;
    let reply = Reply::of(
        sender
            .send_request(rig.request("HEAD", "/", ""))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        (reply.status, reply.header("content-length"), &*reply.body),
        (200, "7", &b""[..])
    );
    drop(caller);
    let text = rig.metrics.render().unwrap();
    assert!(
        text.contains("outcome=\"caller-gone\",code=\"\"} 0"),
        "{text}"
    );
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once_unchanged() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    // Sends back what it gets, as it gets it.
    tokio::spawn(async move {
        while let Some((_, stream)) = agent.calls.accept().await {
            let (mut send, mut recv) = stream.split();
            send.send_head(&response(200, &[], BodyLength::Unknown))
                .await
                .unwrap();
            while let Item::Data(data) = recv.item().await.unwrap() {
                send.write_bytes(data).await.unwrap();
            }
            send.finish().unwrap();
        }
    });
    let size = 8 * 1024 * 1024;
    let body: Vec<u8> = (0..size).map(|at: u32| (at ^ (at >> 8)) as u8).collect();
    let body = Bytes::from(body);
    for alpn in [Alpn::Http1, Alpn::H2] {
        let io = hyper_util::rt::TokioIo::new(rig.connect(alpn));
        let full = http_body_util::Full::new(body.clone());
        let request = rig.request("PUT", "/", "").map(|_| full);
        let response = if alpn == Alpn::H2 {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
                .await
                .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            let (mut head, body) = request.into_parts();
            head.uri = "/".parse().unwrap();
            head.headers.insert("host", HOST.parse().unwrap());
            sender
                .send_request(http::Request::from_parts(head, body))
                .await
                .unwrap()
        };
        assert_eq!(response.status(), 200);
        let back = response.into_body().collect().await.unwrap().to_bytes();
        assert!(back == body, "{alpn:?}: {} bytes", back.len());
    }
}

/// What a caller sends piece by piece.
struct Pieces(UnboundedReceiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(cx);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A call whose body the test sends, by a caller that never takes the answer's.
async fn upload(rig: &Rig, alpn: Alpn) -> UnboundedSender<Bytes> {
    let (pieces, body) = unbounded_channel();
    let mut request = rig.request("POST", "/", "").map(|_| Pieces(body));
    let io = hyper_util::rt::TokioIo::new(rig.connect(alpn));
    if alpn == Alpn::H2 {
        let executor = hyper_util::rt::TokioExecutor::new();
        let client = hyper::client::conn::http2::handshake(executor, io).await;
        let (mut sender, connection) = client.unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move {
            let _answer = sender.send_request(request).await;
            pending::<()>().await;
        });
    } else {
        *request.uri_mut() = "/".parse().unwrap();
        request.headers_mut().insert("host", HOST.parse().unwrap());
        let client = hyper::client::conn::http1::handshake(io).await;
        let (mut sender, connection) = client.unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move {
            let _answer = sender.send_request(request).await;
            pending::<()>().await;
        });
    }
    pieces
}

/// A caller that takes the answer only when all of its request is sent would wait for ever otherwise.
#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_while_nobody_has_room_for_the_answer() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    for alpn in [Alpn::Http1, Alpn::H2] {
        let caller = upload(&rig, alpn).await;
        let (_, mut stream) = agent.accept().await;
        let head = response(200, &[], BodyLength::Unknown);
        stream.send.send_head(&head).await.unwrap();
        let (piece, full) = (Bytes::from(vec![7; 16 * 1024]), Duration::from_secs(1));
        while tokio::time::timeout(full, stream.send.write_bytes(piece.clone()))
            .await
            .is_ok_and(|written| written.is_ok())
        {}
        caller.send("hello".into()).unwrap();
        let came = tokio::time::timeout(full, stream.recv.item()).await;
        let came = came.expect("the upload has stopped").unwrap();
        assert!(
            matches!(&came, Item::Data(data) if data == "hello"),
            "{alpn:?}: {came:?}"
        );
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_and_only_those_that_may() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\n{}TE: trailers\r\nTrailer: x-sum\r\nConnection: close\
         \r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n",
        rig.bearer()
    );
    let agent_side = async {
        let (head, mut stream) = agent.accept().await;
        assert_eq!(head.headers["trailer"], "x-sum");
        assert_eq!(head.headers["te"], "trailers");
        assert_eq!(head.body, BodyLength::Unknown);
        let mut body = Vec::new();
        let trailers = loop {
            match stream.recv.item().await.unwrap() {
                Item::Data(data) => body.extend_from_slice(&data),
                Item::Head(Head::Trailers(trailers)) => break trailers,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(body, b"ab");
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["x-sum"], "1");
        let head = response(
            200,
            &[("trailer", "x-status, set-cookie")],
            BodyLength::Unknown,
        );
        stream.send.send_head(&head).await.unwrap();
        stream
            .send
            .write_bytes(Bytes::from_static(b"cd"))
            .await
            .unwrap();
        let Head::Response(trailers) = response(
            200,
            &[("x-status", "ok"), ("set-cookie", "a=b")],
            BodyLength::Empty,
        ) else {
            unreachable!()
        };
        stream
            .send
            .send_head(&Head::Trailers(trailers.headers))
            .await
            .unwrap();
        stream.send.finish().unwrap();
    };
    let (reply, ()) = tokio::join!(rig.exchange(request), agent_side);
    assert_eq!(show(&reply.body), "2\r\ncd\r\n0\r\nx-status: ok\r\n\r\n");
}

/// What nobody takes fills its stream's window, and leaves the connection's to the others.
#[tokio::test]
async fn a_stuck_upload_holds_up_no_other_upload_of_its_connection() {
    let body: &str = "x".repeat(2 << 20).leak();
    let rig = Rig::new();
    let (mut stuck, other) = (rig.agent("stuck").await, rig.agent("vc").await);
    other.echo();
    let mut caller = rig.http2().await;
    let mut requests = Vec::new();
    for _ in 0..4 {
        let mut request = rig.request("POST", "/", body);
        *request.uri_mut() = format!("https://{}/", HOST.replacen("vc", "stuck", 1))
            .parse()
            .unwrap();
        requests.push(tokio::spawn(caller.send_request(request)));
    }
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(stuck.accept().await);
    }
    let small = caller.send_request(rig.request("POST", "/", &body[..20_000]));
    let answer = tokio::time::timeout(SOON, small).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
}
