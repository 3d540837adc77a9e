//! Whose turn it is to send: deficit round robin by bytes, within three classes and among them.
//!
//! A stream *earns* its class by what it has sent lately ([`Turn::class`]): it begins as
//! interactive, is normal once it has sent a frame's worth, and bulk after a megabyte. What it
//! has sent is forgotten while its queue is empty, byte for byte as the others are served: a
//! stream that takes less than an equal part of the line stays interactive, one that keeps its
//! queue full goes down, and comes back up after it has rested. A class may also be set.
//!
//! The most urgent class that has something to send goes first, but only for its allowance
//! ([`WEIGHTS`]); once every class that has something to send has used up its own, all get a new
//! one. So a small call waits for other small calls and at most 48 KiB of larger ones, a bulk
//! transfer never gets ahead by being one, and nothing starves: the bound is at [`longest_wait`].
//!
//! New streams always begin in the interactive class, so that OPENs leave in the order of their
//! ids; a class that was set counts from the end of the first turn.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::frame::StreamId;
use crate::limits::FRAME;
use crate::mux::streams::STALE;
use crate::priority::Priority;

/// Bytes that a stream may send in its turn: one full frame.
const QUANTUM: i64 = FRAME as i64;

/// Quanta that each class may send until all get a new allowance.
const WEIGHTS: [i64; 3] = [4, 2, 1];

/// Bytes sent lately that make a stream normal.
const NORMAL_FROM: u64 = FRAME as u64;

/// Bytes sent lately that make a stream bulk.
const BULK_FROM: u64 = 1024 * 1024;

/// Most that is remembered of what a stream has sent: a long transfer need not rest longer.
const REMEMBERED: u64 = 2 * BULK_FROM;

/// Bytes that streams with an empty queue are forgiven when nobody has anything to send: a line
/// that is never full makes nobody bulk by small messages.
const REST: u64 = 4 * FRAME as u64;

/// Room in the queues that is worth giving back.
const SHRINK_ABOVE: usize = 256;

/// The part of a stream that the schedule knows.
#[derive(Debug)]
pub(super) struct Turn {
    /// The class in whose queue it stands; `None`: it has nothing to send.
    place: Option<Priority>,
    /// The class that was set for it.
    set: Option<Priority>,
    /// Bytes that it may send before the next one's turn; below 0 after a large frame.
    deficit: i64,
    /// Bytes that it has sent lately.
    sent: u64,
    /// The schedule's time from which on it rests; [`u64::MAX`]: it does not.
    rests_since: u64,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            place: None,
            set: None,
            deficit: QUANTUM,
            sent: 0,
            rests_since: u64::MAX,
        }
    }
}

impl Turn {
    /// Sets the class, from the stream's next turn on; `None`: it is earned.
    pub(super) fn set(&mut self, priority: Option<Priority>) {
        self.set = priority;
    }

    fn class(&self) -> Priority {
        match (self.set, self.sent) {
            (Some(priority), _) => priority,
            (None, ..NORMAL_FROM) => Priority::Interactive,
            (None, ..BULK_FROM) => Priority::Normal,
            (None, _) => Priority::Bulk,
        }
    }
}

/// The queue of each class. Streams that are gone, or have nothing to send any more, are taken
/// out when they come up, or swept out.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    queues: [VecDeque<StreamId>; 3],
    /// Bytes that each class may still send; below 0 after a large frame.
    allowances: [i64; 3],
    /// The class of the stream in front.
    current: usize,
    /// Bytes that each stream with something to send has sent, on average: the time by which
    /// resting is counted.
    time: u64,
}

impl Schedule {
    /// A stream can send.
    pub(super) fn wake(&mut self, id: StreamId, turn: &mut Turn) {
        if turn.place.is_some() {
            return;
        }
        let rested = self.time.saturating_sub(turn.rests_since);
        turn.sent = turn.sent.saturating_sub(rested);
        if turn.sent == 0 {
            turn.deficit = QUANTUM;
        }
        self.enqueue(id, turn);
    }

    fn enqueue(&mut self, id: StreamId, turn: &mut Turn) {
        if turn.deficit <= 0 {
            turn.deficit += QUANTUM;
        }
        let class = turn.class();
        turn.place = Some(class);
        self.queues[class as usize].push_back(id);
    }

    /// Whose turn it is. The methods below are about that stream.
    pub(super) fn front(&mut self) -> Option<StreamId> {
        if self.is_empty() {
            return None;
        }
        loop {
            for (class, queue) in self.queues.iter().enumerate() {
                if self.allowances[class] > 0
                    && let Some(id) = queue.front()
                {
                    self.current = class;
                    return Some(*id);
                }
            }
            for (allowance, weight) in self.allowances.iter_mut().zip(WEIGHTS) {
                let full = weight * QUANTUM;
                *allowance = full.min(*allowance + full);
            }
        }
    }

    /// Whether the stream in front may send; if not, it goes to the end of its queue.
    pub(super) fn is_turn(&mut self, turn: &mut Turn) -> bool {
        let may = turn.deficit > 0;
        if !may {
            self.end_turn(turn);
        }
        may
    }

    /// The stream in front has sent `bytes`. What follows is [`on_more`](Self::on_more) or
    /// [`on_idle`](Self::on_idle).
    pub(super) fn on_sent(&mut self, turn: &mut Turn, bytes: usize) {
        self.time += (bytes / self.len().max(1)) as u64;
        self.allowances[self.current] -= bytes as i64;
        turn.deficit -= bytes as i64;
        turn.sent = REMEMBERED.min(turn.sent + bytes as u64);
    }

    /// The stream in front has sent and can send more. Once its turn is over, or its class is
    /// another one now, it goes to the end of a queue.
    pub(super) fn on_more(&mut self, turn: &mut Turn) {
        if turn.deficit <= 0 || turn.place != Some(turn.class()) {
            self.end_turn(turn);
        }
    }

    fn end_turn(&mut self, turn: &mut Turn) {
        if let Some(id) = self.drop_front() {
            self.enqueue(id, turn);
        }
    }

    /// The stream in front cannot send. It `rests` if its queue is empty; otherwise it waits for
    /// credit.
    pub(super) fn on_idle(&mut self, turn: &mut Turn, rests: bool) {
        self.drop_front();
        turn.place = None;
        turn.rests_since = if rests { self.time } else { u64::MAX };
    }

    /// Takes the stream in front out: it is gone.
    pub(super) fn drop_front(&mut self) -> Option<StreamId> {
        self.queues[self.current].pop_front()
    }

    /// Nobody has anything to send: those that rest are forgiven some of what they have sent, and
    /// memory is given back.
    pub(super) fn on_all_idle(&mut self) {
        self.time += REST;
        if self.queues.iter().map(VecDeque::capacity).sum::<usize>() > SHRINK_ABOVE {
            self.queues = Default::default();
        }
    }

    /// Takes out streams that are gone, once they are most of what waits: none comes up while the
    /// socket takes nothing. `streams` are there; `lives` tells whether one is.
    pub(super) fn sweep(&mut self, streams: usize, lives: impl Fn(StreamId) -> bool) {
        if self.len() >= 2 * streams + STALE {
            for queue in &mut self.queues {
                queue.retain(|id| lives(*id));
            }
        }
    }

    /// Places in the queues.
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }
}

/// Most bytes that others send while a stream that can send waits for its next frame, when there
/// are `streams` in the session and no frame is longer than `longest` bytes.
///
/// A stream owes at most `longest` bytes, so its turn comes after `rounds` turns of each other
/// stream of its class, in which that sends at most a quantum and one frame. The classes share by
/// their weights; the one with the least has a seventh. To that comes what is left of allowances,
/// and by how much they are exceeded.
#[cfg(test)]
pub(super) fn longest_wait(streams: usize, longest: usize) -> i64 {
    let longest = longest as i64;
    let rounds = 2 + longest / QUANTUM;
    let in_class = rounds * streams as i64 * (QUANTUM + longest);
    let weights: i64 = WEIGHTS.iter().sum();
    weights * (in_class + 2 * QUANTUM + 2 * longest)
}
