//! A rate that many share, in one number.
//!
//! A bucket holds one second's worth of tokens and fills at its rate. It is kept as the moment at
//! which it will be full: to take tokens moves that moment on. So taking is one compare-and-swap,
//! nothing runs while nobody asks, and a bucket that nobody uses is full by itself.
//!
//! Who has moved what it did not know before ([`charge`](Bucket::charge)) goes into debt and is
//! told when it may go on. Everybody who shares the bucket is told another moment, in the order
//! of their charges: each sleeps once and wakes once, and nobody takes turns at looking.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

const SECOND: u64 = 1_000_000_000;

/// How fast buckets fill, and how much they hold. Each bucket is a number of its own, zero when it is
/// full: [`Bucket`] is one with its number, a table of many has theirs beside one rate.
#[derive(Debug)]
pub struct Rate {
    /// Tokens a second.
    rate: u64,
    /// How long an empty bucket takes to be full, in nanoseconds.
    depth: u64,
    start: Instant,
}

impl Rate {
    /// So many tokens a second, at least one, and so many seconds' worth at once.
    pub fn deep(rate: u64, seconds: u64) -> Self {
        Self {
            rate: rate.max(1),
            depth: seconds.saturating_mul(SECOND),
            start: Instant::now(),
        }
    }

    /// Takes one token, if there is one; else says when there will be.
    pub fn take(&self, full_at: &AtomicU64) -> Result<(), Duration> {
        let now = self.now();
        let mut missing = 0;
        let taken = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let full_at = full_at.max(now).saturating_add(self.cost(1));
            missing = full_at.saturating_sub(now.saturating_add(self.depth));
            (missing == 0).then_some(full_at)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(Duration::from_nanos(missing)),
        }
    }

    /// Whether a token is there, without taking it.
    pub fn is_there(&self, full_at: &AtomicU64) -> bool {
        let full_at = full_at.load(Ordering::Relaxed).max(self.now());
        full_at.saturating_add(self.cost(1)) <= self.now().saturating_add(self.depth)
    }

    fn turn_at(&self, full_at: u64, now: u64) -> Option<Instant> {
        let at = full_at.saturating_sub(self.depth);
        (at > now).then(|| self.start + Duration::from_nanos(at))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long the bucket takes to make so many tokens, in nanoseconds.
    fn cost(&self, tokens: u64) -> u64 {
        tokens.saturating_mul(SECOND) / self.rate
    }
}

/// A bucket of tokens: one second's worth.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// When it is full, in nanoseconds since the rate's start.
    full_at: AtomicU64,
}

impl Bucket {
    /// A full one, of so many tokens a second; at least one.
    pub fn new(rate: u64) -> Self {
        Self {
            rate: Rate::deep(rate, 1),
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes one token, if there is one; else says when there will be.
    pub fn take(&self) -> Result<(), Duration> {
        self.rate.take(&self.full_at)
    }

    /// Takes tokens, whether they are there or not; says when who took them may go on.
    pub fn charge(&self, tokens: u64) -> Option<Instant> {
        let (now, cost) = (self.rate.now(), self.rate.cost(tokens));
        let charge = |full_at: u64| full_at.max(now).saturating_add(cost);
        let update = |full_at| Some(charge(full_at));
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let before = self.full_at.fetch_update(set, fetch, update);
        self.rate.turn_at(charge(before.unwrap_or_default()), now)
    }

    /// When somebody who comes now may go on, if not at once.
    pub fn turn(&self) -> Option<Instant> {
        let full_at = self.full_at.load(Ordering::Relaxed);
        self.rate.turn_at(full_at, self.rate.now())
    }

    /// Whether nothing is missing.
    pub fn is_full(&self) -> bool {
        self.full_at.load(Ordering::Relaxed) <= self.rate.now()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn one_seconds_worth_at_once_and_then_the_rate() {
        let bucket = Bucket::new(10);
        for _ in 0..2 {
            for _ in 0..10 {
                bucket.take().unwrap();
            }
            assert_eq!(bucket.take(), Err(ms(100)));
            advance(ms(60)).await;
            assert_eq!(bucket.take(), Err(ms(40)), "a refusal costs nothing");
            advance(ms(40)).await;
            bucket.take().unwrap();
            assert_eq!(bucket.take(), Err(ms(100)));
            advance(Duration::from_secs(100)).await;
            assert!(bucket.is_full());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deep_one_takes_more_at_once_and_fills_no_faster() {
        let (rate, bucket) = (Rate::deep(10, 5), AtomicU64::new(0));
        for _ in 0..50 {
            assert!(rate.is_there(&bucket));
            rate.take(&bucket).unwrap();
        }
        assert!(!rate.is_there(&bucket));
        assert_eq!(rate.take(&bucket), Err(ms(100)));
        advance(ms(100)).await;
        assert!(rate.is_there(&bucket));
        rate.take(&bucket).unwrap();
        assert!(!rate.is_there(&bucket));
    }

    #[tokio::test(start_paused = true)]
    async fn debts_are_paid_one_after_the_other_and_add_up_to_the_rate() {
        let bucket = std::sync::Arc::new(Bucket::new(1000));
        let start = Instant::now();
        let streams = (0..10).map(|_| {
            let bucket = bucket.clone();
            async move {
                for _ in 0..20 {
                    if let Some(at) = bucket.charge(100) {
                        sleep_until(at).await;
                    }
                }
            }
        });
        let tasks: Vec<_> = streams.map(tokio::spawn).collect();
        for task in tasks {
            task.await.unwrap();
        }
        // 20,000 tokens, of which 1000 were there.
        assert_eq!(start.elapsed().as_secs(), 19);
        assert!(bucket.turn().is_none());
        assert!(!bucket.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_later_waits_for_the_debts_of_those_before() {
        let bucket = Bucket::new(1000);
        assert_eq!(bucket.charge(1000), None);
        assert_eq!(bucket.turn(), None);
        let debt = bucket.charge(500).unwrap();
        assert_eq!(debt - Instant::now(), ms(500));
        assert_eq!(bucket.turn(), Some(debt));
    }

    #[test]
    fn numbers_that_no_clock_can_count_do_no_harm() {
        let bucket = Bucket::new(1);
        assert!(bucket.charge(u64::MAX).is_some());
        assert!(bucket.charge(u64::MAX).is_some());
        assert!(bucket.take().is_err());
        Bucket::new(u64::MAX).take().unwrap();
    }
}
