//! The thread that writes the audit log.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chain::Head;
use super::file::LogFiles;
use super::queue::{Queue, Work};
use super::syslog::Syslog;
use super::{Suppressed, line, suppress};

/// How often the thread looks around: for a file that was moved, for counts that are due, for
/// lines that are not yet safe on the disk, and whether a log that failed works again.
const TICK: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Debug)]
pub(crate) enum Sink {
    Files(LogFiles),
    Stdout,
    Syslog(Syslog),
    /// Shows each batch, and takes it when the test says so or has gone.
    #[cfg(test)]
    Held {
        shown: std::sync::mpsc::Sender<Vec<u8>>,
        go_on: std::sync::mpsc::Receiver<()>,
    },
}

/// Lines with their seals.
struct Batch {
    bytes: Vec<u8>,
    /// Of each line: where it ends, and the chain's head behind it.
    lines: Vec<(usize, Head)>,
    head: Head,
}

impl Batch {
    fn seal(&mut self, fields: &str) {
        self.head = self.head.seal(fields, &mut self.bytes);
        self.lines.push((self.bytes.len(), self.head));
    }
}

/// Only so many lines of a batch were written.
struct Failed {
    written: usize,
    error: io::Error,
}

impl Sink {
    fn write(&mut self, batch: &Batch) -> Result<(), Failed> {
        let nothing = |error| Failed { written: 0, error };
        match self {
            Self::Files(files) => files.append(&batch.bytes).map_err(nothing),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                let written = out.write_all(&batch.bytes).and_then(|()| out.flush());
                written.map_err(nothing)
            }
            Self::Syslog(syslog) => {
                let mut start = 0;
                for (written, (end, _)) in batch.lines.iter().enumerate() {
                    // Without its line feed.
                    let sent = syslog.send(&batch.bytes[start..end - 1]);
                    sent.map_err(|error| Failed { written, error })?;
                    start = *end;
                }
                Ok(())
            }
            #[cfg(test)]
            Self::Held { shown, go_on } => {
                let _ = shown.send(batch.bytes.clone());
                let _ = go_on.recv();
                Ok(())
            }
        }
    }
}

/// What the next line says before any other.
#[derive(Debug, Clone, Copy)]
enum Begin {
    Start { torn: bool, missing: u64 },
    Open,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Arc<Queue>,
    suppressed: Suppressed,
    sink: Sink,
    head: Head,
    begin: Option<Begin>,
    failing: bool,
    /// The agent ends.
    closing: bool,
    /// Something was written since the last sync.
    dirty: bool,
    looked: Instant,
    /// When a full file could last not be moved.
    stuck: Option<Instant>,
}

impl Writer {
    /// Goes on behind `head`, where the last run left half a line (`torn`) and `missing` lines
    /// are gone.
    pub(crate) fn new(
        queue: Arc<Queue>,
        suppressed: Suppressed,
        sink: Sink,
        head: Head,
        (torn, missing): (bool, u64),
    ) -> Self {
        Self {
            queue,
            suppressed,
            sink,
            head,
            begin: Some(Begin::Start { torn, missing }),
            failing: false,
            closing: false,
            dirty: false,
            looked: Instant::now(),
            stuck: None,
        }
    }

    /// Writes until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        self.queue.on_begun(0);
        self.write(Vec::new(), 0);
        loop {
            let work = self.queue.take(TICK, self.failing);
            let due = self.looked.elapsed() >= TICK || work.reopen || work.closing;
            let looked = if due { self.look(&work) } else { Ok(()) };
            // The first time, what was counted is in the queue only now.
            let ends = work.closing && std::mem::replace(&mut self.closing, work.closing);
            let last = work.last;
            let idle = work.lines.is_empty() && work.lost == 0;
            match looked {
                Err(error) => {
                    let failed = Failed { written: 0, error };
                    self.failed(failed, work.lines, 0, work.lost, &[]);
                }
                Ok(()) if idle && self.begin.is_none() && !self.failing => {}
                Ok(()) => self.write(work.lines, work.lost),
            }
            if ends && (last || self.failing) {
                return self.end();
            }
        }
    }

    /// Looks after everything but the lines.
    fn look(&mut self, work: &Work) -> io::Result<()> {
        self.looked = Instant::now();
        let window = if work.closing {
            Duration::ZERO
        } else {
            suppress::WINDOW
        };
        for summary in self.suppressed.due(self.looked, window) {
            self.queue.push(line::denied(&summary), false);
        }
        if let Sink::Files(files) = &mut self.sink
            && files.has_moved()
        {
            files.reopen()?;
            self.begin = Some(Begin::Open);
        }
        self.sync()
    }

    fn sync(&mut self) -> io::Result<()> {
        if let (true, Sink::Files(files)) = (self.dirty, &mut self.sink) {
            files.sync(self.head)?;
            self.dirty = false;
        }
        Ok(())
    }

    fn write(&mut self, lines: Vec<String>, lost: u64) {
        if let Err(error) = self.make_room() {
            return self.failed(Failed { written: 0, error }, lines, 0, lost, &[]);
        }
        let mut batch = Batch {
            bytes: Vec::with_capacity(lines.iter().map(|line| line.len() + 128).sum()),
            lines: Vec::with_capacity(lines.len() + 2),
            head: self.head,
        };
        match self.begin {
            None => {}
            Some(Begin::Start { torn, missing }) => {
                batch.seal(&line::start(&self.head.hash, torn, missing));
            }
            Some(Begin::Open) => batch.seal(&line::open(&self.head.hash)),
        }
        let before = batch.lines.len();
        lines.iter().for_each(|line| batch.seal(line));
        if lost > 0 {
            batch.seal(&line::gap(lost));
        }
        match self.sink.write(&batch) {
            Ok(()) => {
                (self.head, self.begin) = (batch.head, None);
                (self.dirty, self.failing) = (true, false);
                self.queue.on_written(batch.lines.len(), self.head);
            }
            Err(failed) => self.failed(failed, lines, before, lost, &batch.lines),
        }
    }

    /// Begins the next file where the current one is full. One that cannot be moved grows on: a line in
    /// too large a file is better than none.
    fn make_room(&mut self) -> io::Result<()> {
        let Sink::Files(files) = &mut self.sink else {
            return Ok(());
        };
        if !files.is_full() || self.stuck.is_some_and(|since| since.elapsed() < TICK) {
            return Ok(());
        }
        files.sync(self.head)?;
        self.dirty = false;
        match files.move_up() {
            Ok(()) => {
                self.stuck = None;
                files.reopen()?;
                self.begin = Some(Begin::Open);
            }
            Err(error) => {
                if self.stuck.replace(Instant::now()).is_none() {
                    tracing::error!(
                        target: "culvert::audit",
                        "the audit log cannot be rotated ({error}); its file grows until it can: it takes \
                         the right to rename it within its directory",
                    );
                }
            }
        }
        Ok(())
    }

    /// Takes note of a batch that was not written whole: `before` lines of it were the writer's
    /// own, then came `lines`.
    fn failed(
        &mut self,
        failed: Failed,
        lines: Vec<String>,
        before: usize,
        lost: u64,
        batch: &[(usize, Head)],
    ) {
        let Failed { written, error } = failed;
        if written > 0 {
            self.head = batch[written - 1].1;
            self.begin = None;
            self.dirty = true;
        }
        self.failing = true;
        let unwritten = lines.into_iter().skip(written.saturating_sub(before));
        self.queue
            .on_failed(written, self.head, unwritten, lost, error.to_string());
    }

    fn end(mut self) {
        // What waits goes first: a log that ends in order lacks nothing without saying so.
        let (mut lines, lost) = self.queue.abandon();
        let waiting = lines.len();
        if lost > 0 {
            lines.push(line::gap(lost));
        }
        lines.push(line::stop());
        let own = lines.len() - waiting;
        self.queue.on_begun(lines.len());
        self.write(lines, 0);
        if let Err(error) = self.sync() {
            tracing::error!(target: "culvert::audit", %error, "the audit log may not be on the disk");
        }
        let left = self.queue.abandon().0.len().saturating_sub(own);
        if left > 0 {
            tracing::error!(target: "culvert::audit", lines = left, "audit lines are lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};
    use std::thread;

    use super::*;
    use crate::audit::suppress::Suppressor;

    fn writer(queue: &Arc<Queue>, sink: Sink) -> Writer {
        let suppressed = Suppressed(Arc::new(Mutex::new(Suppressor::new(10))));
        Writer::new(queue.clone(), suppressed, sink, Head::NONE, (false, 0))
    }

    #[test]
    fn a_log_that_ends_in_order_has_what_waited_and_says_what_was_lost() {
        let (shown, batches) = mpsc::channel();
        let (_, go_on) = mpsc::channel();
        let queue = Arc::new(Queue::new(false));
        let writer = writer(&queue, Sink::Held { shown, go_on });
        let waits = "\"event\":\"call\"".to_owned();
        queue.on_failed(0, Head::NONE, [waits].into_iter(), 7, "no server".into());
        writer.end();
        let log = String::from_utf8(batches.recv().unwrap()).unwrap();
        let events = ["\"start\"", "\"call\"", "\"gap\",\"lost\":7", "\"stop\""];
        let places = events.map(|event| log.find(event));
        assert!(
            places.iter().all(Option::is_some) && places.is_sorted(),
            "{log}"
        );
        assert_eq!(queue.status().waiting, 0);
    }

    #[test]
    fn a_sink_that_is_stuck_is_noticed_and_gets_every_line_when_it_goes_on() {
        for strict in [false, true] {
            let (shown, batches) = mpsc::channel();
            let (go, go_on) = mpsc::channel();
            let queue = Arc::new(Queue::impatient(strict));
            let writer = writer(&queue, Sink::Held { shown, go_on });
            let thread = thread::spawn(move || writer.run());
            let next = || String::from_utf8(batches.recv().unwrap()).unwrap();
            assert!(next().contains("\"start\""));
            assert_eq!(queue.admits(), !strict);
            queue.push("\"event\":\"call\"".into(), true);
            go.send(()).unwrap();
            // The one that is in the sink's hands waits too: an end now would lose it.
            assert!(next().contains("\"call\""));
            let status = queue.status();
            assert_eq!((status.waiting, status.written), (1, 1));
            assert!(status.alarm.is_some());
            assert_eq!(queue.admits(), !strict);
            drop(go);
            queue.close();
            thread.join().unwrap();
            assert!(next().contains("\"stop\""));
            let status = queue.status();
            assert_eq!((status.waiting, status.written), (0, 3));
            assert!(queue.admits() && status.alarm.is_none());
        }
    }
}
