//! Liveness: pings on a schedule, the round trip they measure, and when a silent peer is dead.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::Limits;
use crate::mux::error::{Flood, Violation};

/// PINGs of the peer whose answers may wait.
const MAX_PONGS: usize = 4;

/// Our PINGs whose answers are under way. More than one, since what queues in front of them may take
/// longer than we wait for a sign of life: each is one that reaches the peer in time. Fewer than
/// a peer bears with that reads them all at once.
const MAX_FLYING: usize = MAX_PONGS - 1;

/// Knows when the peer was heard, when to ask again, and how long an answer takes.
#[derive(Debug)]
pub(super) struct Liveness {
    interval: Duration,
    dead_after: Duration,
    heard: Instant,
    /// When the next ping is due.
    next: Instant,
    /// A ping is to be sent.
    due: bool,
    /// One is to be sent as soon as there may be one more.
    asked: bool,
    /// Number of the last ping.
    number: u64,
    /// When those before it were sent that wait for their answers, which come in this order.
    flying: VecDeque<Instant>,
    smoothed: Option<Duration>,
    least: Option<Duration>,
    pongs: [u64; MAX_PONGS],
    pong_count: usize,
}

impl Liveness {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            interval: limits.ping_interval,
            dead_after: limits.dead_after,
            heard: now,
            next: now,
            due: false,
            asked: false,
            number: 0,
            flying: VecDeque::new(),
            smoothed: None,
            least: None,
            pongs: [0; MAX_PONGS],
            pong_count: 0,
        }
    }

    /// The greeting came: measure at once, for windows and status want to know.
    pub(super) fn start(&mut self, now: Instant) {
        self.due = true;
        self.next = now + self.interval;
    }

    pub(super) fn on_heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    pub(super) fn on_ping(&mut self, number: u64) -> Result<(), Flood> {
        *self.pongs.get_mut(self.pong_count).ok_or(Flood::Pings)? = number;
        self.pong_count += 1;
        Ok(())
    }

    pub(super) fn on_pong(&mut self, number: u64, now: Instant) -> Result<(), Violation> {
        let expected = self.number - self.flying.len() as u64 + 1;
        let sent = self.flying.pop_front().filter(|_| number == expected);
        let sent = sent.ok_or(Violation::Pong)?;
        let sample = now.saturating_duration_since(sent);
        // RFC 6298, 2.3: an eighth of the newest.
        self.smoothed = Some(self.smoothed.map_or(sample, |old| (old * 7 + sample) / 8));
        self.least = Some(self.least.map_or(sample, |least| least.min(sample)));
        Ok(())
    }

    /// Whether the peer is dead; otherwise a ping may have become due.
    pub(super) fn on_timeout(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.heard) >= self.dead_after {
            return true;
        }
        if now >= self.next {
            self.due = self.flying.len() < MAX_FLYING;
            self.next = now + self.interval;
        }
        false
    }

    /// Asks for a ping that is sent after everything before it; gives its number.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked = true;
        self.number + 1
    }

    fn is_ping_due(&self) -> bool {
        self.due || self.asked && self.flying.len() < MAX_FLYING
    }

    /// The ping to send now.
    pub(super) fn take_ping(&mut self, now: Instant) -> Option<u64> {
        if !self.is_ping_due() {
            return None;
        }
        (self.due, self.asked) = (false, false);
        self.number += 1;
        self.flying.push_back(now);
        Some(self.number)
    }

    /// The answers to send now.
    pub(super) fn take_pongs(&mut self) -> impl Iterator<Item = u64> + use<> {
        self.pongs
            .into_iter()
            .take(std::mem::take(&mut self.pong_count))
    }

    pub(super) fn has_transmit(&self) -> bool {
        self.is_ping_due() || self.pong_count > 0
    }

    pub(super) fn timeout(&self) -> Instant {
        self.next.min(self.heard + self.dead_after)
    }

    pub(super) fn dead_after(&self) -> Duration {
        self.dead_after
    }

    /// The smoothed round trip time.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The shortest round trip so far: what the line takes when nothing queues.
    pub(super) fn least_rtt(&self) -> Option<Duration> {
        self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::model::start;

    #[test]
    fn the_round_trip_is_smoothed_and_the_shortest_is_what_the_line_takes() {
        let mut now = start();
        let mut liveness = Liveness::new(&Limits::default(), now);
        for (sample, smoothed, least) in [(80, 80, 80), (16, 72, 16), (240, 93, 16)] {
            liveness.ask();
            let number = liveness.take_ping(now).unwrap();
            now += Duration::from_millis(sample);
            liveness.on_pong(number, now).unwrap();
            assert_eq!(liveness.rtt(), Some(Duration::from_millis(smoothed)));
            assert_eq!(liveness.least_rtt(), Some(Duration::from_millis(least)));
        }
    }
}
