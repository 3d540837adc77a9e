//! What the guard takes and refuses, and that its readings are hyper's.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::body::BodyScan;
use super::head::{Framing, HeadScan, MAX_HEAD, Scanned};
use super::io::{Guard, REFUSED_REQUEST};
use super::*;
use crate::edge::pace::Pace;
use crate::edge::traffic::Traffic;

const PACE: Pace = Pace {
    head: Duration::from_secs(10),
    keep_alive: Duration::from_secs(60),
    stall: Duration::from_secs(30),
};

fn scan(head: &[u8]) -> Result<Scanned, Violation> {
    HeadScan::default().scan(head)
}

/// A request whose head has these lines behind the request line and the Host.
fn with(lines: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}

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
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm),
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
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Trace),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Connect),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", TargetCharacter),
        ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", TargetCharacter),
        ("GET /\"a\" HTTP/1.1\r\nHost: a\r\n\r\n", TargetCharacter),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", TargetCharacter),
        ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", TargetCharacter),
        (&long_target, TargetTooLong),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareLineFeed),
    ];
    for (head, violation) in heads {
        assert_eq!(scan(head.as_bytes()), Err(*violation), "{head:.80?}");
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

/// Sends `input` through a guard in pieces cut at `cuts`, with every call answered at once.
/// Gives what came out until the guard refused, ended or waits for more, and what was refused.
async fn pass(input: &[u8], cuts: &[usize], read: usize) -> (Vec<u8>, Option<Violation>) {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    let traffic = Arc::new(Traffic::default());
    let mut guard = Guard::new(server, traffic.clone(), PACE);
    let mut out = Vec::new();
    let mut from = 0;
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    for cut in cuts {
        caller.write_all(&input[from..cut]).await.unwrap();
        from = cut;
        let mut buffer = vec![0; read];
        // The paused clock moves on as soon as everybody waits.
        let moment = Duration::from_millis(1);
        while let Ok(Ok(length @ 1..)) = tokio::time::timeout(moment, guard.read(&mut buffer)).await
        {
            out.extend_from_slice(&buffer[..length]);
            if traffic.refused().is_none() && traffic.is_busy() {
                traffic.on_end();
            }
        }
    }
    (out, traffic.refused())
}

fn good_request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof!["GET", "POST", "PUT", "DELETE", "M-SEARCH"];
    let target = "/[a-z0-9/._~?=&%-]{0,20}";
    let field = (
        "[A-Za-z!#$^_`|~-]{1,12}",
        "[ \\t]{0,2}",
        "[!-~]{0,20}",
        "[ \\t]{0,2}",
    );
    let fields = proptest::collection::vec(field, 0..6);
    let chunk = (
        1..40usize,
        prop_oneof![Just(""), Just(";a"), Just(";a=\"b;\\\"c\"")],
    );
    let body = prop_oneof![
        Just(None),
        (0..200usize).prop_map(|length| Some(Ok(length))),
        proptest::collection::vec(chunk, 0..5).prop_map(|chunks| Some(Err(chunks))),
    ];
    (method, target, fields, body, 0..3usize).prop_map(
        |(method, target, fields, body, trailers)| {
            let mut request = format!("{method} {target} HTTP/1.1\r\nHost: a--b.c:443\r\n");
            for (name, before, value, after) in fields {
                if ![
                    "host",
                    "content-length",
                    "upgrade",
                    "expect",
                    "connection",
                    "te",
                ]
                .contains(&&*name.to_lowercase())
                {
                    request += &format!("{name}:{before}{value}{after}\r\n");
                }
            }
            match body {
                None => request += "\r\n",
                Some(Ok(length)) => {
                    request += &format!("Content-Length: {length}\r\n\r\n{}", "b".repeat(length));
                }
                Some(Err(chunks)) => {
                    request += "Transfer-Encoding: chunked\r\n\r\n";
                    for (length, extension) in chunks {
                        request += &format!("{length:x}{extension}\r\n{}\r\n", "c".repeat(length));
                    }
                    request += &format!("0\r\n{}\r\n", "T: u\r\n".repeat(trailers));
                }
            }
            request.into_bytes()
        },
    )
}

/// Requests, good ones and ones with a few bytes changed.
fn requests() -> impl Strategy<Value = Input> {
    let damage = (
        any::<proptest::sample::Index>(),
        prop_oneof![
            Just(b'\r'),
            Just(b'\n'),
            Just(b' '),
            Just(b'\0'),
            Just(b':'),
            Just(b','),
            any::<u8>()
        ],
    );
    let damages = proptest::collection::vec(damage, 0..3);
    (proptest::collection::vec(good_request(), 1..4), damages).prop_map(|(requests, damages)| {
        let mut input = requests.concat();
        for (at, byte) in damages {
            let at = at.index(input.len());
            input[at] = byte;
        }
        Input(input)
    })
}

/// Bytes that a failure shows in a readable way.
#[derive(Clone)]
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Method, target and body of each request that hyper takes from these bytes; `None` at the end
/// if it met one that it does not take.
async fn read_by_hyper(bytes: Vec<u8>) -> (Vec<(String, String, Vec<u8>)>, bool) {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    caller.write_all(&bytes).await.unwrap();
    caller.shutdown().await.unwrap();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let whole = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let service = service_fn(|request: Request<Incoming>| {
        let (seen, whole) = (seen.clone(), whole.clone());
        async move {
            let (head, body) = request.into_parts();
            match body.collect().await {
                Ok(body) => {
                    let body = body.to_bytes().to_vec();
                    seen.lock().unwrap().push((
                        head.method.to_string(),
                        head.uri.to_string(),
                        body,
                    ));
                }
                Err(_) => whole.store(false, std::sync::atomic::Ordering::Relaxed),
            }
            Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .half_close(true)
        .serve_connection(TokioIo::new(server), service);
    let whole = connection.await.is_ok() && whole.load(std::sync::atomic::Ordering::Relaxed);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (seen, whole)
}

/// Method, target and body of each whole request that a plain reading of the guard's own
/// scanners takes from these bytes.
fn read_by_guard(mut bytes: &[u8]) -> Vec<(String, String, Vec<u8>)> {
    let mut seen = Vec::new();
    while let Ok(Scanned::Whole {
        length, framing, ..
    }) = scan(bytes)
    {
        let (head, rest) = bytes.split_at(length);
        let mut body = BodyScan::new(framing);
        let Ok(taken) = body.scan(rest) else { break };
        if !body.is_done() {
            break;
        }
        let head = String::from_utf8_lossy(head);
        let mut words = head.trim_start().split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let content = match framing {
            Framing::Chunked => dechunk(&rest[..taken]),
            _ => rest[..taken].to_vec(),
        };
        seen.push((method.to_owned(), target.to_owned(), content));
        bytes = &rest[taken..];
    }
    seen
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line = memchr::memmem::find(bytes, b"\r\n").unwrap();
        let digits = bytes
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let size = std::str::from_utf8(&bytes[..digits]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&bytes[line + 2..line + 2 + size]);
        bytes = &bytes[line + 2 + size + 2..];
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_the_bytes_are_cut_changes_nothing(
        Input(input) in requests(),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
        read in 1..300usize,
    ) {
        let (whole, refused) = block_on(pass(&input, &[], 1 << 16));
        let (parts, refused_too) = block_on(pass(&input, &cuts, read));
        // Which of two violations in one line is named may differ.
        prop_assert_eq!(refused.is_some(), refused_too.is_some());
        // The body that is refused may have passed in part; what was whole has passed.
        let (parts, whole) = (own(&parts, refused), own(&whole, refused));
        prop_assert_eq!(read_by_guard(parts), read_by_guard(whole));
        if refused.is_none() {
            prop_assert_eq!(parts, whole);
        }
    }

    #[test]
    fn what_passes_is_what_was_sent_and_hyper_reads_it_the_same(Input(input) in requests()) {
        let (passed, refused) = block_on(pass(&input, &[], 1 << 16));
        let passed = own(&passed, refused);
        prop_assert!(input.starts_with(passed));
        let expected = read_by_guard(passed);
        let (seen, whole) = block_on(read_by_hyper(passed.to_vec()));
        prop_assert_eq!(seen, expected);
        prop_assert!(whole || ends_within_a_message(passed));
    }
}

/// What passed, without what the guard put in the place of a refused request.
fn own(passed: &[u8], refused: Option<Violation>) -> &[u8] {
    match refused {
        Some(_) => passed.strip_suffix(REFUSED_REQUEST).unwrap_or(passed),
        None => passed,
    }
}

fn ends_within_a_message(mut bytes: &[u8]) -> bool {
    loop {
        if bytes.is_empty() {
            return false;
        }
        match scan(bytes) {
            Ok(Scanned::Whole {
                length, framing, ..
            }) => {
                let mut body = BodyScan::new(framing);
                match body.scan(&bytes[length..]) {
                    Ok(taken) if body.is_done() => bytes = &bytes[length + taken..],
                    _ => return true,
                }
            }
            _ => return true,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_head_is_replaced_and_nothing_after_it_is_read() {
    let input =
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for cuts in [&[][..], &[10], &[40, 50]] {
        let (passed, refused) = pass(input, cuts, 512).await;
        assert_eq!(passed, REFUSED_REQUEST);
        assert_eq!(refused, Some(Violation::SeveralHosts));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_wrong_anywhere_in_its_first_bytes_never_passes() {
    let input = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nx\r\n";
    let (passed, refused) = pass(input, &[], 512).await;
    assert_eq!(passed, REFUSED_REQUEST);
    assert_eq!(refused, Some(Violation::ChunkSize));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_turns_out_wrong_breaks_the_connection() {
    let (mut caller, server) = tokio::io::duplex(1024);
    let traffic = Arc::new(Traffic::default());
    let mut guard = Guard::new(server, traffic.clone(), PACE);
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
    caller.write_all(head).await.unwrap();
    let mut buffer = [0; 512];
    let length = guard.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], head);
    caller.write_all(b"x\r\n").await.unwrap();
    let error = guard.read(&mut buffer).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(traffic.refused(), Some(Violation::ChunkSize));
}

#[tokio::test(start_paused = true)]
async fn the_next_request_waits_for_the_answer_and_a_caller_that_leaves_is_noticed() {
    let (mut caller, server) = tokio::io::duplex(1024);
    let traffic = Arc::new(Traffic::default());
    let mut guard = Guard::new(server, traffic.clone(), PACE);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    caller.write_all(&request.repeat(2)).await.unwrap();
    let mut buffer = [0; 512];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), request.len());
    // A call in flight is not slow, however long it takes.
    let waited = tokio::time::timeout(Duration::from_secs(3600), guard.read(&mut buffer));
    assert!(waited.await.is_err());
    traffic.on_end();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), request.len());
    drop(caller);
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_switch_every_byte_passes() {
    let (mut caller, server) = tokio::io::duplex(1024);
    let traffic = Arc::new(Traffic::default());
    let mut guard = Guard::new(server, traffic.clone(), PACE);
    let request = with("Upgrade: websocket\r\n");
    caller.write_all(&request).await.unwrap();
    caller.write_all(b"\x82\0\r\n").await.unwrap();
    let mut buffer = [0; 512];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), request.len());
    traffic.switch();
    traffic.on_end();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 4);
    caller.write_all(b"\0\n").await.unwrap();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 2);
    assert_eq!(traffic.refused(), None);
}

#[tokio::test(start_paused = true)]
async fn each_phase_of_silence_has_its_end() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut buffer = [0; 512];
    let setup = || {
        let (caller, server) = tokio::io::duplex(1024);
        let traffic = Arc::new(Traffic::default());
        (
            caller,
            Guard::new(server, traffic.clone(), PACE),
            traffic,
            Instant::now(),
        )
    };

    // No first byte.
    let (_caller, mut guard, _, start) = setup();
    assert!(guard.read(&mut buffer).await.is_err());
    assert_eq!(start.elapsed(), PACE.head);

    // A head byte by byte.
    let (mut caller, mut guard, _, start) = setup();
    let trickle = async {
        for byte in request {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if caller.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        read = guard.read(&mut buffer) => assert!(read.is_err()),
        () = trickle => {}
    }
    assert_eq!(start.elapsed(), PACE.head);

    // Silence between requests, then within the second one.
    let (mut caller, mut guard, traffic, _) = setup();
    caller.write_all(request).await.unwrap();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), request.len());
    traffic.on_end();
    let idle = Instant::now();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 0);
    assert_eq!(idle.elapsed(), PACE.keep_alive);
    caller.write_all(&request[..10]).await.unwrap();
    let head = Instant::now();
    assert!(guard.read(&mut buffer).await.is_err());
    assert_eq!(head.elapsed(), PACE.head);
}
