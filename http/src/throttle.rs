//! Bytes at the rate that a tenant's calls share: who is too fast is read from more slowly, and
//! credit does the rest, up to whoever sends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::bucket::Bucket;
use crate::pace::Deadline;

/// One direction of one call.
#[derive(Debug, Default)]
pub struct Throttle {
    /// None: as fast as it goes.
    rate: Option<Arc<Bucket>>,
    /// It has asked for its first turn.
    begun: bool,
    turn: Deadline,
}

impl Throttle {
    /// One that keeps to this rate; [`default`](Self::default) keeps to none.
    pub fn new(rate: Arc<Bucket>) -> Self {
        Self {
            rate: Some(rate),
            ..Self::default()
        }
    }

    /// Ready when the next piece may be moved; else the task is woken when it may.
    pub fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(rate) = &self.rate else {
            return Poll::Ready(());
        };
        if !std::mem::replace(&mut self.begun, true)
            && let Some(at) = rate.turn()
        {
            self.turn.set(at);
        }
        if !self.turn.is_set() {
            return Poll::Ready(());
        }
        ready!(self.turn.poll(cx));
        self.turn.clear();
        Poll::Ready(())
    }

    /// A piece of so many bytes was moved. Zero is none.
    pub fn on_moved(&mut self, bytes: usize) {
        if let Some(rate) = &self.rate
            && bytes > 0
            && let Some(at) = rate.charge(bytes as u64)
        {
            self.turn.set(at);
        }
    }
}

/// A connection both of whose directions are throttled.
#[derive(Debug)]
pub struct ThrottledIo<IO> {
    io: IO,
    read: Throttle,
    written: Throttle,
}

impl<IO> ThrottledIo<IO> {
    /// Reads and writes at these rates.
    pub fn new(io: IO, read: Throttle, written: Throttle) -> Self {
        Self { io, read, written }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ThrottledIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.read.poll_turn(cx));
        let before = out.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, out);
        self.read.on_moved(out.filled().len() - before);
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ThrottledIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.written.poll_turn(cx));
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.written.on_moved(*bytes);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.written.poll_turn(cx));
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.written.on_moved(*bytes);
        }
        written
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
