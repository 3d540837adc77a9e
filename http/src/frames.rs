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
//!   the service sees the first one, and decoded heads are far larger than their frames;
//! - before it is known who calls, little is read of bodies, and of requests no more than two until
//!   these are answered;
//! - a connection that ends takes further calls until the caller says that it has heard of it. Where
//!   that is waited for no longer, it is said in the caller's place ([`HEARD`]).

mod budget;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use self::budget::{Budget, PER_SECOND, PER_SECOND_PROVEN, Written, price};
use crate::long_heads::{self, LONG, LongHeads};
use crate::pace::{Deadline, Pace};
use crate::stash;
use crate::traffic::Traffic;

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;

/// Most requests that h2 decodes before the service has looked at them. A decoded head of
/// 64 KiB takes about 400 KiB in the worst case: two stay below 1 MiB.
const HEADS_PER_TURN: u8 = 2;

/// Longest header block, in bytes of the wire: h2 answers one that decodes to more than it takes.
const MAX_BLOCK: usize = 128 * 1024;

/// Bytes of bodies after which no more is read of a peer of whom nobody knows who it is, as long as
/// one of its calls is in flight. What belongs to a call that is over h2 throws away.
const STRANGER_DATA: u64 = 8 * 1024;

/// The kinds of frames that matter here (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The caller's word that it has heard that the connection ends: the acknowledged PING with what h2
/// sends in its own. After that h2 names the last call that it takes and throws away what comes behind
/// it, which the caller may send elsewhere. h2 alone would wait for it as long as the caller likes.
const HEARD: [u8; 17] = [
    0, 0, 8, PING, ACK, 0, 0, 0, 0, 0x0B, 0x7B, 0xA2, 0xF0, 0x8B, 0x9B, 0xFE, 0x54,
];

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
    traffic: Arc<Traffic>,
    place: Place,
    header: [u8; FRAME_HEADER],
    /// The first frame has come.
    begun: bool,
    /// Within a block of HEADERS and CONTINUATION.
    in_heads: bool,
    budget: Budget,
    written: Written,
    heads: u8,
    /// The turn is over, and h2 was left to do with the heads what it does.
    handed_over: bool,
    /// Bytes that h2 gets later. Empty in the steady state.
    stash: BytesMut,
    /// So many of the stashed bytes were looked at, ...
    seen: usize,
    /// ... and so many h2 may have now.
    cleared: usize,
    /// A block has begun, and so many bytes of it have come, without the header of its first frame: h2
    /// gets them once it is whole. It would decode what is there, which can take 200 times as much.
    block: Option<usize>,
    long_heads: LongHeads,
    /// The place of a block that is long and not whole.
    room: Option<long_heads::Place>,
    /// Bytes of bodies that the peer has sent since its last turn.
    data: u64,
    /// So many bytes of [`HEARD`] were given.
    heard: usize,
    pace: Pace,
    open: Open,
    deadline: Deadline,
}

impl<IO> FrameGuard<IO> {
    pub(crate) fn new(io: IO, traffic: Arc<Traffic>, pace: Pace, long_heads: LongHeads) -> Self {
        let now = Instant::now();
        let mut deadline = Deadline::default();
        deadline.set(now + pace.head);
        Self {
            io,
            traffic,
            place: Place::Preface { left: PREFACE },
            header: [0; FRAME_HEADER],
            begun: false,
            in_heads: false,
            budget: Budget::new(now),
            written: Written::default(),
            heads: 0,
            handed_over: false,
            stash: BytesMut::new(),
            seen: 0,
            cleared: 0,
            block: None,
            long_heads,
            room: None,
            data: 0,
            heard: 0,
            pace,
            open: Open::Connection,
            deadline,
        }
    }

    /// Looks at the next bytes; gives how many of them h2 may have in this turn.
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, Flood> {
        let mut at = 0;
        while at < bytes.len() && self.heads < HEADS_PER_TURN && !self.must_hear() {
            let (there, before) = (bytes.len() - at, at);
            let in_block = self.block.is_some();
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
            if in_block && let Some(block) = &mut self.block {
                *block += at - before;
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
        let price = match kind {
            PING if self.written.take_ping() => 0,
            _ => price(kind, flags, length),
        };
        let per_second = if self.traffic.is_stranger() {
            PER_SECOND
        } else {
            PER_SECOND_PROVEN
        };
        let ended = || self.traffic.ended();
        if !self.budget.spend(price, per_second, ended) {
            return Err(Flood);
        }
        if kind == DATA {
            self.budget.earn(length.into());
            self.data += u64::from(length);
        }
        if kind == HEADERS && self.block.is_none() {
            self.block = Some(0);
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
                (self.block, self.room) = (None, None);
            }
        }
        // The next silence is another one.
        if !self.in_heads {
            self.open = Open::Nothing;
        }
    }

    /// Whether the next bytes for h2 are those of [`HEARD`]: it is time, and they come between frames.
    fn must_hear(&self) -> bool {
        let between_frames =
            self.begun && !self.in_heads && self.place == Place::Header { seen: 0 };
        between_frames && self.heard < HEARD.len() && self.traffic.is_taking_no_more()
    }

    /// Whether h2 has enough for now.
    fn is_turn_over(&self) -> bool {
        let is_fed = self.data >= STRANGER_DATA && self.traffic.is_stranger();
        is_fed || self.heads >= HEADS_PER_TURN
    }

    /// Bytes of a block that is not whole.
    fn held(&self) -> usize {
        self.block.unwrap_or(0)
    }

    /// Looks at bytes that were just read into `out`, behind `before`, and leaves there what h2 may
    /// have; the rest is stashed.
    fn advance_in_place(&mut self, out: &mut ReadBuf<'_>, before: usize) -> Result<(), Flood> {
        let fresh = &out.filled()[before..];
        if !self.stash.is_empty() {
            self.stash.extend_from_slice(fresh);
            out.set_filled(before);
            return Ok(());
        }
        let seen = self.advance(fresh)?;
        let passed = seen - self.held();
        self.stash.extend_from_slice(&fresh[passed..]);
        self.seen = seen - passed;
        out.set_filled(before + passed);
        self.take_room()
    }

    /// Looks at what was stashed and not looked at.
    fn advance_stash(&mut self) -> Result<(), Flood> {
        let stash = std::mem::take(&mut self.stash);
        let seen = self.advance(&stash[self.seen..]);
        self.stash = stash;
        self.seen += seen?;
        self.cleared = self.seen - self.held();
        self.take_room()
    }

    /// A block that grows and is not whole needs room.
    fn take_room(&mut self) -> Result<(), Flood> {
        let held = self.held();
        if held > MAX_BLOCK {
            return Err(Flood);
        }
        if held > LONG
            && self.room.is_none()
            && let Some(source) = self.traffic.stranger()
        {
            self.room = Some(self.long_heads.take(source).ok_or(Flood)?);
        }
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
        if this.cleared == 0 && this.must_hear() {
            let given = (HEARD.len() - this.heard).min(out.remaining());
            out.put_slice(&HEARD[this.heard..this.heard + given]);
            this.heard += given;
            return Poll::Ready(Ok(()));
        }
        if this.is_turn_over() && this.cleared == 0 {
            if this.traffic.poll_stranger(cx.waker()) && this.traffic.poll_busy(cx.waker()) {
                return Poll::Pending;
            }
            // First h2 hands over what it has. That a stranger's calls are under way shows afterwards.
            if !this.handed_over {
                this.handed_over = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            (this.heads, this.data, this.handed_over) = (0, 0, false);
        }
        let before = out.filled().len();
        loop {
            if this.cleared == 0 && this.stash.len() > this.seen {
                this.advance_stash().map_err(flooded)?;
            }
            if this.cleared > 0 {
                let given = stash::release(&mut this.stash, this.cleared, out);
                this.cleared -= given;
                this.seen -= given;
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut this.io).poll_read(cx, out) {
                Poll::Ready(Ok(())) if out.filled().len() > before => {
                    this.advance_in_place(out, before).map_err(flooded)?;
                    // Nothing would be the end.
                    if out.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Pending => {
                    if !this.traffic.is_stranger() || !this.traffic.is_busy() {
                        this.heads = 0;
                    }
                    return this.poll_silence(cx);
                }
                other => return other,
            }
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
        self.written.count(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bytes))?;
        self.budget.earn(written as u64);
        let mut left = written;
        for slice in bytes {
            let part = left.min(slice.len());
            self.written.count(&slice[..part]);
            left -= part;
        }
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
