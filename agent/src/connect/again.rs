//! When to try again what the relay refused, but may grant a little later.

use std::time::Duration;

use culvert_session::backoff::Backoff;
use tokio::time::{Instant, sleep_until};

/// The next try of one thing: after a wait that doubles with each that fails.
#[derive(Debug)]
pub(super) struct Again {
    backoff: Backoff,
    due: Option<Instant>,
}

impl Again {
    /// Nothing has failed yet. The longest first wait, and the longest of all.
    pub(super) fn new((first, most): (Duration, Duration)) -> Self {
        Self {
            backoff: Backoff::within(first, most),
            due: None,
        }
    }

    /// It failed: there will be another try, unless one is to come already.
    pub(super) fn later(&mut self) {
        if self.due.is_none() {
            self.due = Some(Instant::now() + self.backoff.next_long_delay());
        }
    }

    /// It is tried now.
    pub(super) fn on_try(&mut self) {
        self.due = None;
    }

    /// It went well, or is wanted no more.
    pub(super) fn on_done(&mut self) {
        self.backoff.reset();
        self.due = None;
    }

    /// Whether it has failed and did not go well since.
    pub(super) fn has_failed(&self) -> bool {
        self.backoff.attempts() > 0
    }

    /// Whether a try is to come.
    pub(super) fn is_to_come(&self) -> bool {
        self.due.is_some()
    }

    /// Completes when the next try is due; never, if there is to be none.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_up_to_a_bound_and_begin_anew_once_it_went_well() {
        let (first, most) = (Duration::from_secs(2), Duration::from_secs(20));
        let mut again = Again::new((first, most));
        for _ in 0..2 {
            for bound in [2, 4, 8, 16, 20, 20] {
                let since = Instant::now();
                again.later();
                again.due().await;
                let (wait, bound) = (since.elapsed(), Duration::from_secs(bound));
                // A timer is exact to a millisecond.
                let most = bound + Duration::from_millis(1);
                assert!((bound / 2..=most).contains(&wait), "{wait:?} of {bound:?}");
                again.on_try();
            }
            again.on_done();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_often_at_once_waits_once() {
        let mut again = Again::new((Duration::from_secs(2), Duration::from_secs(20)));
        let since = Instant::now();
        (0..10).for_each(|_| again.later());
        again.due().await;
        assert!(since.elapsed() <= Duration::from_secs(3));
    }
}
