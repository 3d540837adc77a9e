//! Lines on their way to standard error.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::ACCESS;

/// Least time between two writes of lines that may wait: one that comes after a pause is written at
/// once.
pub(super) const PACE: Duration = Duration::from_millis(50);

/// Bytes that may wait. When there are more, because whoever reads the log does not keep up,
/// further access lines are lost, and counted: a call does not wait for a log.
const MAX_WAITING: usize = 1 << 20;

/// Lines that wait to be written. Clones speak of the same ones.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// Something waits, after nothing did.
    some: Condvar,
    /// Held from taking lines to having written them: what was said first is written first.
    out: Mutex<Box<dyn Write + Send>>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines that found no room.
    lost: u64,
}

impl Lines {
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Shared {
            waiting: Mutex::default(),
            some: Condvar::new(),
            out: Mutex::new(Box::new(out)),
        }))
    }

    /// Starts the thread that writes lines that nobody else has written. Without one (the system
    /// has no thread left) they wait for the next line that is written at once.
    pub(super) fn keep_flushing(self) {
        let thread = std::thread::Builder::new().name("log".into());
        let _ = thread.spawn(move || {
            let mut flushed: Option<Instant> = None;
            loop {
                let waiting = self.waiting();
                let idle = |waiting: &mut Waiting| waiting.bytes.is_empty() && waiting.lost == 0;
                drop(self.0.some.wait_while(waiting, idle));
                if let Some(flushed) = flushed {
                    std::thread::sleep(PACE.saturating_sub(flushed.elapsed()));
                }
                self.flush();
                flushed = Some(Instant::now());
            }
        });
    }

    /// Adds a line that may wait.
    fn add(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        let first = waiting.bytes.is_empty() && waiting.lost == 0;
        if waiting.bytes.len() + line.len() <= MAX_WAITING {
            waiting.bytes.extend_from_slice(line);
        } else {
            waiting.lost += 1;
        }
        drop(waiting);
        if first {
            self.0.some.notify_one();
        }
    }

    /// Writes what waits, then `line`.
    fn write(&self, line: &[u8]) {
        let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = std::mem::take(&mut *self.waiting());
        taken.bytes.extend_from_slice(line);
        // Where nobody can read a log, nobody can be told.
        let _ = out.write_all(&taken.bytes);
        if taken.lost > 0 {
            let _ = writeln!(
                out,
                "{} access lines were lost: whoever reads the log does not keep up",
                taken.lost
            );
        }
        let _ = out.flush();
    }

    /// Writes what waits.
    pub(super) fn flush(&self) {
        self.write(&[]);
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
        if self.may_wait {
            self.lines.add(line);
        } else {
            self.lines.write(line);
        }
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
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Out {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Out {
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
        let out = Out::default();
        let lines = Lines::to(out.clone());
        lines.add(b"one\n");
        lines.add(b"two\n");
        assert_eq!(out.text(), "");
        lines.write(b"three\n");
        assert_eq!(out.text(), "one\ntwo\nthree\n");
    }

    #[test]
    fn lines_that_wait_are_written_without_being_asked() {
        let out = Out::default();
        let lines = Lines::to(out.clone());
        lines.clone().keep_flushing();
        for line in ["one\n", "two\n"] {
            lines.add(line.as_bytes());
            while !out.text().ends_with(line) {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_costs_no_memory() {
        let out = Out::default();
        let lines = Lines::to(out.clone());
        let line = [b'x'; 1024];
        for _ in 0..MAX_WAITING / line.len() + 3 {
            lines.add(&line);
        }
        assert_eq!(lines.waiting().bytes.len(), MAX_WAITING);
        lines.flush();
        assert!(out.text().contains("3 access lines were lost"));
    }
}
