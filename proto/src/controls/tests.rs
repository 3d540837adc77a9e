//! Control messages: round trip, exact length, bytes, damage, limits.

use proptest::prelude::*;

use super::*;
use crate::head::Mode;

fn hello() -> Hello {
    Hello {
        min_version: 1,
        max_version: 3,
        features: 0x0102,
        name: "relay-1".into(),
        instance: *b"0123456789abcdef",
        software: "culvert/1".into(),
        max_streams: 1024,
        initial_window: 0x4_0000,
        lane: None,
        slot: None,
    }
}

fn encoded(control: &Control) -> (Kind, Bytes) {
    let mut out = BytesMut::new();
    let kind = encode_control(control, &mut out).unwrap();
    (kind, out.freeze())
}

fn offer(name: &str) -> Offer {
    Offer {
        endpoint: name.parse().unwrap(),
        modes: vec![Mode::Http, Mode::Tcp],
        connect: vec!["vc.local:443".into(), "vc:22".into()],
        priority: None,
    }
}

fn controls() -> Vec<(Control, Kind, &'static [u8])> {
    vec![
        (
            Control::Register {
                request: 7,
                offers: vec![offer("vc"), offer("nsx")],
            },
            Kind::Register,
            b"\x01\x04\x00\x00\x00\x07\
              \x02\x1d\x01\x02vc\x02\x02\x00\x03\x03\x0cvc.local:443\x03\x05vc:22\
              \x02\x1e\x01\x03nsx\x02\x02\x00\x03\x03\x0cvc.local:443\x03\x05vc:22",
        ),
        (
            Control::Register {
                request: 7,
                offers: vec![Offer {
                    priority: Some(Priority::Bulk),
                    ..offer("vc")
                }],
            },
            Kind::Register,
            b"\x01\x04\x00\x00\x00\x07\
              \x02\x20\x01\x02vc\x02\x02\x00\x03\x03\x0cvc.local:443\x03\x05vc:22\
              \x81\x01\x02",
        ),
        (
            Control::Register {
                request: 1,
                offers: vec![],
            },
            Kind::Register,
            b"\x01\x04\x00\x00\x00\x01",
        ),
        (
            Control::Registered {
                request: 7,
                results: vec![
                    Registration {
                        endpoint: "vc".parse().unwrap(),
                        refused: None,
                    },
                    Registration {
                        endpoint: "nsx".parse().unwrap(),
                        refused: Some("no".into()),
                    },
                ],
            },
            Kind::Registered,
            b"\x01\x04\x00\x00\x00\x07\x02\x04\x01\x02vc\x02\x09\x01\x03nsx\x02\x02no",
        ),
        (
            Control::Auth {
                token: "a.b".into(),
            },
            Kind::Auth,
            b"\x01\x03a.b",
        ),
        (
            Control::Notice {
                code: Some(ErrorCode::Overloaded),
                text: "hm".into(),
            },
            Kind::Notice,
            b"\x01\x02\x00\x08\x02\x02hm",
        ),
        (
            Control::Notice {
                code: None,
                text: String::new(),
            },
            Kind::Notice,
            b"\x02\x00",
        ),
    ]
}

#[test]
fn control_messages_come_back_as_they_were_and_have_these_bytes() {
    for (control, kind, bytes) in controls() {
        let (encoded_kind, payload) = encoded(&control);
        assert_eq!(encoded_kind, kind);
        assert_eq!(payload, bytes, "{control:?}");
        assert_eq!(decode_control(kind, payload), Ok(control));
    }
}

#[test]
fn a_greeting_comes_back_as_it_was_and_has_these_bytes() {
    let mut out = BytesMut::new();
    encode_hello(&hello(), &mut out);
    #[rustfmt::skip]
    let expected: &[&[u8]] = &[
        b"\x01\x04\x00\x01\x00\x03",
        b"\x02\x08\x00\x00\x00\x00\x00\x00\x01\x02",
        b"\x03\x07relay-1",
        b"\x04\x100123456789abcdef",
        b"\x05\x09culvert/1",
        b"\x06\x04\x00\x00\x04\x00",
        b"\x07\x04\x00\x04\x00\x00",
    ];
    assert_eq!(out, expected.concat());
    assert_eq!(decode_hello(out.freeze()), Ok(hello()));
}

#[test]
fn a_greeting_says_which_lane_it_is_in_these_bytes() {
    for (lane, field) in [
        (
            Lane::First(*b"fedcba9876543210"),
            b"\x08\x11\x00fedcba9876543210",
        ),
        (
            Lane::Joins(*b"fedcba9876543210"),
            b"\x08\x11\x01fedcba9876543210",
        ),
    ] {
        let of = |lane| {
            let mut out = BytesMut::new();
            encode_hello(&Hello { lane, ..hello() }, &mut out);
            out.freeze()
        };
        let (with, without) = (of(Some(lane)), of(None));
        assert_eq!(with, [&without[..], &field[..]].concat());
        assert_eq!(decode_hello(with).unwrap().lane, Some(lane));
    }
}

#[test]
fn a_lane_that_is_none_is_refused() {
    for wrong in [&b""[..], &[0; 16], &[0; 18], &[2; 17], &[0xff; 17]] {
        let mut out = BytesMut::new();
        encode_hello(&hello(), &mut out);
        put_field(&mut out, 0x08, wrong);
        assert!(decode_hello(out.freeze()).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_greeting_says_which_slot_it_is_for_in_these_bytes() {
    for (number, older_lives, field) in [
        (0, false, b"\x09\x02\x00\x00"),
        (7, true, b"\x09\x02\x07\x01"),
    ] {
        let slot = Some(Slot {
            number,
            older_lives,
        });
        let (mut with, mut without) = (BytesMut::new(), BytesMut::new());
        encode_hello(&Hello { slot, ..hello() }, &mut with);
        encode_hello(&hello(), &mut without);
        assert_eq!(with, [&without[..], &field[..]].concat());
        assert_eq!(decode_hello(with.freeze()).unwrap().slot, slot);
    }
}

#[test]
fn a_slot_that_is_none_is_refused() {
    for wrong in [&b""[..], &[0], &[0, 2], &[0, 0xff], &[0; 3]] {
        let mut out = BytesMut::new();
        encode_hello(&hello(), &mut out);
        put_field(&mut out, 0x09, wrong);
        assert!(decode_hello(out.freeze()).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_greeting_of_a_later_version_can_be_read_as_far_as_it_concerns_us() {
    let mut out = BytesMut::new();
    encode_hello(&hello(), &mut out);
    put_field(&mut out, 0x0a, b"something new");
    assert_eq!(decode_hello(out.freeze()), Ok(hello()));
    // Only the versions are the same for ever.
    assert_eq!(
        decode_versions(Bytes::from_static(b"\x01\x04\x00\x05\x00\x09\x02\x00")),
        Ok((5, 9))
    );
    for wrong in [
        &b""[..],
        b"\x02\x00",
        b"\x01\x03\x00\x01\x00",
        b"\x01\x04\x00\x02\x00\x01",
    ] {
        assert!(decode_versions(Bytes::copy_from_slice(wrong)).is_err());
    }
}

#[test]
fn a_goaway_comes_back_as_it_was_and_has_these_bytes() {
    let goaway = Goaway {
        code: GoawayCode::Drain,
        last: 0x0102,
        retry_after: 3000,
        reason: "bye".into(),
    };
    let mut out = BytesMut::new();
    encode_goaway(&goaway, &mut out);
    assert_eq!(
        &out[..],
        b"\x00\x00\x00\x01\x00\x00\x01\x02\x00\x00\x0b\xb8bye"
    );
    assert_eq!(decode_goaway(out.clone().freeze()), Ok(goaway.clone()));
    for length in 0..12 {
        assert!(decode_goaway(out.clone().freeze().slice(..length)).is_err());
    }
    let with = |reason: &[u8]| decode_goaway(Bytes::from([&out[..12], reason].concat()));
    assert!(with(&[b'x'; MAX_REASON]).is_ok() && with(&[b'x'; MAX_REASON + 1]).is_err());
    assert!(with(b"a\nb").is_err() && with(b"\xff").is_err());
    let later = Goaway {
        code: GoawayCode::Unknown(99),
        ..goaway
    };
    let mut out = BytesMut::new();
    encode_goaway(&later, &mut out);
    assert_eq!(decode_goaway(out.freeze()), Ok(later));
}

#[test]
fn damaged_control_messages_are_refused() {
    for (control, kind, _) in controls() {
        let (_, payload) = encoded(&control);
        for length in 0..payload.len() {
            let cut = decode_control(kind, payload.slice(..length));
            // Cut between two entries, it is a shorter message.
            assert!(cut.as_ref() != Ok(&control), "{control:?} cut at {length}");
        }
    }
    let entry = |bytes: &[u8]| [b"\x01\x04\x00\x00\x00\x07", bytes].concat();
    let wrong: &[(Kind, Vec<u8>)] = &[
        (Kind::Register, vec![]),
        (Kind::Register, b"\x01\x03\x00\x00\x07".to_vec()),
        (Kind::Register, entry(b"\x02\x00")),
        (Kind::Register, entry(b"\x02\x04\x01\x02Vc")),
        (Kind::Register, entry(b"\x02\x07\x01\x02vc\x02\x01\x09")),
        (
            Kind::Register,
            entry(b"\x02\x0b\x01\x02vc\x02\x05\x00\x01\x02\x03\x00"),
        ),
        (Kind::Register, entry(b"\x02\x06\x01\x02vc\x03\x00")),
        (Kind::Register, entry(b"\x02\x06\x01\x02vc\x81\x00")),
        (Kind::Register, entry(b"\x02\x08\x01\x02vc\x81\x02\x00\x00")),
        (Kind::Register, entry(b"\x02\x08\x01\x02vc\x03\x02a ")),
        (
            Kind::Register,
            entry(&b"\x02\x04\x01\x02vc".repeat(MAX_OFFERS + 1)),
        ),
        (Kind::Registered, entry(b"\x02\x07\x01\x02vc\x02\x01\n")),
        (Kind::Auth, b"\x01\x03a b".to_vec()),
        (Kind::Auth, b"\x01\x02\xc3\xa9".to_vec()),
        (Kind::Notice, b"\x01\x02\x00\x08".to_vec()),
        (Kind::Notice, b"\x02\x01\0".to_vec()),
        (Kind::Notice, b"\x02\x00\x03\x00".to_vec()),
        (Kind::Data, vec![]),
    ];
    for (kind, payload) in wrong {
        assert!(
            decode_control(*kind, Bytes::from(payload.clone())).is_err(),
            "{kind} {payload:?}"
        );
    }
}

#[test]
fn a_priority_of_a_later_version_is_none() {
    let bytes = b"\x01\x04\x00\x00\x00\x07\x02\x0a\x01\x02vc\x02\x01\x00\x81\x01\x03";
    let Ok(Control::Register { offers, .. }) =
        decode_control(Kind::Register, Bytes::from_static(bytes))
    else {
        panic!()
    };
    assert_eq!(offers[0].priority, None);
}

#[test]
fn messages_beyond_the_limits_are_not_encoded() {
    let refused = |control: &Control| encode_control(control, &mut BytesMut::new()).is_err();
    let register = |offers| Control::Register { request: 1, offers };
    assert!(refused(&register(vec![offer("vc"); MAX_OFFERS + 1])));
    assert!(!refused(&register(vec![offer("vc"); MAX_OFFERS])));
    let with = |change: fn(&mut Offer)| {
        let mut offer = offer("vc");
        change(&mut offer);
        register(vec![offer])
    };
    assert!(refused(&with(|offer| offer.modes = vec![Mode::Http; 5])));
    assert!(refused(&with(
        |offer| offer.connect = vec!["a:1".into(); MAX_CONNECT_NAMES + 1]
    )));
    assert!(refused(&with(|offer| offer.connect = vec!["a b".into()])));
    let mut named = offer("vc");
    named.connect = vec!["a:1".into(); MAX_CONNECT_NAMES];
    let offers = MAX_REGISTERED_NAMES / MAX_CONNECT_NAMES;
    assert!(!refused(&register(vec![named.clone(); offers])));
    assert!(refused(&register(vec![named; offers + 1])));
    let mut large = offer("vc");
    large.connect = vec!["a".repeat(MAX_AUTHORITY); MAX_CONNECT_NAMES];
    assert!(
        refused(&register(vec![large; 5])),
        "longer than a control message may be"
    );
    assert!(refused(&Control::Auth {
        token: "t".repeat(MAX_TOKEN + 1)
    }));
    assert!(refused(&Control::Auth {
        token: "two words".into()
    }));
    assert!(!refused(&Control::Auth {
        token: "t".repeat(MAX_TOKEN)
    }));
}

#[test]
fn long_reasons_never_keep_an_answer_from_being_sent() {
    let result = Registration {
        endpoint: "vc".parse().unwrap(),
        refused: Some("x".repeat(5000)),
    };
    let results = vec![result; MAX_OFFERS];
    let (kind, payload) = encoded(&Control::Registered {
        request: 1,
        results,
    });
    assert!(payload.len() <= MAX_CONTROL);
    let Ok(Control::Registered { results, .. }) = decode_control(kind, payload) else {
        panic!()
    };
    assert_eq!(results.len(), MAX_OFFERS);
    assert_eq!(results[0].refused.as_ref().unwrap().len(), 128);
}

#[test]
fn a_token_is_never_shown() {
    let token = Control::Auth {
        token: "secret".into(),
    };
    assert!(!format!("{token:?}").contains("secret"));
}

proptest! {
    #[test]
    fn no_bytes_make_a_control_message_panic(
        kind in prop::sample::select(Kind::ALL),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = decode_control(kind, Bytes::from(bytes.clone()));
        let _ = decode_hello(Bytes::from(bytes.clone()));
        let _ = decode_goaway(Bytes::from(bytes));
    }
}

#[test]
fn an_offer_says_its_modes_even_if_it_has_none() {
    let without = Bytes::from_static(b"\x01\x04\x00\x00\x00\x07\x02\x04\x01\x02vc");
    assert!(decode_control(Kind::Register, without).is_err());
    let none = Bytes::from_static(b"\x01\x04\x00\x00\x00\x07\x02\x06\x01\x02vc\x02\x00");
    assert!(decode_control(Kind::Register, none).is_ok());
}
