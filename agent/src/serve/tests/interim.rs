//! What comes before an answer and behind a body: interim answers, callers that wait, trailers.

use http::HeaderValue;

use super::*;

async fn interim(stream: &mut Stream) -> ResponseHead {
    match first(stream).await.unwrap() {
        Head::Interim(head) => head,
        other => panic!("{other:?} instead of an interim answer"),
    }
}

fn waiting(length: BodyLength) -> CallHead {
    let mut head = post("/api/upload", length);
    let expect = HeaderValue::from_static("100-continue");
    head.headers.insert("expect", expect);
    head
}

#[tokio::test(start_paused = true)]
async fn interim_answers_go_ahead_of_the_answer() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel.under_way(&get("/api/page")).await;
    upstream
        .send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\n\r\n")
        .await;
    let hints = interim(&mut call).await;
    assert_eq!(hints.status, 103);
    assert_eq!(hints.headers["link"], "</a.css>");
    assert!(!hints.headers.contains_key("connection"));
    upstream
        .send(format!("HTTP/1.1 102 Processing\r\n\r\n{HELLO}"))
        .await;
    assert_eq!(interim(&mut call).await.status, 102);
    assert_eq!(body_of(&mut call).await, b"hello");
}

/// The call can do without it.
#[tokio::test(start_paused = true)]
async fn an_interim_answer_that_the_tunnel_does_not_carry_is_left_out() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel.under_way(&get("/api/page")).await;
    let fields = format!("X-Hint: {}\r\n", "x".repeat(650)).repeat(97);
    upstream
        .send(format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\n{HELLO}"))
        .await;
    assert_eq!(body_of(&mut call).await, b"hello");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_with_its_body_hears_from_the_upstream() {
    for length in [BodyLength::Exact(4), BodyLength::Unknown] {
        let mut tunnel = Tunnel::new(POLICY).await;
        let mut call = tunnel.upload(&waiting(length));
        let mut upstream = tunnel.connection().await;
        let request = upstream.request().await.unwrap();
        assert!(request.contains("expect: 100-continue\r\n"), "{request}");
        upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(interim(&mut call).await.status, 100);
        call.send.write_bytes("body".into()).await.unwrap();
        call.send.finish().unwrap();
        let framed = if length == BodyLength::Unknown { 14 } else { 4 };
        let sent = upstream.body(framed).await.unwrap();
        assert!(String::from_utf8(sent).unwrap().contains("body"));
        upstream.send(HELLO).await;
        assert_eq!(body_of(&mut call).await, b"hello");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_may_be_turned_away_without_its_body() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel.uploading(&waiting(BodyLength::Exact(1 << 40))).await;
    upstream
        .send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        .await;
    assert_eq!(answer(&mut call).await.status, 413);
    assert_eq!(body(&mut call).await, (b"no".to_vec(), Ok(())));
    upstream.closed().await;
}

#[tokio::test(start_paused = true)]
async fn trailers_pass_both_ways() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut head = post("/api/upload", BodyLength::Unknown);
    for (name, value) in [("te", "trailers"), ("trailer", "x-sum, content-length")] {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    let mut call = tunnel.upload(&head);
    call.send.write_bytes("body".into()).await.unwrap();
    let mut trailers = HeaderMap::new();
    for (name, value) in [("x-sum", "1"), ("content-length", "5"), ("x-secret", "2")] {
        trailers.insert(name, HeaderValue::from_static(value));
    }
    call.send
        .send_head(&Head::Trailers(trailers))
        .await
        .unwrap();
    call.send.finish().unwrap();
    let mut upstream = tunnel.connection().await;
    let request = upstream.request().await.unwrap();
    assert!(request.contains("te: trailers\r\n"), "{request}");
    assert!(request.contains("trailer: x-sum"), "{request}");
    const SENT: &[u8] = b"4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n";
    let sent = upstream.body(SENT.len()).await.unwrap();
    assert_eq!(
        sent.escape_ascii().to_string(),
        SENT.escape_ascii().to_string()
    );

    upstream
        .send(
            "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: 2\r\nset-cookie: a=b\r\n\r\n",
        )
        .await;
    let head = answer(&mut call).await;
    assert_eq!(head.headers["trailer"], "x-sum");
    let mut bytes = Vec::new();
    let trailers = loop {
        match call.recv.item().await.unwrap() {
            Item::Data(data) => bytes.extend_from_slice(&data),
            Item::Head(Head::Trailers(trailers)) => break trailers,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(bytes, b"hello");
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["x-sum"], "2");
}
