//! Liveness: pings on a schedule, the round trip time, and when a silent peer is dead.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Pings {
    interval: Duration,
    dead_after: Duration,
    heard: Instant,
    next: Instant,
    nonce: u64,
    /// A ping that waits to be sent.
    due: bool,
    /// The ping on its way, and since when.
    flying: Option<(u64, Instant)>,
    /// Smoothed as in RFC 6298, 2.
    smoothed: Option<Duration>,
    /// The peer's ping that waits for its answer. A newer one takes its place.
    pub(super) pong: Option<[u8; 8]>,
}

impl Pings {
    pub(super) fn new(interval: Duration, dead_after: Duration, now: Instant) -> Self {
        Self {
            interval,
            dead_after,
            heard: now,
            next: now,
            nonce: 0,
            due: false,
            flying: None,
            smoothed: None,
            pong: None,
        }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(super) fn on_message(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    pub(super) fn on_pong(&mut self, nonce: [u8; 8], now: Instant) {
        let nonce = u64::from_be_bytes(nonce);
        if let Some((_, sent)) = self.flying.take_if(|(flying, _)| *flying == nonce) {
            let sample = now.saturating_duration_since(sent);
            self.smoothed = Some(self.smoothed.map_or(sample, |old| (old * 7 + sample) / 8));
        }
    }

    /// `true` if the peer is dead.
    pub(super) fn on_timeout(&mut self, now: Instant) -> bool {
        if now >= self.next {
            self.due = true;
            self.next = now + self.interval;
        }
        now.saturating_duration_since(self.heard) >= self.dead_after
    }

    pub(super) fn has_transmit(&self) -> bool {
        self.due || self.pong.is_some()
    }

    /// The ping to send now. A ping that was never answered is forgotten.
    pub(super) fn transmit(&mut self, now: Instant) -> Option<[u8; 8]> {
        if !std::mem::take(&mut self.due) {
            return None;
        }
        self.nonce += 1;
        self.flying = Some((self.nonce, now));
        Some(self.nonce.to_be_bytes())
    }

    pub(super) fn timeout(&self) -> Instant {
        self.next.min(self.heard + self.dead_after)
    }
}
