//! One spelling: what can be read is written again as the same bytes.
//!
//! The exceptions are those of `docs/protocol.md`: fields that a receiver passes over, names of
//! headers in letters although they have a number (an older peer does not know it), headers of one
//! name that others stand between, and codes of later versions. [`plain_spelling`] irons these
//! out of the input, independently of the decoders.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::code::ErrorCode;
use crate::control::Control;
use crate::controls::{
    decode_control, decode_goaway, decode_hello, encode_control, encode_goaway, encode_hello,
};
use crate::frame::Kind;
use crate::heads::{decode_call, decode_head, encode_call, encode_head};
use crate::name_table::number_of;
use crate::priority::Priority;
use crate::wire::{Fields, put_field, put_length, take_bytes, take_length};

/// The tag of headers, in every head.
const HEADERS: u8 = 0x11;

/// The tags of a caller's token and of its proof.
const TOKENS: [u8; 2] = [0x81, 0x82];

/// The tag of an offer's priority.
const PRIORITY: u8 = 0x81;

/// Tags from here on are passed over by receivers that do not know them.
const SKIPPED: u8 = 0x80;

pub(super) fn one_spelling_of_head(call: bool, data: Bytes) {
    let mut again = BytesMut::new();
    let expected = if call {
        let Ok(head) = decode_call(data.clone()) else {
            return;
        };
        encode_call(&head, &mut again).expect("what was read can be written");
        plain_spelling(data, put_call_field)
    } else {
        let Ok(head) = decode_head(data.clone()) else {
            return;
        };
        encode_head(&head, &mut again).expect("what was read can be written");
        let mut expected = BytesMut::from(&data[..1]);
        expected.put(plain_spelling(data.slice(1..), put_head_field));
        expected
    };
    assert_eq!(again, expected);
}

pub(super) fn one_spelling_of_control(kind: Kind, data: Bytes) {
    let mut again = BytesMut::new();
    let expected = match kind {
        Kind::Goaway => {
            let Ok(goaway) = decode_goaway(data.clone()) else {
                return;
            };
            encode_goaway(&goaway, &mut again);
            BytesMut::from(data)
        }
        Kind::Hello => {
            // Unknown fields may stand anywhere, and two may be absent: it comes back as it was.
            let Ok(hello) = decode_hello(data) else {
                return;
            };
            encode_hello(&hello, &mut again);
            assert_eq!(decode_hello(again.freeze()), Ok(hello));
            return;
        }
        _ => {
            let Ok(control) = decode_control(kind, data.clone()) else {
                return;
            };
            if matches!(&control, Control::Registered { results, .. } if results.len() > 32) {
                // Reasons share the room that there is: they may come back shorter.
                return;
            }
            match encode_control(&control, &mut again) {
                Ok(again) => assert_eq!(again, kind),
                // Larger than a control message is, which the multiplexer looks at first.
                Err(_) => return assert!(data.len() > crate::limits::MAX_CONTROL),
            }
            plain_spelling(data, |out, tag, value| match (kind, tag) {
                (Kind::Register, 0x02) => {
                    put_field(out, tag, &plain_spelling(value, put_offer_field));
                }
                (Kind::Registered, 0x02) => {
                    put_field(out, tag, &plain_spelling(value, put_field_as));
                }
                (Kind::Notice, 0x01) if unknown_code(&value) => {}
                _ => put_field_as(out, tag, value),
            })
        }
    };
    assert_eq!(again, expected);
}

fn unknown_code(value: &[u8]) -> bool {
    let number = value.try_into().map(u16::from_be_bytes);
    number.is_ok_and(|number| ErrorCode::from_number(number).is_none())
}

/// The fields of a payload, each as `put` spells it, if at all.
fn plain_spelling(data: Bytes, mut put: impl FnMut(&mut BytesMut, u8, Bytes)) -> BytesMut {
    let mut out = BytesMut::new();
    let mut last = 0;
    // Order was checked by the decoder, which knows what may repeat itself.
    let mut rest = data;
    while !rest.is_empty() {
        let mut one = Fields::new(rest.clone());
        let (tag, value) = one.take().expect("it was read").expect("it is not empty");
        assert!(tag >= last, "tags rise");
        last = tag;
        rest.advance(1);
        let length = take_length(&mut rest).expect("it was read");
        rest.advance(length);
        put(&mut out, tag, value);
    }
    out
}

fn put_field_as(out: &mut BytesMut, tag: u8, value: Bytes) {
    if tag < SKIPPED {
        put_field(out, tag, &value);
    }
}

fn put_offer_field(out: &mut BytesMut, tag: u8, value: Bytes) {
    let known = tag == PRIORITY && Priority::from_number(value[0]).is_some();
    if known || tag < SKIPPED {
        put_field(out, tag, &value);
    }
}

fn put_call_field(out: &mut BytesMut, tag: u8, value: Bytes) {
    if TOKENS.contains(&tag) {
        put_field(out, tag, &value);
    } else {
        put_head_field(out, tag, value);
    }
}

fn put_head_field(out: &mut BytesMut, tag: u8, value: Bytes) {
    if tag == HEADERS {
        put_field(out, tag, &plain_headers(value));
    } else {
        put_field_as(out, tag, value);
    }
}

/// Headers with numbers where there are any, those of one name together.
fn plain_headers(mut from: Bytes) -> BytesMut {
    /// One name: its number, or 0 and its letters; and its values, each with its secret bit.
    type Name = (u8, Bytes, Vec<(u8, Bytes)>);
    let mut names: Vec<Name> = Vec::new();
    while !from.is_empty() {
        let first = from.get_u8();
        let (mut number, mut letters) = (first & 0x7f, Bytes::new());
        if number == 0 {
            letters = text(&mut from);
            let name = http::HeaderName::from_lowercase(&letters).expect("it was read");
            if let Some(known) = number_of(&name) {
                (number, letters) = (known, Bytes::new());
            }
        }
        let value = (first & 0x80, text(&mut from));
        let known = names
            .iter_mut()
            .find(|(n, l, _)| *n == number && *l == letters);
        match known {
            Some((.., values)) => values.push(value),
            None => names.push((number, letters, vec![value])),
        }
    }
    let mut out = BytesMut::new();
    for (number, letters, values) in names {
        for (secret, value) in values {
            out.put_u8(number | secret);
            if number == 0 {
                put_length(&mut out, letters.len());
                out.put_slice(&letters);
            }
            put_length(&mut out, value.len());
            out.put_slice(&value);
        }
    }
    out
}

fn text(from: &mut Bytes) -> Bytes {
    let length = take_length(from).expect("it was read");
    take_bytes(from, length).expect("it was read")
}
