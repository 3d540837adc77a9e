//! One public connection.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::authenticate::LastToken;
use super::record::Progress;
use super::traffic::Traffic;
use crate::listener::{Breaker, Peer};

/// Refused credentials after which a connection is closed: nobody guesses in peace, and nobody
/// gets many answers for little.
const MAX_REFUSED: u32 = 20;

/// Most bytes of heads that wait for an answer, all calls of an HTTP/2 connection together.
const MAX_HEADS: usize = 512 * 1024;

/// What the calls of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other side.
    pub(crate) peer: Peer,
    /// Makes the connection end by a reset.
    pub(crate) breaker: Breaker,
    pub(crate) traffic: Arc<Traffic>,
    /// The last token that was good.
    pub(crate) last_token: LastToken,
    refused: AtomicU32,
    heads: AtomicUsize,
    /// The progress of the call that was just begun, until its task is spawned.
    begun: Mutex<Option<Arc<Progress>>>,
    afterwards: Afterwards,
}

/// What goes on on an HTTP/1.1 connection when HTTP has ended there.
#[derive(Default)]
struct Afterwards(Mutex<Option<Passing>>);

type Passing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Room for one head, given back when dropped.
#[derive(Debug)]
pub(crate) struct HeadRoom {
    connection: Arc<Connection>,
    bytes: usize,
}

impl Connection {
    pub(crate) fn new(mut peer: Peer, breaker: Breaker) -> Self {
        // An IPv4 address that came through an IPv6 socket is still one.
        peer.address.set_ip(peer.address.ip().to_canonical());
        Self {
            peer,
            breaker,
            traffic: Arc::default(),
            last_token: LastToken::default(),
            refused: AtomicU32::new(0),
            heads: AtomicUsize::new(0),
            begun: Mutex::default(),
            afterwards: Afterwards::default(),
        }
    }

    /// A credential was refused; says whether that was the last one.
    pub(crate) fn on_refused(&self) -> bool {
        let last = self.refused.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_REFUSED;
        if last {
            self.traffic.wind_up();
        }
        last
    }

    /// Takes room for a head of so many bytes; `None` if there is none.
    pub(crate) fn take_room(self: &Arc<Self>, bytes: usize) -> Option<HeadRoom> {
        let room = HeadRoom {
            connection: self.clone(),
            bytes,
        };
        let held = self.heads.fetch_add(bytes, Ordering::Relaxed);
        (held + bytes <= MAX_HEADS || held == 0).then_some(room)
    }

    /// Leaves the progress of a call for the task that it is about to get.
    pub(crate) fn leave_progress(&self, progress: &Arc<Progress>) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress.clone());
    }

    /// Leaves what goes on here once HTTP has ended.
    pub(crate) fn leave_afterwards(&self, passing: impl Future<Output = ()> + Send + 'static) {
        let mut left = self
            .afterwards
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *left = Some(Box::pin(passing));
    }

    /// Takes what goes on once HTTP has ended.
    pub(crate) fn take_afterwards(&self) -> Option<Passing> {
        self.afterwards
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Takes what was left.
    pub(crate) fn take_progress(&self) -> Option<Arc<Progress>> {
        self.begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl fmt::Debug for Afterwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Afterwards").finish_non_exhaustive()
    }
}

impl Drop for HeadRoom {
    fn drop(&mut self) {
        self.connection
            .heads
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
