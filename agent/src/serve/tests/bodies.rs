//! Bodies in both directions: complete, in order, and never more in memory than credit allows.

use culvert_proto::code::ErrorCode;
use tokio::time::{Duration, timeout};

use super::*;

/// Bytes that do not repeat at any frame's or buffer's length.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_known_length_arrives_whole_with_its_length() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let sent = pattern(3_000_000);
    let mut call = tunnel.upload(&post("/api/upload", BodyLength::Exact(sent.len() as u64)));
    let mut upstream = tunnel.connection().await;
    let request = upstream.request().await.unwrap();
    assert!(
        request.contains("\r\ncontent-length: 3000000\r\n"),
        "{request}"
    );
    let writing = async {
        call.send.write_bytes(sent.clone().into()).await.unwrap();
        call.send.finish().unwrap();
    };
    let (received, ()) = tokio::join!(upstream.body(sent.len()), writing);
    assert_eq!(received.unwrap(), sent);
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_unknown_length_arrives_in_chunks_with_an_end() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.upload(&post("/api/upload", BodyLength::Unknown));
    let mut upstream = tunnel.connection().await;
    let request = upstream.request().await.unwrap();
    assert!(
        request.contains("\r\ntransfer-encoding: chunked\r\n"),
        "{request}"
    );
    call.send
        .write_bytes(Bytes::from_static(b"hello"))
        .await
        .unwrap();
    assert_eq!(upstream.body(10).await.unwrap(), b"5\r\nhello\r\n");
    call.send.finish().unwrap();
    assert_eq!(upstream.body(5).await.unwrap(), b"0\r\n\r\n");
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
    // The connection is at rest after it.
    let _call = tunnel.call(&get("/api/vms"), "");
    assert!(upstream.request().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn even_a_get_may_have_a_body() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let head = CallHead {
        body: BodyLength::Unknown,
        ..get("/api/search")
    };
    let _call = tunnel.call(&head, "hello");
    let mut upstream = tunnel.asked().await;
    assert_eq!(upstream.body(15).await.unwrap(), b"5\r\nhello\r\n0\r\n\r\n");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_breaks_off_never_looks_complete_to_the_upstream() {
    for (length, finished) in [
        (BodyLength::Unknown, false),
        (BodyLength::Exact(100), false),
        (BodyLength::Exact(100), true),
    ] {
        let mut tunnel = Tunnel::new(POLICY).await;
        let (mut call, mut upstream) = tunnel.uploading(&post("/api/upload", length)).await;
        call.send
            .write_bytes(Bytes::from_static(b"hello"))
            .await
            .unwrap();
        if finished {
            call.send.finish().unwrap();
        } else {
            call.send.reset(ResetCode::Truncated);
        }
        let mut seen = Vec::new();
        while let Some(byte) = upstream.body(1).await {
            seen.extend(byte);
        }
        assert!(!seen.ends_with(b"0\r\n\r\n"), "{seen:?}");
        if finished {
            assert_eq!(refusal(&mut call).await.code, ErrorCode::BadRequest);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_longer_than_announced_is_not_forwarded_beyond_its_length() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel
        .uploading(&post("/api/upload", BodyLength::Exact(5)))
        .await;
    let smuggled = Bytes::from_static(b"helloGET /api/secrets HTTP/1.1\r\n\r\n");
    call.send.write_bytes(smuggled).await.unwrap();
    assert_eq!(upstream.body(6).await, None, "not one byte too many");
    assert_eq!(refusal(&mut call).await.code, ErrorCode::BadRequest);
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_of_its_rule_is_refused() {
    let rules = POLICY.replacen("method = [", "max_body = \"10\"\nmethod = [", 1);
    let mut tunnel = Tunnel::new(&rules).await;
    let announced = refusal(&mut tunnel.call(&post("/api/a", BodyLength::Exact(11)), "")).await;
    assert_eq!(announced.code, ErrorCode::PolicyDenied);
    tunnel.assert_untouched();

    let (mut call, mut upstream) = tunnel.uploading(&post("/api/a", BodyLength::Unknown)).await;
    call.send
        .write_bytes(Bytes::from_static(b"more than ten"))
        .await
        .unwrap();
    assert_eq!(refusal(&mut call).await.code, ErrorCode::PolicyDenied);
    assert_eq!(upstream.body(1).await, None);

    let _call = tunnel.call(&post("/api/a", BodyLength::Unknown), "just ten..");
    let mut upstream = tunnel.asked().await;
    assert_eq!(
        upstream.body(20).await.unwrap(),
        b"A\r\njust ten..\r\n0\r\n\r\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_arrives_whole() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel.under_way(&get("/api/download")).await;
    let sent = pattern(3_000_000);
    let writing = async {
        upstream
            .send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                sent.len()
            ))
            .await;
        upstream.send(&sent).await;
    };
    let (received, ()) = tokio::join!(body_of(&mut call), writing);
    assert_eq!(received, sent);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_read_no_faster_than_the_caller_reads() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel.under_way(&get("/api/download")).await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        .await;
    let piece = pattern(16 * 1024);
    let mut sent = 0;
    // Time moves only when everything waits: then nobody takes any more.
    while timeout(Duration::from_secs(1), upstream.send(&piece))
        .await
        .is_ok()
    {
        sent += piece.len();
    }
    // Window, send queue, buffers of both hyper and the pipes.
    assert!(
        sent < 1_500_000,
        "{sent} bytes were taken for a caller that reads none"
    );
    answer(&mut call).await;
    let mut read = 0;
    while read < sent - 16 * 1024 {
        match call.recv.item().await.unwrap() {
            Item::Data(data) => read += data.len(),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        timeout(Duration::from_secs(1), upstream.send(&piece))
            .await
            .is_ok(),
        "room again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_read_no_faster_than_the_upstream_reads() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.upload(&post("/api/upload", BodyLength::Unknown));
    let _upstream = tunnel.connection().await;
    let piece = Bytes::from(pattern(16 * 1024));
    let mut sent = 0;
    while timeout(Duration::from_secs(1), call.send.write_bytes(piece.clone()))
        .await
        .is_ok()
    {
        sent += piece.len();
    }
    assert!(
        sent < 1_500_000,
        "{sent} bytes were taken for an upstream that reads none"
    );
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_while_nobody_has_room_for_the_answer() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel
        .uploading(&post("/api/echo", BodyLength::Unknown))
        .await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        .await;
    let piece = pattern(16 * 1024);
    while timeout(Duration::from_secs(1), upstream.send(&piece))
        .await
        .is_ok()
    {}
    call.send
        .write_bytes(Bytes::from_static(b"hello"))
        .await
        .unwrap();
    assert_eq!(upstream.body(10).await.unwrap(), b"5\r\nhello\r\n");
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_end_before_its_request_does() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel
        .uploading(&post("/api/upload", BodyLength::Exact(100)))
        .await;
    upstream
        .send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!")
        .await;
    assert_eq!(answer(&mut call).await.status, 413);
    assert_eq!(body(&mut call).await, (b"no!".to_vec(), Ok(())));
    upstream.closed().await;
    // What is left of that request is never the beginning of another.
    let _call = tunnel.call(&get("/api/vms"), "");
    assert!(
        tunnel
            .connection()
            .await
            .request()
            .await
            .unwrap()
            .starts_with("GET ")
    );
}
