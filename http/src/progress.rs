//! How far a call has come on its caller's side.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::pace::Untaken;

/// Body bytes, in both directions.
#[derive(Debug, Default)]
pub struct Carried {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Carried {
    /// Bytes from callers.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes to callers.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// How far the bodies of a call have come. Shared by whoever moves them.
#[derive(Debug, Default)]
pub struct Progress {
    own: Carried,
    /// Of all calls: a transfer may take hours, and is to be seen while it goes on.
    all: Arc<Carried>,
    /// The caller waits with its body until it is told to go on.
    pub waits: AtomicBool,
    /// The caller's body may pause for as long as the endpoint lets it: the answer is under way beside it,
    /// as in a gRPC call whose two directions are a conversation.
    pub unhurried: AtomicBool,
    /// The last piece of the answer was handed to hyper, which has not asked for the next.
    pub handed: AtomicBool,
    /// The call is to end now, and its answer's body says so when it is asked for more.
    pub cut: AtomicBool,
    /// The call was ended because its caller did not take the answer, on a connection that goes on.
    pub untaken: OnceLock<Untaken>,
    /// Cancelled when the connection is to end after its calls.
    drain: Arc<CancellationToken>,
}

impl Progress {
    /// Of a call that begins. What it moves is part of `all`; its connection is to end after `drain`.
    pub fn new(all: Arc<Carried>, drain: Arc<CancellationToken>) -> Self {
        Self {
            all,
            drain,
            ..Self::default()
        }
    }

    /// Cancelled when the connection is to end after its calls.
    pub(crate) fn drain(&self) -> &Arc<CancellationToken> {
        &self.drain
    }

    /// What the call has carried so far.
    pub fn carried(&self) -> &Carried {
        &self.own
    }

    /// So many bytes of the body came from the caller.
    pub fn on_received(&self, bytes: usize) {
        for carried in [&self.own, &self.all] {
            carried.received.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// So many bytes of the body go to the caller.
    pub fn on_sent(&self, bytes: usize) {
        for carried in [&self.own, &self.all] {
            carried.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Whether it is not the caller's turn to send, or nothing says that it is.
    pub(crate) fn may_pause(&self) -> bool {
        self.waits.load(Ordering::Relaxed) || self.unhurried.load(Ordering::Relaxed)
    }

    /// Whether the call is to end and does not, because hyper asks for more only when the caller has
    /// taken the last piece.
    pub(crate) fn is_stuck(&self) -> bool {
        self.handed.load(Ordering::Relaxed) && self.cut.load(Ordering::Acquire)
    }
}
