//! Lines on their way from the calls to the one thread that writes them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::chain::Head;

/// Lines that may wait.
const MAX_LINES: usize = 8192;

/// Bytes that may wait.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Least time between two writes of a few lines: to write each for itself would wake the thread for
/// every call. A line that comes after a pause is written at once.
const PACE: Duration = Duration::from_millis(10);

/// Bytes that are written at once, about.
const BATCH: usize = 64 * 1024;

/// How long a batch may take to be written. A busy disk takes a second or two; a reader of standard
/// output that is stuck, or a file server that is gone, gives no error and takes for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is wrong where it takes longer.
const STUCK: &str = "a write does not return: whoever takes the lines is stuck";

/// What calls and the writing thread share.
#[derive(Debug)]
pub(crate) struct Queue {
    /// `on_full = "stop"`: no call without a line.
    strict: bool,
    patience: Duration,
    /// No call may begin.
    refusing: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that found no room since the last `gap`.
    unreported: u64,
    lost: u64,
    written: u64,
    head: Head,
    alarm: Option<String>,
    closing: bool,
    reopen: bool,
    /// When lines were taken last.
    taken: Option<Instant>,
    /// What the writing thread is at, until it comes back.
    writing: Option<Writing>,
    /// It does not come back, and that was said.
    stuck: bool,
}

#[derive(Debug)]
struct Writing {
    since: Instant,
    lines: usize,
}

impl State {
    fn is_full(&self) -> bool {
        self.lines.len() >= MAX_LINES || self.bytes >= MAX_BYTES
    }

    fn begin(&mut self, lines: usize) {
        let since = Instant::now();
        self.writing = Some(Writing { since, lines });
    }

    /// The writing thread is back.
    fn on_back(&mut self) {
        self.writing = None;
        if std::mem::take(&mut self.stuck) {
            tracing::info!(target: "culvert::audit", "the write of the audit log has returned");
        }
    }
}

/// How it goes, for status and metrics.
#[derive(Debug, Clone)]
pub(crate) struct QueueStatus {
    /// Why lines cannot be written at the moment.
    pub(crate) alarm: Option<String>,
    /// Lines that were lost since the start.
    pub(crate) lost: u64,
    /// Lines that wait to be written, and those that are being written.
    pub(crate) waiting: usize,
    /// Lines that were written since the start.
    pub(crate) written: u64,
    pub(crate) head: Head,
}

/// What the writing thread has to do.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) lines: Vec<String>,
    /// Lines that were lost behind `lines`; not 0 only if nothing waits any more.
    pub(crate) lost: u64,
    pub(crate) reopen: bool,
    /// The agent ends.
    pub(crate) closing: bool,
    /// It does, and nothing waits any more.
    pub(crate) last: bool,
}

impl Queue {
    pub(crate) fn new(strict: bool) -> Self {
        Self {
            strict,
            patience: PATIENCE,
            refusing: AtomicBool::new(false),
            state: Mutex::new(State {
                lines: VecDeque::new(),
                bytes: 0,
                unreported: 0,
                lost: 0,
                written: 0,
                head: Head::NONE,
                alarm: None,
                closing: false,
                reopen: false,
                taken: None,
                writing: None,
                stuck: false,
            }),
            wake: Condvar::new(),
        }
    }

    /// One for which every write takes too long.
    #[cfg(test)]
    pub(crate) fn impatient(strict: bool) -> Self {
        Self {
            patience: Duration::ZERO,
            ..Self::new(strict)
        }
    }

    /// Whether a call may begin.
    pub(crate) fn admits(&self) -> bool {
        if self.refusing.load(Ordering::Relaxed) {
            return false;
        }
        // A write that does not return sets nothing: only the clock tells.
        !self.strict || !self.is_stuck(&mut self.lock())
    }

    /// Whether the writing thread is at the same batch for too long; says so once.
    fn is_stuck(&self, state: &mut State) -> bool {
        let writing = state.writing.as_ref();
        let stuck = writing.is_some_and(|writing| writing.since.elapsed() >= self.patience);
        if stuck && !std::mem::replace(&mut state.stuck, true) {
            tracing::error!(
                target: "culvert::audit",
                "the audit log cannot be written ({STUCK}); {}",
                self.consequence()
            );
        }
        stuck
    }

    /// What becomes of calls while the log cannot be written.
    fn consequence(&self) -> &'static str {
        if self.strict {
            "calls are refused until it can"
        } else {
            "calls go on, lines wait in memory as long as there is room"
        }
    }

    /// Appends a line. One that finds no room is counted; the line of a call that was `admitted`
    /// by a strict log always has room: how many there can be is limited with the calls.
    pub(crate) fn push(&self, line: String, admitted: bool) {
        let mut state = self.lock();
        self.is_stuck(&mut state);
        if state.is_full() && !(self.strict && admitted) {
            state.unreported += 1;
            state.lost += 1;
            if state.alarm.is_none() {
                let alarm = "lines come faster than they can be written";
                tracing::error!(target: "culvert::audit", "audit lines are lost: {alarm}");
                state.alarm = Some(alarm.to_owned());
            }
            return;
        }
        let length = line.len();
        state.bytes += length;
        state.lines.push_back(line);
        if self.strict && state.is_full() {
            self.refusing.store(true, Ordering::Relaxed);
        }
        let first = state.lines.len() == 1;
        let batch = (BATCH..BATCH + length).contains(&state.bytes);
        drop(state);
        if first || batch {
            self.wake.notify_one();
        }
    }

    /// Waits for something to do, but not longer than `limit`; `resting`: only the end is worth
    /// to hurry for.
    pub(crate) fn take(&self, limit: Duration, resting: bool) -> Work {
        let idle = |state: &mut State| {
            !state.closing && (resting || (state.lines.is_empty() && !state.reopen))
        };
        let mut state = self.lock();
        state.on_back();
        let (state, _) = self
            .wake
            .wait_timeout_while(state, limit, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let early = state
            .taken
            .map_or(Duration::ZERO, |taken| PACE.saturating_sub(taken.elapsed()));
        let few = |state: &mut State| !state.closing && !state.reopen && state.bytes < BATCH;
        let (mut state, _) = self
            .wake
            .wait_timeout_while(state, early.min(limit), few)
            .unwrap_or_else(PoisonError::into_inner);
        state.taken = Some(Instant::now());
        let mut lines = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH
            && let Some(line) = state.lines.pop_front()
        {
            bytes += line.len();
            lines.push(line);
        }
        state.bytes -= bytes;
        state.begin(lines.len());
        let empty = state.lines.is_empty();
        Work {
            lines,
            lost: if empty {
                std::mem::take(&mut state.unreported)
            } else {
                0
            },
            reopen: std::mem::take(&mut state.reopen),
            closing: state.closing,
            last: state.closing && empty,
        }
    }

    /// So many lines of the writing thread's own are about to be written.
    pub(crate) fn on_begun(&self, lines: usize) {
        self.lock().begin(lines);
    }

    /// Everything was written; `head` is the chain's end.
    pub(crate) fn on_written(&self, lines: usize, head: Head) {
        let mut state = self.lock();
        state.on_back();
        state.written += lines as u64;
        state.head = head;
        if state.unreported > 0 || state.is_full() {
            return;
        }
        self.refusing.store(false, Ordering::Relaxed);
        if state.alarm.take().is_some() {
            tracing::info!(target: "culvert::audit", "the audit log can be written again");
        }
    }

    /// Only `written` lines were written: `unwritten` go back to the front.
    pub(crate) fn on_failed(
        &self,
        written: usize,
        head: Head,
        unwritten: impl DoubleEndedIterator<Item = String>,
        lost: u64,
        why: String,
    ) {
        let mut state = self.lock();
        state.on_back();
        state.written += written as u64;
        state.head = head;
        for line in unwritten.rev() {
            state.bytes += line.len();
            state.lines.push_front(line);
        }
        state.unreported += lost;
        self.refusing.store(self.strict, Ordering::Relaxed);
        if state.alarm.as_ref() != Some(&why) {
            tracing::error!(
                target: "culvert::audit",
                "the audit log cannot be written ({why}); {}",
                self.consequence()
            );
            state.alarm = Some(why);
        }
    }

    /// Everything that waits at the agent's end, and how many lines were lost and not told of yet.
    pub(crate) fn abandon(&self) -> (Vec<String>, u64) {
        let mut state = self.lock();
        state.bytes = 0;
        let lines = std::mem::take(&mut state.lines).into();
        (lines, std::mem::take(&mut state.unreported))
    }

    pub(crate) fn reopen(&self) {
        self.lock().reopen = true;
        self.wake.notify_one();
    }

    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    pub(crate) fn status(&self) -> QueueStatus {
        let mut state = self.lock();
        let stuck = self.is_stuck(&mut state);
        let being_written = state.writing.as_ref().map_or(0, |writing| writing.lines);
        QueueStatus {
            alarm: stuck.then(|| STUCK.to_owned()).or(state.alarm.clone()),
            lost: state.lost,
            waiting: state.lines.len() + being_written,
            written: state.written,
            head: state.head,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(queue: &Queue) {
        for _ in 0..MAX_LINES {
            queue.push("x".into(), true);
        }
    }

    #[test]
    fn a_lenient_log_counts_what_finds_no_room_and_says_so_behind_what_did() {
        let queue = Queue::new(false);
        fill(&queue);
        queue.push("lost".into(), true);
        queue.push("lost".into(), false);
        assert!(queue.admits());
        let status = queue.status();
        assert_eq!((status.waiting, status.lost), (MAX_LINES, 2));
        assert!(status.alarm.is_some());
        let mut seen = 0;
        loop {
            let work = queue.take(Duration::ZERO, false);
            seen += work.lines.len();
            queue.on_written(work.lines.len(), Head::NONE);
            if work.lost > 0 {
                assert_eq!((seen, work.lost), (MAX_LINES, 2));
                break;
            }
            assert!(queue.status().alarm.is_some());
        }
        assert_eq!(queue.status().alarm, None);
    }

    #[test]
    fn a_strict_log_keeps_the_lines_of_admitted_calls_and_admits_no_others() {
        let queue = Queue::new(true);
        fill(&queue);
        assert!(!queue.admits());
        queue.push("kept".into(), true);
        queue.push("lost".into(), false);
        let status = queue.status();
        assert_eq!((status.waiting, status.lost), (MAX_LINES + 1, 1));
    }

    #[test]
    fn what_could_not_be_written_keeps_its_place() {
        for strict in [false, true] {
            let queue = Queue::new(strict);
            for line in ["a", "b", "c"] {
                queue.push(line.into(), true);
            }
            let work = queue.take(Duration::ZERO, false);
            assert!(queue.admits() && queue.status().alarm.is_none());
            queue.push("d".into(), true);
            let rest = work.lines.into_iter().skip(1);
            queue.on_failed(1, Head::NONE, rest, 0, "no space".into());
            assert_eq!(queue.admits(), !strict);
            assert_eq!(queue.status().alarm.as_deref(), Some("no space"));
            let work = queue.take(Duration::ZERO, true);
            assert_eq!(work.lines, ["b", "c", "d"]);
            queue.on_written(3, Head::NONE);
            assert!(queue.admits() && queue.status().alarm.is_none());
            assert_eq!(queue.status().written, 4);
        }
    }

    #[test]
    fn a_write_that_takes_too_long_is_an_alarm_until_it_returns() {
        for strict in [false, true] {
            let queue = Queue::impatient(strict);
            queue.push("a".into(), true);
            assert!(queue.admits() && queue.status().alarm.is_none());
            let work = queue.take(Duration::ZERO, false);
            queue.push("b".into(), true);
            assert_eq!(queue.admits(), !strict);
            let status = queue.status();
            assert_eq!((status.alarm.as_deref(), status.waiting), (Some(STUCK), 2));
            queue.on_written(work.lines.len(), Head::NONE);
            assert!(queue.admits());
            let status = queue.status();
            assert_eq!((status.alarm, status.waiting), (None, 1));
            // The disk may also be stuck when there is nothing to write.
            queue.on_begun(0);
            assert_eq!(queue.admits(), !strict);
            queue.take(Duration::ZERO, false);
            queue.on_failed(
                0,
                Head::NONE,
                ["b".to_owned()].into_iter(),
                0,
                "no space".into(),
            );
            assert_eq!(queue.status().alarm.as_deref(), Some("no space"));
        }
    }
}
