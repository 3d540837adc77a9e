//! How long to wait before the next attempt.

use std::time::Duration;

/// Upper bound of the first wait.
const BASE: Duration = Duration::from_millis(100);

/// Upper bound of any wait that the peer did not ask for.
const CAP: Duration = Duration::from_secs(15);

/// Longest wait that a peer's Retry-After is believed: a relay may ask for patience, not retire
/// an agent.
const MAX_FLOOR: Duration = Duration::from_secs(300);

/// Waits between attempts: exponential with full jitter.
///
/// Attempt *n* waits a random time between nothing and `100 ms * 2^n`, at most 15 s, so that
/// agents that lost the same relay come back spread out instead of in waves.
#[derive(Debug, Clone)]
pub struct Backoff {
    attempts: u32,
    /// Upper bounds of the first wait, and of any.
    base: Duration,
    cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::within(BASE, CAP)
    }
}

impl Backoff {
    /// Starts with no failed attempt.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same where the first wait is at most `base`, and none is longer than `cap`.
    pub fn within(base: Duration, cap: Duration) -> Self {
        Self {
            attempts: 0,
            base,
            cap,
        }
    }

    /// The wait before the next attempt; counts it as failed until [`reset`](Self::reset).
    pub fn next_delay(&mut self) -> Duration {
        self.next_bound().mul_f64(fastrand::f64())
    }

    /// Like [`next_delay`](Self::next_delay), but at least half of what it may be: for what must not be
    /// asked for often.
    pub fn next_long_delay(&mut self) -> Duration {
        self.next_bound().mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Like [`next_delay`](Self::next_delay), but at least `floor`, the peer's Retry-After
    /// (believed up to 5 min). The jitter comes on top of it, up to as long again: thousands who were
    /// told the same number still come back spread out.
    pub fn next_delay_after(&mut self, floor: Option<Duration>) -> Duration {
        let floor = floor.unwrap_or_default().min(MAX_FLOOR);
        floor + self.next_delay().max(floor.mul_f64(fastrand::f64()))
    }

    /// Call when an attempt has proved good.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Attempts since the last [`reset`](Self::reset).
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    fn next_bound(&mut self) -> Duration {
        let bound = self.bound();
        self.attempts = self.attempts.saturating_add(1);
        bound
    }

    fn bound(&self) -> Duration {
        let growth = 1u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.base.saturating_mul(growth).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After so many failed attempts.
    fn after(attempts: u32) -> Backoff {
        Backoff {
            attempts,
            ..Backoff::new()
        }
    }

    #[test]
    fn bounds_double_up_to_the_cap_and_never_overflow() {
        let mut backoff = Backoff::new();
        let bounds: Vec<u64> = (0..10)
            .map(|_| {
                let bound = backoff.bound();
                backoff.next_delay();
                bound.as_millis() as u64
            })
            .collect();
        assert_eq!(
            bounds,
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]
        );
        backoff.attempts = u32::MAX;
        assert!(backoff.next_delay() <= CAP);
        backoff.reset();
        assert_eq!(backoff.bound(), BASE);
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let mut buckets = [0u32; 10];
        for _ in 0..10_000 {
            let mut backoff = after(20);
            let wait = backoff.next_delay();
            assert!(wait <= CAP);
            buckets[((wait.as_secs_f64() / CAP.as_secs_f64() * 10.0) as usize).min(9)] += 1;
        }
        // Each tenth of the range expects 1000 with a deviation of 30.
        assert!(
            buckets.iter().all(|n| (700..1300).contains(n)),
            "{buckets:?}"
        );
    }

    #[test]
    fn retry_after_is_a_floor_with_jitter_on_top_and_is_believed_up_to_a_limit() {
        let floor = Duration::from_secs(30);
        let waits: Vec<Duration> = (0..100)
            .map(|_| after(8).next_delay_after(Some(floor)))
            .collect();
        assert!(waits.iter().all(|wait| (floor..=2 * floor).contains(wait)));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
        let wait = Backoff::new().next_delay_after(Some(Duration::from_secs(1_000_000)));
        assert!(wait <= 2 * MAX_FLOOR);
    }

    /// Thousands are refused for the first time in one moment, by a node that names one number.
    #[test]
    fn those_who_were_told_the_same_number_come_back_spread_over_as_long_again() {
        let floor = Duration::from_secs(5);
        let mut buckets = [0u32; 10];
        for _ in 0..10_000 {
            let wait = Backoff::new().next_delay_after(Some(floor)) - floor;
            buckets[((wait.as_secs_f64() / floor.as_secs_f64() * 10.0) as usize).min(9)] += 1;
        }
        assert!(
            buckets.iter().all(|n| (700..1300).contains(n)),
            "{buckets:?}"
        );
    }
}
