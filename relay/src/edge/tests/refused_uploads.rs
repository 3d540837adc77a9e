//! Uploads that are refused: how long what their callers still send is read.

use std::time::Duration;

use culvert_http::Alpn;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};

use super::rig::{HOST, Rig, SOON, show};

/// Begins an upload of so many bytes that is refused: by a caller who may not, or by nobody.
async fn refused_upload(rig: &Rig, fields: &str, length: usize) -> DuplexStream {
    let mut caller = rig.connect(Alpn::Http1);
    let head =
        format!("PUT /up HTTP/1.1\r\nHost: {HOST}\r\n{fields}Content-Length: {length}\r\n\r\n");
    caller.write_all(head.as_bytes()).await.unwrap();
    caller
}

/// Tools that look for an answer only when they have sent everything find it, as long as they go on.
#[tokio::test(start_paused = true)]
async fn a_refused_upload_is_heard_out_while_it_goes_on_for_half_a_minute() {
    let rig = Rig::new();
    let known = rig.token(json!({"scope": "other"}));
    let known = format!("Culvert-Authorization: Bearer {known}\r\n");
    let piece = Duration::from_secs(4);
    for (fields, status, pieces) in [(&*known, 403, 7), ("", 401, 2)] {
        let mut caller = refused_upload(&rig, fields, pieces).await;
        for _ in 0..pieces {
            sleep(piece).await;
            caller.write_all(b"x").await.unwrap();
        }
        // What follows is the next request.
        let next = Rig::get("/next", fields);
        caller.write_all(next.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let read = caller.read_to_end(&mut all);
        timeout(SOON, read).await.unwrap().unwrap();
        let answers = show(&all).matches(&format!("HTTP/1.1 {status} ")).count();
        assert_eq!(answers, 2, "{}", show(&all));
    }
}

/// Nobody holds a connection by a body that does not come.
#[tokio::test(start_paused = true)]
async fn a_refused_upload_that_pauses_or_never_ends_ends_the_connection() {
    let rig = Rig::new();
    let known = rig.token(json!({"scope": "other"}));
    let known = format!("Culvert-Authorization: Bearer {known}\r\n");
    // A pause of 5 s, 30 s in all, 10 s without a credential; and 2 s in which the last bytes are read.
    for (fields, every, most) in [(&*known, 6, 8), (&*known, 1, 33), ("", 1, 10)] {
        let start = Instant::now();
        let caller = refused_upload(&rig, fields, 1_000_000).await;
        let (mut read, mut write) = tokio::io::split(caller);
        let sending = tokio::spawn(async move {
            while write.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(every)).await;
            }
        });
        let mut all = Vec::new();
        let _ = timeout(SOON, read.read_to_end(&mut all))
            .await
            .expect("it stays");
        let took = start.elapsed();
        assert!(took <= Duration::from_secs(most), "{took:?}");
        sending.abort();
    }
}

/// A drain waits for connections; an answer that is there already is not worth all of its time.
#[tokio::test(start_paused = true)]
async fn a_refused_upload_that_goes_on_holds_a_drain_up_for_seconds() {
    let rig = Rig::new();
    let known = rig.token(json!({"scope": "other"}));
    let known = format!("Culvert-Authorization: Bearer {known}\r\n");
    let caller = refused_upload(&rig, &known, 1_000_000).await;
    let (mut read, mut write) = tokio::io::split(caller);
    let sending = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    sleep(Duration::from_secs(2)).await;
    rig.drain.cancel();
    let start = Instant::now();
    let mut all = Vec::new();
    let _ = timeout(SOON, read.read_to_end(&mut all))
        .await
        .expect("it stays");
    assert!(show(&all).starts_with("HTTP/1.1 403 "), "{}", show(&all));
    // 5 s, and 2 s in which the last bytes are read.
    let took = start.elapsed();
    assert!(took <= Duration::from_secs(8), "{took:?}");
    sending.abort();
}
