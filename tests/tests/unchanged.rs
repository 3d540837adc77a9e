//! Whatever a caller's tool sends arrives as it was sent, and whatever the local API answers comes back as it
//! was answered: calls made up at random, compared at both ends.

use std::{fmt, io, sync::mpsc};

use culvert_tests::curl::{Curl, Http};
use culvert_tests::upstream::{Connection, Request, Then};
use culvert_tests::wait::LONG;
use culvert_tests::{Stack, Upstream};
use fastrand::Rng;

/// Calls over each version of HTTP.
const CALLS: u64 = 75;

const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT",
];

const STATUSES: [u16; 16] = [
    200, 201, 202, 203, 204, 206, 299, 301, 304, 401, 403, 409, 418, 429, 500, 503,
];

/// What may stand in a segment of a path and is one spelling of itself (docs/policy.md).
const SEGMENT: [&str; 24] = [
    "a",
    "Z",
    "0",
    "-",
    "_",
    "~",
    "!",
    "$",
    "&",
    "'",
    "(",
    ")",
    "*",
    "+",
    ",",
    "=",
    ":",
    "@",
    ".x",
    "%20",
    "%22",
    "%2B",
    "%C3%A9",
    "%E2%82%AC",
];

/// What a header's value may have besides.
const VALUE: &str = "abc XYZ 019 ,;=\"()<>@[]{}?!#$%&*+\\/|~^`'";

/// A call, and the answer to it. Its number says all of it: both ends make it up by themselves.
#[derive(Debug)]
struct Case {
    method: &'static str,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Body>,
    status: u16,
    answer_headers: Vec<(String, String)>,
    answer: Body,
    /// Where the answer is cut into the pieces that are sent.
    cuts: Vec<usize>,
}

struct Body {
    bytes: Vec<u8>,
    framing: Framing,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {:?}", self.bytes.len(), self.framing)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked(usize),
    /// By the end of the connection; of answers alone.
    End,
}

impl Case {
    fn new(number: u64) -> Self {
        let mut rng = Rng::with_seed(number);
        let rng = &mut rng;
        let method = pick(rng, &METHODS);
        let may_have_body = matches!(method, "POST" | "PUT" | "PATCH" | "REPORT");
        let framing = |rng: &mut Rng, kinds| match rng.u8(..kinds) {
            0 => Framing::Length,
            1 => Framing::Chunked(rng.usize(1..40_000)),
            _ => Framing::End,
        };
        Self {
            method,
            target: target(rng),
            headers: headers(rng),
            body: may_have_body.then(|| Body {
                bytes: bytes(rng),
                framing: framing(rng, 2),
            }),
            status: pick(rng, &STATUSES),
            answer_headers: headers(rng),
            answer: Body {
                bytes: bytes(rng),
                framing: framing(rng, 3),
            },
            cuts: (0..rng.usize(..4)).map(|_| rng.usize(..2000)).collect(),
        }
    }

    /// Whether the answer may have no body (RFC 9112, 6.3).
    fn is_bodiless(&self) -> bool {
        self.method == "HEAD" || matches!(self.status, 204 | 304)
    }

    /// Makes the call.
    fn call(&self, number: u64, stack: &Stack, http: Http) -> Curl {
        let mut call = stack.call(&self.target).http(http);
        call = call.header(&format!("X-Case: {number}"));
        for (name, value) in &self.headers {
            // curl's way to send a header without a value.
            call = call.header(&match value.is_empty() {
                true => format!("{name};"),
                false => format!("{name}: {value}"),
            });
        }
        call = match self.method {
            "HEAD" => call.arg("--head"),
            method => call.method(method),
        };
        let Some(body) = &self.body else { return call };
        let file = stack.file("body");
        std::fs::write(&file, &body.bytes).unwrap();
        if matches!((&body.framing, http), (Framing::Chunked(_), Http::One)) {
            call = call.header("Transfer-Encoding: chunked");
        }
        call.args(["--data-binary", &format!("@{}", file.display())])
    }

    /// Answers the call.
    fn answer(&self, connection: &mut Connection) -> io::Result<Then> {
        let mut answer = format!("HTTP/1.1 {} As Asked\r\n", self.status).into_bytes();
        for (name, value) in &self.answer_headers {
            answer.extend(format!("{name}: {value}\r\n").bytes());
        }
        let bytes = &self.answer.bytes;
        match self.answer.framing {
            _ if self.is_bodiless() => answer.extend(b"\r\n"),
            Framing::Length => {
                answer.extend(format!("Content-Length: {}\r\n\r\n", bytes.len()).bytes());
                answer.extend(bytes);
            }
            Framing::Chunked(size) => {
                answer.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in bytes.chunks(size) {
                    answer.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    answer.extend(chunk);
                    answer.extend(b"\r\n");
                }
                answer.extend(b"0\r\n\r\n");
            }
            Framing::End => {
                answer.extend(b"Connection: close\r\n\r\n");
                answer.extend(bytes);
            }
        }
        let mut rest = &answer[..];
        for cut in &self.cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            connection.send(piece)?;
            rest = after;
        }
        connection.send(rest)?;
        match !self.is_bodiless() && self.answer.framing == Framing::End {
            true => Ok(Then::End),
            false => Ok(Then::KeepAlive),
        }
    }
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

fn target(rng: &mut Rng) -> String {
    let mut target = String::new();
    for _ in 0..rng.usize(1..5) {
        target.push('/');
        (0..rng.usize(1..6)).for_each(|_| target.push_str(pick(rng, &SEGMENT)));
    }
    if rng.bool() {
        target.push('?');
        (0..rng.usize(..12)).for_each(|_| target.push_str(pick(rng, &SEGMENT)));
    }
    target
}

fn headers(rng: &mut Rng) -> Vec<(String, String)> {
    let value: Vec<char> = VALUE.chars().collect();
    let mut headers = Vec::new();
    for _ in 0..rng.usize(..6) {
        let name = format!("x-{}", pick(rng, &["one", "Two", "three_3", "four-4"]));
        let value: String = (0..rng.usize(..60)).map(|_| pick(rng, &value)).collect();
        headers.push((name, value.trim().to_owned()));
    }
    headers
}

fn bytes(rng: &mut Rng) -> Vec<u8> {
    let length = match rng.u8(..4) {
        0 => 0,
        1 => rng.usize(..200),
        2 => rng.usize(..20_000),
        _ => rng.usize(..300_000),
    };
    (0..length).map(|_| rng.u8(..)).collect()
}

/// Ours, in lower case and in an order that fields of other names do not matter to (RFC 9110, 5.3).
fn ours<'a>(headers: impl IntoIterator<Item = &'a (String, String)>) -> Vec<(String, String)> {
    let lower = |(name, value): &(String, String)| (name.to_ascii_lowercase(), value.clone());
    let mut ours: Vec<_> = headers.into_iter().map(lower).collect();
    ours.retain(|(name, _)| name.starts_with("x-") && !name.starts_with("x-forwarded"));
    ours.retain(|(name, _)| name != "x-case");
    ours.sort_by(|(one, _), (other, _)| one.cmp(other));
    ours
}

#[test]
fn calls_made_up_at_random_arrive_and_are_answered_unchanged() {
    let (sender, arrived) = mpsc::channel();
    let upstream = Upstream::start(move |request, connection| {
        let number = request.all("x-case")[0].parse().unwrap();
        let mut body = Vec::new();
        connection.read_body(request, |bytes| body.extend_from_slice(bytes))?;
        let _ = sender.send((number, request.clone(), body));
        Case::new(number).answer(connection)
    });
    let stack = Stack::start(&upstream.url());
    for number in 0..2 * CALLS {
        let http = Http::BOTH[(number % 2) as usize];
        let case = Case::new(number);
        let shown = || format!("call {number} over {http:?}: {case:?}");
        let answer = case.call(number, &stack, http).ok();
        assert_eq!(answer.status, case.status, "{answer}{}", shown());
        let (seen, request, body): (u64, Request, _) = arrived.recv_timeout(LONG).unwrap();
        assert_eq!(seen, number, "a call was made twice, or not at all");
        let line = format!("{} {} HTTP/1.1", case.method, case.target);
        assert_eq!(request.line, line, "{}", shown());
        assert_eq!(ours(&request.headers), ours(&case.headers), "{}", shown());
        let sent = case.body.as_ref().map_or(&[][..], |body| &body.bytes);
        assert!(body == sent, "another body arrived: {}", shown());
        let headers = ours(&answer.headers);
        assert_eq!(headers, ours(&case.answer_headers), "{}", shown());
        if !case.is_bodiless() {
            let back = &case.answer.bytes;
            assert!(answer.body == *back, "another body came: {}", shown());
            // HTTP/2 tells of an empty body by ending the stream.
            let is_told =
                case.answer.framing == Framing::Length && !(back.is_empty() && http == Http::Two);
            let length = is_told.then(|| back.len().to_string());
            assert_eq!(
                answer.header("content-length"),
                length.as_deref(),
                "{}",
                shown()
            );
        }
    }
}
