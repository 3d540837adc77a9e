//! Warnings about what no relay in good order sends, as many of them as a log bears: whoever can bring
//! them about must not be able to fill it. The audit log knows of every such call.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_http::Rate;

/// Warnings a second, in the long run.
const RATE: u64 = 1;

/// Seconds' worth of them at once.
const DEPTH: u64 = 20;

/// Who lets warnings through.
#[derive(Debug)]
pub(crate) struct Alarms {
    rate: Rate,
    full_at: AtomicU64,
    left_out: AtomicU64,
}

impl Alarms {
    pub(crate) fn new() -> Self {
        Self {
            rate: Rate::deep(RATE, DEPTH),
            full_at: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Whether a warning may be logged now; then, how many were left out since the last one that was.
    pub(crate) fn raise(&self) -> Option<u64> {
        if self.rate.take(&self.full_at).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}
