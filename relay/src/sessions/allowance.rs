//! How much an agent may say to the relay on its session.

use std::time::Duration;

use tokio::time::Instant;

/// Control messages that an agent may send at once, and how often one more. An agent in order
/// sends a few in the life of a token; each may cost the check of a signature.
const CONTROL_BURST: u32 = 32;
const CONTROL_INTERVAL: Duration = Duration::from_secs(1);

/// How many control messages an agent may still send.
pub(super) struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    /// All of them.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: CONTROL_BURST,
            since: now,
        }
    }

    /// Whether one more may come now.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        while self.left < CONTROL_BURST && now.duration_since(self.since) >= CONTROL_INTERVAL {
            self.left += 1;
            self.since += CONTROL_INTERVAL;
        }
        if self.left == CONTROL_BURST {
            self.since = now;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn control_messages_are_allowed_in_bursts_and_then_at_a_rate() {
        let mut allowance = Allowance::new(Instant::now());
        let mut burst = async |expected| {
            let mut taken = 0;
            while allowance.take(Instant::now()) {
                taken += 1;
            }
            assert_eq!(taken, expected);
        };
        burst(CONTROL_BURST).await;
        tokio::time::advance(CONTROL_INTERVAL * 5 / 2).await;
        burst(2).await;
        tokio::time::advance(CONTROL_INTERVAL / 2).await;
        burst(1).await;
        tokio::time::advance(CONTROL_INTERVAL * 1000).await;
        burst(CONTROL_BURST).await;
    }
}
