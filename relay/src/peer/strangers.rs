//! Connections at the address for nodes of which nobody knows yet whether a node is on them: how many there
//! are of one source, and how much is said of it.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_http::Source;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Most connections at once, strangers included: some for each of a hundred nodes.
const MAX_CONNECTIONS: usize = 512;

/// Most of them that come from one source and have not proved to be a node's.
const MAX_OF_SOURCE: usize = 64;

/// Most of them that have not proved to be a node's: the other seats are for nodes, and for connections from
/// where nodes have been. Otherwise a few sources that say nothing could keep nodes from each other.
const MAX_STRANGERS: usize = 256;

/// Most sources of nodes that are remembered.
const MAX_KNOWN: usize = 1024;

/// Least time between two log lines about one source.
pub(super) const QUIET: Duration = Duration::from_secs(10);

/// Sources that the log tells apart.
const MAX_TOLD_APART: usize = 64;

/// The connections at the address for nodes.
pub(super) struct Strangers {
    seats: Arc<Semaphore>,
    /// Those of each source that has some. Each has a seat, which bounds them.
    open: Mutex<HashMap<Source, usize>>,
    /// Where nodes have been.
    known: Mutex<HashSet<Source>>,
    /// What was said of each source of late; `None`: of all the others.
    said: Mutex<HashMap<Option<Source>, Said>>,
}

/// What was said of a source, and what was not.
struct Said {
    since: Instant,
    /// How often there was something to say that was not said.
    more: u64,
    from: IpAddr,
    /// What it was, the last time.
    last: String,
}

/// Why a connection is closed as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSeat {
    #[error("there are {MAX_CONNECTIONS} connections at the address for nodes")]
    All,
    #[error("{MAX_STRANGERS} connections have not proved to be a node's")]
    Strangers,
    #[error("{MAX_OF_SOURCE} connections from there have not proved to be a node's")]
    OfSource,
}

/// The place of a connection. Dropped, the connection is over.
pub(super) struct Seat {
    _permit: OwnedSemaphorePermit,
    /// Until it has proved to be a node's.
    stranger: Option<(Arc<Strangers>, Source)>,
}

impl Seat {
    /// A node is on the connection: it counts for its source no more.
    pub(super) fn prove(&mut self) {
        if let Some((strangers, source)) = self.stranger.take() {
            strangers.leave(source);
            strangers.remember(source);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some((strangers, source)) = self.stranger.take() {
            strangers.leave(source);
        }
    }
}

impl Strangers {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            seats: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            open: Mutex::default(),
            known: Mutex::default(),
            said: Mutex::default(),
        })
    }

    /// A seat for a new connection.
    pub(super) fn seat(self: &Arc<Self>, from: IpAddr) -> Result<Seat, NoSeat> {
        let permit = self.seats.clone().try_acquire_owned();
        let permit = permit.map_err(|_| NoSeat::All)?;
        let source = Source::from(from);
        let is_known = self.known().contains(&source);
        let mut open = self.open();
        if !is_known && open.values().sum::<usize>() >= MAX_STRANGERS {
            return Err(NoSeat::Strangers);
        }
        let of_source = open.entry(source).or_default();
        if *of_source >= MAX_OF_SOURCE {
            return Err(NoSeat::OfSource);
        }
        *of_source += 1;
        Ok(Seat {
            _permit: permit,
            stranger: Some((self.clone(), source)),
        })
    }

    fn leave(&self, source: Source) {
        let mut open = self.open();
        if let Some(of_source) = open.get_mut(&source) {
            *of_source -= 1;
            if *of_source == 0 {
                open.remove(&source);
            }
        }
    }

    /// Over months nodes may come from more places than are remembered: those that are still there come again.
    fn remember(&self, source: Source) {
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(source);
    }

    /// Says why a connection is closed, the first time; what else there is to say of its source
    /// [`say_rest`](Self::say_rest) counts. Anybody who reaches the address could fill the disk otherwise.
    pub(super) fn complain(&self, from: IpAddr, why: &dyn Display) {
        let mut said = self.said();
        let source = Some(Source::from(from));
        let is_apart = said.len() < MAX_TOLD_APART || said.contains_key(&source);
        let source = source.filter(|_| is_apart);
        if let Some(said) = said.get_mut(&source) {
            said.more += 1;
            (said.from, said.last) = (from, why.to_string());
            return;
        }
        let new = Said {
            since: Instant::now(),
            more: 0,
            from,
            last: String::new(),
        };
        said.insert(source, new);
        drop(said);
        tracing::warn!(peer = %from, "a connection at the address for nodes is closed: {why}");
    }

    /// Says what was not said for long enough, and forgets sources of which there was nothing more. To be
    /// called every [`QUIET`].
    pub(super) fn say_rest(&self) {
        self.said().retain(|source, said| {
            if said.since.elapsed() < QUIET {
                return true;
            }
            if said.more == 0 {
                return false;
            }
            let which = match source {
                Some(_) => "of its source",
                None => "of many sources, this the last",
            };
            tracing::warn!(
                peer = %said.from,
                connections = said.more,
                "further connections {which} at the address for nodes were closed: {}",
                said.last
            );
            (said.since, said.more) = (Instant::now(), 0);
            true
        });
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashSet<Source>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> MutexGuard<'_, HashMap<Option<Source>, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
