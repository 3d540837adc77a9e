//! What the parts of one public connection know of each other.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use super::guard::Violation;

/// The calls of one connection, and what its guard found. Shared by the guard, which sees bytes,
/// and the service, which sees requests.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Calls that are not over, and calls that ever were.
    calls: AtomicUsize,
    begun: AtomicUsize,
    refused: OnceLock<Violation>,
    switched: AtomicBool,
    winding_up: AtomicBool,
    /// Whoever waits for the end of a call.
    waiting: AtomicWaker,
}

impl Traffic {
    /// A call begins. [`on_end`](Self::on_end) must follow.
    pub(crate) fn on_begin(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// How many calls have begun on this connection.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// How many of them are over.
    pub(crate) fn ended(&self) -> usize {
        self.begun()
            .wrapping_sub(self.calls.load(Ordering::Acquire))
    }

    /// A call is over: answered to the last byte, or broken off.
    pub(crate) fn on_end(&self) {
        self.calls.fetch_sub(1, Ordering::Release);
        self.waiting.wake();
    }

    /// Whether a call is in flight.
    pub(crate) fn is_busy(&self) -> bool {
        self.calls.load(Ordering::Acquire) > 0
    }

    /// Whether a call is in flight; wakes the task when one ends.
    pub(crate) fn poll_busy(&self, waker: &Waker) -> bool {
        self.is_busy() && {
            self.waiting.register(waker);
            self.is_busy()
        }
    }

    /// The guard refuses the request whose place the next one takes, or whose body is coming.
    pub(crate) fn refuse(&self, violation: Violation) {
        let _ = self.refused.set(violation);
    }

    /// What the guard refused. Nothing follows on this connection.
    pub(crate) fn refused(&self) -> Option<Violation> {
        self.refused.get().copied()
    }

    /// The connection is to end after the calls in flight.
    pub(crate) fn wind_up(&self) {
        self.winding_up.store(true, Ordering::Release);
        self.waiting.wake();
    }

    /// Whether the connection is to end.
    pub(crate) fn is_winding_up(&self) -> bool {
        self.winding_up.load(Ordering::Acquire)
    }

    /// The request in flight is answered with 101: what follows is not HTTP.
    pub(crate) fn switch(&self) {
        self.switched.store(true, Ordering::Release);
    }

    /// Whether what follows is not HTTP.
    pub(crate) fn is_switched(&self) -> bool {
        self.switched.load(Ordering::Acquire)
    }
}
