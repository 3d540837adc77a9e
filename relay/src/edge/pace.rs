//! Timers for slow and silent callers, made so that a lively connection hardly pays for them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes that a caller must move within each span of patience while it is waited for. Less is
/// trickling: at the default of 30 s that is 34 bytes a second.
pub(crate) const MIN_PROGRESS: u64 = 1024;

/// A point in time that moves often and is reached rarely. To move it back costs no call into
/// tokio's timer: the timer is armed once and looks again when it fires.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(crate) fn set(&mut self, at: Instant) {
        self.at = Some(at);
    }

    pub(crate) fn clear(&mut self) {
        self.at = None;
    }

    pub(crate) fn is_set(&self) -> bool {
        self.at.is_some()
    }

    /// Ready once the deadline has passed; else the task is woken when it does.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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

/// How long a caller is waited for that takes or gives nothing, or next to nothing.
#[derive(Debug)]
pub(crate) struct Patience {
    span: Duration,
    progress: u64,
    deadline: Deadline,
}

impl Patience {
    pub(crate) fn new(span: Duration) -> Self {
        Self {
            span,
            progress: 0,
            deadline: Deadline::default(),
        }
    }

    /// The caller moved so many bytes.
    pub(crate) fn on_progress(&mut self, bytes: usize) {
        self.progress += bytes as u64;
        if self.progress >= MIN_PROGRESS {
            self.rest();
        }
    }

    /// The caller is not waited for (any more).
    pub(crate) fn rest(&mut self) {
        self.progress = 0;
        self.deadline.clear();
    }

    /// To be called whenever the caller is what is waited for: ready when it took too long.
    pub(crate) fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.deadline.is_set() {
            self.deadline.set(Instant::now() + self.span);
        }
        self.deadline.poll(cx)
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
    async fn a_caller_that_trickles_runs_out_of_patience_and_one_that_flows_does_not() {
        let start = Instant::now();
        let mut patience = Patience::new(SPAN);
        for bytes in [MIN_PROGRESS as usize, 1, 1] {
            assert!(
                poll_fn(|cx| Poll::Ready(patience.poll_exhausted(cx)))
                    .await
                    .is_pending()
            );
            tokio::time::advance(SPAN / 2).await;
            patience.on_progress(bytes);
        }
        poll_fn(|cx| patience.poll_exhausted(cx)).await;
        assert_eq!(start.elapsed(), 3 * SPAN / 2);
    }
}
