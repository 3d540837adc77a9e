//! What the frames of a peer cost it, and what it earns by honest work.

use std::time::Duration;

use tokio::time::Instant;

use super::{ACK, DATA, END_STREAM, FRAME_HEADER, HEADERS, PING, RST_STREAM, SETTINGS};

/// What the peer may spend at once.
const BUDGET: u64 = 2000;
/// What it gets back for each second, for each call that is over, and for how many bytes that it
/// takes or sends as data. One that has shown who it is may do more: what it wastes is its tenant's, too.
pub(super) const PER_SECOND: u64 = 20;
pub(super) const PER_SECOND_PROVEN: u64 = 1000;
const PER_CALL: u64 = 5;
const BYTES_PER_TOKEN: u64 = 512;

/// Most pings that cost nothing because frames of answers were sent before them. gRPC's clients measure
/// the line with a ping for each piece of an answer that they get while none is under way.
const ANSWERED_PINGS: u32 = 100;

/// What a peer's frames cost. A full budget pays for 1000 pings or 330 calls that are reset; a
/// call that is answered earns more than its frames cost.
pub(super) fn price(kind: u8, flags: u8, length: u32) -> u64 {
    match kind {
        DATA if length > 0 || flags & END_STREAM != 0 => 0,
        SETTINGS if flags & ACK != 0 => 1,
        RST_STREAM | SETTINGS => 10,
        PING => 2,
        _ => 1,
    }
}

/// What a peer may make us do for nothing.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: u64,
    /// Bytes of work that are not yet worth a token.
    bytes: u64,
    /// Calls that were over when the budget was last filled, and when that was.
    calls: usize,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tokens: BUDGET,
            bytes: 0,
            calls: 0,
            filled: now,
        }
    }

    pub(super) fn earn(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.tokens = BUDGET.min(self.tokens + self.bytes / BYTES_PER_TOKEN);
        self.bytes %= BYTES_PER_TOKEN;
    }

    /// Whether the peer can pay. `ended` says how many calls of the connection are over.
    pub(super) fn spend(
        &mut self,
        price: u64,
        per_second: u64,
        ended: impl FnOnce() -> usize,
    ) -> bool {
        if self.tokens < price {
            let (now, ended) = (Instant::now(), ended());
            let seconds = now.duration_since(self.filled).as_secs();
            let calls = ended.wrapping_sub(self.calls) as u64;
            self.filled += Duration::from_secs(seconds);
            self.calls = ended;
            let earned = seconds.saturating_mul(per_second) + calls.saturating_mul(PER_CALL);
            self.tokens = BUDGET.min(self.tokens.saturating_add(earned));
        }
        match self.tokens.checked_sub(price) {
            Some(left) => self.tokens = left,
            None => return false,
        }
        true
    }
}

/// What goes the other way, frame by frame.
#[derive(Debug, Default)]
pub(super) struct Written {
    header: [u8; FRAME_HEADER],
    seen: usize,
    /// Bytes of the frame's payload that are still to come.
    left: usize,
    /// Frames of answers since the peer's last pings.
    answers: u32,
}

impl Written {
    /// Takes note of bytes that were sent.
    pub(super) fn count(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let payload = self.left.min(bytes.len());
            self.left -= payload;
            bytes = &bytes[payload..];
            let header = (FRAME_HEADER - self.seen).min(bytes.len());
            self.header[self.seen..self.seen + header].copy_from_slice(&bytes[..header]);
            self.seen += header;
            bytes = &bytes[header..];
            if self.seen == FRAME_HEADER {
                let [high, mid, low, kind, ..] = self.header;
                self.seen = 0;
                self.left = u32::from_be_bytes([0, high, mid, low]) as usize;
                if kind == DATA || kind == HEADERS {
                    self.answers = ANSWERED_PINGS.min(self.answers + 1);
                }
            }
        }
    }

    /// Whether a ping of the peer's may be because of an answer.
    pub(super) fn take_ping(&mut self) -> bool {
        let may = self.answers > 0;
        self.answers = self.answers.saturating_sub(1);
        may
    }
}
