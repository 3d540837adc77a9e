//! The connections of a session: the first one, and lanes that joined it.
//!
//! A lane is a whole connection, with a core and a driver of its own; a stream lives on one of
//! them. So all that lanes have in common is here: where a new stream goes, and that none
//! outlives the first connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::GoawayCode;
use culvert_proto::head::CallHead;
use culvert_proto::mux::{OpenError, Stats};
use tokio::sync::watch;

use crate::error::SessionError;
use crate::session::Handle;
use crate::shared::State;
use crate::stream::Stream;

/// What one stream counts for when lanes are compared, in bytes: the call and its answer.
const STREAM: usize = 16 * 1024;

/// What a half of a stream counts for once it has moved [`BULK_AFTER`], in bytes. Of a download
/// only the peer knows what is queued: as a rule a window's worth.
const BULK: usize = 256 * 1024;

/// Bytes after which a half of a stream is bulk.
const BULK_AFTER: usize = 64 * 1024;

/// Why a connection cannot be a lane of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The session is over, or takes no new streams.
    #[error("the session is ending")]
    Ending,
    /// The session has as many connections as it may.
    #[error("the session has as many connections as it may")]
    Full,
}

/// The lanes of a session beside its first connection.
#[derive(Default)]
pub(crate) struct Lanes {
    joined: Mutex<Vec<Arc<Handle>>>,
    /// Lanes that are as good as each other take turns.
    turn: AtomicUsize,
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Handle>>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many have joined.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Takes in a lane. It leaves when it ends, and ends when `first` does.
    pub(crate) fn join(
        self: &Arc<Self>,
        first: &Arc<Handle>,
        lane: &Arc<Handle>,
        most: usize,
    ) -> Result<(), JoinError> {
        // Under the lock, so that no drain or end of the session misses the lane.
        let mut joined = self.lock();
        if first.is_ending() {
            return Err(JoinError::Ending);
        }
        if joined.len() + 1 >= most {
            return Err(JoinError::Full);
        }
        joined.push(lane.clone());
        drop(joined);
        let states = (first.state.subscribe(), lane.state.subscribe());
        tokio::spawn(tend(Arc::downgrade(self), Arc::downgrade(lane), states));
        Ok(())
    }

    /// Opens a stream on the lane with the least to do that takes it.
    pub(crate) fn open(
        &self,
        first: &Arc<Handle>,
        head: &CallHead,
        body: Bytes,
        end: bool,
    ) -> Result<Stream, OpenError> {
        let joined = self.lock();
        // The first lane drains for all of them.
        if joined.is_empty() || first.is_ending() {
            drop(joined);
            return first.open(head, body, end);
        }
        let mut lanes: Vec<_> = std::iter::once(first).chain(&*joined).cloned().collect();
        drop(joined);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % lanes.len();
        lanes.rotate_left(turn);
        lanes.sort_by_cached_key(|lane| lane.load());
        let mut error = OpenError::Closed;
        for lane in lanes {
            match lane.open(head, body.clone(), end) {
                Err(OpenError::HeadTooLarge) => return Err(OpenError::HeadTooLarge),
                // It ends, or is full; so the others are asked.
                Err(reason) => error = reason,
                opened => return opened,
            }
        }
        Err(error)
    }

    /// Asks the peer to open no more streams on any lane.
    pub(crate) fn drain(&self, first: &Handle, code: GoawayCode, retry_after: Duration) {
        let joined = self.lock();
        first.with(|core| core.mux.drain_as(code, retry_after));
        for lane in &*joined {
            lane.with(|core| core.mux.drain_as(code, retry_after));
        }
    }

    /// Whether the peer has heard of a drain on every lane.
    pub(crate) fn is_drained(&self, first: &Handle) -> bool {
        let joined = self.lock();
        let mut joined = joined.iter();
        first.lock().mux.is_drained() && joined.all(|lane| lane.lock().mux.is_drained())
    }

    /// Ends every lane now.
    pub(crate) fn close(&self, first: &Handle, code: GoawayCode, reason: &str) {
        let joined = self.lock();
        first.with(|core| core.close(code, reason));
        for lane in &*joined {
            lane.with(|core| core.close(code, reason));
        }
    }

    /// What all lanes together hold and have moved.
    pub(crate) fn stats(&self, first: &Handle) -> Stats {
        let sum = |a: Stats, b: Stats| Stats {
            streams: a.streams + b.streams,
            backlog: a.backlog + b.backlog,
            queued: a.queued + b.queued,
            buffered: a.buffered + b.buffered,
            granted: a.granted + b.granted,
            opened: a.opened + b.opened,
            accepted: a.accepted + b.accepted,
            refused: a.refused + b.refused,
            sent: a.sent + b.sent,
            received: a.received + b.received,
        };
        let joined = self.lock();
        let joined = joined.iter().map(|lane| lane.lock().mux.stats());
        joined.fold(first.lock().mux.stats(), sum)
    }

    /// Streams that exist on all lanes.
    pub(crate) fn stream_count(&self, first: &Handle) -> usize {
        let joined = self.lock();
        let joined = joined.iter().map(|lane| lane.lock().mux.stream_count());
        first.lock().mux.stream_count() + joined.sum::<usize>()
    }
}

/// Ends a lane with its session, and forgets it once it has ended. Holds neither alive.
async fn tend(
    lanes: Weak<Lanes>,
    lane: Weak<Handle>,
    (mut first, mut own): (watch::Receiver<State>, watch::Receiver<State>),
) {
    tokio::select! {
        why = ended(&mut first) => if let Some(lane) = lane.upgrade() {
            let code = match why {
                SessionError::Protocol(error) => error.code(),
                _ => GoawayCode::Drain,
            };
            lane.with(|core| core.close(code, "the first connection of the session ended"));
        },
        _ = ended(&mut own) => {}
    }
    if let Some(lanes) = lanes.upgrade() {
        let gone = |other: &Arc<Handle>| std::ptr::eq(Arc::as_ptr(other), lane.as_ptr());
        let left: Vec<_> = lanes.lock().extract_if(.., |other| gone(other)).collect();
        // Outside the lock: the last handle of a connection closes it.
        drop(left);
    }
}

/// Waits for the end of a connection; says why.
pub(crate) async fn ended(state: &mut watch::Receiver<State>) -> SessionError {
    let ended = state
        .wait_for(|state| matches!(state, State::Ended(_)))
        .await;
    match ended.as_deref() {
        Ok(State::Ended(error)) => error.clone(),
        Ok(_) | Err(_) => SessionError::Aborted,
    }
}

impl Handle {
    /// Whether the connection is over, about to be, or takes no new streams.
    fn is_ending(&self) -> bool {
        let core = self.lock();
        core.has_ended() || core.closing.is_some() || core.mux.is_draining()
    }

    /// Opens a stream on this connection.
    fn open(
        self: &Arc<Self>,
        head: &CallHead,
        body: Bytes,
        end: bool,
    ) -> Result<Stream, OpenError> {
        let id = self.with(|core| {
            if core.has_ended() {
                return Err(OpenError::Closed);
            }
            let id = core.mux.open(head, body, end)?;
            core.add_stream(id);
            Ok(id)
        })?;
        Ok(Stream::new(self.clone(), id))
    }

    /// What a new stream would wait for here, in bytes: what is queued, and what the streams that
    /// exist may still have coming. A lane that stalls keeps its streams, so it gets no new ones.
    fn load(&self) -> usize {
        let (queued, streams) = {
            let core = self.lock();
            (core.mux.stats().queued, core.mux.stream_count())
        };
        queued + streams * STREAM + self.bulk.load(Ordering::Relaxed) * BULK
    }
}

/// What one half of a stream has moved, noted on its connection once that is much.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    bytes: usize,
}

impl Moved {
    pub(crate) fn add(&mut self, handle: &Handle, bytes: usize) {
        let before = self.bytes;
        self.bytes = before.saturating_add(bytes);
        if before < BULK_AFTER && self.bytes >= BULK_AFTER {
            handle.bulk.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The half is gone.
    pub(crate) fn end(&mut self, handle: &Handle) {
        if self.bytes >= BULK_AFTER {
            handle.bulk.fetch_sub(1, Ordering::Relaxed);
        }
        self.bytes = 0;
    }
}
