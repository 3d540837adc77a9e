//! A connection whose answer is read although writing has failed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whoever refuses a body may close before all of it has come. Then writing fails, and hyper gives
/// up although the answer is there and says why. So what cannot be written any more is thrown away
/// as if it had been: what is read then is the answer, or the end of the connection.
#[derive(Debug)]
pub(super) struct Discarding<S> {
    io: S,
    /// Whether writing has failed.
    broken: bool,
}

impl<S: AsyncWrite + Unpin> Discarding<S> {
    /// One that has not failed.
    pub(super) fn new(io: S) -> Self {
        Self { io, broken: false }
    }

    /// Writes, unless that fails or has failed: then `discarded` is what came of it.
    fn or_discard<T>(
        &mut self,
        discarded: T,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.broken {
            match write(Pin::new(&mut self.io)) {
                Poll::Ready(Err(_)) => self.broken = true,
                result => return result,
            }
        }
        Poll::Ready(Ok(discarded))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Discarding<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Discarding<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.or_discard(data.len(), |io| io.poll_write(cx, data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = data.iter().map(|part| part.len()).sum();
        self.or_discard(length, |io| io.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.or_discard((), |io| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.or_discard((), |io| io.poll_shutdown(cx))
    }
}
