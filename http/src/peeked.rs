//! A connection whose first byte was looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A connection, and the first byte of it if that was [looked at](Self::first) and not read since.
#[derive(Debug)]
pub(crate) struct Peeked<IO> {
    first: Option<u8>,
    io: IO,
}

impl<IO> Peeked<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self { first: None, io }
    }
}

impl<IO: AsyncRead + Unpin> Peeked<IO> {
    /// The first byte; nothing where there is none. Cancel safe. To be called before anything is read.
    pub(crate) async fn first(&mut self) -> io::Result<Option<u8>> {
        let mut first = [0];
        let read = self.io.read(&mut first).await?;
        self.first = (read > 0).then_some(first[0]);
        Ok(self.first)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Peeked<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.first.filter(|_| out.remaining() > 0) {
            Some(first) => {
                self.first = None;
                out.put_slice(&[first]);
                Poll::Ready(Ok(()))
            }
            None => Pin::new(&mut self.io).poll_read(cx, out),
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Peeked<IO> {
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
