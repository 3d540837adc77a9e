//! Neighbours of one minor version: one end knows fields, features and frames that the other does not.
//! Agents and relays, and relays among each other, are told apart by nothing else than their greetings:
//! what holds for one pair holds for both.

use super::hostile::{frame, head, said};
use super::*;
use crate::control::Control;
use crate::controls::{decode_control, encode_control};
use crate::frame::{FIN, SKIPPABLE};
use crate::heads::encode_call;
use crate::wire::{put_field, put_length};

/// A tag that no field has, of those that may be skipped and of those that may not.
const LATER: u8 = SKIPPABLE | 0x6e;
const LATER_OF_HELLO: u8 = 0x6e;

/// What the first version of all greets with: not one field that is optional.
fn older_greeting() -> Vec<u8> {
    let mut payload = BytesMut::new();
    put_field(&mut payload, 0x01, &[0, 1, 0, 1]);
    put_field(&mut payload, 0x03, b"older");
    put_field(&mut payload, 0x04, &[9; 16]);
    put_field(&mut payload, 0x06, &100u32.to_be_bytes());
    put_field(&mut payload, 0x07, &(256 * 1024u32).to_be_bytes());
    frame(Kind::Hello, 0, 0, &payload)
}

/// What a later one greets with: more versions, every feature, fields that nobody knows yet.
fn newer_greeting() -> Vec<u8> {
    let mut payload = BytesMut::new();
    put_field(&mut payload, 0x01, &[0, 1, 0, 2]);
    put_field(&mut payload, 0x02, &u64::MAX.to_be_bytes());
    put_field(&mut payload, 0x03, b"newer");
    put_field(&mut payload, 0x04, &[9; 16]);
    put_field(&mut payload, 0x05, b"culvert/9.9");
    put_field(&mut payload, 0x06, &100u32.to_be_bytes());
    put_field(&mut payload, 0x07, &(256 * 1024u32).to_be_bytes());
    put_field(&mut payload, LATER_OF_HELLO, b"known later");
    put_field(&mut payload, LATER, &[7; 100]);
    frame(Kind::Hello, 0, 0, &payload)
}

/// An OPEN of a later version: a field more in the head.
fn newer_open(id: u32, body: &[u8]) -> Vec<u8> {
    let mut head = BytesMut::new();
    encode_call(&call_head(), &mut head).unwrap();
    put_field(&mut head, LATER, b"known later");
    let mut payload = BytesMut::new();
    put_length(&mut payload, head.len());
    payload.extend_from_slice(&head);
    payload.extend_from_slice(body);
    frame(Kind::Open, FIN, id, &payload)
}

/// A frame that nobody knows yet.
fn later_frame() -> Vec<u8> {
    vec![SKIPPABLE | 0x55, 0xf0, 0, 3, 0, 0, 0, 77, 1, 2, 3]
}

/// One end that was greeted like this, from either side.
fn greeted_with(side: Side, greeting: Vec<u8>) -> Mux {
    let now = start();
    let mut mux = Mux::new(config(side), now);
    mux.handle_message(greeting.into(), now).unwrap();
    transmit(&mut mux, now);
    mux
}

/// Whether a call that this end opens is answered by the peer.
fn a_call_out_is_answered(mut mux: Mux) {
    let now = start();
    let id = mux
        .open(&call_head(), Bytes::from_static(b"body"), true)
        .unwrap();
    let sent = transmit(&mut mux, now);
    let opened = |(kind, stream, _): &(Kind, u32, u32)| (*kind, *stream) == (Kind::Open, id.0);
    assert!(said(&sent).iter().any(opened));
    let message = [
        head(id.0, &answer()),
        later_frame(),
        frame(Kind::Data, FIN, id.0, b"answer"),
    ];
    mux.handle_message(message.concat().into(), now).unwrap();
    let mut read = Vec::new();
    while let Ok(Some(item)) = mux.read(id, now) {
        let last = matches!(item, Item::Finished);
        read.push(item);
        if last {
            break;
        }
    }
    assert_eq!(pair::bytes_of(&read), b"answer");
}

#[test]
fn an_older_neighbour_is_served_without_what_it_does_not_know() {
    for side in [Side::Dialer, Side::Acceptor] {
        let mux = greeted_with(side, older_greeting());
        assert_eq!(mux.features(), 0);
        let peer = mux.peer().unwrap();
        assert_eq!(
            (&*peer.name, &*peer.software, peer.lane),
            ("older", "", None)
        );
        a_call_out_is_answered(mux);
    }
}

#[test]
fn a_newer_neighbour_is_served_and_what_only_it_knows_is_passed_over() {
    for side in [Side::Dialer, Side::Acceptor] {
        let mut mux = greeted_with(side, newer_greeting());
        assert_eq!(mux.features() & !FEATURES, 0, "no more than both know");
        a_call_out_is_answered(greeted_with(side, newer_greeting()));

        let now = start();
        let theirs = match side {
            Side::Dialer => 2,
            Side::Acceptor => 1,
        };
        let message = [later_frame(), newer_open(theirs, b"body"), later_frame()];
        mux.handle_message(message.concat().into(), now).unwrap();
        let (id, call) = mux.accept().unwrap();
        assert_eq!((id, call.target), (StreamId(theirs), call_head().target));
    }
}

/// Registration too: an entry with a field more is an entry.
#[test]
fn fields_that_are_known_later_do_not_spoil_a_control_message() {
    let controls = [
        Control::Register {
            request: 1,
            offers: Vec::new(),
        },
        Control::Registered {
            request: 1,
            results: Vec::new(),
        },
        Control::Auth {
            token: "token".into(),
        },
        Control::Notice {
            code: None,
            text: "text".into(),
        },
    ];
    for control in controls {
        let mut payload = BytesMut::new();
        let kind = encode_control(&control, &mut payload).unwrap();
        put_field(&mut payload, LATER, b"known later");
        assert_eq!(decode_control(kind, payload.freeze()), Ok(control));
    }
}
