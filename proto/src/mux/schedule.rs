//! Whose turn it is to send: deficit round robin by bytes, newcomers first.
//!
//! A stream that begins to send, and whose queue was empty, is *fresh*: it is served before those
//! that have been sending all along, up to one quantum; then it joins the round. So a small call
//! waits for other small calls only, and a bulk transfer never gets ahead twice. So that a stream
//! of newcomers cannot starve the round, they have at most four quanta between two turns of it.
//! (The idea is that of RFC 8290, 4.2; the guard is ours.)

use std::collections::VecDeque;

use crate::frame::StreamId;
use crate::limits::FRAME;

/// Bytes that a stream may send in its turn: one full frame.
const QUANTUM: i64 = FRAME as i64;

/// Bytes that fresh streams may send between two turns of the round.
const FRESH_SHARE: i64 = 4 * QUANTUM;

/// Room in the queues that is worth giving back.
const SHRINK_ABOVE: usize = 256;

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// It has nothing to send.
    #[default]
    Idle,
    Fresh,
    Round,
}

/// The part of a stream that the schedule knows.
#[derive(Debug, Default)]
pub(super) struct Turn {
    place: Place,
    /// Bytes that it may send before the next one's turn; below 0 after a large frame.
    deficit: i64,
}

/// The two queues. Streams that are gone, or have nothing to send any more, are taken out when
/// they come up.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    fresh: VecDeque<StreamId>,
    round: VecDeque<StreamId>,
    /// Bytes that fresh streams sent since the last turn of the round.
    fresh_sent: i64,
}

impl Schedule {
    /// A stream can send. `newcomer`: its queue was empty; otherwise it waited for credit, and
    /// keeps the place that it had earned.
    pub(super) fn wake(&mut self, id: StreamId, turn: &mut Turn, newcomer: bool) {
        if turn.place != Place::Idle {
            return;
        }
        if newcomer {
            *turn = Turn {
                place: Place::Fresh,
                deficit: QUANTUM,
            };
            self.fresh.push_back(id);
        } else {
            turn.place = Place::Round;
            self.round.push_back(id);
        }
    }

    fn fresh_first(&self) -> bool {
        !self.fresh.is_empty() && (self.round.is_empty() || self.fresh_sent < FRESH_SHARE)
    }

    /// Whose turn it is.
    pub(super) fn front(&self) -> Option<StreamId> {
        let queue = if self.fresh_first() {
            &self.fresh
        } else {
            &self.round
        };
        queue.front().copied()
    }

    /// Whether the stream in front has its turn yet; if not, it goes to the end of the round.
    pub(super) fn is_turn(&mut self, turn: &mut Turn) -> bool {
        if turn.deficit > 0 {
            return true;
        }
        turn.deficit += QUANTUM;
        self.requeue(turn);
        false
    }

    /// The stream in front has sent `bytes`.
    pub(super) fn on_sent(&mut self, turn: &mut Turn, bytes: usize) {
        let bytes = bytes as i64;
        turn.deficit -= bytes;
        match turn.place {
            Place::Fresh => self.fresh_sent += bytes,
            Place::Round | Place::Idle => self.fresh_sent = 0,
        }
    }

    /// The stream in front has nothing to send. A fresh one passes through the round first, so
    /// that one that sends now and then is not fresh every time.
    pub(super) fn on_empty(&mut self, turn: &mut Turn) {
        if turn.place == Place::Fresh {
            self.requeue(turn);
        } else {
            self.drop_front();
            turn.place = Place::Idle;
        }
    }

    fn requeue(&mut self, turn: &mut Turn) {
        if let Some(id) = self.drop_front() {
            turn.place = Place::Round;
            self.round.push_back(id);
        }
    }

    /// Takes the stream in front out: it is gone.
    pub(super) fn drop_front(&mut self) -> Option<StreamId> {
        if self.fresh_first() {
            self.fresh.pop_front()
        } else {
            self.round.pop_front()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.round.is_empty()
    }

    /// Gives back memory once there is nothing to do.
    pub(super) fn shrink(&mut self) {
        if self.fresh.capacity() + self.round.capacity() > SHRINK_ABOVE {
            *self = Self::default();
        }
    }
}
