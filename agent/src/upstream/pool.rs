//! Idle connections of one upstream, the last used first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::connection::Connection;

/// Most idle connections to one upstream. More calls at once than this simply dial more often.
pub(crate) const MAX_IDLE_CONNECTIONS: usize = 256;

/// The idle connections, oldest in front. Taking the youngest lets the others grow old and go
/// when there is less to do.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    until: Instant,
}

impl Pool {
    /// A connection that looked alive a moment ago.
    pub(crate) fn take(&self) -> Option<Box<Connection>> {
        loop {
            let mut idle = self.lock().pop_back()?;
            if idle.until > Instant::now() && idle.connection.is_still_at_rest() {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection that is at rest.
    pub(crate) fn put(&self, connection: Box<Connection>) {
        let until = Instant::now() + connection.idle;
        let mut pool = self.lock();
        let surplus = if pool.len() >= MAX_IDLE_CONNECTIONS {
            pool.pop_front()
        } else {
            None
        };
        pool.push_back(Idle { connection, until });
        drop(pool);
        drop(surplus);
    }

    /// Closes connections that are too old, that the upstream has closed, or on which it has
    /// spoken without having been asked.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.lock()
            .retain_mut(|idle| idle.until > now && idle.connection.is_still_at_rest());
    }

    /// How many connections are idle.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
