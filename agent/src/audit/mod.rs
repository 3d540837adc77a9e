//! The audit log: one line a call, chained, written by one thread (`docs/audit.md`).
//!
//! * `line`: what the lines say; [`mask_target`]: what they must not say;
//! * `suppress`: refused calls that are counted in place of a line each;
//! * `queue`: from the calls, which never wait, to the thread that does;
//! * `writer`: that thread; `file`, `syslog`: where it writes;
//! * `chain`: the hash chain; `check`: whether it holds; `verify`: the command that asks.

mod chain;
mod check;
mod file;
mod line;
mod queue;
mod suppress;
mod syslog;
#[cfg(test)]
mod tests;
pub(crate) mod verify;
mod writer;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_config::audit::{AuditConfig, AuditSink, OnFull};
pub(crate) use culvert_http::mask::mask_target;

use self::chain::Head;
use self::file::LogFiles;
pub(crate) use self::line::{CallLine, Time};
use self::queue::Queue;
pub(crate) use self::queue::QueueStatus;
use self::suppress::{Refusals, Summary, Suppressor};
use self::syslog::Syslog;
use self::writer::{Sink, Writer};

/// How long the last lines may take when the agent ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// The audit log of a running agent.
#[derive(Debug)]
pub(crate) struct Audit {
    config: AuditConfig,
    queue: Arc<Queue>,
    suppressed: Suppressed,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Refused calls of the last minute; shared with the thread that writes how many there were.
#[derive(Debug, Clone)]
struct Suppressed(Arc<Mutex<Suppressor>>);

impl Suppressed {
    fn admit(&self, of: Refusals) -> bool {
        self.lock().admit(of, Instant::now())
    }

    fn due(&self, now: Instant, window: Duration) -> Vec<Summary> {
        self.lock().due(now, window)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Suppressor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audit {
    /// A log that is not written yet: lines wait until it is.
    pub(crate) fn new(config: &AuditConfig) -> Self {
        let suppressor = Suppressor::new(config.denied_per_minute);
        Self {
            config: config.clone(),
            queue: Arc::new(Queue::new(config.on_full == OnFull::Stop)),
            suppressed: Suppressed(Arc::new(Mutex::new(suppressor))),
            writer: Mutex::new(None),
        }
    }

    /// Opens the log and starts the thread that writes it.
    pub(crate) fn start(&self) -> io::Result<()> {
        let (sink, head, lost) = match &self.config.sink {
            AuditSink::File {
                file,
                max_size,
                keep,
            } => {
                let (files, resumed) = LogFiles::open(file, max_size.0, *keep)?;
                if resumed.missing > 0 {
                    tracing::error!(
                        target: "culvert::security",
                        file = %file.display(),
                        lines = resumed.missing,
                        "the end of the audit log is gone: a loss of power, or somebody cut it off"
                    );
                }
                let lost = (resumed.torn, resumed.missing);
                (Sink::Files(files), resumed.head, lost)
            }
            AuditSink::Stdout { .. } => (Sink::Stdout, Head::NONE, (false, 0)),
            AuditSink::Syslog { syslog } => {
                let syslog = Syslog::new(syslog.clone());
                (Sink::Syslog(syslog), Head::NONE, (false, 0))
            }
        };
        let (queue, suppressed) = (self.queue.clone(), self.suppressed.clone());
        let writer = Writer::new(queue, suppressed, sink, head, lost);
        let thread = std::thread::Builder::new().name("audit".into());
        let thread = thread.spawn(move || writer.run())?;
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Whether a call may begin: false while the log must be written and cannot, or takes too long.
    pub(crate) fn admits(&self) -> bool {
        self.queue.admits()
    }

    /// Writes the line of a call that is over. `refused`: it never began, and counts as such.
    pub(crate) fn write(&self, call: &CallLine<'_>, refused: bool) {
        if refused {
            let of = Refusals {
                tenant: call.tenant.to_owned(),
                caller: call.caller.to_owned(),
                endpoint: call.endpoint.to_owned(),
                rule: call.rule.map(ToOwned::to_owned),
                code: call.code.map(ToOwned::to_owned),
            };
            if !self.suppressed.admit(of) {
                return;
            }
        }
        self.queue.push(line::fields(call), !refused);
    }

    /// Looks at once whether another program has moved the file, and begins a new one if so.
    pub(crate) fn reopen(&self) {
        self.queue.reopen();
    }

    /// Where the log goes, and what happens when it cannot.
    pub(crate) fn config(&self) -> &AuditConfig {
        &self.config
    }

    /// How it goes.
    pub(crate) fn status(&self) -> QueueStatus {
        self.queue.status()
    }

    /// Writes what waits, and the last line; but does not take longer than a few seconds.
    pub(crate) async fn close(&self) {
        self.queue.close();
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(writer) = writer else { return };
        let joined = tokio::task::spawn_blocking(move || writer.join());
        if tokio::time::timeout(FAREWELL, joined).await.is_err() {
            let lines = self.queue.status().waiting;
            tracing::error!(
                target: "culvert::audit",
                lines,
                "the last audit lines cannot be written in time: they are lost"
            );
        }
    }

    /// The lines that wait.
    #[cfg(test)]
    pub(crate) fn take_lines(&self) -> Vec<String> {
        let lines = self.queue.take(Duration::ZERO, false).lines;
        lines
            .into_iter()
            .map(|fields| format!("{{{fields}}}"))
            .collect()
    }
}
