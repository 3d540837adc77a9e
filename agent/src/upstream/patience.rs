//! How long a call waits for its next byte.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use culvert_config::endpoint::Timeouts;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::Phase;
use super::request_body::Progress;

pin_project! {
    /// A timer whose deadline moves: it is set anew only when it rings too early, or would ring
    /// too late, so that a byte that moves costs no timer.
    pub(crate) struct Timer {
        #[pin]
        sleep: Sleep,
    }
}

impl Timer {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self {
            sleep: sleep_until(deadline),
        }
    }

    /// Ready once `deadline` has passed.
    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let mut sleep = self.project().sleep;
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// Completes when a request has waited too long for its next byte to go out or, all of it being
/// out, for its answer.
pub(super) async fn patience(
    timeouts: &Timeouts,
    progress: Option<&Progress>,
) -> (Phase, Duration) {
    let started = Instant::now();
    let wait = || match progress {
        Some(progress) if !progress.has_ended() => {
            (Phase::RequestIdle, timeouts.idle.0, progress.last_move())
        }
        Some(progress) => (Phase::Head, timeouts.head.0, progress.last_move()),
        None => (Phase::Head, timeouts.head.0, started),
    };
    let mut timer = pin!(Timer::new(started + wait().1));
    std::future::poll_fn(|cx| {
        let (phase, limit, since) = wait();
        timer
            .as_mut()
            .poll(cx, since.max(started) + limit)
            .map(|()| (phase, limit))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_is_kept_to_the_moment() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut timer = pin!(Timer::new(start + second));
        // Moved out before it rings: it rings once, at the later time.
        poll_fn(|cx| timer.as_mut().poll(cx, start + 5 * second)).await;
        assert_eq!(start.elapsed(), 5 * second);
        // Moved in: it rings at the earlier time.
        let mut timer = pin!(Timer::new(start + 60 * second));
        poll_fn(|cx| timer.as_mut().poll(cx, start + 7 * second)).await;
        assert_eq!(start.elapsed(), 7 * second);
    }
}
