//! The guard around a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::body::BodyScan;
use super::head::{HeadScan, MAX_HEAD, Scanned};
use super::{MASKED_EXPECT, Violation};
use crate::long_heads::{LONG, LongHeads, Place};
use crate::pace::{Deadline, Pace};
use crate::stash;
use crate::traffic::Traffic;

/// What hyper gets in place of a refused request.
pub(crate) const REFUSED_REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n";

/// After an answer that ends a connection, what the caller still sends is read and thrown away
/// for so long and up to so many bytes: closing at once would make the kernel reset the
/// connection, and the caller might never see the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

/// A connection of which only well-framed requests can be read.
#[derive(Debug)]
pub(crate) struct Guard<IO> {
    io: IO,
    traffic: Arc<Traffic>,
    stage: Stage,
    /// Bytes that were read and may not pass yet. Empty in the steady state.
    stash: BytesMut,
    /// So many of the stashed bytes may pass.
    cleared: usize,
    pace: Pace,
    waiting: Waiting,
    deadline: Deadline,
    linger: Option<(Deadline, usize)>,
    long_heads: LongHeads,
    /// The place of a head that is long and not whole.
    room: Option<Place>,
    /// Interim answers of which the caller has not taken all.
    interim: Bytes,
}

#[derive(Debug)]
enum Stage {
    Head(HeadScan),
    Body(BodyScan),
    /// A head was refused; so many bytes of [`REFUSED_REQUEST`] were given in its place.
    Refused {
        given: usize,
    },
    /// A body was refused.
    Broken(Violation),
    /// After a 101.
    Switched,
}

/// What a silent caller is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Nothing,
    FirstHead,
    NextHead,
    RestOfHead,
}

impl<IO> Guard<IO> {
    pub(crate) fn new(io: IO, traffic: Arc<Traffic>, pace: Pace, long_heads: LongHeads) -> Self {
        let mut deadline = Deadline::default();
        deadline.set(Instant::now() + pace.head);
        Self {
            io,
            traffic,
            stage: Stage::Head(HeadScan::default()),
            stash: BytesMut::new(),
            cleared: 0,
            pace,
            waiting: Waiting::FirstHead,
            deadline,
            linger: None,
            long_heads,
            room: None,
            interim: Bytes::new(),
        }
    }

    /// How many of these bytes, the next ones of the message, may pass. `fresh` bytes were not
    /// seen before; of a head that is not whole yet, all bytes are shown again.
    fn advance(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        match &mut self.stage {
            Stage::Head(scan) => match scan.scan(bytes)? {
                Scanned::Partial => Ok(0),
                Scanned::Whole {
                    length,
                    framing,
                    expect,
                    ..
                } => {
                    if let Some(at) = expect {
                        let name = &mut bytes[at..at + MASKED_EXPECT.len()];
                        name.copy_from_slice(MASKED_EXPECT.as_bytes());
                    }
                    let mut body = BodyScan::new(framing);
                    // A message that is wrong anywhere in its first bytes is refused as a whole.
                    let taken = body.scan(&bytes[length..])?;
                    self.room = None;
                    self.traffic.on_begin();
                    self.waiting = Waiting::Nothing;
                    self.deadline.clear();
                    self.stage = next_stage(body);
                    Ok(length + taken)
                }
            },
            Stage::Body(scan) => {
                let taken = scan.scan(bytes)?;
                if scan.is_done() {
                    self.stage = Stage::Head(HeadScan::default());
                }
                Ok(taken)
            }
            Stage::Refused { .. } | Stage::Broken(_) | Stage::Switched => Ok(0),
        }
    }

    /// A head that grows and is not whole needs room.
    fn take_room(&mut self) {
        if self.stash.len() <= LONG || self.room.is_some() {
            return;
        }
        if let Some(source) = self.traffic.stranger() {
            self.room = self.long_heads.take(source);
            if self.room.is_none() {
                self.on_violation(Violation::NoRoomForHead);
            }
        }
    }

    fn on_violation(&mut self, violation: Violation) {
        self.room = None;
        self.traffic.refuse(violation);
        self.stash = BytesMut::new();
        self.cleared = 0;
        self.stage = match self.stage {
            Stage::Body(_) => Stage::Broken(violation),
            _ => {
                self.traffic.on_begin();
                Stage::Refused { given: 0 }
            }
        };
    }

    /// Looks at stashed bytes again, with those that came since.
    fn advance_stash(&mut self) {
        let mut stash = std::mem::take(&mut self.stash);
        match self.advance(&mut stash) {
            Ok(cleared) => (self.stash, self.cleared) = (stash, cleared),
            Err(violation) => self.on_violation(violation),
        }
    }

    /// Looks at what was just read into `out`, behind `before`, and leaves there what may pass.
    fn advance_in_place(&mut self, out: &mut ReadBuf<'_>, before: usize) {
        let fresh = &mut out.filled_mut()[before..];
        let passed = match self.advance(fresh) {
            Ok(passed) => {
                self.stash.extend_from_slice(&fresh[passed..]);
                passed
            }
            Err(violation) => {
                self.on_violation(violation);
                0
            }
        };
        out.set_filled(before + passed);
    }

    /// The caller is silent between or within heads: ready when it was silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (waiting, span) = match (self.waiting, self.stash.is_empty()) {
            (Waiting::FirstHead, _) => (Waiting::FirstHead, self.pace.head),
            (_, true) => (Waiting::NextHead, self.pace.keep_alive),
            (_, false) => (Waiting::RestOfHead, self.pace.head),
        };
        if waiting != self.waiting {
            self.waiting = waiting;
            self.deadline.set(Instant::now() + span);
        }
        ready!(self.deadline.poll(cx));
        // No byte and no error is the end of the connection, in good order.
        Poll::Ready(match waiting {
            Waiting::NextHead => Ok(()),
            _ => Err(io::ErrorKind::TimedOut.into()),
        })
    }
}

fn next_stage(body: BodyScan) -> Stage {
    if body.is_done() {
        Stage::Head(HeadScan::default())
    } else {
        Stage::Body(body)
    }
}

/// Moves as much from the front of `bytes` into `out` as there is room for; gives how much.
fn give(bytes: &[u8], out: &mut ReadBuf<'_>) -> usize {
    let length = bytes.len().min(out.remaining());
    out.put_slice(&bytes[..length]);
    length
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        loop {
            if this.cleared > 0 {
                this.cleared -= stash::release(&mut this.stash, this.cleared, out);
                return Poll::Ready(Ok(()));
            }
            let mut busy = false;
            match &mut this.stage {
                Stage::Switched if this.stash.is_empty() => {
                    return Pin::new(&mut this.io).poll_read(cx, out);
                }
                Stage::Switched => {
                    this.cleared = this.stash.len();
                    continue;
                }
                Stage::Refused { given } if *given == REFUSED_REQUEST.len() => {
                    return Poll::Pending;
                }
                Stage::Refused { given } => {
                    *given += give(&REFUSED_REQUEST[*given..], out);
                    return Poll::Ready(Ok(()));
                }
                Stage::Broken(violation) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        *violation,
                    )));
                }
                Stage::Body(_) if !this.stash.is_empty() => {
                    this.advance_stash();
                    continue;
                }
                Stage::Body(_) => {}
                Stage::Head(_) if this.traffic.is_switched() => {
                    this.stage = Stage::Switched;
                    continue;
                }
                Stage::Head(_) => {
                    busy = this.traffic.poll_busy(cx.waker());
                    if !busy && !this.stash.is_empty() {
                        this.advance_stash();
                        if this.cleared > 0 || !matches!(this.stage, Stage::Head(_)) {
                            continue;
                        }
                        this.take_room();
                        if !matches!(this.stage, Stage::Head(_)) {
                            continue;
                        }
                    } else if busy && this.stash.len() >= MAX_HEAD {
                        return Poll::Pending;
                    }
                }
            }
            match Pin::new(&mut this.io).poll_read(cx, out) {
                Poll::Ready(Ok(())) if out.filled().len() > before => {}
                Poll::Pending if matches!(this.stage, Stage::Head(_)) && !busy => {
                    return this.poll_silence(cx);
                }
                other => return other,
            }
            if busy || !this.stash.is_empty() {
                this.stash.extend_from_slice(&out.filled()[before..]);
                out.set_filled(before);
            } else {
                this.advance_in_place(out, before);
                if out.filled().len() > before {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    /// Reads and throws away.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (deadline, left) = self.linger.get_or_insert_with(|| {
            let mut deadline = Deadline::default();
            deadline.set(Instant::now() + LINGER);
            (deadline, LINGER_BYTES)
        });
        let mut waste = [0; 4096];
        loop {
            let mut waste = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.io).poll_read(cx, &mut waste) {
                Poll::Pending => return deadline.poll(cx),
                Poll::Ready(Ok(())) if (1..*left).contains(&waste.filled().len()) => {
                    *left -= waste.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when it has written all that it has: here an interim answer, which hyper
    /// itself cannot send, is never in the midst of another.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let written = this.interim.has_remaining() || this.traffic.take_interim(&mut this.interim);
        while this.interim.has_remaining() {
            let taken = ready!(Pin::new(&mut this.io).poll_write(cx, &this.interim))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.interim.advance(taken);
        }
        if written {
            this.traffic.on_interim_written();
        }
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        this.traffic.on_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        let read_all = matches!(this.stage, Stage::Head(_) | Stage::Switched);
        if !read_all || !this.stash.is_empty() {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
