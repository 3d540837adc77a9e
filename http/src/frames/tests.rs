//! What is cut, and what is not.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::long_heads::AT_ONCE;
use crate::source::Source;

const PACE: Pace = Pace {
    head: Duration::from_secs(10),
    keep_alive: Duration::from_secs(60),
    stall: Duration::from_secs(30),
};

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

fn opening() -> Vec<u8> {
    [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(SETTINGS, 0, b""),
    ]
    .concat()
}

fn guard() -> (
    tokio::io::DuplexStream,
    FrameGuard<tokio::io::DuplexStream>,
    Instant,
) {
    let (caller, server) = tokio::io::duplex(1 << 20);
    let traffic = Arc::new(Traffic::default());
    (
        caller,
        FrameGuard::new(server, traffic, PACE, LongHeads::default()),
        Instant::now(),
    )
}

/// Reads until nothing more comes at once, or an error.
async fn read(guard: &mut FrameGuard<tokio::io::DuplexStream>) -> io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), [0; 700]);
    loop {
        let moment = Duration::from_millis(1);
        match tokio::time::timeout(moment, guard.read(&mut buffer)).await {
            Ok(Ok(length)) => all.extend_from_slice(&buffer[..length]),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(all),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn frames_pass_unchanged() {
    let (mut caller, mut guard, _) = guard();
    let frames = [
        opening(),
        frame(HEADERS, 0, b"abc"),
        frame(CONTINUATION, END_HEADERS, b"def"),
        frame(DATA, 0, &[7; 3000]),
        frame(DATA, END_STREAM, b""),
        frame(HEADERS, END_HEADERS | END_STREAM, b"x").repeat(50),
        frame(PING, 0, &[0; 8]),
    ];
    caller.write_all(&frames.concat()).await.unwrap();
    assert_eq!(read(&mut guard).await.unwrap(), frames.concat());
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_requests_reaches_h2_a_few_at_a_time() {
    let (mut caller, mut guard, _) = guard();
    let request = frame(HEADERS, END_HEADERS | END_STREAM, b"x");
    caller
        .write_all(&[opening(), request.repeat(10)].concat())
        .await
        .unwrap();
    let mut buffer = vec![0; 1 << 16];
    let first = guard.read(&mut buffer).await.unwrap();
    assert_eq!(
        first,
        opening().len() + usize::from(HEADS_PER_TURN) * request.len()
    );
}

/// However the caller cuts what it sends: the word comes between two of its frames, once.
#[tokio::test(start_paused = true)]
async fn it_is_said_in_the_callers_place_that_it_has_heard_of_the_end() {
    let request = frame(HEADERS, END_HEADERS | END_STREAM, b"x");
    let data = frame(DATA, 0, &[7; 40]);
    for cut in 0..request.len() {
        let (mut caller, server) = tokio::io::duplex(1 << 20);
        let traffic = Arc::new(Traffic::default());
        let mut guard = FrameGuard::new(server, traffic.clone(), PACE, LongHeads::default());
        let begun = [&opening()[..], &request[..cut]].concat();
        caller.write_all(&begun).await.unwrap();
        let mut given = read(&mut guard).await.unwrap();
        traffic.take_no_more();
        given.extend(read(&mut guard).await.unwrap());
        let rest = [&request[cut..], &data, &data[..20]].concat();
        caller.write_all(&rest).await.unwrap();
        given.extend(read(&mut guard).await.unwrap());
        let expected = match cut {
            0 => [&opening()[..], &HEARD, &request, &data, &data[..20]],
            _ => [&opening()[..], &request, &HEARD, &data, &data[..20]],
        };
        assert_eq!(given, expected.concat(), "{cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_strangers_requests_wait_for_the_answers_to_the_ones_before() {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    let traffic = Arc::new(Traffic::of_stranger(Source::of_test(1)));
    let mut guard = FrameGuard::new(server, traffic.clone(), PACE, LongHeads::default());
    let request = frame(HEADERS, END_HEADERS | END_STREAM, b"x");
    let two = usize::from(HEADS_PER_TURN) * request.len();
    caller.write_all(&opening()).await.unwrap();
    caller.write_all(&request.repeat(10)).await.unwrap();
    let mut buffer = vec![0; 1 << 16];
    let first = guard.read(&mut buffer).await.unwrap();
    assert_eq!(first, opening().len() + two);
    traffic.on_begin();
    traffic.on_begin();
    assert_eq!(read(&mut guard).await.unwrap(), b"");
    traffic.on_end();
    assert_eq!(read(&mut guard).await.unwrap(), b"");
    traffic.on_end();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), two);
    traffic.on_begin();
    traffic.trust();
    let rest = read(&mut guard).await.unwrap();
    assert_eq!(rest.len(), 6 * request.len());
}

/// h2 asks for more before the calls that it was given have begun, and hears that they have begun
/// when it asks again: in the same go, between one call and the next.
#[tokio::test(start_paused = true)]
async fn a_stranger_has_two_requests_in_flight_also_while_h2_hands_them_over() {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    let traffic = Arc::new(Traffic::of_stranger(Source::of_test(1)));
    let mut guard = FrameGuard::new(server, traffic.clone(), PACE, LongHeads::default());
    let request = frame(HEADERS, END_HEADERS | END_STREAM, b"x");
    caller.write_all(&opening()).await.unwrap();
    caller.write_all(&request.repeat(10)).await.unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut given = || {
        let mut out = ReadBuf::new(&mut buffer);
        let polled = Pin::new(&mut guard).poll_read(&mut cx, &mut out);
        polled.is_ready().then(|| out.filled().len())
    };
    let two = usize::from(HEADS_PER_TURN) * request.len();
    assert_eq!(given(), Some(opening().len() + two));
    assert_eq!(given(), None);
    traffic.on_begin();
    assert_eq!(given(), None, "the first call is under way");
    traffic.on_begin();
    assert_eq!(given(), None);
    traffic.on_end();
    traffic.on_end();
    assert_eq!(given(), Some(two));
    // A head of which h2 makes no call holds nothing up.
    assert_eq!((given(), given()), (None, Some(two)));
}

#[tokio::test(start_paused = true)]
async fn floods_are_cut_whatever_they_are_made_of() {
    let reset = [
        frame(HEADERS, END_HEADERS, b"x"),
        frame(RST_STREAM, 0, &[0; 4]),
    ]
    .concat();
    let floods = [
        frame(PING, 0, &[0; 8]),
        frame(SETTINGS, 0, b""),
        frame(DATA, 0, b""),
        frame(CONTINUATION, 0, b""),
        frame(200, 0, b""),
        reset,
    ];
    for flood in floods {
        let (mut caller, mut guard, _) = guard();
        caller
            .write_all(&[opening(), flood.repeat(2500)].concat())
            .await
            .unwrap();
        let error = read(&mut guard).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{flood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pings_beside_honest_work_are_no_flood() {
    let (mut caller, mut guard, _) = guard();
    caller.write_all(&opening()).await.unwrap();
    for _ in 0..5000 {
        let frames = [frame(PING, 0, &[0; 8]), frame(DATA, 0, &[0; 1024])].concat();
        caller.write_all(&frames).await.unwrap();
        read(&mut guard).await.unwrap();
    }
}

/// gRPC's clients measure the line with a ping for each piece of an answer, and a stream of small pieces
/// earns next to nothing by its bytes.
#[tokio::test(start_paused = true)]
async fn a_ping_and_credit_for_each_small_piece_of_an_answer_are_no_flood() {
    let (mut caller, mut guard, _) = guard();
    caller.write_all(&opening()).await.unwrap();
    let piece = frame(DATA, 0, &[0; 20]);
    let asked = [frame(8, 0, &[0; 4]), frame(PING, 0, &[0; 8])].concat();
    for round in 0..10_000 {
        // Written in parts, as it happens.
        guard.write_all(&piece[..5]).await.unwrap();
        guard.write_all(&piece[5..]).await.unwrap();
        caller.write_all(&asked).await.unwrap();
        read(&mut guard).await.unwrap();
        let mut taken = [0; 29];
        caller.read_exact(&mut taken).await.unwrap();
        if round % 300 == 0 {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
    // Without an answer before them they are one.
    let flood = frame(PING, 0, &[0; 8]).repeat(2000);
    caller.write_all(&flood).await.unwrap();
    assert!(read(&mut guard).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_answered_pay_for_their_frames_and_calls_that_are_reset_do_not() {
    let call = frame(HEADERS, END_HEADERS | END_STREAM, b"x");
    let answered = [call.clone(), frame(8, 0, &[0; 4]).repeat(2)].concat();
    let reset = [call, frame(RST_STREAM, 0, &[0; 4])].concat();
    for (frames, cut) in [(answered, false), (reset, true)] {
        let (mut caller, mut guard, _) = guard();
        caller.write_all(&opening()).await.unwrap();
        let mut calls = 0;
        let error = loop {
            caller.write_all(&frames).await.unwrap();
            if let Err(error) = read(&mut guard).await {
                break Some(error);
            }
            guard.traffic.on_begin();
            guard.traffic.on_end();
            calls += 1;
            if calls == 2000 {
                break None;
            }
        };
        assert_eq!(error.is_some(), cut, "after {calls} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_is_not_cut_though_every_silence_falls_into_a_frame() {
    let (mut caller, mut guard, _) = guard();
    let upload = [opening(), frame(DATA, 0, &[0; 100]).repeat(100)].concat();
    for piece in upload.chunks(109) {
        caller.write_all(piece).await.unwrap();
        read(&mut guard).await.unwrap();
        tokio::time::sleep(PACE.head / 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_begun_and_not_ended_runs_into_a_timer() {
    let begun = [
        (b"PRI * HTTP/2.0".to_vec(), PACE.head),
        ([opening(), frame(HEADERS, 0, b"abc")].concat(), PACE.head),
        (
            [opening(), frame(DATA, 0, b"abc")[..10].to_vec()].concat(),
            PACE.stall,
        ),
        (
            [opening(), frame(PING, 0, b"abc")[..5].to_vec()].concat(),
            PACE.stall,
        ),
    ];
    for (bytes, span) in begun {
        let (mut caller, mut guard, start) = guard();
        caller.write_all(&bytes).await.unwrap();
        let mut buffer = [0; 512];
        assert_ne!(guard.read(&mut buffer).await.unwrap(), 0);
        let error = guard.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), span);
    }
    let (mut caller, mut guard, _) = guard();
    caller.write_all(&opening()).await.unwrap();
    let mut buffer = [0; 512];
    assert_ne!(guard.read(&mut buffer).await.unwrap(), 0);
    let wait = tokio::time::timeout(Duration::from_secs(3600), guard.read(&mut buffer));
    assert!(
        wait.await.is_err(),
        "between frames the caller may be silent"
    );
}

#[tokio::test(start_paused = true)]
async fn of_a_strangers_body_little_is_read_until_it_is_trusted() {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    let traffic = Arc::new(Traffic::of_stranger(Source::of_test(1)));
    let mut guard = FrameGuard::new(server, traffic.clone(), PACE, LongHeads::default());
    let body = [frame(DATA, 0, &[7; 8000]), frame(DATA, 0, &[8; 8000])].concat();
    let body = body.repeat(20);
    traffic.on_begin();
    caller.write_all(&opening()).await.unwrap();
    caller.write_all(&body).await.unwrap();
    let before = read(&mut guard).await.unwrap();
    assert!(before.len() < 18_000, "{}", before.len());
    let trusting = traffic.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        trusting.trust();
    });
    // It is woken: nothing else would make it go on.
    let mut rest = vec![0; opening().len() + body.len() - before.len()];
    guard.read_exact(&mut rest).await.unwrap();
    assert_eq!([before, rest].concat(), [opening(), body].concat());
}

/// What h2 would decode of it takes far more than the bytes do.
#[tokio::test(start_paused = true)]
async fn a_header_block_reaches_h2_when_it_is_whole() {
    let (mut caller, mut guard, _) = guard();
    let more = frame(CONTINUATION, 0, &[0x93; 1000]);
    let begun = [opening(), frame(HEADERS, 0, &[0x93; 1000]), more.repeat(20)].concat();
    for bytes in begun.chunks(777) {
        caller.write_all(bytes).await.unwrap();
    }
    let first = read(&mut guard).await.unwrap();
    assert_eq!(first, begun[..opening().len() + FRAME_HEADER]);
    let end = frame(CONTINUATION, END_HEADERS, b"x");
    let next = frame(HEADERS, END_HEADERS | END_STREAM, b"next");
    caller.write_all(&[&end[..], &next].concat()).await.unwrap();
    let rest = read(&mut guard).await.unwrap();
    assert_eq!([first, rest].concat(), [begun, end, next].concat());
}

#[tokio::test(start_paused = true)]
async fn a_header_block_that_never_ends_is_cut() {
    let (mut caller, mut guard, _) = guard();
    let more = frame(CONTINUATION, 0, &[0x93; 16_000]);
    let block = [opening(), frame(HEADERS, 0, b""), more.repeat(9)].concat();
    caller.write_all(&block).await.unwrap();
    assert!(read(&mut guard).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn few_strangers_hold_long_blocks_at_once() {
    let places = LongHeads::default();
    let more = frame(CONTINUATION, 0, &[0x93; 16_000]);
    let block = [opening(), frame(HEADERS, 0, b""), more.repeat(3)].concat();
    let stranger = async |source| {
        let (mut caller, server) = tokio::io::duplex(1 << 20);
        let traffic = Arc::new(Traffic::of_stranger(Source::of_test(source)));
        let mut guard = FrameGuard::new(server, traffic, PACE, places.clone());
        caller.write_all(&block).await.unwrap();
        let outcome = read(&mut guard).await;
        (caller, guard, outcome.is_ok())
    };
    let mut held = Vec::new();
    for _ in 0..AT_ONCE / 2 {
        held.push(stranger(1).await);
    }
    assert!(held.iter().all(|(_, _, well)| *well));
    assert!(!stranger(1).await.2);
    assert!(stranger(2).await.2, "from elsewhere");
    let (mut caller, mut guard, _) = held.remove(0);
    let end = frame(CONTINUATION, END_HEADERS, b"x");
    caller.write_all(&end).await.unwrap();
    read(&mut guard).await.unwrap();
    assert!(stranger(1).await.2, "one that is whole needs no place");
}
