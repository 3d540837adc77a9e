//! Calls to an upstream that speaks HTTP/2: bodies both ways, at once, and broken off.

use culvert_config::endpoint::{Trust, UpstreamProtocol};
use h2::Reason;
use h2::server::SendResponse;
use http::Response;

use super::*;

/// The upstream's side of the first call, and the connection that it came on.
struct Call {
    connection: h2::server::Connection<tokio::io::DuplexStream, Bytes>,
    body: h2::RecvStream,
    respond: SendResponse<Bytes>,
}

async fn tunnel() -> Tunnel {
    let mut endpoint = endpoint("http://127.0.0.1:9", Trust::SystemRoots);
    endpoint.upstream_protocol = UpstreamProtocol::H2;
    Tunnel::with(POLICY, &endpoint).await
}

impl Call {
    async fn accept(tunnel: &mut Tunnel) -> Self {
        let io = tunnel.upstream.recv().await.unwrap();
        let mut connection = h2::server::handshake(io).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        let body = request.into_body();
        Self {
            connection,
            body,
            respond,
        }
    }

    /// Lets the connection work in a task of its own.
    fn run(self) -> (h2::RecvStream, SendResponse<Bytes>) {
        let mut connection = self.connection;
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        (self.body, self.respond)
    }
}

/// Takes `body` to its end.
async fn received(body: &mut h2::RecvStream) -> Result<usize, h2::Error> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(length)
}

#[tokio::test(start_paused = true)]
async fn an_upload_far_beyond_every_window_arrives_whole() {
    for length in [BodyLength::Exact(3_000_000), BodyLength::Unknown] {
        let mut tunnel = tunnel().await;
        let mut call = tunnel.upload(&post("/api/upload", length));
        let (mut body, mut respond) = Call::accept(&mut tunnel).await.run();
        let writing = async {
            call.send
                .write_bytes(vec![7; 3_000_000].into())
                .await
                .unwrap();
            call.send.finish().unwrap();
        };
        let (received, ()) = tokio::join!(received(&mut body), writing);
        assert_eq!(received.unwrap(), 3_000_000);
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(body_of(&mut call).await, b"");
    }
}

#[tokio::test(start_paused = true)]
async fn both_bodies_flow_at_once() {
    let mut tunnel = tunnel().await;
    let mut call = tunnel.upload(&post("/api/stream", BodyLength::Unknown));
    let (mut body, mut respond) = Call::accept(&mut tunnel).await.run();
    // The answer begins before the request has ended, as in gRPC.
    let mut answering = respond.send_response(Response::new(()), false).unwrap();
    answer(&mut call).await;
    for round in 0..3u8 {
        call.send
            .write_bytes(Bytes::copy_from_slice(&[round]))
            .await
            .unwrap();
        assert_eq!(body.data().await.unwrap().unwrap()[..], [round]);
        answering
            .send_data(Bytes::copy_from_slice(&[round]), false)
            .unwrap();
        match call.recv.item().await.unwrap() {
            Item::Data(data) => assert_eq!(data[..], [round]),
            other => panic!("{other:?}"),
        }
    }
    call.send.finish().unwrap();
    assert_eq!(received(&mut body).await.unwrap(), 0);
    answering
        .send_trailers(HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]))
        .unwrap();
    match call.recv.item().await.unwrap() {
        Item::Head(Head::Trailers(trailers)) => assert_eq!(trailers["grpc-status"], "0"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_in_an_upload_or_an_answer_resets_the_stream() {
    let mut tunnel = tunnel().await;
    let mut call = tunnel.upload(&post("/api/upload", BodyLength::Exact(100)));
    let (mut body, _respond) = Call::accept(&mut tunnel).await.run();
    call.send.write_bytes("hello".into()).await.unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "hello");
    drop(call);
    let error = body.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_reset_is_seen_to_break_off() {
    let mut tunnel = tunnel().await;
    let mut call = tunnel.call(&get("/api/vms"), "");
    let (_body, mut respond) = Call::accept(&mut tunnel).await.run();
    let mut answering = respond.send_response(Response::new(()), false).unwrap();
    answer(&mut call).await;
    answering.send_reset(Reason::INTERNAL_ERROR);
    let (_, end) = body(&mut call).await;
    assert_reset(end, ResetCode::Truncated);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_falls_silent_is_given_up() {
    let mut tunnel = tunnel().await;
    let mut call = tunnel.call(&get("/api/vms"), "");
    let (_body, mut respond) = Call::accept(&mut tunnel).await.run();
    let mut answering = respond.send_response(Response::new(()), false).unwrap();
    answering.send_data("hello".into(), false).unwrap();
    answer(&mut call).await;
    let (bytes, end) = body(&mut call).await;
    assert_eq!(bytes, b"hello");
    assert_reset(end, ResetCode::Timeout);
}
