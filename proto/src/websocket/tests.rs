//! Framing by the bytes of RFC 6455, by table, and by property.

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 100_000;

fn decode(peer: Side, bytes: &[u8]) -> Result<Vec<Received>, Violation> {
    let mut decoder = Decoder::new(peer, LIMIT);
    let mut input = BytesMut::from(bytes);
    let mut all = Vec::new();
    while let Some(received) = decoder.decode(&mut input)? {
        all.push(received);
    }
    Ok(all)
}

fn message(bytes: &'static [u8]) -> Received {
    Received::Message(Bytes::from_static(bytes))
}

/// A frame as `seal` makes it.
fn sealed(opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) -> BytesMut {
    let mut frame = BytesMut::new();
    leave_room(&mut frame);
    frame.extend_from_slice(payload);
    seal(&mut frame, opcode, key);
    frame
}

#[test]
fn the_examples_of_the_rfc_are_understood() {
    // RFC 6455, 5.7, with the opcode for binary where it has the one for text.
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let hello = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let frame = |first: u8| [&[first, 0x85][..], &key, &hello].concat();
    assert_eq!(
        decode(Side::Acceptor, b"\x82\x05Hello"),
        Ok(vec![message(b"Hello")])
    );
    assert_eq!(
        decode(Side::Dialer, &frame(0x82)),
        Ok(vec![message(b"Hello")])
    );
    assert_eq!(
        decode(Side::Acceptor, b"\x02\x03Hel\x80\x02lo"),
        Ok(vec![message(b"Hello")])
    );
    assert_eq!(
        decode(Side::Acceptor, b"\x89\x05Hello"),
        Ok(vec![Received::Ping(Bytes::from_static(b"Hello"))])
    );
    assert_eq!(decode(Side::Dialer, &frame(0x8a)), Ok(vec![Received::Pong]));
    let long = [&b"\x82\x7e\x01\x00"[..], &[7; 256]].concat();
    assert_eq!(decode(Side::Acceptor, &long), Ok(vec![message(&[7; 256])]));
    let longer = [&b"\x82\x7f\0\0\0\0\0\x01\0\0"[..], &[7; 65_536]].concat();
    assert_eq!(
        decode(Side::Acceptor, &longer),
        Ok(vec![message(&[7; 65_536])])
    );
}

#[test]
fn frames_are_made_with_the_shortest_header() {
    for (length, header) in [
        (0, &b"\x82\x00"[..]),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65_535, b"\x82\x7e\xff\xff"),
        (65_536, b"\x82\x7f\0\0\0\0\0\x01\0\0"),
    ] {
        let payload = vec![9; length];
        let frame = sealed(Opcode::Binary, &payload, None);
        assert_eq!(frame, [header, &payload].concat(), "{length}");
    }
    assert_eq!(
        sealed(Opcode::Ping, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d])),
        &b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"[..]
    );
    assert_eq!(sealed(Opcode::Close, &[], None), &b"\x88\x00"[..]);
    assert_eq!(sealed(Opcode::Pong, b"x", None), &b"\x8a\x01x"[..]);
}

#[test]
fn control_frames_may_come_between_fragments() {
    assert_eq!(
        decode(
            Side::Acceptor,
            b"\x02\x01a\x89\x00\x00\x01b\x8a\x00\x80\x00"
        ),
        Ok(vec![
            Received::Ping(Bytes::new()),
            Received::Pong,
            message(b"ab")
        ])
    );
}

#[test]
fn what_breaks_a_rule_is_named() {
    let limit = LIMIT as u64;
    let cases: &[(Side, &[u8], Violation)] = &[
        (Side::Acceptor, b"\xc2\x00", Violation::Reserved),
        (Side::Acceptor, b"\xa2\x00", Violation::Reserved),
        (Side::Acceptor, b"\x92\x00", Violation::Reserved),
        (Side::Acceptor, b"\x81\x00", Violation::Text),
        (Side::Acceptor, b"\x83\x00", Violation::Opcode(3)),
        (Side::Acceptor, b"\x8b\x00", Violation::Opcode(11)),
        (Side::Acceptor, b"\x82\x80", Violation::Mask),
        (Side::Dialer, b"\x82\x00", Violation::Mask),
        (Side::Acceptor, b"\x09\x00", Violation::Control),
        (Side::Acceptor, b"\x89\x7e", Violation::Control),
        (Side::Acceptor, b"\x88\x7f", Violation::Control),
        (Side::Acceptor, b"\x88\x01x", Violation::Close),
        (Side::Acceptor, b"\x82\x7e\x00\x7d", Violation::Length),
        (
            Side::Acceptor,
            b"\x82\x7f\0\0\0\0\0\0\xff\xff",
            Violation::Length,
        ),
        (
            Side::Acceptor,
            b"\x82\x7f\x80\0\0\0\0\x01\0\0",
            Violation::Length,
        ),
        (
            Side::Acceptor,
            b"\x82\x7f\0\0\0\0\0\x01\x86\xa1",
            Violation::TooLong(limit + 1),
        ),
        (
            Side::Acceptor,
            b"\x02\x01a\x00\x7f\0\0\0\0\0\x01\x86\xa0",
            Violation::TooLong(limit + 1),
        ),
        (
            Side::Acceptor,
            b"\x02\x00\x80\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
            Violation::TooLong(u64::MAX >> 1),
        ),
        (Side::Acceptor, b"\x80\x00", Violation::Order),
        (Side::Acceptor, b"\x02\x00\x02\x00", Violation::Order),
        (Side::Acceptor, b"\x02\x00\x82\x00", Violation::Order),
    ];
    for (peer, bytes, violation) in cases {
        assert_eq!(decode(*peer, bytes), Err(*violation), "{bytes:x?}");
    }
}

#[test]
fn a_message_has_a_bounded_number_of_fragments() {
    let crumbs = |count: usize| {
        let mut bytes = b"\x02\x00".to_vec();
        bytes.extend(b"\x00\x00".repeat(count - 2));
        bytes.extend(b"\x80\x00");
        decode(Side::Acceptor, &bytes)
    };
    let most = MAX_FRAGMENTS as usize;
    assert_eq!(crumbs(most), Ok(vec![message(b"")]));
    assert_eq!(crumbs(most + 1), Err(Violation::Fragments));
}

#[test]
fn the_decoder_says_what_it_lacks_and_takes_nothing_it_does_not_need() {
    let mut decoder = Decoder::new(Side::Acceptor, LIMIT);
    let mut input = BytesMut::from(&b"\x82"[..]);
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert_eq!(decoder.missing(&input), None);
    input.extend_from_slice(b"\x05He");
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert_eq!(decoder.missing(&input), Some(3));
    input.extend_from_slice(b"llo\x89");
    assert_eq!(decoder.decode(&mut input), Ok(Some(message(b"Hello"))));
    assert_eq!(input, &b"\x89"[..]);
}

proptest! {
    #[test]
    fn what_is_sealed_is_decoded_however_it_is_cut(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 1..6),
        key in any::<Option<[u8; 4]>>(),
        cuts in prop::collection::vec(1..700usize, 1..40),
    ) {
        let mut line = BytesMut::new();
        for payload in &payloads {
            line.extend_from_slice(&sealed(Opcode::Binary, payload, key));
        }
        let peer = if key.is_some() { Side::Dialer } else { Side::Acceptor };
        let mut decoder = Decoder::new(peer, LIMIT);
        let (mut input, mut got) = (BytesMut::new(), Vec::new());
        let mut cuts = cuts.iter().cycle();
        while !line.is_empty() {
            let cut = cuts.next().map_or(1, |cut| *cut).min(line.len());
            input.extend_from_slice(&line.split_to(cut));
            while let Some(received) = decoder.decode(&mut input).unwrap() {
                got.push(received);
            }
        }
        let sent: Vec<_> =
            payloads.into_iter().map(|payload| Received::Message(payload.into())).collect();
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn masking_is_that_of_the_rfc_and_undoes_itself(
        payload in prop::collection::vec(any::<u8>(), 0..100),
        key in any::<[u8; 4]>(),
    ) {
        let mut masked = payload.clone();
        mask(&mut masked, key);
        for (at, byte) in payload.iter().enumerate() {
            prop_assert_eq!(masked[at], byte ^ key[at % 4]);
        }
        mask(&mut masked, key);
        prop_assert_eq!(masked, payload);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_hold_more_than_the_limit(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        dialer in any::<bool>(),
    ) {
        let peer = if dialer { Side::Dialer } else { Side::Acceptor };
        let mut decoder = Decoder::new(peer, 1000);
        let mut input = BytesMut::from(&bytes[..]);
        while let Ok(Some(received)) = decoder.decode(&mut input) {
            if let Received::Message(message) = received {
                prop_assert!(message.len() <= 1000);
            }
        }
        let held = decoder.fragments.as_ref().map_or(0, |fragments| fragments.bytes.len());
        prop_assert!(held <= 1000);
    }
}
