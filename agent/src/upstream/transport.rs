//! The bytes below HTTP: TCP or TLS, and what was seen of them.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use culvert_session::socket::ReadAhead;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::error::rustls_error;
use super::probe::{Heard, Probed};

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

impl Transport {
    /// Where it leads to, and what TLS has settled: for an administrator who asks.
    pub(crate) fn probed(&self) -> io::Result<Probed> {
        match self {
            Self::Plain(tcp) => Ok(Probed {
                address: tcp.peer_addr()?,
                tls: None,
                heard: Heard::Nothing,
            }),
            Self::Tls(stream) => {
                let (io, session) = stream.get_ref();
                let chain = session.peer_certificates().unwrap_or_default();
                Ok(Probed {
                    address: io.io().peer_addr()?,
                    tls: Some((session.protocol_version(), chain.to_vec())),
                    heard: Heard::Nothing,
                })
            }
            #[cfg(test)]
            Self::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// What was seen of a transport's bytes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    received: AtomicBool,
    tls: OnceLock<rustls::Error>,
}

impl Seen {
    /// Whether anything was received since [`forget`](Self::forget).
    pub(crate) fn anything(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// Begins to watch again.
    pub(crate) fn forget(&self) {
        self.received.store(false, Ordering::Relaxed);
    }

    /// How TLS broke, if it did: a TLS 1.3 server complains after the handshake, and HTTP/2 does
    /// not pass on what it said.
    pub(crate) fn tls(&self) -> Option<&rustls::Error> {
        self.tls.get()
    }
}

/// A transport that notes what is seen of it.
#[derive(Debug)]
pub(crate) struct Noted {
    transport: Transport,
    seen: Arc<Seen>,
}

impl Noted {
    pub(crate) fn new(transport: Transport, seen: Arc<Seen>) -> Self {
        Self { transport, seen }
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
            self.seen.received.store(true, Ordering::Relaxed);
        }
        if let Poll::Ready(Err(error)) = &polled
            && let Some(tls) = rustls_error(error)
        {
            let _ = self.seen.tls.set(tls.clone());
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
