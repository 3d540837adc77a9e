//! HTTP/2 to an upstream: connections that calls share.
//!
//! * `connection`: one connection, driven by a task of its own, and the places for calls on it;
//! * `exchange`: one request and its answer on a stream, moved by the call itself.
//!
//! A connection carries as many calls as the upstream's SETTINGS allow, [`MAX_STREAMS`] at most;
//! when all are full, one call opens a further one while the others wait for it. Windows are set
//! so that calls whose callers are slow never hold up others on the same connection.

mod connection;
mod exchange;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

pub(crate) use self::connection::{Connection, Place};
pub(crate) use self::exchange::Exchange;
use super::connection::MAX_IDLE;
use super::error::UpstreamError;

/// Most calls at once on one connection, whatever the upstream allows: what a lost packet or a
/// lost connection may hold up.
pub(crate) const MAX_STREAMS: usize = 100;

/// Bytes that an answer may be ahead of its caller (the stream's window). A data centre's round
/// trip of a millisecond moves a gigabit a second with it.
const STREAM_WINDOW: u32 = 128 * 1024;

/// Room for every stream's window, so that stuck calls cannot use up the connection's. Also the
/// most that a connection can make the agent hold, 12.5 MiB, beside heads.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;

/// Bytes of a request's body that may wait to be written.
const SEND_BUFFER: usize = 128 * 1024;

/// Largest head or trailers of an answer, in bytes as HPACK counts them.
const MAX_HEAD: u32 = 64 * 1024;

/// The open connections to one upstream.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    open: Mutex<Open>,
    /// Held by the one call that opens a further connection.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Open {
    connections: Vec<Arc<Connection>>,
    /// As in the pool of HTTP/1.1: connections of an earlier one carry the calls that they have.
    era: u64,
}

impl Shared {
    /// A place for a call: on a connection that has room, or on one that `open` makes.
    ///
    /// Cancel safe: a call that goes while it opens leaves that to the next one.
    pub(crate) async fn place<O>(&self, open: impl FnOnce() -> O) -> Result<Place, UpstreamError>
    where
        O: Future<Output = Result<Arc<Connection>, UpstreamError>>,
    {
        if let Some(place) = self.take() {
            return Ok(place);
        }
        let _only = self.opening.lock().await;
        if let Some(place) = self.take() {
            return Ok(place);
        }
        let era = self.lock().era;
        let connection = open().await?;
        let mut open = self.lock();
        if open.era == era {
            open.connections.push(connection.clone());
        }
        Ok(connection.enter())
    }

    /// A place on the oldest connection that has one: fewer calls leave the young ones empty.
    fn take(&self) -> Option<Place> {
        let connections = &mut self.lock().connections;
        connections.retain(|connection| connection.is_open());
        connections.iter().find_map(Connection::try_enter)
    }

    /// Begins another era: no further calls on the connections that there are.
    pub(crate) fn clear(&self) {
        let mut open = self.lock();
        open.era += 1;
        open.connections.clear();
    }

    /// Lets go of connections that ended, that the upstream ends, or that idled too long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.lock().connections.retain(|connection| {
            let idle = connection.idle_since();
            connection.is_open() && idle.is_none_or(|since| now < since + MAX_IDLE)
        });
    }

    /// How many connections are open.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
