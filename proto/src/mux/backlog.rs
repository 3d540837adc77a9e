//! Calls of the peer that wait to be accepted.

use std::collections::VecDeque;

use crate::frame::StreamId;
use crate::mux::streams::STALE;

/// Which calls wait, in order, and what they hold.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    ids: VecDeque<StreamId>,
    calls: usize,
    bytes: usize,
}

impl Backlog {
    /// Calls that wait.
    pub(super) fn len(&self) -> usize {
        self.calls
    }

    /// Bytes of their heads on the wire.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A call comes. `waits` tells of an id whether its call still waits.
    pub(super) fn push(&mut self, id: StreamId, bytes: usize, waits: impl Fn(StreamId) -> bool) {
        if self.ids.len() >= 2 * self.calls + STALE {
            self.ids.retain(|id| waits(*id));
        }
        self.ids.push_back(id);
        self.calls += 1;
        self.bytes += bytes;
    }

    /// The next id; its call may have been cancelled.
    pub(super) fn pop(&mut self) -> Option<StreamId> {
        self.ids.pop_front()
    }

    #[cfg(test)]
    pub(super) fn numbers(&self) -> usize {
        self.ids.len()
    }

    /// A call was accepted or cancelled.
    pub(super) fn on_taken(&mut self, bytes: usize) {
        self.calls -= 1;
        self.bytes -= bytes;
    }
}
