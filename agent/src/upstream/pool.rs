//! Idle connections of one upstream, the last used first.
//!
//! Each thread has its own: what happens on a connection wakes the thread that opened it, and a call
//! on another one would be woken by way of it, each time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::{self, Handle};
use tokio::time::Instant;

use super::connection::Connection;

/// Most idle connections to one upstream, of each thread. More calls at once than this simply dial
/// more often.
pub(crate) const MAX_IDLE_CONNECTIONS: usize = 256;

/// The idle connections, oldest in front. Taking the youngest lets the others grow old and go
/// when there is less to do.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// By the runtime of the thread.
    idle: Mutex<HashMap<Option<runtime::Id>, VecDeque<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    until: Instant,
}

/// The runtime that this is called in.
fn here() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

impl Pool {
    /// A connection of this thread that looked alive a moment ago.
    pub(crate) fn take(&self) -> Option<Box<Connection>> {
        let here = here();
        loop {
            let mut idle = self.lock().get_mut(&here)?.pop_back()?;
            if idle.until > Instant::now() && idle.connection.is_still_at_rest() {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection that is at rest.
    pub(crate) fn put(&self, connection: Box<Connection>) {
        let until = Instant::now() + connection.idle;
        let mut pool = self.lock();
        let ours = pool.entry(here()).or_default();
        let surplus = if ours.len() >= MAX_IDLE_CONNECTIONS {
            ours.pop_front()
        } else {
            None
        };
        ours.push_back(Idle { connection, until });
        drop(pool);
        drop(surplus);
    }

    /// Closes connections that are too old, that the upstream has closed, or on which it has
    /// spoken without having been asked.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for idle in self.lock().values_mut() {
            idle.retain_mut(|idle| idle.until > now && idle.connection.is_still_at_rest());
        }
    }

    /// How many connections are idle.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().values().map(VecDeque::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<runtime::Id>, VecDeque<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
