//! Frames: round trip, exact length, bytes, damage.

use super::*;
use crate::code::{ErrorCode, GoawayCode, ResetCode};

fn one(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    put_frame(&mut out, kind, flags, stream, payload);
    out.freeze()
}

#[test]
fn every_kind_comes_back_as_it_was_put() {
    for kind in Kind::ALL {
        let stream = if kind.is_stream() { 0x0102_0304 } else { 0 };
        for flags in [0, kind.flags()] {
            let mut message = one(*kind, flags, stream, b"payload");
            assert_eq!(message.len(), HEADER + 7);
            let frame = next(&mut message).unwrap().unwrap();
            let payload = Bytes::from_static(b"payload");
            assert_eq!(
                frame,
                Frame {
                    kind: *kind,
                    flags,
                    stream,
                    payload
                }
            );
            assert_eq!(next(&mut message), Ok(None));
        }
    }
}

#[test]
fn a_header_has_these_bytes() {
    let data = one(Kind::Data, FIN, 0x0a0b_0c0d, &[0xee; 3]);
    assert_eq!(
        &data[..],
        [
            0x12, 0x10, 0x00, 0x03, 0x0a, 0x0b, 0x0c, 0x0d, 0xee, 0xee, 0xee
        ]
    );
    let ping = one(Kind::Ping, 0, 0, &7u64.to_be_bytes());
    assert_eq!(&ping[..], [2, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    let mut largest = BytesMut::new();
    put_header(&mut largest, Kind::Open, FIN, MAX_PAYLOAD, u32::MAX);
    assert_eq!(
        &largest[..],
        [0x10, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
    );
}

#[test]
fn numbers_of_kinds_never_change() {
    let numbers: Vec<u8> = Kind::ALL.iter().map(|kind| *kind as u8).collect();
    let known = [
        1, 2, 3, 4, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x20, 0x21, 0x22, 0x23,
    ];
    assert_eq!(numbers, known);
    for number in 0..=255 {
        let kind = Kind::from_number(number);
        assert_eq!(kind.is_some(), known.contains(&number));
        assert!(kind.is_none_or(|kind| kind as u8 == number && number & SKIPPABLE == 0));
    }
}

#[test]
fn the_documentation_has_every_kind() {
    let documentation = include_str!("../../../docs/protocol.md");
    for kind in Kind::ALL {
        let stream = if kind.is_stream() { "id" } else { "0" };
        let row = format!("| {:#04x} | {kind} | {stream} |", *kind as u8);
        assert!(documentation.contains(&row), "{row}");
    }
}

#[test]
fn the_documentation_has_every_code() {
    let documentation = include_str!("../../../docs/protocol.md");
    let has = |entry: String| assert!(documentation.contains(&entry), "{entry}");
    for code in ErrorCode::ALL {
        has(format!("{} `{code}`", code.number()));
    }
    let resets = (1..).map(ResetCode::from_number);
    for code in resets.take_while(|code| !matches!(code, ResetCode::Unknown(_))) {
        has(format!("| {} | `{code}`", code.number()));
    }
    let goaways = (1..).map(GoawayCode::from_number);
    for code in goaways.take_while(|code| !matches!(code, GoawayCode::Unknown(_))) {
        has(format!("| {} | `{code}`", code.number()));
    }
}

#[test]
fn frames_follow_each_other_without_a_gap() {
    let message = [
        one(Kind::Data, 0, 1, b"a"),
        one(Kind::Finish, 0, 1, b""),
        one(Kind::Data, 0, 3, b"b"),
    ]
    .concat();
    let mut message = Bytes::from(message);
    let kinds: Vec<(Kind, u32)> = std::iter::from_fn(|| next(&mut message).unwrap())
        .map(|frame| (frame.kind, frame.stream))
        .collect();
    assert_eq!(kinds, [(Kind::Data, 1), (Kind::Finish, 1), (Kind::Data, 3)]);
}

#[test]
fn a_frame_that_is_cut_anywhere_is_noticed() {
    let whole = one(Kind::Data, 0, 1, b"payload");
    for length in 1..whole.len() {
        assert_eq!(
            next(&mut whole.slice(..length)),
            Err(Violation::CutShort),
            "{length}"
        );
    }
}

#[test]
fn unknown_frames_are_skipped_only_if_they_say_so() {
    let unknown = |number: u8| Bytes::from(vec![number, 0xf0, 0, 2, 9, 9, 9, 9, 1, 2]);
    assert_eq!(next(&mut unknown(0x7e)), Err(Violation::UnknownFrame(0x7e)));
    assert_eq!(next(&mut unknown(0xfe)), Ok(None));
    let mut both = Bytes::from([unknown(0xfe), one(Kind::Finish, 0, 1, b"")].concat());
    assert_eq!(next(&mut both).unwrap().unwrap().kind, Kind::Finish);
}

#[test]
fn flags_and_stream_ids_are_where_they_belong() {
    let header = |kind: Kind, flags: u8, stream: u32| {
        let mut bytes = vec![kind as u8, flags << 4, 0, 0];
        bytes.extend(stream.to_be_bytes());
        next(&mut Bytes::from(bytes)).map(|_| ())
    };
    for kind in Kind::ALL {
        let right = u32::from(kind.is_stream());
        for flags in 0..16 {
            let allowed = flags & !kind.flags() == 0;
            let expected = if allowed {
                Ok(())
            } else {
                Err(Violation::Flags(*kind))
            };
            assert_eq!(header(*kind, flags, right), expected);
        }
        assert_eq!(
            header(*kind, 0, 1 - right),
            Err(Violation::StreamNumber(*kind))
        );
    }
}
