//! What comes before an answer: interim ones, and callers that wait for them.

use culvert_http::Alpn;
use culvert_proto::head::{BodyLength, Head, ResponseHead};
use culvert_session::Stream;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::connect::read_head;
use super::rig::*;

async fn send_interim(stream: &mut Stream, status: u16, fields: &[(&str, &str)]) {
    let Head::Response(head) = response(status, fields, BodyLength::Empty) else {
        unreachable!()
    };
    let head = ResponseHead {
        status: StatusCode::from_u16(status).unwrap(),
        ..head
    };
    stream.send.send_head(&Head::Interim(head)).await.unwrap();
}

/// A caller that waits with a body of five bytes.
async fn waiting(rig: &Rig) -> DuplexStream {
    let mut caller = rig.connect(Alpn::Http1);
    let request = format!(
        "PUT /up HTTP/1.1\r\nHost: {HOST}\r\n{}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        rig.bearer()
    );
    caller.write_all(request.as_bytes()).await.unwrap();
    caller
}

#[tokio::test]
async fn a_caller_that_waits_hears_100_when_the_upstream_says_so() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = waiting(&rig).await;
    // Twice on one connection.
    for _ in 0..2 {
        let (head, mut stream) = agent.accept().await;
        assert_eq!(head.headers["expect"], "100-continue");
        assert_eq!(head.body, BodyLength::Exact(5));
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(50), caller.read_u8());
        assert!(nothing.await.is_err(), "nobody has said so yet");
        send_interim(&mut stream, 100, &[]).await;
        let go_on = read_head(&mut caller).await;
        assert!(go_on.starts_with("http/1.1 100 continue\r\n"), "{go_on}");
        caller.write_all(b"hello").await.unwrap();
        assert_eq!(read_body(&mut stream).await, "hello");
        answer(&mut stream, 201, &[], b"").await;
        let end = read_head(&mut caller).await;
        assert!(end.starts_with("http/1.1 201 "), "{end}");
        let again = format!(
            "PUT /up HTTP/1.1\r\nHost: {HOST}\r\n{}expect:100-Continue\r\nContent-Length: 5\r\n\r\n",
            rig.bearer()
        );
        caller.write_all(again.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_waits_may_be_answered_without_its_body() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = waiting(&rig).await;
    let (_, mut stream) = agent.accept().await;
    answer(&mut stream, 413, &[], b"no").await;
    let reply = Reply::read_to_end(&mut caller).await;
    assert_eq!((reply.status, &*reply.body), (413, &b"no"[..]));
}

/// Some have waited long enough, and some servers never say it.
#[tokio::test]
async fn a_caller_need_not_wait() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = waiting(&rig).await;
    let (_, mut stream) = agent.accept().await;
    caller.write_all(b"hello").await.unwrap();
    assert_eq!(read_body(&mut stream).await, "hello");
    // Too late to be of use.
    send_interim(&mut stream, 100, &[]).await;
    answer(&mut stream, 200, &[], b"").await;
    let end = read_head(&mut caller).await;
    assert!(end.starts_with("http/1.1 200 "), "{end}");
}

#[tokio::test]
async fn interim_answers_reach_callers_of_http1_before_the_answer() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect(Alpn::Http1);
    let request = Rig::get("/page", &rig.bearer());
    caller.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    // Nobody waits for this one.
    send_interim(&mut stream, 100, &[]).await;
    for path in ["</a.css>", "</b.css>"] {
        send_interim(&mut stream, 103, &[("link", path), ("culvert-call", "x")]).await;
    }
    answer(&mut stream, 200, &[], b"page").await;
    for path in ["</a.css>", "</b.css>"] {
        let hint = read_head(&mut caller).await;
        assert!(hint.starts_with("http/1.1 103 early hints\r\n"), "{hint}");
        assert!(hint.contains(&format!("link: {path}\r\n")), "{hint}");
        assert!(!hint.contains("culvert-call"), "{hint}");
    }
    let reply = Reply::read_to_end(&mut caller).await;
    assert_eq!((reply.status, &*reply.body), (200, &b"page"[..]));

    // Over HTTP/2 hyper has no way to send them; they do no harm there.
    let mut caller = rig.http2().await;
    let asked = tokio::spawn(caller.send_request(rig.request("GET", "/page", "")));
    let (_, mut stream) = agent.accept().await;
    send_interim(&mut stream, 103, &[]).await;
    answer(&mut stream, 200, &[], b"page").await;
    assert_eq!(Reply::of(asked.await.unwrap().unwrap()).await.body, b"page");
}
