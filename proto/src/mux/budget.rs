//! Budgets against peers that are busy with nothing.

use std::time::{Duration, Instant};

use crate::limits::MIN_CANCELS;
use crate::mux::error::Flood;

/// So many at once, and so many per second: a token bucket, kept as the instant at which it will
/// be full again.
#[derive(Debug)]
pub(super) struct Budget {
    flood: Flood,
    /// Time that one token takes.
    each: Duration,
    /// Time that all tokens take.
    all: Duration,
    full_at: Instant,
}

impl Budget {
    pub(super) fn new(flood: Flood, burst: u32, rate: u32, now: Instant) -> Self {
        let each = Duration::from_secs(1) / rate.max(1);
        Self {
            flood,
            each,
            all: each * burst.max(1),
            full_at: now,
        }
    }

    /// What this side cancels without delay: half of what a peer bears with that lets us have
    /// `max_streams` open, for what is sent over a while may arrive at once.
    pub(super) fn own_cancels(max_streams: u32, now: Instant) -> Self {
        let (burst, rate) = MIN_CANCELS;
        let (burst, rate) = (burst.max(max_streams), rate.max(max_streams / 8));
        Self::new(Flood::Cancels, burst / 2, rate / 2, now)
    }

    pub(super) fn spend(&mut self, now: Instant) -> Result<(), Flood> {
        let full_at = self.full_at.max(now) + self.each;
        if full_at.saturating_duration_since(now) > self.all {
            return Err(self.flood);
        }
        self.full_at = full_at;
        Ok(())
    }
}

/// What a peer may send on streams that are over, and how many frames without effect.
///
/// Both are exact: a peer that keeps to the protocol never exceeds them, however long the line,
/// because they count what that peer was given reason for.
#[derive(Debug)]
pub(super) struct Late {
    /// Bytes that may still come on streams that we reset before the ping on its way; it was
    /// sent after their RESETs, so its answer comes after the last of them.
    before_ping: u64,
    /// The same for streams that we reset since.
    since_ping: u64,
    /// Number of that ping, until it is answered.
    ping: Option<u64>,
    /// WINDOW, STOP, RESET and FINISH frames that may still come.
    idle: u64,
}

impl Late {
    /// Idle frames in advance, for whatever this accounting does not foresee.
    const SLACK: u64 = 1024;
    /// STOP, RESET and FINISH: each may come once a stream.
    const PER_STREAM: u64 = 3;

    pub(super) fn new() -> Self {
        Self {
            before_ping: 0,
            since_ping: 0,
            ping: None,
            idle: Self::SLACK,
        }
    }

    /// A stream began.
    pub(super) fn on_stream(&mut self) {
        self.idle = self.idle.saturating_add(Self::PER_STREAM);
    }

    /// We sent OPEN, HEAD or DATA: reading it is reason for one WINDOW.
    pub(super) fn on_frame_sent(&mut self) {
        self.idle = self.idle.saturating_add(1);
    }

    /// A stream was forgotten on which the peer may still send `credit` bytes.
    pub(super) fn on_forgotten(&mut self, credit: u32) {
        self.since_ping = self.since_ping.saturating_add(credit.into());
    }

    /// A ping was sent, after all RESETs.
    pub(super) fn on_ping_sent(&mut self, number: u64) {
        if self.ping.is_none() {
            self.ping = Some(number);
            self.before_ping = std::mem::take(&mut self.since_ping);
        }
    }

    pub(super) fn on_pong(&mut self, number: u64) {
        if self.ping == Some(number) {
            self.ping = None;
            self.before_ping = 0;
        }
    }

    /// Whether so many bytes may come late.
    pub(super) fn spend_bytes(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let old = bytes.min(self.before_ping);
        let new = bytes - old;
        if new > self.since_ping {
            return false;
        }
        self.before_ping -= old;
        self.since_ping -= new;
        true
    }

    /// Counts a WINDOW, STOP, RESET or FINISH.
    pub(super) fn spend_idle(&mut self) -> Result<(), Flood> {
        self.idle = self.idle.checked_sub(1).ok_or(Flood::Idle)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::model::start;

    #[test]
    fn a_budget_allows_its_burst_and_then_its_rate() {
        let start = start();
        let mut budget = Budget::new(Flood::Pings, 10, 2, start);
        for _ in 0..10 {
            budget.spend(start).unwrap();
        }
        assert_eq!(budget.spend(start), Err(Flood::Pings));
        let later = start + Duration::from_secs(1);
        budget.spend(later).unwrap();
        budget.spend(later).unwrap();
        assert_eq!(budget.spend(later), Err(Flood::Pings));
        let much_later = start + Duration::from_secs(1000);
        for _ in 0..10 {
            budget.spend(much_later).unwrap();
        }
        assert_eq!(
            budget.spend(much_later),
            Err(Flood::Pings),
            "unused time is not saved up"
        );
    }

    #[test]
    fn this_side_cancels_half_of_what_its_peer_bears_with() {
        for (max_streams, burst, rate) in [(0, 1024, 250), (100, 1024, 250), (8000, 4000, 500)] {
            let mut now = start();
            let mut budget = Budget::own_cancels(max_streams, now);
            let mut spend = |now| {
                (0..10_000)
                    .take_while(|_| budget.spend(now).is_ok())
                    .count()
            };
            assert_eq!(spend(now), burst, "{max_streams}");
            now += Duration::from_secs(1);
            assert_eq!(spend(now), rate, "{max_streams}");
        }
    }

    #[test]
    fn the_answer_to_an_earlier_ping_says_nothing_about_a_reset() {
        let mut late = Late::new();
        // The ping 1 went before the RESET.
        late.on_forgotten(100);
        late.on_ping_sent(2);
        late.on_pong(1);
        assert!(late.spend_bytes(100));
        assert!(!late.spend_bytes(1));
    }

    #[test]
    fn late_bytes_are_allowed_until_the_answer_to_a_later_ping() {
        let mut late = Late::new();
        late.on_forgotten(100);
        late.on_ping_sent(1);
        late.on_forgotten(50);
        late.on_ping_sent(2);
        assert!(late.spend_bytes(120));
        late.on_pong(1);
        assert!(
            late.spend_bytes(30),
            "of the stream that was reset after the ping"
        );
        assert!(!late.spend_bytes(1));

        late.on_forgotten(10);
        late.on_pong(2);
        assert!(late.spend_bytes(10), "no ping was sent since");
    }
}
