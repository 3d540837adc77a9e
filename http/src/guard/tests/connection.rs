//! The guard around a connection: order, refusal, silence.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{PACE, pass, with};
use crate::guard::Violation;
use crate::guard::io::{Guard, REFUSED_REQUEST};
use crate::long_heads::{AT_ONCE, LONG, LongHeads};
use crate::problem::Problem;
use crate::source::Source;
use crate::traffic::Traffic;

#[tokio::test(start_paused = true)]
async fn a_refused_head_is_replaced_and_nothing_after_it_is_read() {
    let input =
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for cuts in [&[][..], &[10], &[40, 50]] {
        let (passed, refused) = pass(input, cuts, 512).await;
        assert_eq!(passed, REFUSED_REQUEST);
        assert_eq!(refused, Some(Violation::SeveralHosts));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_wrong_anywhere_in_its_first_bytes_never_passes() {
    let input = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nx\r\n";
    let (passed, refused) = pass(input, &[], 512).await;
    assert_eq!(passed, REFUSED_REQUEST);
    assert_eq!(refused, Some(Violation::ChunkSize));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_turns_out_wrong_breaks_the_connection() {
    let (mut caller, server) = tokio::io::duplex(1024);
    let traffic = Arc::new(Traffic::default());
    let mut guard = Guard::new(server, traffic.clone(), PACE, LongHeads::default());
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
    caller.write_all(head).await.unwrap();
    let mut buffer = [0; 512];
    let length = guard.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], head);
    caller.write_all(b"x\r\n").await.unwrap();
    let error = guard.read(&mut buffer).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(traffic.refused(), Some(Violation::ChunkSize));
}

#[tokio::test(start_paused = true)]
async fn the_next_request_waits_for_the_answer_and_a_caller_that_leaves_is_noticed() {
    let (mut caller, server) = tokio::io::duplex(1024);
    let traffic = Arc::new(Traffic::default());
    let mut guard = Guard::new(server, traffic.clone(), PACE, LongHeads::default());
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    caller.write_all(&request.repeat(2)).await.unwrap();
    let mut buffer = [0; 512];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), request.len());
    // A call in flight is not slow, however long it takes.
    let waited = tokio::time::timeout(Duration::from_secs(3600), guard.read(&mut buffer));
    assert!(waited.await.is_err());
    traffic.on_end();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), request.len());
    drop(caller);
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_switch_every_byte_passes() {
    let (mut caller, server) = tokio::io::duplex(1024);
    let traffic = Arc::new(Traffic::default());
    let mut guard = Guard::new(server, traffic.clone(), PACE, LongHeads::default());
    let request = with("Upgrade: websocket\r\n");
    caller.write_all(&request).await.unwrap();
    caller.write_all(b"\x82\0\r\n").await.unwrap();
    let mut buffer = [0; 512];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), request.len());
    traffic.switch();
    traffic.on_end();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 4);
    caller.write_all(b"\0\n").await.unwrap();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 2);
    assert_eq!(traffic.refused(), None);
}

#[tokio::test(start_paused = true)]
async fn each_phase_of_silence_has_its_end() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut buffer = [0; 512];
    let setup = || {
        let (caller, server) = tokio::io::duplex(1024);
        let traffic = Arc::new(Traffic::default());
        (
            caller,
            Guard::new(server, traffic.clone(), PACE, LongHeads::default()),
            traffic,
            Instant::now(),
        )
    };

    // No first byte.
    let (_caller, mut guard, _, start) = setup();
    assert!(guard.read(&mut buffer).await.is_err());
    assert_eq!(start.elapsed(), PACE.head);

    // A head byte by byte.
    let (mut caller, mut guard, _, start) = setup();
    let trickle = async {
        for byte in request {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if caller.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        read = guard.read(&mut buffer) => assert!(read.is_err()),
        () = trickle => {}
    }
    assert_eq!(start.elapsed(), PACE.head);

    // Silence between requests, then within the second one.
    let (mut caller, mut guard, traffic, _) = setup();
    caller.write_all(request).await.unwrap();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), request.len());
    traffic.on_end();
    let idle = Instant::now();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 0);
    assert_eq!(idle.elapsed(), PACE.keep_alive);
    caller.write_all(&request[..10]).await.unwrap();
    let head = Instant::now();
    assert!(guard.read(&mut buffer).await.is_err());
    assert_eq!(head.elapsed(), PACE.head);
}

/// A head of 64 KiB is every caller's right; to hold any number of halves is no stranger's.
#[tokio::test(start_paused = true)]
async fn few_strangers_hold_long_heads_at_once() {
    let places = LongHeads::default();
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "b".repeat(LONG));
    let stranger = async |source: Option<u8>| {
        let (mut caller, server) = tokio::io::duplex(1 << 20);
        let traffic = Arc::new(match source {
            Some(source) => Traffic::of_stranger(Source::of_test(source)),
            None => Traffic::default(),
        });
        let mut guard = Guard::new(server, traffic.clone(), PACE, places.clone());
        caller.write_all(long.as_bytes()).await.unwrap();
        let mut buffer = vec![0; 100_000];
        let moment = Duration::from_millis(1);
        let read = tokio::time::timeout(moment, guard.read(&mut buffer)).await;
        assert_eq!(read.is_ok(), traffic.refused().is_some());
        (caller, guard, traffic.refused())
    };
    let mut held = Vec::new();
    for _ in 0..AT_ONCE / 2 {
        held.push(stranger(Some(1)).await);
    }
    assert!(held.iter().all(|(_, _, refused)| refused.is_none()));
    let refused = stranger(Some(1)).await.2;
    assert_eq!(refused, Some(Violation::NoRoomForHead));
    assert_eq!(Problem::from(Violation::NoRoomForHead).status(), 503);
    assert_eq!(stranger(Some(2)).await.2, None, "from elsewhere");
    assert_eq!(stranger(None).await.2, None, "whoever is known may");
    let (mut caller, mut guard, _) = held.remove(0);
    caller.write_all(b"\r\n\r\n").await.unwrap();
    let mut buffer = vec![0; 100_000];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), long.len() + 4);
    assert_eq!(
        stranger(Some(1)).await.2,
        None,
        "one that is whole needs no place"
    );
}
