//! What must hold for any bytes, one function for each fuzz target. They panic if it does not.
//!
//! The tests of this crate call them with random bytes, and with [`seeds`] and damaged copies of
//! these; the targets in `fuzz/` with what a fuzzer thinks of.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::pair::Pair;
use super::spelling::{one_spelling_of_control, one_spelling_of_head};
use super::step::{Setup, Step};
use super::world::World;
use super::{answer, call_head, config, greeted, start, transmit};
use crate::code::{GoawayCode, ResetCode};
use crate::control::{Control, Offer, Registration};
use crate::controls::{decode_goaway, decode_hello, encode_control};
use crate::frame::{self, FIN, Frame, Kind, put_frame};
use crate::head::{Head, Mode};
use crate::heads::{decode_call, decode_head, encode_call, encode_head};
use crate::limits::FRAME;
use crate::mux::{Item, Mux, SessionError, Side};
use crate::websocket::{Decoder, Opcode, Received, leave_room, seal};

/// Steps of one conversation: enough for anything that a few streams can do to each other.
const MAX_STEPS: usize = 500;

/// A peer that sends anything, in any cut: the session ends with a reason or goes on, stays within
/// its bounds, and whatever it says itself is well formed.
///
/// First byte: bit 0: both sides have greeted already; bit 1: we take and answer calls. Then
/// messages, each behind its length (two bytes) and the milliseconds before it (one).
pub fn frames(data: &[u8]) {
    let mut data = Bytes::copy_from_slice(data);
    if data.is_empty() {
        return;
    }
    let first = data.get_u8();
    let mut now = start();
    let mut mux = Mux::new(config(Side::Acceptor), now);
    let mut said = Said::default();
    if first & 1 != 0 {
        mux = greeted(Side::Acceptor, now);
        said.greeted = true;
        let body = Bytes::from_static(b"body");
        mux.open(&call_head(), body, false)
            .expect("a new session takes calls");
        let notice = Control::Notice {
            code: None,
            text: "hello".into(),
        };
        mux.send_control(&notice).expect("there is room for one");
    }
    while data.len() > 3 {
        let length = usize::from(data.get_u16());
        now += Duration::from_millis(data.get_u8().into());
        let message = data.split_to(length.min(data.len()));
        feed(&mut mux, message, first & 2 != 0, now, &mut said);
    }
}

/// What a session has said so far.
#[derive(Debug, Default)]
pub(in crate::mux) struct Said {
    pub(in crate::mux) greeted: bool,
    pub(in crate::mux) farewell: bool,
}

/// Hands over one message, acts on it as a driver and its users do, and looks at what comes out.
pub(in crate::mux) fn feed(
    mux: &mut Mux,
    message: Bytes,
    serve: bool,
    now: Instant,
    said: &mut Said,
) {
    let before = mux.ended.clone();
    let result = mux.handle_message(message, now);
    if let Some(before) = before {
        assert_eq!(result, Err(before), "an error is final");
    } else if mux.poll_timeout().is_some_and(|at| at <= now) {
        let _ = mux.handle_timeout(now);
    }
    let stats = mux.stats();
    assert!(stats.buffered as u64 <= stats.granted);
    assert!(stats.streams <= 2 * 1000 && mux.news.controls.len() <= mux.limits.control_queue);
    while let Some((id, _)) = mux.accept() {
        if serve {
            let _ = mux.send_head(id, &answer());
            let _ = mux.write(id, &mut Bytes::from_static(b"here you are"));
            let _ = mux.finish(id);
        }
        while let Ok(Some(item)) = mux.read(id, now) {
            if matches!(item, Item::Finished) {
                mux.release_recv(id);
                break;
            }
        }
    }
    while mux.poll_event().is_some() {}
    let mut batch = transmit(mux, now);
    while let Some(frame) = frame::next(&mut batch).expect("we send frames") {
        well_formed(frame, said);
    }
    if let Some(error) = &mux.ended {
        assert!(mux.is_closed(), "one farewell, and nothing more");
        let farewell = !matches!(error, SessionError::Closed { .. });
        assert_eq!(
            said.farewell, farewell,
            "a peer that ends it needs no farewell"
        );
    }
}

/// Whether a frame is one that a peer of ours may get.
fn well_formed(frame: Frame, said: &mut Said) {
    assert!(!said.farewell, "nothing follows a farewell");
    assert_eq!(
        frame.kind == Kind::Hello,
        !said.greeted,
        "HELLO comes first"
    );
    let payload = frame.payload;
    match frame.kind {
        Kind::Hello => {
            decode_hello(payload).expect("our greeting");
            said.greeted = true;
        }
        Kind::Goaway => {
            decode_goaway(payload).expect("our farewell");
            said.farewell = frame.flags != 0;
        }
        Kind::Open => {
            let mut payload = payload;
            let length = crate::wire::take_length(&mut payload).expect("a length");
            decode_call(payload.split_to(length)).expect("our call head");
        }
        Kind::Head => {
            decode_head(payload).expect("our head");
        }
        Kind::Data => assert!(!payload.is_empty() || frame.flags & FIN != 0),
        Kind::Finish => assert!(payload.is_empty()),
        Kind::Ping | Kind::Pong => assert_eq!(payload.len(), 8),
        Kind::Reset | Kind::Stop => assert_eq!(payload.len(), 4),
        Kind::Window => assert!(payload.len() == 4 && *payload != [0; 4]),
        kind @ (Kind::Register | Kind::Registered | Kind::Auth | Kind::Notice) => {
            crate::controls::decode_control(kind, payload).expect("our control message");
        }
    }
}

/// A call head (first byte even) or a head of an answer (odd): what can be read is written again
/// as the same bytes, as far as they have one spelling.
pub fn heads(data: &[u8]) {
    if let Some((first, rest)) = data.split_first() {
        one_spelling_of_head(first % 2 == 0, Bytes::copy_from_slice(rest));
    }
}

/// A control message of the kind that the first byte picks: as for [`heads`].
pub fn controls(data: &[u8]) {
    if let Some((first, rest)) = data.split_first() {
        let kind = CONTROLS[usize::from(*first) % CONTROLS.len()];
        one_spelling_of_control(kind, Bytes::copy_from_slice(rest));
    }
}

const CONTROLS: [Kind; 6] = [
    Kind::Hello,
    Kind::Goaway,
    Kind::Register,
    Kind::Registered,
    Kind::Auth,
    Kind::Notice,
];

/// A conversation of two real ends beside the model: the first bytes say on what terms, each five
/// more are a step.
pub fn operations(data: &[u8]) {
    let Some((setup, steps)) = data.split_first_chunk() else {
        return;
    };
    let mut world = World::new(Setup::of(*setup));
    let (steps, _) = steps.as_chunks();
    for step in steps.iter().take(MAX_STEPS) {
        world.step(&Step::from_bytes(*step));
        if world.is_over() {
            break;
        }
    }
    world.end();
}

/// Bytes on a connection, in one piece and in pieces of so many bytes as the second says: the
/// same comes out, no message is over the limit, and a message that we frame comes back.
///
/// First byte: bit 0: the peer masks; the rest: bytes of a piece.
pub fn websocket(data: &[u8]) {
    const LIMIT: usize = 2000;
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let peer = if first & 1 != 0 {
        Side::Dialer
    } else {
        Side::Acceptor
    };
    let take = |piece: usize| {
        let (mut decoder, mut input) = (Decoder::new(peer, LIMIT), BytesMut::new());
        let mut all = Vec::new();
        for piece in data.chunks(piece) {
            input.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut input) {
                    Ok(Some(received)) => all.push(received),
                    Ok(None) => break,
                    Err(violation) => return (all, Some(violation)),
                }
            }
        }
        (all, None)
    };
    let whole = take(data.len().max(1));
    assert_eq!(whole, take(usize::from(first >> 1) + 1));
    for received in whole.0 {
        let Received::Message(message) = received else {
            continue;
        };
        assert!(message.len() <= LIMIT);
        let mut frame = BytesMut::new();
        leave_room(&mut frame);
        frame.extend_from_slice(&message);
        let key = (peer == Side::Dialer).then_some([1, 2, 3, *first]);
        seal(&mut frame, Opcode::Binary, key);
        let again = Decoder::new(peer, LIMIT).decode(&mut frame);
        assert_eq!(again, Ok(Some(Received::Message(message))));
        assert!(frame.is_empty());
    }
}

/// Inputs to begin with: the target, a name, the bytes.
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for first in 0..4 {
        let mut input = vec![first];
        for message in conversation(first & 1 == 0) {
            input.extend((message.len() as u16).to_be_bytes());
            input.push(1);
            input.extend(&message);
        }
        seeds.push(("frames", format!("conversation-{first}"), input));
    }
    for (first, name, bytes) in [
        (2, "message", &b"\x82\x05Hello\x8a\x00\x88\x02\x03\xe8"[..]),
        (4, "fragments", b"\x02\x03Hel\x89\x01x\x80\x02lo"),
        (7, "masked", b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"),
        (8, "long", b"\x82\x7e\x01\x00"),
    ] {
        let mut input = vec![first];
        input.extend(bytes);
        seeds.push(("websocket", name.into(), input));
    }
    let mut head = |first: u8, name: &str, put: &dyn Fn(&mut BytesMut)| {
        let mut input = BytesMut::from(&[first][..]);
        put(&mut input);
        seeds.push(("heads", name.into(), input.to_vec()));
    };
    head(0, "call", &|out| {
        encode_call(&call_head(), out).expect("our call head");
    });
    let refusal = Head::Refusal(crate::head::Refusal {
        code: crate::code::ErrorCode::PolicyDenied,
        detail: "no".into(),
        rule: Some("rule-7".into()),
        soap: true,
    });
    let trailers = Head::Trailers(call_head().headers);
    for (name, it) in [
        ("answer", answer()),
        ("refusal", refusal),
        ("trailers", trailers),
    ] {
        head(1, name, &|out| encode_head(&it, out).expect("our head"));
    }
    for (first, kind) in CONTROLS.into_iter().enumerate() {
        let mut input = BytesMut::from(&[first as u8][..]);
        put_control(kind, &mut input);
        seeds.push(("controls", kind.as_str().to_lowercase(), input.to_vec()));
    }
    for number in 0..16u32 {
        let length = Setup::BYTES + Step::BYTES * 60;
        let byte = |at: usize| ((at as u32 + 1).wrapping_mul(number * 2 + 0x9e37_79b1) >> 13) as u8;
        let input = (0..length).map(byte).collect();
        seeds.push(("operations", format!("walk-{number}"), input));
    }
    seeds
}

fn put_control(kind: Kind, out: &mut BytesMut) {
    let control = match kind {
        Kind::Hello => return crate::controls::encode_hello(&super::hello("peer"), out),
        Kind::Goaway => {
            let goaway = crate::controls::Goaway {
                code: GoawayCode::Drain,
                last: 9,
                retry_after: 1000,
                reason: "bye".into(),
            };
            return crate::controls::encode_goaway(&goaway, out);
        }
        Kind::Register => Control::Register {
            request: 7,
            offers: vec![Offer {
                endpoint: "vcenter".parse().expect("a name"),
                modes: vec![Mode::Http, Mode::Tcp],
                connect: vec!["vc.local:443".into()],
                priority: Some(crate::priority::Priority::Bulk),
            }],
        },
        Kind::Registered => Control::Registered {
            request: 7,
            results: vec![Registration {
                endpoint: "vcenter".parse().expect("a name"),
                refused: Some("no".into()),
            }],
        },
        Kind::Auth => Control::Auth {
            token: "a.b.c".into(),
        },
        _ => Control::Notice {
            code: Some(crate::code::ErrorCode::Overloaded),
            text: "hm".into(),
        },
    };
    encode_control(&control, out).expect("our control message");
}

/// Everything that a dialer says in a short conversation, a message each.
fn conversation(greeting: bool) -> Vec<Bytes> {
    let mut pair = Pair::with(config(Side::Dialer), config(Side::Acceptor), Duration::ZERO);
    let now = pair.now;
    let mut all = Vec::new();
    if greeting {
        all.push(transmit(&mut Mux::new(config(Side::Dialer), now), now));
    }
    let dialer = &mut pair.dialer;
    let notice = Control::Notice {
        code: None,
        text: "hello".into(),
    };
    dialer.send_control(&notice).expect("there is room");
    let body = Bytes::from(vec![7; 3 * FRAME]);
    let open = |dialer: &mut Mux, body, end| {
        dialer
            .open(&call_head(), body, end)
            .expect("a new session takes calls")
    };
    let id = open(dialer, body, true);
    dialer.stop(id, ResetCode::NotNeeded);
    let gone = open(dialer, Bytes::new(), false);
    all.push(transmit(dialer, now));
    dialer.reset(gone, ResetCode::Cancelled);
    dialer.drain(Duration::from_secs(1));
    all.push(transmit(dialer, now));
    dialer.close(GoawayCode::Drain, "good night");
    all.push(transmit(dialer, now));
    // What a fuzzer can cut out and put elsewhere.
    let mut loose = BytesMut::new();
    put_frame(&mut loose, Kind::Window, 0, 2, &[0, 0, 1, 0]);
    put_frame(&mut loose, Kind::Ping, 0, 0, &[0; 8]);
    put_frame(&mut loose, Kind::Stop, 0, 2, &[0, 0, 0, 8]);
    all.insert(all.len() - 1, loose.freeze());
    all
}
