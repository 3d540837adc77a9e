//! How far a call has come on its caller's side.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::pace::Untaken;

/// How far the bodies of a call have come. Shared by whoever moves them.
#[derive(Debug, Default)]
pub struct Progress {
    /// Body bytes from the caller.
    pub received: AtomicU64,
    /// Body bytes to the caller.
    pub sent: AtomicU64,
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
}

impl Progress {
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
