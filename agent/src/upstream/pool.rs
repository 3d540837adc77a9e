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
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By the runtime of the thread.
    idle: HashMap<Option<runtime::Id>, VecDeque<Idle>>,
    era: u64,
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
            let mut idle = self.lock().idle.get_mut(&here)?.pop_back()?;
            if idle.until > Instant::now() && idle.connection.is_still_at_rest() {
                return Some(idle.connection);
            }
        }
    }

    /// The era of connections that are dialled from now on.
    pub(crate) fn era(&self) -> u64 {
        self.lock().era
    }

    /// Begins another era: lets go of what is idle, and later of what is in use now.
    pub(crate) fn clear(&self) {
        let mut pool = self.lock();
        pool.era += 1;
        let earlier = std::mem::take(&mut pool.idle);
        drop(pool);
        drop(earlier);
    }

    /// Keeps a connection that is at rest, unless it is one of an earlier era.
    pub(crate) fn put(&self, connection: Box<Connection>) {
        let until = Instant::now() + connection.idle;
        let mut pool = self.lock();
        if connection.era != pool.era {
            drop(pool);
            return;
        }
        let ours = pool.idle.entry(here()).or_default();
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
        for idle in self.lock().idle.values_mut() {
            idle.retain_mut(|idle| idle.until > now && idle.connection.is_still_at_rest());
        }
    }

    /// How many connections are idle.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().idle.values().map(VecDeque::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
