//! What the parts of one public connection know of each other.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use bytes::Bytes;
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
    interim: Mutex<Interim>,
    /// The call that waits until its interim answer is written.
    interim_waiting: AtomicWaker,
}

/// An interim answer on its way from the service to the guard: one at a time.
#[derive(Debug, Default)]
enum Interim {
    #[default]
    None,
    Waiting(Bytes),
    UnderWay,
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

    /// Sends an interim answer to the caller of the call in flight, of HTTP/1.1. Completes when it
    /// is written, so that the answer cannot overtake it.
    pub(crate) async fn send_interim(&self, bytes: Bytes) {
        *self.lock_interim() = Interim::Waiting(bytes);
        poll_fn(|cx| {
            self.interim_waiting.register(cx.waker());
            match *self.lock_interim() {
                Interim::None => Poll::Ready(()),
                Interim::Waiting(_) | Interim::UnderWay => Poll::Pending,
            }
        })
        .await;
    }

    /// Takes an interim answer that is to be written, if there is one.
    pub(crate) fn take_interim(&self, into: &mut Bytes) -> bool {
        let mut interim = self.lock_interim();
        match std::mem::take(&mut *interim) {
            Interim::Waiting(bytes) => {
                *into = bytes;
                *interim = Interim::UnderWay;
                true
            }
            other => {
                *interim = other;
                false
            }
        }
    }

    /// It is written.
    pub(crate) fn on_interim_written(&self) {
        *self.lock_interim() = Interim::None;
        self.interim_waiting.wake();
    }

    fn lock_interim(&self) -> MutexGuard<'_, Interim> {
        self.interim.lock().unwrap_or_else(PoisonError::into_inner)
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
