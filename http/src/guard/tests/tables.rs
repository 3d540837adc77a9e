//! Heads and bodies, one by one.

use super::{scan, with};
use crate::guard::Violation;
use crate::guard::body::BodyScan;
use crate::guard::head::{Framing, MAX_HEAD, Scanned};

#[test]
fn a_malformed_head_is_refused_and_the_reason_named() {
    use Violation::*;
    let many = "A: b\r\n".repeat(100);
    let long = format!("A: {}\r\n", "b".repeat(MAX_HEAD));
    let long_name = format!("{}: b\r\n", "a".repeat(300));
    let fields: &[(&str, Violation)] = &[
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            LengthAndCoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            LengthAndCoding,
        ),
        (
            "content-length: 0\r\nTRANSFER-ENCODING: chunked\r\n",
            LengthAndCoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            SeveralCodings,
        ),
        ("Transfer-Encoding: gzip, chunked\r\n", Coding),
        ("Transfer-Encoding: chunked, identity\r\n", Coding),
        ("Transfer-Encoding: identity\r\n", Coding),
        ("Transfer-Encoding: Chunked\r\n", Coding),
        ("Transfer-Encoding: xchunked\r\n", Coding),
        ("Transfer-Encoding: \"chunked\"\r\n", Coding),
        ("Transfer-Encoding:\r\n", Coding),
        ("Transfer-Encoding: chunked\x0B\r\n", ControlCharacter),
        ("Transfer-Encoding : chunked\r\n", SpaceBeforeColon),
        ("Content-Length: +5\r\n", ContentLength),
        ("Content-Length: -5\r\n", ContentLength),
        ("Content-Length: 5, 5\r\n", ContentLength),
        ("Content-Length: 0x5\r\n", ContentLength),
        ("Content-Length: 5 5\r\n", ContentLength),
        ("Content-Length: 5.0\r\n", ContentLength),
        ("Content-Length:\r\n", ContentLength),
        ("Content-Length: five\r\n", ContentLength),
        ("Content-Length: 18446744073709551617\r\n", ContentLength),
        ("Content-Length: 9999999999999999999\r\n", ContentLength),
        (
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            SeveralContentLengths,
        ),
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            SeveralContentLengths,
        ),
        (
            "Expect: 100-continue\r\nexpect: 100-continue\r\n",
            SeveralExpects,
        ),
        ("Host: a\r\n", SeveralHosts),
        ("HOST: b\r\n", SeveralHosts),
        ("A: b\rC: d\r\n", BareCarriageReturn),
        ("A\r: b\r\n", BareCarriageReturn),
        ("A: b\r\r\n", BareCarriageReturn),
        ("A: b\nC: d\r\n", BareLineFeed),
        ("A: b\n", BareLineFeed),
        ("A: b\0c\r\n", ControlCharacter),
        ("A: b\x7F\r\n", ControlCharacter),
        ("A\0: b\r\n", FieldName),
        ("A: b\r\n folded\r\n", Folded),
        ("A: b\r\n\tfolded\r\n", Folded),
        (" A: b\r\n", Folded),
        ("A : b\r\n", SpaceBeforeColon),
        ("A\t: b\r\n", SpaceBeforeColon),
        (": b\r\n", FieldName),
        ("A B: c\r\n", FieldName),
        ("A(b): c\r\n", FieldName),
        ("\u{e9}: c\r\n", FieldName),
        (&long_name, FieldName),
        ("no colon\r\n", NoColon),
        (&many, TooManyFields),
        (&long, HeadTooLong),
    ];
    for (lines, violation) in fields {
        assert_eq!(scan(&with(lines)), Err(*violation), "{lines:.80?}");
    }

    let long_target = format!("GET /{} HTTP/1.1\r\n", "a".repeat(16 * 1024));
    let heads: &[(&str, Violation)] = &[
        ("GET / HTTP/1.1\r\n\r\n", NoHost),
        ("GET / HTTP/1.0\r\n\r\n", NoHost),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            CodingInHttp10,
        ),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: [x]\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", Host),
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", PlainProxying),
        ("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm),
        ("GET a:443 HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Version),
        ("GET / b HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET /\r\nHost: a\r\n\r\n", RequestLine),
        ("GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Version),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/1.1\rHost: a\r\r", BareCarriageReturn),
        ("GET / HTTP/1.1\nHost: a\n\n", BareLineFeed),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        ("Get / HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        ("M_1 / HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        ("M1 / HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Trace),
        ("CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", ConnectTarget),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", ConnectTarget),
        ("CONNECT x@a:443 HTTP/1.1\r\nHost: a\r\n\r\n", ConnectTarget),
        (
            "CONNECT https://a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
            ConnectTarget,
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            ConnectBody,
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            ConnectBody,
        ),
        ("CONNECT a:443 HTTP/1.1\r\n\r\n", NoHost),
        (
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            TargetCharacter(b'#'),
        ),
        (
            "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n",
            TargetCharacter(b'\\'),
        ),
        (
            "GET /\"a\" HTTP/1.1\r\nHost: a\r\n\r\n",
            TargetCharacter(b'"'),
        ),
        (
            "GET /a`b?c HTTP/1.1\r\nHost: a\r\n\r\n",
            TargetCharacter(b'`'),
        ),
        (
            "GET /?<a> HTTP/1.1\r\nHost: a\r\n\r\n",
            TargetCharacter(b'<'),
        ),
        (
            "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
            TargetCharacter(0xc3),
        ),
        ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", TargetCharacter(0)),
        (&long_target, TargetTooLong),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareLineFeed),
    ];
    for (head, violation) in heads {
        assert_eq!(scan(head.as_bytes()), Err(*violation), "{head:.80?}");
    }
}

#[test]
fn who_writes_a_character_that_must_be_escaped_is_told_which_and_how() {
    for (target, words) in [
        (
            "/a?b<0>=1",
            "the character <, which a URI must escape (%3C)",
        ),
        ("/a#b", "the character #, which a URI must escape (%23)"),
        ("/\u{e9}", "the byte 0xC3, which a URI must escape (%C3)"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let violation = scan(head.as_bytes()).unwrap_err().to_string();
        assert!(violation.contains(words), "{violation}");
    }
}

#[test]
fn a_good_head_passes_with_its_framing() {
    let cases: &[(&str, Framing)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Empty),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Empty),
        ("GET / HTTP/1.0\r\nHost: a:443\r\n\r\n", Framing::Empty),
        (
            "GET /a?b=%2f&c HTTP/1.1\r\nhost:\t[::1]:443 \r\nA:\r\nB: \u{e9}\r\n\r\n",
            Framing::Empty,
        ),
        (
            "GET /[a]{b}|^?[a]{b}|^` HTTP/1.1\r\nHost: a\r\n\r\n",
            Framing::Empty,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            Framing::Empty,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\n",
            Framing::Length(5),
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:chunked\r\n\r\n",
            Framing::Chunked,
        ),
        (
            "M-SEARCH / HTTP/1.1\r\nHost: a_b.c-d\r\n\r\n",
            Framing::Empty,
        ),
    ];
    for (head, expected) in cases {
        match scan(head.as_bytes()) {
            Ok(Scanned::Whole {
                length,
                framing,
                upgrade: false,
                expect: None,
            }) => {
                assert_eq!((length, framing), (head.len(), *expected), "{head:?}");
            }
            other => panic!("{head:?}: {other:?}"),
        }
    }
    let upgrade = scan(&with("upgrade: websocket\r\n"));
    assert!(matches!(upgrade, Ok(Scanned::Whole { upgrade: true, .. })));
}

fn scan_chunks(body: &[u8]) -> Result<(usize, bool), Violation> {
    let mut scan = BodyScan::new(Framing::Chunked);
    let taken = scan.scan(body)?;
    Ok((taken, scan.is_done()))
}

#[test]
fn malformed_chunks_are_refused_and_the_reason_named() {
    use Violation::*;
    let long = format!("1;{}\r\n", "a".repeat(5000));
    let trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(65));
    let long_trailers = format!("0\r\nA: {}\r\n\r\n", "b".repeat(9000));
    let cases: &[(&str, Violation)] = &[
        ("\r\n", ChunkSize),
        ("x\r\n", ChunkSize),
        ("-1\r\n", ChunkSize),
        ("+1\r\n", ChunkSize),
        ("0x1\r\n", ChunkSize),
        (" 1\r\n", ChunkSize),
        ("1 \r\n", ChunkSize),
        ("1\n", ChunkSize),
        ("1\rx", ChunkSize),
        ("1\r\r\n", ChunkSize),
        ("1_0\r\n", ChunkSize),
        (";a\r\n", ChunkSize),
        ("FFFFFFFFFFFFFFFFF\r\n", ChunkSize),
        ("0000000000000001\r\n", ChunkSize),
        ("1;\r\n", ChunkExtension),
        ("1;a=\r\n", ChunkExtension),
        ("1; a\r\n", ChunkExtension),
        ("1;a b\r\n", ChunkExtension),
        ("1;a\n", ChunkExtension),
        ("1;a=\"b\r\n", ChunkExtension),
        ("1;a=\"b\"c\r\n", ChunkExtension),
        ("1;a=\"\0\"\r\n", ChunkExtension),
        (&long, ChunkExtension),
        ("1\r\nab\r\n", ChunkEnd),
        ("1\r\na\n", ChunkEnd),
        ("1\r\na\rx", ChunkEnd),
        ("1\r\na0\r\n\r\n", ChunkEnd),
        ("0\r\n\n", Trailers),
        ("0\r\nA\r\n\r\n", Trailers),
        ("0\r\nA : b\r\n\r\n", Trailers),
        ("0\r\n A: b\r\n\r\n", Trailers),
        ("0\r\nA: b\n\r\n", Trailers),
        ("0\r\nA: b\0\r\n\r\n", Trailers),
        ("0\r\nA: b\rc\r\n\r\n", Trailers),
        ("0\r\n\rx", Trailers),
        (&trailers, Trailers),
        (&long_trailers, Trailers),
    ];
    for (body, violation) in cases {
        assert_eq!(scan_chunks(body.as_bytes()), Err(*violation), "{body:.60?}");
    }
}

#[test]
fn good_chunks_pass_up_to_their_end() {
    let whole: &[&str] = &[
        "0\r\n\r\n",
        "000\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        "1;a;b=c;d=\"e \\\" f\"\r\nx\r\n0;last\r\nA: b\r\nC:\r\n\r\n",
    ];
    for body in whole {
        let next = format!("{body}GET / HTTP/1.1\r\n");
        assert_eq!(
            scan_chunks(next.as_bytes()),
            Ok((body.len(), true)),
            "{body:?}"
        );
        for end in 0..body.len() {
            let part = scan_chunks(&body.as_bytes()[..end]);
            assert_eq!(part, Ok((end, false)), "{:?}", &body[..end]);
        }
    }
}
