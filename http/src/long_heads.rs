//! Room for long heads of callers of whom nobody knows yet who they are.
//!
//! A head is held until it is whole, and may have 64 KiB. Most have a few: so a connection without a
//! credential may hold a quarter of that for itself, and only some of them more at the same time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a head that is not whole which a stranger may hold without further ado.
pub(crate) const LONG: usize = 16 * 1024;

/// How many strangers may hold more at once.
pub(crate) const AT_ONCE: usize = 128;

/// The places for long heads of all connections of a server.
#[derive(Debug, Clone)]
pub(crate) struct LongHeads(Arc<Semaphore>);

impl Default for LongHeads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl LongHeads {
    /// A place, if there is one.
    pub(crate) fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}
