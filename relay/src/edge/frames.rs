//! The guard of HTTP/2: it stands between TLS and hyper and counts frames.
//!
//! The h2 crate checks what frames mean and bounds much of what a peer can make it hold. What it
//! leaves open is closed here:
//!
//! - frames that cost the peer nothing and us work (pings, settings, resets, empty data, ...)
//!   are paid from a [`Budget`] that fills with time and with honest work; an empty one ends the
//!   connection;
//! - a frame or a block of header frames that does not come to its end runs into a timer;
//! - of a burst of requests only a few reach h2 at once: it decodes all that it is given before
//!   the service sees the first one, and decoded heads are far larger than their frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::pace::{Deadline, Pace};

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;

/// Most requests that h2 decodes before the service has looked at them. A decoded head of
/// 64 KiB takes about 400 KiB in the worst case: two stay below 1 MiB.
const HEADS_PER_TURN: u8 = 2;

/// What the peer may spend at once.
const BUDGET: u64 = 2000;
/// What it gets back for each second, and for how many bytes that it takes or sends as data.
const PER_SECOND: u64 = 20;
const BYTES_PER_TOKEN: u64 = 512;

/// The kinds of frames that matter here (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a peer's frames cost. A full budget pays for 1000 pings or 180 requests that are reset.
fn price(kind: u8, flags: u8, length: u32) -> u64 {
    match kind {
        DATA if length > 0 || flags & END_STREAM != 0 => 0,
        RST_STREAM | SETTINGS => 10,
        PING => 2,
        _ => 1,
    }
}

/// What a peer may make us do for nothing.
#[derive(Debug)]
struct Budget {
    tokens: u64,
    /// Bytes of work that are not yet worth a token.
    bytes: u64,
    filled: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            tokens: BUDGET,
            bytes: 0,
            filled: now,
        }
    }

    fn earn(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.tokens = BUDGET.min(self.tokens + self.bytes / BYTES_PER_TOKEN);
        self.bytes %= BYTES_PER_TOKEN;
    }

    /// Whether the peer can pay.
    fn spend(&mut self, price: u64) -> bool {
        if self.tokens < price {
            let seconds = self.filled.elapsed().as_secs();
            self.filled = Instant::now();
            self.tokens = BUDGET.min(self.tokens + seconds.saturating_mul(PER_SECOND));
        }
        match self.tokens.checked_sub(price) {
            Some(left) => self.tokens = left,
            None => return false,
        }
        true
    }
}

/// Where in the peer's frames the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Preface { left: usize },
    Header { seen: usize },
    Payload { left: u32 },
}

/// What the peer has begun and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    /// The connection itself: its first frame has not come.
    Connection,
    Heads,
    Frame,
}

/// The peer sends frames that it cannot pay for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller floods the connection with HTTP/2 frames")]
struct Flood;

/// An HTTP/2 connection whose peer is held to its budget.
#[derive(Debug)]
pub(crate) struct FrameGuard<IO> {
    io: IO,
    place: Place,
    header: [u8; FRAME_HEADER],
    /// The first frame has come.
    begun: bool,
    /// Within a block of HEADERS and CONTINUATION.
    in_heads: bool,
    budget: Budget,
    heads: u8,
    /// Bytes that h2 gets later. Empty in the steady state.
    stash: BytesMut,
    /// So many of the stashed bytes h2 may have now.
    cleared: usize,
    pace: Pace,
    open: Open,
    deadline: Deadline,
}

impl<IO> FrameGuard<IO> {
    pub(crate) fn new(io: IO, pace: Pace) -> Self {
        let now = Instant::now();
        let mut deadline = Deadline::default();
        deadline.set(now + pace.head);
        Self {
            io,
            place: Place::Preface { left: PREFACE },
            header: [0; FRAME_HEADER],
            begun: false,
            in_heads: false,
            budget: Budget::new(now),
            heads: 0,
            stash: BytesMut::new(),
            cleared: 0,
            pace,
            open: Open::Connection,
            deadline,
        }
    }

    /// Looks at the next bytes; gives how many of them h2 may have in this turn.
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, Flood> {
        let mut at = 0;
        while at < bytes.len() && self.heads < HEADS_PER_TURN {
            let there = bytes.len() - at;
            match self.place {
                Place::Preface { left } => {
                    let taken = left.min(there);
                    at += taken;
                    self.place = match left - taken {
                        0 => Place::Header { seen: 0 },
                        left => Place::Preface { left },
                    };
                }
                Place::Header { seen } => {
                    let taken = (FRAME_HEADER - seen).min(there);
                    self.header[seen..seen + taken].copy_from_slice(&bytes[at..at + taken]);
                    at += taken;
                    self.place = Place::Header { seen: seen + taken };
                    if seen + taken == FRAME_HEADER {
                        self.on_header()?;
                    }
                }
                Place::Payload { left } => {
                    let taken = usize::try_from(left).map_or(there, |left| left.min(there));
                    at += taken;
                    // No more than `left`, so it fits.
                    self.place = Place::Payload {
                        left: left - taken as u32,
                    };
                }
            }
            if self.place == (Place::Payload { left: 0 }) {
                self.on_frame_end();
            }
        }
        Ok(at)
    }

    fn on_header(&mut self) -> Result<(), Flood> {
        let [high, mid, low, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, high, mid, low]);
        if !self.budget.spend(price(kind, flags, length)) {
            return Err(Flood);
        }
        if kind == DATA {
            self.budget.earn(length.into());
        }
        self.place = Place::Payload { left: length };
        Ok(())
    }

    fn on_frame_end(&mut self) {
        let [.., kind, flags, _, _, _, _] = self.header;
        self.place = Place::Header { seen: 0 };
        self.begun = true;
        if kind == HEADERS || kind == CONTINUATION {
            self.in_heads = flags & END_HEADERS == 0;
            if !self.in_heads {
                self.heads += 1;
            }
        }
        // The next silence is another one.
        if !self.in_heads {
            self.open = Open::Nothing;
        }
    }

    /// What is cut off of the bytes that were just read into `out`, behind `before`, is stashed.
    fn advance_in_place(&mut self, out: &mut ReadBuf<'_>, before: usize) -> Result<(), Flood> {
        let fresh = &out.filled()[before..];
        let passed = self.advance(fresh)?;
        self.stash.extend_from_slice(&fresh[passed..]);
        out.set_filled(before + passed);
        Ok(())
    }

    /// The peer is silent: ready when it left something unfinished for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (open, span) = match self.place {
            _ if !self.begun => (Open::Connection, self.pace.head),
            _ if self.in_heads => (Open::Heads, self.pace.head),
            Place::Header { seen: 0 } => {
                self.open = Open::Nothing;
                self.deadline.clear();
                return Poll::Pending;
            }
            _ => (Open::Frame, self.pace.stall),
        };
        if open != self.open {
            self.open = open;
            self.deadline.set(Instant::now() + span);
        }
        ready!(self.deadline.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

fn flooded(flood: Flood) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, flood)
}

impl<IO: AsyncRead + Unpin> AsyncRead for FrameGuard<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.heads >= HEADS_PER_TURN && this.cleared == 0 {
            this.heads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.cleared == 0 && !this.stash.is_empty() {
            let stash = std::mem::take(&mut this.stash);
            this.cleared = this.advance(&stash).map_err(flooded)?;
            this.stash = stash;
        }
        if this.cleared > 0 {
            let given = this.cleared.min(out.remaining());
            out.put_slice(&this.stash[..given]);
            this.stash.advance(given);
            this.cleared -= given;
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, out) {
            Poll::Ready(Ok(())) => {
                this.advance_in_place(out, before).map_err(flooded)?;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                this.heads = 0;
                this.poll_silence(cx)
            }
            error => error,
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for FrameGuard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.budget.earn(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bytes))?;
        self.budget.earn(written as u64);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PACE: Pace = Pace {
        head: Duration::from_secs(10),
        keep_alive: Duration::from_secs(60),
        stall: Duration::from_secs(30),
    };

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn opening() -> Vec<u8> {
        [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(SETTINGS, 0, b""),
        ]
        .concat()
    }

    fn guard() -> (
        tokio::io::DuplexStream,
        FrameGuard<tokio::io::DuplexStream>,
        Instant,
    ) {
        let (caller, server) = tokio::io::duplex(1 << 20);
        (caller, FrameGuard::new(server, PACE), Instant::now())
    }

    /// Reads until nothing more comes at once, or an error.
    async fn read(guard: &mut FrameGuard<tokio::io::DuplexStream>) -> io::Result<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 700]);
        loop {
            let moment = Duration::from_millis(1);
            match tokio::time::timeout(moment, guard.read(&mut buffer)).await {
                Ok(Ok(length)) => all.extend_from_slice(&buffer[..length]),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(all),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_pass_unchanged() {
        let (mut caller, mut guard, _) = guard();
        let frames = [
            opening(),
            frame(HEADERS, 0, b"abc"),
            frame(CONTINUATION, END_HEADERS, b"def"),
            frame(DATA, 0, &[7; 3000]),
            frame(DATA, END_STREAM, b""),
            frame(HEADERS, END_HEADERS | END_STREAM, b"x").repeat(50),
            frame(PING, 0, &[0; 8]),
        ];
        caller.write_all(&frames.concat()).await.unwrap();
        assert_eq!(read(&mut guard).await.unwrap(), frames.concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_requests_reaches_h2_a_few_at_a_time() {
        let (mut caller, mut guard, _) = guard();
        let request = frame(HEADERS, END_HEADERS | END_STREAM, b"x");
        caller
            .write_all(&[opening(), request.repeat(10)].concat())
            .await
            .unwrap();
        let mut buffer = vec![0; 1 << 16];
        let first = guard.read(&mut buffer).await.unwrap();
        assert_eq!(
            first,
            opening().len() + usize::from(HEADS_PER_TURN) * request.len()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn floods_are_cut_whatever_they_are_made_of() {
        let reset = [
            frame(HEADERS, END_HEADERS, b"x"),
            frame(RST_STREAM, 0, &[0; 4]),
        ]
        .concat();
        let floods = [
            frame(PING, 0, &[0; 8]),
            frame(SETTINGS, 0, b""),
            frame(DATA, 0, b""),
            frame(CONTINUATION, 0, b""),
            frame(200, 0, b""),
            reset,
        ];
        for flood in floods {
            let (mut caller, mut guard, _) = guard();
            caller
                .write_all(&[opening(), flood.repeat(2500)].concat())
                .await
                .unwrap();
            let error = read(&mut guard).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{flood:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pings_beside_honest_work_are_no_flood() {
        let (mut caller, mut guard, _) = guard();
        caller.write_all(&opening()).await.unwrap();
        for _ in 0..5000 {
            let frames = [frame(PING, 0, &[0; 8]), frame(DATA, 0, &[0; 1024])].concat();
            caller.write_all(&frames).await.unwrap();
            read(&mut guard).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_upload_is_not_cut_though_every_silence_falls_into_a_frame() {
        let (mut caller, mut guard, _) = guard();
        let upload = [opening(), frame(DATA, 0, &[0; 100]).repeat(100)].concat();
        for piece in upload.chunks(109) {
            caller.write_all(piece).await.unwrap();
            read(&mut guard).await.unwrap();
            tokio::time::sleep(PACE.head / 2).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_begun_and_not_ended_runs_into_a_timer() {
        let begun = [
            (b"PRI * HTTP/2.0".to_vec(), PACE.head),
            ([opening(), frame(HEADERS, 0, b"abc")].concat(), PACE.head),
            (
                [opening(), frame(DATA, 0, b"abc")[..10].to_vec()].concat(),
                PACE.stall,
            ),
            (
                [opening(), frame(PING, 0, b"abc")[..5].to_vec()].concat(),
                PACE.stall,
            ),
        ];
        for (bytes, span) in begun {
            let (mut caller, mut guard, start) = guard();
            caller.write_all(&bytes).await.unwrap();
            let mut buffer = [0; 512];
            assert_ne!(guard.read(&mut buffer).await.unwrap(), 0);
            let error = guard.read(&mut buffer).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(start.elapsed(), span);
        }
        let (mut caller, mut guard, _) = guard();
        caller.write_all(&opening()).await.unwrap();
        let mut buffer = [0; 512];
        assert_ne!(guard.read(&mut buffer).await.unwrap(), 0);
        let wait = tokio::time::timeout(Duration::from_secs(3600), guard.read(&mut buffer));
        assert!(
            wait.await.is_err(),
            "between frames the caller may be silent"
        );
    }
}
