//! When a call is sent again after a session failed it, where that is safe at all.

use std::time::Duration;

use culvert_proto::code::ResetCode;
use culvert_session::StreamError;
use tokio::time::{Instant, sleep};

use super::find::Finder;
use crate::place::Place;

/// How often a call is sent again.
const RETRIES: u32 = 2;

/// How long a call waits between two looks for a session that takes it.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Retries {
    made: u32,
    patience: Duration,
    /// Set when the first try has failed: nearly none does.
    deadline: Option<Instant>,
}

impl Retries {
    /// Of a call that may wait so long for a session that takes it, once one has refused it.
    pub(super) fn within(patience: Duration) -> Self {
        Self {
            made: 0,
            patience,
            deadline: None,
        }
    }

    /// How many there were.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    /// After a stream at `place` ended like this: for how long the next try may look for a place.
    /// `None`: there is none.
    pub(super) async fn next(
        &mut self,
        error: StreamError,
        finder: &Finder<'_>,
        place: &Place,
    ) -> Option<Duration> {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.patience);
        let left = deadline.saturating_duration_since(now);
        let wait = match error {
            // An agent that is about to leave takes no call, and its word that it leaves, or its next
            // session, may still be on the way.
            StreamError::Reset(ResetCode::Refused) if !left.is_zero() => {
                if self.made > 0 {
                    sleep(PAUSE.min(left)).await;
                }
                self.made += 1;
                return Some(left);
            }
            StreamError::Reset(ResetCode::NotHere) => {
                finder.missed(place);
                self.patience
            }
            // What happened is the news.
            _ => Duration::ZERO,
        };
        if self.made >= RETRIES {
            return None;
        }
        self.made += 1;
        Some(wait)
    }
}
