//! Hostile sequences and their outcomes: the table of `docs/protocol.md`.
//!
//! The victim is an acceptor with one stream of each kind: 1 was opened by the peer and accepted,
//! 2 was opened by the victim. The peer's next id is 3.

use super::*;
use crate::frame::{CLOSE, FIN, SKIPPABLE, put_header};
use crate::heads::{encode_call, encode_head};
use crate::limits::{MAX_CALL_HEAD, MAX_HEAD, MAX_WINDOW, MIN_WINDOW};
use crate::wire::put_length;

pub(super) const WINDOW: usize = 256 * 1024;

/// A frame of a peer that sends what it likes.
pub(super) fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.extend_from_slice(&(u32::from(kind as u8) << 24 | payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out[1] |= flags << 4;
    out.extend_from_slice(payload);
    out.to_vec()
}

pub(super) fn word(kind: Kind, stream: u32, word: u32) -> Vec<u8> {
    frame(kind, 0, stream, &word.to_be_bytes())
}

pub(super) fn open(id: u32, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut head = BytesMut::new();
    encode_call(&call_head(), &mut head).unwrap();
    let mut payload = BytesMut::new();
    put_length(&mut payload, head.len());
    payload.extend_from_slice(&head);
    payload.extend_from_slice(body);
    frame(Kind::Open, flags, id, &payload)
}

pub(super) fn head(id: u32, head: &Head) -> Vec<u8> {
    let mut payload = BytesMut::new();
    encode_head(head, &mut payload).unwrap();
    frame(Kind::Head, 0, id, &payload)
}

fn interim() -> Head {
    let Head::Response(mut head) = answer() else {
        unreachable!()
    };
    head.status = StatusCode::EARLY_HINTS;
    Head::Interim(head)
}

pub(super) struct Victim {
    pub(super) mux: Mux,
    pub(super) now: Instant,
}

impl Victim {
    pub(super) fn new() -> Self {
        let now = start();
        let mut mux = greeted(Side::Acceptor, now);
        mux.handle_message(open(1, 0, b"").into(), now).unwrap();
        assert_eq!(mux.accept().unwrap().0, StreamId(1));
        let ours = mux.open(&call_head(), Bytes::new(), false).unwrap();
        assert_eq!(ours, StreamId(2));
        transmit(&mut mux, now);
        events(&mut mux);
        Self { mux, now }
    }

    pub(super) fn take(&mut self, frames: &[Vec<u8>]) -> Result<(), SessionError> {
        self.mux.handle_message(frames.concat().into(), self.now)
    }
}

/// Each frame of a batch: kind, stream, first number of the payload.
pub(super) fn said(batch: &Bytes) -> Vec<(Kind, u32, u32)> {
    let mut batch = batch.clone();
    std::iter::from_fn(|| crate::frame::next(&mut batch).unwrap())
        .map(|frame| {
            let number = frame
                .payload
                .first_chunk()
                .map_or(0, |word| u32::from_be_bytes(*word));
            (frame.kind, frame.stream, number)
        })
        .collect()
}

/// Sequences that end the session, and how.
#[test]
fn what_only_a_broken_multiplexer_sends_ends_the_session_with_its_reason() {
    use Violation as V;
    let id = StreamId;
    let malformed = |frame, what| SessionError::from(V::Malformed { frame, what });
    let flow = |stream| SessionError::FlowControl(StreamId(stream));
    let v = |violation: Violation| SessionError::from(violation);
    let full = vec![0; WINDOW];
    let cases: Vec<(&str, Vec<Vec<u8>>, SessionError)> = vec![
        ("nothing", vec![], v(V::EmptyMessage)),
        ("half a header", vec![vec![0x12, 0, 0]], v(V::CutShort)),
        (
            "a payload cut short",
            vec![frame(Kind::Data, 0, 1, b"abc")[..10].to_vec()],
            v(V::CutShort),
        ),
        (
            "a large message",
            vec![frame(Kind::Data, 0, 1, &vec![0; 600_000]); 2],
            v(V::MessageTooLarge(2 * 600_008)),
        ),
        (
            "an unknown type",
            vec![vec![0x7f, 0, 0, 0, 0, 0, 0, 0]],
            v(V::UnknownFrame(0x7f)),
        ),
        (
            "unknown flags",
            vec![frame(Kind::Data, 2, 1, b"x")],
            v(V::Flags(Kind::Data)),
        ),
        (
            "FIN on WINDOW",
            vec![frame(Kind::Window, FIN, 1, &[0, 0, 0, 1])],
            v(V::Flags(Kind::Window)),
        ),
        (
            "DATA on stream 0",
            vec![frame(Kind::Data, 0, 0, b"x")],
            v(V::StreamNumber(Kind::Data)),
        ),
        (
            "WINDOW on stream 0",
            vec![word(Kind::Window, 0, 9)],
            v(V::StreamNumber(Kind::Window)),
        ),
        (
            "PING on a stream",
            vec![frame(Kind::Ping, 0, 1, &[0; 8])],
            v(V::StreamNumber(Kind::Ping)),
        ),
        (
            "a second HELLO",
            vec![{
                let mut payload = BytesMut::new();
                encode_hello(&hello("again"), &mut payload);
                frame(Kind::Hello, 0, 0, &payload)
            }],
            v(V::SecondHello),
        ),
        (
            "OPEN of the wrong parity",
            vec![open(4, 0, b"")],
            v(V::OpenId(id(4))),
        ),
        (
            "OPEN used before",
            vec![open(1, 0, b"")],
            v(V::OpenId(id(1))),
        ),
        (
            "OPEN below an earlier one",
            vec![open(5, 0, b""), open(3, 0, b"")],
            v(V::OpenId(id(3))),
        ),
        (
            "DATA never opened",
            vec![frame(Kind::Data, 0, 3, b"x")],
            v(V::NeverOpened(Kind::Data, id(3))),
        ),
        (
            "DATA never opened by us",
            vec![frame(Kind::Data, 0, 4, b"x")],
            v(V::NeverOpened(Kind::Data, id(4))),
        ),
        (
            "HEAD never opened",
            vec![head(4, &answer())],
            v(V::NeverOpened(Kind::Head, id(4))),
        ),
        (
            "FINISH never opened",
            vec![frame(Kind::Finish, 0, 3, b"")],
            v(V::NeverOpened(Kind::Finish, id(3))),
        ),
        (
            "RESET never opened",
            vec![word(Kind::Reset, 3, 1)],
            v(V::NeverOpened(Kind::Reset, id(3))),
        ),
        (
            "STOP never opened",
            vec![word(Kind::Stop, 3, 1)],
            v(V::NeverOpened(Kind::Stop, id(3))),
        ),
        (
            "WINDOW never opened",
            vec![word(Kind::Window, 3, 1)],
            v(V::NeverOpened(Kind::Window, id(3))),
        ),
        (
            "DATA after FIN",
            vec![
                frame(Kind::Data, FIN, 1, b"x"),
                frame(Kind::Data, 0, 1, b"x"),
            ],
            v(V::AfterEnd(Kind::Data, id(1))),
        ),
        (
            "HEAD after FINISH",
            vec![frame(Kind::Finish, 0, 2, b""), head(2, &answer())],
            v(V::AfterEnd(Kind::Head, id(2))),
        ),
        (
            "FINISH after FINISH",
            vec![
                frame(Kind::Finish, 0, 1, b""),
                frame(Kind::Finish, 0, 1, b""),
            ],
            v(V::AfterEnd(Kind::Finish, id(1))),
        ),
        (
            "DATA after OPEN with FIN",
            vec![open(3, FIN, b""), frame(Kind::Data, 0, 3, b"x")],
            v(V::AfterEnd(Kind::Data, id(3))),
        ),
        (
            "empty DATA",
            vec![frame(Kind::Data, 0, 1, b"")],
            v(V::EmptyData(id(1))),
        ),
        (
            "FINISH with a payload",
            vec![frame(Kind::Finish, 0, 1, b"x")],
            malformed(Kind::Finish, "a payload where there is none"),
        ),
        (
            "DATA beyond the credit",
            vec![
                frame(Kind::Data, 0, 1, &full),
                frame(Kind::Data, 0, 1, b"x"),
            ],
            flow(1),
        ),
        (
            "HEAD beyond the credit",
            vec![
                frame(Kind::Data, 0, 2, &full),
                head(2, &Head::Trailers(HeaderMap::new())),
            ],
            flow(2),
        ),
        (
            "OPEN beyond the credit",
            vec![open(3, 0, &[full.clone(), vec![0]].concat())],
            flow(3),
        ),
        (
            "WINDOW of nothing",
            vec![word(Kind::Window, 1, 0)],
            v(V::Credit(id(1), 0)),
        ),
        (
            "WINDOW of too much",
            vec![word(Kind::Window, 1, MAX_WINDOW)],
            v(V::Credit(id(1), MAX_WINDOW)),
        ),
        (
            "WINDOW that overflows",
            vec![word(Kind::Window, 2, u32::MAX)],
            v(V::Credit(id(2), u32::MAX)),
        ),
        (
            "RESET of three bytes",
            vec![frame(Kind::Reset, 0, 1, b"abc")],
            malformed(Kind::Reset, "a payload that has not four bytes"),
        ),
        (
            "PING of seven bytes",
            vec![frame(Kind::Ping, 0, 0, &[0; 7])],
            malformed(Kind::Ping, "a payload that has not eight bytes"),
        ),
        (
            "a PONG that nobody asked for",
            vec![frame(Kind::Pong, 0, 0, &[9; 8])],
            v(V::Pong),
        ),
        (
            "an OPEN whose head is longer than it",
            vec![frame(Kind::Open, 0, 3, &[0x05, 1])],
            malformed(Kind::Open, "a field is cut short"),
        ),
        (
            "an OPEN with a huge head",
            vec![{
                let mut payload = BytesMut::new();
                put_length(&mut payload, MAX_CALL_HEAD + 1);
                payload.resize(MAX_CALL_HEAD + 4, 0);
                frame(Kind::Open, 0, 3, &payload)
            }],
            malformed(Kind::Open, "a call head that is too long"),
        ),
        (
            "a huge HEAD",
            vec![frame(Kind::Head, 0, 2, &vec![4; MAX_HEAD + 1])],
            malformed(Kind::Head, "a head that is too long"),
        ),
        (
            "a control message that is none",
            vec![frame(Kind::Auth, 0, 0, b"")],
            malformed(Kind::Auth, "AUTH without a token"),
        ),
        (
            "a GOAWAY that is cut short",
            vec![frame(Kind::Goaway, 0, 0, &[0; 11])],
            malformed(Kind::Goaway, "a GOAWAY that is cut short"),
        ),
        (
            "a GOAWAY that rises",
            vec![
                frame(Kind::Goaway, 0, 0, &[0; 12]),
                frame(Kind::Goaway, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]),
            ],
            v(V::GoawayRises),
        ),
        (
            "a GOAWAY that closes",
            vec![frame(
                Kind::Goaway,
                CLOSE,
                0,
                b"\0\0\0\x0a\0\0\0\0\0\0\0\0revoked",
            )],
            SessionError::Closed {
                code: GoawayCode::Revoked,
                reason: "revoked".into(),
            },
        ),
    ];
    for (what, frames, outcome) in cases {
        let mut victim = Victim::new();
        assert!(matches!(victim.mux.read(StreamId(2), victim.now), Ok(None)));
        assert_eq!(victim.take(&frames), Err(outcome.clone()), "{what}");
        // Final, told once, and everybody who waits is woken.
        let again = victim.take(&[frame(Kind::Ping, 0, 0, &[0; 8])]);
        assert_eq!(again, Err(outcome.clone()), "{what}");
        let events = events(&mut victim.mux);
        let woken = |event: &Event| {
            matches!(
                event,
                Event::Readable(StreamId(2)) | Event::Reset(StreamId(2), _)
            )
        };
        assert!(events.iter().any(woken), "{what}: {events:?}");
        assert!(
            matches!(events.last(), Some(Event::Closed(e)) if *e == outcome),
            "{what}"
        );
        let mut goodbye = said(&transmit(&mut victim.mux, victim.now));
        if !matches!(outcome, SessionError::Closed { .. }) {
            let last = goodbye.pop();
            assert!(
                matches!(last, Some((Kind::Goaway, 0, code)) if code == outcome.code().number()),
                "{what}: {last:?}"
            );
        }
        assert_eq!(goodbye, [], "{what}");
        assert!(victim.mux.is_closed());
        assert_eq!(victim.mux.poll_timeout(), None);
        let write = victim.mux.write(StreamId(2), &mut Bytes::from_static(b"x"));
        assert!(
            matches!(write, Err(StreamError::SessionLost | StreamError::Reset(_))),
            "{what}"
        );
    }
}

/// Sequences that reset one stream and leave the session alone.
#[test]
fn what_a_defect_above_the_multiplexer_can_cause_resets_the_stream_only() {
    let trailers = || Head::Trailers(HeaderMap::new());
    let cases: Vec<(&str, Vec<Vec<u8>>, u32)> = vec![
        (
            "a head that is none",
            vec![frame(Kind::Head, 0, 2, b"\x09")],
            2,
        ),
        ("an empty head", vec![frame(Kind::Head, FIN, 2, b"")], 2),
        (
            "a response without a status",
            vec![frame(Kind::Head, 0, 2, b"\x02")],
            2,
        ),
        (
            "a second answer",
            vec![head(2, &answer()), head(2, &answer())],
            2,
        ),
        (
            "an answer behind data",
            vec![frame(Kind::Data, 0, 2, b"x"), head(2, &answer())],
            2,
        ),
        ("an answer by the opener", vec![head(1, &answer())], 1),
        (
            "an interim answer by the opener",
            vec![head(1, &interim())],
            1,
        ),
        ("eleven interim answers", vec![head(2, &interim()); 11], 2),
        (
            "data behind an interim answer",
            vec![head(2, &interim()), frame(Kind::Data, 0, 2, b"x")],
            2,
        ),
        ("trailers before the answer", vec![head(2, &trailers())], 2),
        (
            "data behind trailers",
            vec![head(1, &trailers()), frame(Kind::Data, 0, 1, b"x")],
            1,
        ),
        (
            "an OPEN with a head that is none",
            vec![frame(Kind::Open, FIN, 3, &[2, 0x01, 0x00])],
            3,
        ),
        (
            "an OPEN without a head",
            vec![frame(Kind::Open, 0, 3, &[0])],
            3,
        ),
    ];
    for (what, frames, id) in cases {
        let mut victim = Victim::new();
        victim.take(&frames).unwrap();
        let protocol = ResetCode::Protocol;
        let said = said(&transmit(&mut victim.mux, victim.now));
        assert!(
            said.contains(&(Kind::Reset, id, protocol.number())),
            "{what}: {said:?}"
        );
        if id < 3 {
            let events = events(&mut victim.mux);
            let told =
                |event: &Event| matches!(event, Event::Reset(i, c) if i.0 == id && *c == protocol);
            assert!(events.iter().any(told), "{what}: {events:?}");
            let read = victim.mux.read(StreamId(id), victim.now);
            assert!(
                matches!(read, Err(StreamError::Reset(ResetCode::Protocol))),
                "{what}"
            );
        } else {
            assert!(victim.mux.accept().is_none(), "{what}");
        }
        // What was on its way before the peer knew is thrown away; other streams go on.
        victim.take(&[open(5, FIN, b"next")]).unwrap();
        assert_eq!(victim.mux.accept().unwrap().0, StreamId(5), "{what}");
        assert_eq!(victim.mux.stats().buffered, 4, "{what}");
    }
}

#[test]
fn what_may_be_skipped_is_skipped() {
    let mut victim = Victim::new();
    let mut unknown = vec![SKIPPABLE | 0x55, 0xf0, 0, 3, 0, 0, 0, 77, 1, 2, 3];
    unknown.extend(frame(Kind::Data, 0, 1, b"after"));
    victim.take(&[unknown]).unwrap();
    let read = victim.mux.read(StreamId(1), victim.now);
    assert!(matches!(read, Ok(Some(Item::Data(data))) if data == "after"));
}

#[test]
fn nothing_comes_before_hello_and_hello_is_checked() {
    let now = start();
    let take =
        |message: Vec<u8>| Mux::new(config(Side::Dialer), now).handle_message(message.into(), now);
    let early = Err(Violation::BeforeHello(Kind::Goaway).into());
    assert_eq!(take(frame(Kind::Goaway, CLOSE, 0, &[0; 12])), early);
    let early = Err(Violation::BeforeHello(Kind::Data).into());
    assert_eq!(take(frame(Kind::Data, 0, 1, b"x")), early);
    let greeting = |change: fn(&mut Hello)| {
        let mut hello = hello("peer");
        change(&mut hello);
        let mut payload = BytesMut::new();
        encode_hello(&hello, &mut payload);
        take(frame(Kind::Hello, 0, 0, &payload))
    };
    assert_eq!(greeting(|_| {}), Ok(()));
    assert_eq!(greeting(|hello| hello.features = u64::MAX), Ok(()));
    assert_eq!(greeting(|hello| hello.max_version = 9), Ok(()));
    let (min, max) = (2, 9);
    let later = greeting(|hello| (hello.min_version, hello.max_version) = (2, 9));
    assert_eq!(later, Err(SessionError::Version { min, max }));
    let window = "an initial window that is too small or too large";
    let wrong = |what| {
        Err(Violation::Malformed {
            frame: Kind::Hello,
            what,
        }
        .into())
    };
    assert_eq!(
        greeting(|hello| hello.initial_window = MIN_WINDOW - 1),
        wrong(window)
    );
    assert_eq!(
        greeting(|hello| hello.initial_window = MAX_WINDOW + 1),
        wrong(window)
    );
    let empty = "a version range that is empty";
    assert_eq!(greeting(|hello| hello.min_version = 3), wrong(empty));
}

#[test]
fn a_peer_of_another_version_is_told_so_behind_our_greeting() {
    let now = start();
    let mut mux = Mux::new(config(Side::Dialer), now);
    // Nothing but the versions needs to make sense.
    let greeting = frame(Kind::Hello, 0, 0, &[0x01, 4, 0, 2, 0, 3, 0x02, 1, 9]);
    assert!(mux.handle_message(greeting.into(), now).is_err());
    let said = said(&transmit(&mut mux, now));
    let [(Kind::Hello, 0, _), (Kind::Goaway, 0, code)] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!(*code, GoawayCode::Version.number());
}

#[test]
fn frames_that_we_send_carry_no_more_than_their_kind_allows() {
    let mut out = BytesMut::new();
    put_header(&mut out, Kind::Data, FIN, 3, 9);
    assert_eq!(&out[..], [0x12, 0x10, 0, 3, 0, 0, 0, 9]);
}
