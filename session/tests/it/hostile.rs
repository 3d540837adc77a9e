//! Peers that break the rules of WebSocket, or strain them.

use std::time::Duration;

use bytes::Bytes;
use culvert_proto::mux::{self, Side};
use culvert_session::websocket::MAX_MESSAGE;
use culvert_session::{SessionError, WebSocketIo};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::{End, call, config, connection, settle, soon};

/// A session whose peer is a bare WebSocket.
async fn bare() -> (End, WebSocketStream<DuplexStream>) {
    let (end, io) = raw();
    (
        end,
        WebSocketStream::from_raw_socket(io, Role::Client, None).await,
    )
}

/// A session whose peer is a bare connection.
fn raw() -> (End, DuplexStream) {
    let (near, far) = connection();
    (
        End::over(WebSocketIo::acceptor(near), config(Side::Acceptor)),
        far,
    )
}

/// The session's first word, which a well-behaved peer could send just so as well.
async fn greet(peer: &mut WebSocketStream<DuplexStream>) {
    let Some(Ok(hello)) = peer.next().await else {
        panic!("the session greets")
    };
    peer.send(hello).await.unwrap();
}

/// Everything that the peer is still sent; panics if the connection does not end.
async fn rest(mut peer: WebSocketStream<DuplexStream>) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(Ok(message)) = soon(peer.next()).await {
        messages.push(message);
    }
    messages
}

#[tokio::test(start_paused = true)]
async fn what_is_no_session_message_ends_the_session_with_a_word_and_a_close() {
    let wrong = [
        Message::text("hello"),
        Message::binary(vec![0; MAX_MESSAGE + 1]),
        Message::binary(vec![0xff; 100]),
    ];
    for message in wrong {
        let (end, mut peer) = bare().await;
        greet(&mut peer).await;
        end.session.ready().await.unwrap();
        // Of a message that is too long the session takes no more than the beginning.
        let (mut sending, receiving) = peer.split();
        let sending = tokio::spawn(async move { sending.send(message).await });
        let error = soon(end.session.closed()).await;
        assert!(
            matches!(
                error,
                SessionError::WebSocket(_) | SessionError::Protocol(_)
            ),
            "{error}"
        );
        let rest: Vec<_> = soon(receiving.collect()).await;
        let rest: Vec<_> = rest.into_iter().filter_map(Result::ok).collect();
        assert!(
            rest.iter().any(|message| message.is_binary()),
            "GOAWAY: {rest:?}"
        );
        assert!(rest.iter().any(|message| message.is_close()), "{rest:?}");
        sending.abort();
    }
}

/// A frame as a dialer sends it, masked with zeros: its first byte, the length as it stands in
/// the frame, the payload.
fn frame(first: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | length[0]];
    frame.extend(&length[1..]);
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A frame of few bytes.
fn short(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, &[payload.len() as u8], payload)
}

/// Frames that no peer of ours sends.
fn hostile_frames() -> Vec<(&'static str, Vec<u8>)> {
    let long = frame(0x02, &[127, 0, 0, 0, 0, 0, 1, 0, 0], &[0; 0x1_0000]);
    let more = frame(0x00, &[127, 0, 0, 0, 0, 0, 1, 0, 0], &[0; 0x1_0000]);
    vec![
        ("not masked", vec![0x82, 0x01, 0x00]),
        ("a text message", short(0x81, b"hello")),
        ("compressed", short(0xc2, b"x")),
        ("a second reserved bit", short(0xa2, b"x")),
        ("a third reserved bit", short(0x92, b"x")),
        ("an unknown opcode", short(0x83, b"x")),
        ("an unknown control opcode", short(0x8b, b"x")),
        ("a continuation of nothing", short(0x80, b"x")),
        (
            "a message within another",
            [short(0x02, b"x"), short(0x82, b"x")].concat(),
        ),
        ("a ping in fragments", short(0x09, b"x")),
        (
            "a ping of 126 bytes",
            frame(0x89, &[126, 0, 126], &[0; 126]),
        ),
        ("a close with half a code", short(0x88, b"x")),
        (
            "a message of 1 MiB and one byte, announced",
            frame(0x82, &[127, 0, 0, 0, 0, 0, 0x10, 0, 1], b""),
        ),
        (
            "a message of a terabyte, announced",
            frame(0x82, &[127, 0, 0, 1, 0, 0, 0, 0, 0], b""),
        ),
        (
            "a length that no message has",
            frame(
                0x82,
                &[127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                b"",
            ),
        ),
        (
            "fragments that are too long together",
            [long, vec![more; 16].concat()].concat(),
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_is_no_websocket_of_ours_ends_the_session_and_the_connection() {
    for (what, bytes) in hostile_frames() {
        let (end, io) = raw();
        let (mut receiving, mut sending) = tokio::io::split(io);
        let sending = tokio::spawn(async move {
            // Of a message that is too long the session takes no more than the beginning.
            let _ = sending.write_all(&bytes).await;
            sending
        });
        let error = soon(end.session.closed()).await;
        assert!(
            matches!(error, SessionError::WebSocket(_)),
            "{what}: {error}"
        );
        let mut rest = Vec::new();
        soon(receiving.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(end.session.stats().buffered, 0, "{what}");
        sending.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn frames_of_an_acceptor_must_not_be_masked() {
    let (near, mut io) = connection();
    let end = End::over(WebSocketIo::dialer(near, vec![]), config(Side::Dialer));
    io.write_all(&short(0x82, b"x")).await.unwrap();
    let error = soon(end.session.closed()).await;
    assert!(matches!(error, SessionError::WebSocket(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_message_in_crumbs_is_cut_off_at_the_latest_when_it_is_too_long() {
    let (end, mut io) = raw();
    let crumbs = short(0x00, b"x").repeat(1024);
    let fragments = async {
        io.write_all(&short(0x02, b"x")).await.unwrap();
        let mut sent = 0;
        while io.write_all(&crumbs).await.is_ok() {
            sent += 1024;
            assert!(sent <= MAX_MESSAGE + 64 * 1024, "the flood goes on");
        }
    };
    let (error, ()) = soon(async { tokio::join!(end.session.closed(), fragments) }).await;
    assert!(matches!(error, SessionError::WebSocket(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_byte_by_byte_is_no_sign_of_life() {
    let (end, mut io) = raw();
    let trickle = async {
        let half = frame(0x82, &[127, 0, 0, 0, 0, 0, 0x04, 0, 0], b"");
        io.write_all(&half).await.unwrap();
        while io.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (error, ()) = soon(async { tokio::join!(end.session.closed(), trickle) }).await;
    assert!(
        matches!(error, SessionError::Protocol(mux::SessionError::Timeout(_))),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn pings_and_pongs_beyond_the_budget_are_a_flood_also_if_the_answers_are_read() {
    for first in [0x89, 0x8a] {
        let (end, io) = raw();
        let (mut receiving, mut sending) = tokio::io::split(io);
        let reading = tokio::spawn(async move {
            let mut rest = Vec::new();
            receiving.read_to_end(&mut rest).await
        });
        let mut sent = 0;
        while end.session.is_open() {
            sending.write_all(&short(first, b"x")).await.unwrap();
            sent += 1;
            assert!(sent < 20_000, "the flood goes on");
            tokio::task::yield_now().await;
        }
        let error = soon(end.session.closed()).await;
        assert!(matches!(error, SessionError::WebSocket(_)), "{error}");
        soon(reading).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_gets_a_close_back() {
    let (end, mut peer) = bare().await;
    greet(&mut peer).await;
    peer.send(Message::Close(None)).await.unwrap();
    assert!(matches!(
        soon(end.session.closed()).await,
        SessionError::Disconnected
    ));
    let rest = rest(peer).await;
    assert!(matches!(rest.last(), Some(Message::Close(_))), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn pings_now_and_then_are_answered() {
    let (end, mut peer) = bare().await;
    greet(&mut peer).await;
    for period in 0..2 {
        for _ in 0..90 {
            peer.send(Message::Ping("x".into())).await.unwrap();
            while !matches!(soon(peer.next()).await, Some(Ok(Message::Pong(_)))) {}
        }
        assert!(end.session.is_open(), "period {period}");
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_pings_and_never_reads_is_cut_off_soon() {
    let (end, mut peer) = bare().await;
    greet(&mut peer).await;
    let mut sent = 0;
    while end.session.is_open() {
        // A peer that does not read: everything it gets stays in the connection's 64 KiB.
        let _ = peer.feed(Message::Ping(vec![0; 125].into())).await;
        let _ = peer.flush().now_or_never();
        sent += 1;
        assert!(sent < 300, "the flood goes on");
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        end.session.closed().await,
        SessionError::WebSocket(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_message_of_endless_fragments_is_no_sign_of_life() {
    let (end, mut io) = raw();
    let fragments = async {
        // A first fragment, then empty continuations; masked with zeros.
        io.write_all(&[0x02, 0x80, 0, 0, 0, 0]).await.unwrap();
        while io.write_all(&[0x00, 0x80, 0, 0, 0, 0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (error, ()) = soon(async { tokio::join!(end.session.closed(), fragments) }).await;
    assert!(
        matches!(error, SessionError::Protocol(mux::SessionError::Timeout(_))),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_closes_a_connection_that_is_stuck() {
    const ROOM: usize = 64 * 1024;
    let (end, mut peer) = bare().await;
    greet(&mut peer).await;
    end.session.ready().await.unwrap();
    let mut stream = end.session.open(&call(), Bytes::new(), false).unwrap();
    // More than the connection holds, and nobody reads: not even a GOAWAY gets out.
    let writing = stream.send.write_bytes(Bytes::from(vec![7; 2 * ROOM]));
    assert_eq!(soon(writing).await, Ok(()));
    settle().await;
    end.session
        .close(culvert_proto::code::GoawayCode::Revoked, "away with it");
    soon(end.session.closed()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut heard = Vec::new();
    soon(peer.get_mut().read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard.len(), ROOM, "what was underway, and the end");
}
