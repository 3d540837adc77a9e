//! Lines on their way to standard error.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::out::Out;
use super::{ACCESS, LogFormat};

/// Least time between two writes of lines that may wait: one that comes after a pause is written at
/// once.
pub(super) const PACE: Duration = Duration::from_millis(50);

/// Bytes of access lines that may wait. When there are more, because whoever reads the log does not keep
/// up, further ones are lost, and counted: a call does not wait for a log.
const MAX_WAITING: usize = 1 << 20;

/// Bytes for all other lines beyond that: calls do not crowd them out. Nor does who says them wait. Where
/// nobody reads the log, whoever waited would take everything with it that its worker serves.
const RESERVE: usize = 256 * 1024;

/// How long the last lines may take to be written when a process ends.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Lines that wait to be written. Clones speak of the same ones.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// Something waits, after nothing did, or is urgent.
    some: Condvar,
    /// All that waited is written.
    none: Condvar,
    /// Held from taking lines to having written them: what was said first is written first.
    out: Mutex<Out>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines that found no room.
    lost: u64,
    /// Among them is one that is written without delay.
    urgent: bool,
    /// Lines were taken and are not written yet.
    writing: bool,
    /// There is a thread that writes.
    threaded: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.lost == 0
    }
}

impl Lines {
    pub(super) fn to(out: impl Write + Send + 'static, format: LogFormat) -> Self {
        Self(Arc::new(Shared {
            waiting: Mutex::default(),
            some: Condvar::new(),
            none: Condvar::new(),
            out: Mutex::new(Out::new(out, format)),
        }))
    }

    /// Starts the thread that writes. Without one (the system has no thread left) urgent lines are
    /// written by who says them, and the others with those.
    pub(super) fn keep_flushing(self) {
        let lines = self.clone();
        let thread = std::thread::Builder::new().name("log".into());
        let started = thread.spawn(move || {
            let mut flushed: Option<Instant> = None;
            loop {
                let waiting = lines.waiting();
                let waiting = lines
                    .0
                    .some
                    .wait_while(waiting, |waiting| waiting.is_empty());
                let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
                let rest = flushed.map_or(Duration::ZERO, |at| PACE.saturating_sub(at.elapsed()));
                let paced = |waiting: &mut Waiting| !waiting.urgent;
                drop(lines.0.some.wait_timeout_while(waiting, rest, paced));
                lines.write();
                flushed = Some(Instant::now());
            }
        });
        self.waiting().threaded = started.is_ok();
    }

    /// Adds a line.
    fn add(&self, line: &[u8], urgent: bool) {
        let mut waiting = self.waiting();
        let first = waiting.is_empty();
        let most = if urgent {
            MAX_WAITING + RESERVE
        } else {
            MAX_WAITING
        };
        if waiting.bytes.len() + line.len() <= most {
            waiting.bytes.extend_from_slice(line);
        } else {
            waiting.lost += 1;
        }
        waiting.urgent |= urgent;
        let threaded = waiting.threaded;
        drop(waiting);
        if !threaded && urgent {
            self.write();
        } else if first || urgent {
            self.0.some.notify_one();
        }
    }

    /// Writes what waits.
    fn write(&self) {
        let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.waiting();
        let bytes = std::mem::take(&mut waiting.bytes);
        let lost = std::mem::take(&mut waiting.lost);
        waiting.urgent = false;
        waiting.writing = true;
        drop(waiting);
        out.write(&bytes, lost);
        self.waiting().writing = false;
        self.0.none.notify_all();
    }

    /// Has what waits written, and waits for that as long as a process that ends may.
    pub(super) fn flush(&self) {
        let mut waiting = self.waiting();
        if !waiting.threaded {
            drop(waiting);
            return self.write();
        }
        waiting.urgent = true;
        self.0.some.notify_one();
        let busy = |waiting: &mut Waiting| !waiting.is_empty() || waiting.writing;
        drop(self.0.none.wait_timeout_while(waiting, LAST_LINES, busy));
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

/// Gives each event the way to the log that its target has.
pub(super) struct LogWriter(pub(super) Lines);

/// One event's way.
pub(super) struct LineWriter<'a> {
    lines: &'a Lines,
    may_wait: bool,
}

impl Write for LineWriter<'_> {
    /// Takes a whole line: `tracing-subscriber` writes each event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line, !self.may_wait);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter {
            lines: &self.0,
            may_wait: false,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> LineWriter<'a> {
        LineWriter {
            lines: &self.0,
            may_wait: meta.target() == ACCESS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a test's log goes.
    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl Text {
        fn get(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Text {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_may_wait_are_written_before_one_that_may_not() {
        let out = Text::default();
        let lines = Lines::to(out.clone(), LogFormat::Text);
        lines.add(b"one\n", false);
        lines.add(b"two\n", false);
        assert_eq!(out.get(), "");
        lines.add(b"three\n", true);
        assert_eq!(out.get(), "one\ntwo\nthree\n");
    }

    #[test]
    fn lines_that_wait_are_written_without_being_asked() {
        let out = Text::default();
        let lines = Lines::to(out.clone(), LogFormat::Text);
        lines.clone().keep_flushing();
        for (line, urgent) in [("one\n", false), ("two\n", false), ("three\n", true)] {
            lines.add(line.as_bytes(), urgent);
            while !out.get().ends_with(line) {
                std::thread::yield_now();
            }
        }
        lines.add(b"four\n", false);
        lines.flush();
        assert_eq!(out.get(), "one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn what_finds_no_room_is_counted_and_costs_no_memory() {
        let out = Text::default();
        let lines = Lines::to(out.clone(), LogFormat::Text);
        let line = [b'x'; 1024];
        for _ in 0..MAX_WAITING / line.len() + 3 {
            lines.add(&line, false);
        }
        assert_eq!(lines.waiting().bytes.len(), MAX_WAITING);
        lines.flush();
        assert!(out.get().contains("3 lines were lost"));
    }

    /// A pipe that nobody reads takes nothing more, ever.
    struct Stuck(Arc<Mutex<()>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.0.lock());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_log_that_nobody_reads_and_calls_leave_room_for_other_lines() {
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock().unwrap();
        let lines = Lines::to(Stuck(gate.clone()), LogFormat::Text);
        lines.clone().keep_flushing();
        let line = [b'x'; 1024];
        lines.add(&line, true);
        while !lines.waiting().writing {
            std::thread::yield_now();
        }
        // This returns, again and again: that is the promise.
        for _ in 0..2 * MAX_WAITING / line.len() {
            lines.add(&line, false);
        }
        for _ in 0..2 * RESERVE / line.len() {
            lines.add(&line, true);
        }
        assert_eq!(lines.waiting().bytes.len(), MAX_WAITING + RESERVE);
        // Nor does the end of the process, for long.
        lines.flush();
        drop(held);
    }
}
