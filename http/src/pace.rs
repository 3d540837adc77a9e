//! Timers for slow and silent callers, made so that a lively connection hardly pays for them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::traffic::Traffic;

/// Bytes that a caller must move within each span of patience while it is waited for. Less is
/// trickling: at the default of 30 s that is 34 bytes a second.
pub(crate) const MIN_PROGRESS: u64 = 1024;

/// A point in time that moves often and is reached rarely. To move it back costs no call into
/// tokio's timer: the timer is armed once and looks again when it fires.
#[derive(Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Moves it to this point.
    pub fn set(&mut self, at: Instant) {
        self.at = Some(at);
    }

    /// There is none any more.
    pub fn clear(&mut self) {
        self.at = None;
    }

    /// Whether there is a deadline.
    pub fn is_set(&self) -> bool {
        self.at.is_some()
    }

    /// Whether it has passed, without waiting for it.
    pub fn is_past(&self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }

    /// Ready once the deadline has passed; else the task is woken when it does.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}

/// Why a caller was cut off that did not take what it was sent, or next to nothing of it, for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller took nothing for {} s", .0.as_secs_f64())]
pub struct Untaken(pub Duration);

impl Untaken {
    /// What a [`PacedIo`] broke for, if it is that.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// How long a caller is waited for that takes or gives nothing, or next to nothing: only the
/// time counts in which it is the caller's turn.
#[derive(Debug)]
pub struct Patience {
    span: Duration,
    left: Duration,
    progress: u64,
    since: Option<Instant>,
    deadline: Deadline,
}

impl Patience {
    /// A caller that is waited for so long.
    pub fn new(span: Duration) -> Self {
        Self {
            span,
            left: span,
            progress: 0,
            since: None,
            deadline: Deadline::default(),
        }
    }

    /// The caller moved so many bytes: it is not its turn for now.
    pub fn on_progress(&mut self, bytes: usize) {
        self.progress += bytes as u64;
        if self.progress >= MIN_PROGRESS {
            self.reset();
        } else if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
            self.deadline.clear();
        }
    }

    /// Nothing is asked of the caller any more.
    pub fn reset(&mut self) {
        self.progress = 0;
        self.left = self.span;
        self.since = None;
        self.deadline.clear();
    }

    /// To be called whenever it is the caller's turn: ready when it took too long.
    pub fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            self.deadline.set(now + self.left);
        }
        self.deadline.poll(cx)
    }

    /// The same of a caller that is to take something.
    pub(crate) fn poll_untaken(&mut self, cx: &mut Context<'_>) -> Poll<Untaken> {
        self.poll_exhausted(cx).map(|()| Untaken(self.span))
    }
}

/// How long the phases of a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// A request's head, from the first byte on; the first one from the connection's start on.
    pub head: Duration,
    /// The silence between two requests.
    pub keep_alive: Duration,
    /// A caller that does not take the answer, or does not go on with its body.
    pub stall: Duration,
}

/// A connection that breaks when its peer does not take what is written. The error is [`Untaken`].
#[derive(Debug)]
pub struct PacedIo<IO> {
    io: IO,
    patience: Patience,
    /// Where it is noted, too: calls of HTTP/2 do not see the error.
    traffic: Option<Arc<Traffic>>,
}

impl<IO> PacedIo<IO> {
    /// A connection whose peer is waited for so long.
    pub fn new(io: IO, stall: Duration) -> Self {
        Self {
            io,
            patience: Patience::new(stall),
            traffic: None,
        }
    }

    /// The same for a connection with this traffic, which learns why it broke.
    pub(crate) fn of_traffic(mut self, traffic: &Arc<Traffic>) -> Self {
        self.traffic = Some(traffic.clone());
        self
    }

    fn on_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &written {
            Poll::Ready(Ok(done)) => self.patience.on_progress(bytes(done)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let untaken = ready!(self.patience.poll_untaken(cx));
                if let Some(traffic) = &self.traffic {
                    traffic.on_untaken(untaken);
                }
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, untaken)));
            }
        }
        written
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for PacedIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for PacedIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.on_write(cx, written, |&bytes| bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.on_write(cx, written, |&bytes| bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if flushed.is_ready() {
            self.patience.reset();
        }
        self.on_write(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.on_write(cx, shut, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SPAN: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_back_fires_once_at_its_last_place() {
        let start = Instant::now();
        let mut deadline = Deadline::default();
        deadline.set(start + SPAN);
        assert!(
            poll_fn(|cx| Poll::Ready(deadline.poll(cx)))
                .await
                .is_pending()
        );
        deadline.set(start + 3 * SPAN);
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed(), 3 * SPAN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_forward_fires_early() {
        let start = Instant::now();
        let mut deadline = Deadline::default();
        deadline.set(start + 3 * SPAN);
        assert!(
            poll_fn(|cx| Poll::Ready(deadline.poll(cx)))
                .await
                .is_pending()
        );
        deadline.set(start + SPAN);
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed(), SPAN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_take_what_is_written_breaks_the_connection() {
        use tokio::io::AsyncWriteExt;
        let (_caller, server) = tokio::io::duplex(64);
        let mut io = PacedIo::new(server, SPAN);
        let start = Instant::now();
        let error = io.write_all(&[0; 4096]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(Untaken::of(&error), Some(Untaken(SPAN)));
        assert_eq!(error.to_string(), "the caller took nothing for 30 s");
        assert_eq!(start.elapsed(), SPAN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_trickles_runs_out_of_patience_and_one_that_flows_does_not() {
        let start = Instant::now();
        let mut patience = Patience::new(SPAN);
        for bytes in [MIN_PROGRESS as usize, 1, 1] {
            assert!(
                poll_fn(|cx| Poll::Ready(patience.poll_exhausted(cx)))
                    .await
                    .is_pending()
            );
            tokio::time::advance(SPAN / 3).await;
            patience.on_progress(bytes);
            // Not the caller's turn.
            tokio::time::advance(5 * SPAN).await;
        }
        poll_fn(|cx| patience.poll_exhausted(cx)).await;
        assert_eq!(start.elapsed(), 15 * SPAN + SPAN / 3 + SPAN);
    }
}
