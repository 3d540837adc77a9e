//! Servers that break HTTP/2, frame by frame.

use culvert_config::endpoint::UpstreamProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::testing::Connections;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header field as HPACK has it: literal, never indexed (RFC 7541, 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        match text.len() {
            length @ 0..127 => field.push(length as u8),
            length => {
                field.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    field.push((rest % 128 + 128) as u8);
                    rest /= 128;
                }
                field.push(rest as u8);
            }
        }
        field.extend(text.as_bytes());
    }
    field
}

fn fields(pairs: &[(&str, &str)]) -> Vec<u8> {
    pairs
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// Begins as a server does, answers pings, and says `answer` to each request, all the while
/// reading.
async fn serve(io: DuplexStream, answer: Vec<u8>) -> io::Result<()> {
    let (mut read, mut write) = tokio::io::split(io);
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        while let Some(bytes) = said.recv().await {
            let _ = write.write_all(&bytes).await;
        }
    });
    let say = |bytes: Vec<u8>| say.send(bytes).map_err(io::Error::other);
    read.read_exact(&mut [0; 24]).await?;
    say(frame(SETTINGS, 0, 0, &[]))?;
    let mut head = [0; 9];
    loop {
        read.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        read.read_exact(&mut payload).await?;
        match head[3] {
            PING if head[4] & ACK == 0 => say(frame(PING, ACK, 0, &payload))?,
            HEADERS => say(answer.clone())?,
            _ => {}
        }
    }
}

fn over(answer: Vec<u8>) -> Upstream {
    let mut endpoint = endpoint("http://127.0.0.1:9", Trust::SystemRoots);
    endpoint.upstream_protocol = UpstreamProtocol::H2;
    let (upstream, mut connections): (_, Connections) = Upstream::in_memory(&endpoint);
    tokio::spawn(async move {
        while let Some(io) = connections.recv().await {
            tokio::spawn(serve(io, answer.clone()));
        }
    });
    upstream
}

/// HEADERS of the first request's answer.
fn head(flags: u8, pairs: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, 1, &fields(pairs))
}

fn data(flags: u8, text: &str) -> Vec<u8> {
    frame(DATA, flags, 1, text.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn a_right_answer_is_taken() {
    let answer = [head(0, &[(":status", "200")]), data(END_STREAM, "hello")].concat();
    assert_eq!(text(&over(answer)).await, "hello");
}

#[tokio::test(start_paused = true)]
async fn answers_that_break_the_protocol_are_errors_and_never_end_cleanly() {
    let ok = (":status", "200");
    let long = "x".repeat(70_000);
    let many: Vec<_> = std::iter::once(ok)
        .chain(std::iter::repeat_n(("x-many", "1"), 101))
        .collect();
    // Frames of 16 KiB: what is longer goes on in CONTINUATION.
    let block = fields(&[ok, ("x-long", &long)]);
    let mut oversize = frame(HEADERS, 0, 1, &block[..16_000]);
    let rest: Vec<_> = block[16_000..].chunks(16_000).collect();
    for (at, part) in rest.iter().enumerate() {
        let flags = if at + 1 == rest.len() { END_HEADERS } else { 0 };
        oversize.extend(frame(CONTINUATION, flags, 1, part));
    }
    let mut endless = frame(HEADERS, 0, 1, &fields(&[ok]));
    endless.extend(frame(CONTINUATION, 0, 1, &field("x", "1")).repeat(10_000));
    let interim = head(0, &[(":status", "103"), ("link", "x")]);
    let promised = [
        &2u32.to_be_bytes()[..],
        &fields(&[(":method", "GET"), (":path", "/")]),
    ]
    .concat();
    for (what, answer) in [
        ("no status", head(END_STREAM, &[("x-a", "1")])),
        (
            "a status that is none",
            head(END_STREAM, &[(":status", "99")]),
        ),
        (
            "two lengths",
            head(0, &[ok, ("content-length", "5"), ("content-length", "6")]),
        ),
        (
            "one length twice",
            head(0, &[ok, ("content-length", "5"), ("content-length", "5")]),
        ),
        (
            "a length that is none",
            head(0, &[ok, ("content-length", "+5")]),
        ),
        (
            "Transfer-Encoding",
            head(0, &[ok, ("transfer-encoding", "chunked")]),
        ),
        ("Connection", head(0, &[ok, ("connection", "close")])),
        ("upper case", head(0, &[ok, ("X-Upper", "1")])),
        ("a line break", head(0, &[ok, ("x-a", "1\r\nx-b: 2")])),
        ("a late pseudo header", head(0, &[("x-a", "1"), ok])),
        ("an unasked switch", head(0, &[(":status", "101")])),
        ("interim without end", interim.repeat(11)),
        ("too many fields", head(END_STREAM, &many)),
        ("too large a head", oversize),
        ("a head without end", endless),
        ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, &promised)),
        ("data first", data(END_STREAM, "hello")),
        (
            "another stream",
            frame(HEADERS, END_HEADERS, 7, &fields(&[ok])),
        ),
        (
            "another protocol",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        (
            "shorter than said",
            [
                head(0, &[ok, ("content-length", "9")]),
                data(END_STREAM, "hello"),
            ]
            .concat(),
        ),
        (
            "longer than said",
            [
                head(0, &[ok, ("content-length", "3")]),
                data(END_STREAM, "hello"),
            ]
            .concat(),
        ),
        (
            "a body of 204",
            [head(0, &[(":status", "204")]), data(END_STREAM, "hello")].concat(),
        ),
        (
            "a body of 304",
            [head(0, &[(":status", "304")]), data(END_STREAM, "hello")].concat(),
        ),
    ] {
        let upstream = over(answer);
        let outcome = match upstream.get().await {
            Ok(answer) => read(answer.body).await.map(drop),
            Err(error) => Err(error),
        };
        let error = outcome.expect_err(what);
        assert_eq!(error.code(), ErrorCode::UpstreamProtocol, "{what}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn floods_end_the_connection_or_are_borne_without_growing() {
    let ok = [head(0, &[(":status", "200")]), data(END_STREAM, "hello")].concat();
    for (what, flood) in [
        ("pings", frame(PING, 0, 0, &[7; 8]).repeat(10_000)),
        ("settings", frame(SETTINGS, 0, 0, &[]).repeat(10_000)),
        (
            "empty data",
            [head(0, &[(":status", "200")]), data(0, "").repeat(10_000)].concat(),
        ),
    ] {
        let upstream = over([flood, ok.clone()].concat());
        // Either the answer behind it, or an error; the call surely ends.
        match upstream.get().await {
            Ok(answer) => drop(read(answer.body).await),
            Err(error) => assert_eq!(error.code(), ErrorCode::UpstreamProtocol, "{what}"),
        }
    }
}
