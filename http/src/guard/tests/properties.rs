//! Whatever comes: where it is cut does not matter, and hyper reads what passes the same way.

use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::{pass, scan};
use crate::guard::Violation;
use crate::guard::body::BodyScan;
use crate::guard::head::{Framing, Scanned};
use crate::guard::io::REFUSED_REQUEST;

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
