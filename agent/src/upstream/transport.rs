//! The bytes below HTTP: TCP or TLS, and how many have come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use culvert_session::socket::ReadAhead;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connection to an upstream, ready for HTTP.
#[derive(Debug)]
pub(crate) enum Transport {
    /// `http://`
    Plain(TcpStream),
    /// `https://`
    Tls(Box<TlsStream<ReadAhead<TcpStream>>>),
    /// A pipe in memory, for tests under a stopped clock.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

/// A transport that notes whether anything was received since it was asked last.
#[derive(Debug)]
pub(crate) struct Noted {
    transport: Transport,
    received: Arc<AtomicBool>,
}

impl Noted {
    pub(crate) fn new(transport: Transport, received: Arc<AtomicBool>) -> Self {
        Self {
            transport,
            received,
        }
    }
}

macro_rules! each {
    ($this:expr, $io:ident => $call:expr) => {
        match &mut $this.transport {
            Transport::Plain($io) => $call,
            Transport::Tls($io) => $call,
            #[cfg(test)]
            Transport::Memory($io) => $call,
        }
    };
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let polled = each!(self, io => Pin::new(io).poll_read(cx, out));
        if out.filled().len() > before {
            self.received.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(io) => io.is_write_vectored(),
            Transport::Tls(io) => io.is_write_vectored(),
            #[cfg(test)]
            Transport::Memory(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
