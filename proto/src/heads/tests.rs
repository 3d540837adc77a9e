//! Heads: round trip, exact length, bytes, damage, limits.

use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::limits::{MAX_CALL_HEAD, MAX_HEAD, MAX_HEADER_LIST, MAX_HEADERS};

fn call() -> CallHead {
    let mut headers = HeaderMap::new();
    headers.append("accept", HeaderValue::from_static("*/*"));
    headers.append("x-own", HeaderValue::from_static("1"));
    headers.append("x-own", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    let mut secret = HeaderValue::from_static("s");
    secret.set_sensitive(true);
    headers.append("cookie", secret);
    CallHead {
        call: CallId(*b"0123456789abcdef"),
        endpoint: "vc".parse().unwrap(),
        mode: Mode::Http,
        method: Method::GET,
        target: Bytes::from_static(b"/api?x"),
        headers,
        body: BodyLength::Exact(5),
        upgrade: None,
        authority: Bytes::from_static(b"vc--acme.example"),
        source: Some([192, 0, 2, 1].into()),
        caller: Principal {
            tenant: "acme".parse().unwrap(),
            subject: "me".into(),
            scopes: vec!["a".into(), "b:c".into()],
            kind: PrincipalKind::Caller,
            expires: 0x0102_0304_0506_0708,
            proof: Proof::Certificate,
        },
        token: None,
    }
}

fn token(proof: Option<&'static [u8]>) -> Option<CallerToken> {
    Some(CallerToken {
        token: Bytes::from_static(b"a.b.c"),
        proof: proof.map(Bytes::from_static),
    })
}

fn response() -> ResponseHead {
    let mut headers = HeaderMap::new();
    headers.append("server", HeaderValue::from_static("vc"));
    ResponseHead {
        status: StatusCode::OK,
        phrase: None,
        headers,
        body: BodyLength::Empty,
    }
}

fn refusal() -> Refusal {
    Refusal {
        code: ErrorCode::PolicyDenied,
        detail: "no".into(),
        rule: Some("r1".into()),
        soap: true,
    }
}

fn encoded_call(head: &CallHead) -> Bytes {
    let mut out = BytesMut::new();
    encode_call(head, &mut out).unwrap();
    out.freeze()
}

fn encoded(head: &Head) -> Bytes {
    let mut out = BytesMut::new();
    encode_head(head, &mut out).unwrap();
    out.freeze()
}

/// Heads are not `Eq`: headers know secrets. What `Debug` leaves out is compared beside it.
fn same_headers(a: &HeaderMap, b: &HeaderMap) -> bool {
    a == b
        && a.iter()
            .zip(b)
            .all(|((_, a), (_, b))| a.is_sensitive() == b.is_sensitive())
}

#[test]
fn a_call_comes_back_as_it_was() {
    let variants: [fn(&mut CallHead); 11] = [
        |call| call.token = token(None),
        |call| call.token = token(Some(b"d.e.f")),
        |_| {},
        |call| call.source = Some("2001:db8::1".parse().unwrap()),
        |call| call.source = None,
        |call| call.headers = HeaderMap::new(),
        |call| call.body = BodyLength::Unknown,
        |call| call.body = BodyLength::Empty,
        |call| call.caller.scopes = Vec::new(),
        |call| call.upgrade = Some("websocket".into()),
        |call| {
            call.mode = Mode::Connect;
            call.method = Method::CONNECT;
            call.target = Bytes::from_static(b"vc.sddc.local:443");
            call.caller.kind = PrincipalKind::Node;
            call.caller.proof = Proof::Introspection;
        },
    ];
    for change in variants {
        let mut call = call();
        change(&mut call);
        let back = decode_call(encoded_call(&call)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{call:?}"));
        assert!(same_headers(&back.headers, &call.headers));
        assert_eq!(back.token, call.token);
    }
}

#[test]
fn a_callers_token_comes_last_is_left_out_on_request_and_never_shown() {
    let mut call = call();
    let bare = encoded_call(&call);
    call.token = token(Some(b"d.e.f"));
    let fields = [&bare[..], b"\x81\x05a.b.c\x82\x05d.e.f"].concat();
    assert_eq!(encoded_call(&call), fields);
    let mut without = BytesMut::new();
    encode_call_without_token(&call, &mut without).unwrap();
    assert_eq!(without, bare);
    let shown = format!("{call:?}");
    assert!(
        !shown.contains("a.b.c") && !shown.contains("d.e.f"),
        "{shown}"
    );
    for bad in [
        &b"\x82\x05d.e.f"[..],
        b"\x81\x03a b",
        b"\x81\x01a\x82\x02\x00b",
        b"\x81\x01a\x81\x01b",
    ] {
        let bytes = [&bare[..], bad].concat();
        assert!(decode_call(bytes.into()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_call_has_these_bytes() {
    #[rustfmt::skip]
    let expected: &[&[u8]] = &[
        b"\x01\x10", b"0123456789abcdef",
        b"\x02\x02vc",
        b"\x03\x01\x00",
        b"\x04\x03GET",
        b"\x05\x06/api?x",
        b"\x06\x10vc--acme.example",
        b"\x07\x04\xc0\x00\x02\x01",
        b"\x08\x04acme",
        b"\x09\x02me",
        b"\x0a\x05a b:c",
        b"\x0b\x02\x00\x02",
        b"\x0c\x08\x01\x02\x03\x04\x05\x06\x07\x08",
        b"\x10\x08\x00\x00\x00\x00\x00\x00\x00\x05",
        // accept, x-own twice, cookie (sensitive).
        b"\x11\x1d", b"\x01\x03*/*", b"\x00\x05x-own\x011", b"\x00\x05x-own\x04caf\xe9", b"\x9c\x01s",
    ];
    assert_eq!(encoded_call(&call()), expected.concat());
}

#[test]
fn a_call_that_asks_to_switch_says_so_between_its_caller_and_its_body() {
    let mut call = call();
    call.upgrade = Some("websocket".into());
    call.body = BodyLength::Empty;
    call.headers.clear();
    let bytes = encoded_call(&call);
    assert!(bytes.ends_with(b"\x04\x05\x06\x07\x08\x0d\x09websocket\x10\x00"));
}

#[test]
fn answers_come_back_as_they_were_and_have_these_bytes() {
    let trailers = || {
        let mut headers = HeaderMap::new();
        headers.append("grpc-status", HeaderValue::from_static("0"));
        headers
    };
    let interim = ResponseHead {
        status: StatusCode::CONTINUE,
        ..response()
    };
    let spoken = ResponseHead {
        phrase: Some(Bytes::from_static(b"So-so\t!")),
        ..response()
    };
    let switching = ResponseHead {
        status: StatusCode::SWITCHING_PROTOCOLS,
        phrase: None,
        headers: HeaderMap::new(),
        body: BodyLength::Unknown,
    };
    let plain = Refusal {
        rule: None,
        soap: false,
        ..refusal()
    };
    let cases: Vec<(Head, &[u8])> = vec![
        (
            Head::Interim(interim),
            b"\x01\x01\x02\x00\x64\x10\x00\x11\x04\x3f\x02vc",
        ),
        (
            Head::Response(response()),
            b"\x02\x01\x02\x00\xc8\x10\x00\x11\x04\x3f\x02vc",
        ),
        (
            Head::Response(spoken),
            b"\x02\x01\x02\x00\xc8\x10\x00\x11\x04\x3f\x02vc\x81\x07So-so\t!",
        ),
        (Head::Response(switching), b"\x02\x01\x02\x00\x65"),
        (
            Head::Refusal(refusal()),
            b"\x03\x01\x02\x00\x05\x02\x02no\x03\x02r1\x04\x00",
        ),
        (Head::Refusal(plain), b"\x03\x01\x02\x00\x05\x02\x02no"),
        (Head::Trailers(trailers()), b"\x04\x11\x03\x66\x010"),
        (Head::Trailers(HeaderMap::new()), b"\x04"),
        (Head::Taken, b"\x05"),
    ];
    for (head, bytes) in cases {
        assert_eq!(encoded(&head), bytes, "{head:?}");
        let back = decode_head(encoded(&head)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{head:?}"));
    }
}

#[test]
fn a_phrase_beside_a_status_is_one_line_of_ascii_with_an_end() {
    let long = vec![b'p'; MAX_PHRASE + 1];
    for phrase in [
        b"".as_slice(),
        b"a\r\nSet-Cookie: b",
        b"a\nb",
        b"\0",
        b"\x7f",
        b"caf\xc3\xa9",
        &long,
    ] {
        let head = Head::Response(ResponseHead {
            phrase: Some(Bytes::copy_from_slice(phrase)),
            ..response()
        });
        assert!(encode_head(&head, &mut BytesMut::new()).is_err());
        let mut out = BytesMut::from(&encoded(&Head::Response(response()))[..]);
        put_field(&mut out, tag::PHRASE, phrase);
        assert!(decode_head(out.freeze()).is_err(), "{phrase:?}");
    }
    assert!(is_phrase(&long[1..]));
}

#[test]
fn values_are_slices_of_the_message() {
    let message = encoded_call(&call());
    let range = message.as_ptr_range();
    let back = decode_call(message.clone()).unwrap();
    assert!(range.contains(&back.target.as_ptr()));
    for value in back.headers.values() {
        assert!(range.contains(&value.as_bytes().as_ptr()), "{value:?}");
    }
}

#[test]
fn secret_values_stay_secret() {
    let back = decode_call(encoded_call(&call())).unwrap();
    assert!(back.headers["cookie"].is_sensitive());
    assert!(!format!("{back:?}").contains("\"s\""));
    assert!(!back.headers["accept"].is_sensitive());
}

#[test]
fn a_head_that_is_cut_anywhere_is_refused_or_lacks_what_may_be_missing() {
    let whole = encoded_call(&call());
    for length in 0..whole.len() {
        let cut = decode_call(whole.slice(..length));
        let complete = cut.as_ref().is_ok_and(|cut| cut.headers.is_empty());
        assert!(cut.is_err() || complete, "{length}");
    }
    let whole = encoded(&Head::Refusal(refusal()));
    for length in 0..9 {
        assert!(decode_head(whole.slice(..length)).is_err(), "{length}");
    }
}

/// A call head of these fields, in this order.
fn fields(fields: &[(u8, &[u8])]) -> Result<CallHead, Malformed> {
    let mut out = BytesMut::new();
    for (tag, value) in fields {
        put_field(&mut out, *tag, value);
    }
    decode_call(out.freeze())
}

const RIGHT: [(u8, &[u8]); 10] = [
    (tag::CALL, b"0123456789abcdef"),
    (tag::ENDPOINT, b"vc"),
    (tag::MODE, &[0]),
    (tag::METHOD, b"GET"),
    (tag::TARGET, b"/"),
    (tag::AUTHORITY, b"a"),
    (tag::TENANT, b"acme"),
    (tag::SUBJECT, b"me"),
    (tag::SCOPES, b""),
    (tag::PROOF, &[0, 0]),
];
const EXPIRES: (u8, &[u8]) = (tag::EXPIRES, &[0; 8]);

#[test]
fn every_field_is_checked() {
    let with = |tag: u8, value: &[u8]| {
        let mut all: Vec<(u8, &[u8])> = RIGHT.to_vec();
        all.push(EXPIRES);
        all.retain(|(t, _)| *t != tag);
        all.push((tag, value));
        all.sort_by_key(|(tag, _)| *tag);
        fields(&all)
    };
    assert!(with(tag::SOURCE, &[1, 2, 3, 4]).is_ok());
    let long = vec![b'a'; 70_000];
    let many_scopes = "s ".repeat(MAX_SCOPES) + "s";
    let wrong: &[(u8, &[u8])] = &[
        (tag::CALL, b"short"),
        (tag::ENDPOINT, b""),
        (tag::ENDPOINT, b"Vc"),
        (tag::ENDPOINT, b"a--b"),
        (tag::ENDPOINT, b"\xff"),
        (tag::MODE, &[4]),
        (tag::MODE, &[]),
        (tag::METHOD, b""),
        (tag::METHOD, b"get"),
        (tag::METHOD, b"GET /"),
        (tag::METHOD, &long[..33]),
        (tag::TARGET, b"/a b"),
        (tag::TARGET, b"/a\r\nx"),
        (tag::TARGET, b"/\0"),
        (tag::TARGET, b"/\x80"),
        (tag::TARGET, &long[..MAX_TARGET + 1]),
        (tag::AUTHORITY, b"a b"),
        (tag::AUTHORITY, &long[..MAX_AUTHORITY + 1]),
        (tag::SOURCE, &[1, 2, 3]),
        (tag::TENANT, b"-"),
        (tag::SUBJECT, b"a\nb"),
        (tag::SUBJECT, b"\xff"),
        (tag::SUBJECT, &long[..MAX_SUBJECT + 1]),
        (tag::SCOPES, b" a"),
        (tag::SCOPES, b"a  b"),
        (tag::SCOPES, b"a\tb"),
        (tag::SCOPES, many_scopes.as_bytes()),
        (tag::SCOPES, &long[..MAX_SCOPE_BYTES + 1]),
        (tag::PROOF, &[0]),
        (tag::PROOF, &[3, 0]),
        (tag::PROOF, &[0, 3]),
        (tag::EXPIRES, &[0; 7]),
        (tag::UPGRADE, b""),
        (tag::UPGRADE, b"WebSocket"),
        (tag::UPGRADE, b"a, b"),
        (tag::UPGRADE, b"a\r\nb: c"),
        (tag::UPGRADE, &long[..MAX_UPGRADE + 1]),
        (tag::BODY, &[0; 7]),
        (tag::HEADERS, &[0x7f, 0]),
        (tag::HEADERS, b"\x00\x00\x00"),
        (tag::HEADERS, b"\x00\x01A\x00"),
        (tag::HEADERS, b"\x00\x02a:\x00"),
        (tag::HEADERS, b"\x01\x02\r\n"),
        (tag::HEADERS, b"\x01\x01\0"),
        (tag::HEADERS, b"\x01\x05abc"),
        (0x0e, b"unknown"),
    ];
    for (tag, value) in wrong {
        let shown = &value[..value.len().min(20)];
        assert!(with(*tag, value).is_err(), "{tag:#04x} {shown:?}");
    }
    assert!(with(0x8d, b"unknown, and may be passed over").is_ok());
}

#[test]
fn every_field_that_must_be_there_must_be_there_once_and_in_order() {
    let all: Vec<(u8, &[u8])> = RIGHT.into_iter().chain([EXPIRES]).collect();
    assert!(fields(&all).is_ok());
    for index in 0..all.len() {
        let mut missing = all.clone();
        missing.remove(index);
        assert!(fields(&missing).is_err(), "without {:#04x}", all[index].0);
        let mut twice = all.clone();
        twice.insert(index, all[index]);
        assert!(fields(&twice).is_err(), "twice {:#04x}", all[index].0);
        if index > 0 {
            let mut swapped = all.clone();
            swapped.swap(index - 1, index);
            assert!(fields(&swapped).is_err(), "{:#04x} too early", all[index].0);
        }
    }
}

#[test]
fn lengths_have_one_spelling() {
    for (bytes, length) in [(&b"\x00"[..], 0), (b"\x7f", 127), (b"\x80\x01", 128)] {
        let mut from = Bytes::copy_from_slice(bytes);
        assert_eq!(crate::wire::take_length(&mut from), Ok(length));
        let mut out = BytesMut::new();
        crate::wire::put_length(&mut out, length);
        assert_eq!(out, bytes);
        assert_eq!(crate::wire::length_of_length(length), bytes.len());
    }
    for bytes in [
        &b""[..],
        b"\x80",
        b"\x80\x00",
        b"\xff\x80\x00",
        b"\xff\xff\xff\xff\x01",
    ] {
        assert!(crate::wire::take_length(&mut Bytes::copy_from_slice(bytes)).is_err());
    }
}

#[test]
fn statuses_are_those_of_http() {
    let status = |kind: u8, status: u16| {
        let mut out = BytesMut::from(&[kind][..]);
        put_field(&mut out, tag::STATUS, &status.to_be_bytes());
        decode_head(out.freeze()).is_ok()
    };
    for good in [101, 200, 204, 304, 404, 599] {
        assert!(status(kind::RESPONSE, good), "{good}");
        assert!(!status(kind::INTERIM, good), "{good}");
    }
    for good in [100, 102, 103, 199] {
        assert!(status(kind::INTERIM, good), "{good}");
    }
    for bad in [0, 99, 600, 999, 1000, u16::MAX] {
        assert!(
            !status(kind::RESPONSE, bad) && !status(kind::INTERIM, bad),
            "{bad}"
        );
    }
}

#[test]
fn the_largest_heads_fit_and_larger_ones_are_not_encoded() {
    let mut call = call();
    call.target = Bytes::from(vec![b'/'; MAX_TARGET]);
    call.authority = Bytes::from(vec![b'a'; MAX_AUTHORITY]);
    call.caller.subject = "s".repeat(MAX_SUBJECT);
    call.caller.scopes = vec!["s".repeat(MAX_SCOPE_BYTES / MAX_SCOPES - 1); MAX_SCOPES];
    call.upgrade = Some("u".repeat(MAX_UPGRADE));
    call.token = Some(CallerToken {
        token: Bytes::from(vec![b't'; MAX_TOKEN]),
        proof: Some(Bytes::from(vec![b'p'; MAX_PROOF])),
    });
    call.headers = HeaderMap::new();
    let each = MAX_HEADER_LIST / MAX_HEADERS - 32 - 6;
    for number in 0..MAX_HEADERS {
        let name = http::HeaderName::from_bytes(format!("x-{number:04}").as_bytes()).unwrap();
        call.headers
            .append(name, HeaderValue::from_bytes(&vec![b'v'; each]).unwrap());
    }
    let largest = encoded_call(&call);
    assert!(largest.len() <= MAX_CALL_HEAD && largest.len() > MAX_CALL_HEAD - 8 * 1024);
    decode_call(largest).unwrap();
    let answer = Head::Response(ResponseHead {
        headers: call.headers.clone(),
        ..response()
    });
    assert!(encoded(&answer).len() <= MAX_HEAD);

    let refused = |change: &dyn Fn(&mut CallHead)| {
        let mut call = call.clone();
        change(&mut call);
        encode_call(&call, &mut BytesMut::new()).is_err()
    };
    let too_long = |most: usize| Bytes::from(vec![b't'; most + 1]);
    assert!(refused(&|call| {
        call.token.as_mut().unwrap().token = too_long(MAX_TOKEN);
    }));
    assert!(refused(&|call| {
        call.token.as_mut().unwrap().proof = Some(too_long(MAX_PROOF));
    }));
    assert!(refused(
        &|call| call.target = Bytes::from(vec![b'/'; MAX_TARGET + 1])
    ));
    assert!(refused(&|call| call.target = Bytes::from_static(b"/ ")));
    assert!(refused(
        &|call| call.authority = Bytes::from(vec![b'a'; MAX_AUTHORITY + 1])
    ));
    assert!(refused(&|call| call.caller.subject.push('s')));
    assert!(refused(&|call| call.caller.scopes.push("s".into())));
    assert!(refused(&|call| call.caller.scopes[0] = "two words".into()));
    assert!(refused(&|call| call.caller.scopes[0] = String::new()));
    assert!(refused(
        &|call| call.method = Method::from_bytes(b"get").unwrap()
    ));
    assert!(refused(&|call| call.upgrade = Some("WebSocket".into())));
    assert!(refused(&|call| {
        call.headers.append("x", HeaderValue::from_static(""));
    }));
    assert!(refused(&|call| {
        call.headers.clear();
        let value = HeaderValue::from_bytes(&vec![b'v'; MAX_HEADER_LIST - 32]).unwrap();
        call.headers.append("x", value);
    }));
}

#[test]
fn texts_of_refusals_are_cut_and_cleaned_instead_of_lost() {
    let refusal = Refusal {
        detail: "tabs\tand lines\n ".to_owned() + &"é".repeat(MAX_REASON),
        rule: Some("r".repeat(MAX_RULE + 1)),
        ..refusal()
    };
    let Head::Refusal(back) = decode_head(encoded(&Head::Refusal(refusal))).unwrap() else {
        panic!()
    };
    assert!(back.detail.starts_with("tabsand lines é") && back.detail.len() <= MAX_REASON);
    assert_eq!(back.rule.unwrap().len(), MAX_RULE);
}

/// Any header name: those with a number, and others.
fn header() -> impl Strategy<Value = (String, Vec<u8>, bool)> {
    let known = (1..105u8).prop_map(|number| {
        crate::name_table::name_of(number)
            .unwrap()
            .as_str()
            .to_owned()
    });
    let value = prop::collection::vec(prop_oneof![0x20..0x7fu8, 0x80..=0xffu8, Just(b'\t')], 0..60);
    (
        prop_oneof![known, "[a-z0-9!#$%&'*+.^_`|~-]{1,20}"],
        value,
        any::<bool>(),
    )
}

proptest! {
    #[test]
    fn any_headers_come_back_as_they_were(fields in prop::collection::vec(header(), 0..40)) {
        let mut headers = HeaderMap::new();
        for (name, value, sensitive) in fields {
            let mut value = HeaderValue::from_bytes(&value).unwrap();
            value.set_sensitive(sensitive);
            headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        let whole = encoded(&Head::Trailers(headers.clone()));
        let Head::Trailers(back) = decode_head(whole.clone()).unwrap() else { panic!() };
        prop_assert!(same_headers(&back, &headers));
        // What was read is written again as it was: one spelling.
        prop_assert_eq!(encoded(&Head::Trailers(back)), whole);
    }

    #[test]
    fn no_bytes_make_a_head_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_head(Bytes::from(bytes.clone()));
        let _ = decode_call(Bytes::from(bytes));
    }

    #[test]
    fn a_damaged_head_is_refused_or_is_a_head(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut whole = encoded_call(&call()).to_vec();
        let at = at.index(whole.len());
        whole[at] = byte;
        if let Ok(head) = decode_call(Bytes::from(whole)) {
            // Whatever is taken can be said again.
            let again = decode_call(encoded_call(&head)).unwrap();
            prop_assert_eq!(format!("{again:?}"), format!("{head:?}"));
        }
    }
}

#[test]
fn a_list_of_headers_that_is_empty_has_one_spelling_and_is_left_out() {
    let trailers = Head::Trailers(HeaderMap::new());
    let mut out = BytesMut::new();
    encode_head(&trailers, &mut out).unwrap();
    assert_eq!(out, b"\x04"[..]);
    assert!(decode_head(Bytes::from_static(b"\x04")).is_ok());
    assert!(decode_head(Bytes::from_static(b"\x04\x11\x00")).is_err());
}
