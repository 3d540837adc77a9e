//! A TCP connection that was admitted: its seat, what its source may still do, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use culvert_http::Breaker;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{parting, proxy_header};
use crate::metrics::Metrics;
use crate::strangers::{Standing, Strangers};

/// A connection on its way to its worker.
pub(super) struct Arrived {
    pub(super) tcp: std::net::TcpStream,
    pub(super) standing: Standing,
    pub(super) seat: Seat,
}

impl Arrived {
    /// Lets the worker that this is called on hear of what happens on the connection.
    pub(super) fn settle(self) -> Option<Admitted> {
        let tcp = TcpStream::from_std(self.tcp);
        let tcp = tcp.inspect_err(|error| tracing::warn!(%error, "a connection is lost"));
        Some(Admitted {
            tcp: tcp.ok()?,
            breaker: Breaker::default(),
            standing: self.standing,
            _seat: self.seat,
        })
    }
}

/// A TCP connection with its seat among the connections of the node. The seat goes where the
/// connection goes, so it also counts when the connection has become an agent's session.
#[derive(Debug)]
pub struct Admitted {
    pub(super) tcp: TcpStream,
    pub(super) breaker: Breaker,
    pub(super) standing: Standing,
    _seat: Seat,
}

impl Admitted {
    /// Reads what the balancer at `by` says about where the connection is from; `by` itself where it
    /// speaks for itself, as in health checks.
    pub(super) async fn introduced(&mut self, by: SocketAddr) -> io::Result<SocketAddr> {
        Ok(proxy_header::read(&mut self.tcp).await?.unwrap_or(by))
    }

    /// Counts the connection among its source's, once it is known whose it is; says whether that may have
    /// another one.
    pub(super) fn arrive(&mut self, from: SocketAddr, strangers: &Arc<Strangers>) -> bool {
        match strangers.arrive(from.ip()) {
            Some(standing) => {
                self.standing = standing;
                true
            }
            None => false,
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.breaker.is_set() {
            return;
        }
        let socket = SockRef::from(&self.tcp);
        if self.breaker.is_behind()
            && let Ok(runtime) = Handle::try_current()
            && let Ok(again) = socket.try_clone()
        {
            runtime.spawn(parting::reset_behind(again));
            return;
        }
        let _ = socket.set_linger(Some(Duration::ZERO));
    }
}

/// A place among the connections of the node.
#[derive(Debug)]
pub(super) struct Seat {
    _permit: OwnedSemaphorePermit,
    _open: TaskTrackerToken,
    metrics: Arc<Metrics>,
}

impl Seat {
    /// Counts the connection as open until it is dropped.
    pub(super) fn new(
        permit: OwnedSemaphorePermit,
        open: TaskTrackerToken,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.connections.open.inc();
        Self {
            _permit: permit,
            _open: open,
            metrics,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.metrics.connections.open.dec();
    }
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, out)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
