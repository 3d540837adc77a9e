//! The log: to standard error, as text for people or JSON for machines.
//!
//! Lines with the target [`ACCESS`] are many, one for each call: when they come fast they are
//! collected and written together, at most 50 ms after they were said. All others are written at
//! once, and what was collected before them with them; by a thread of the log's own, for which nobody
//! waits.

mod format;
mod out;
mod writer;

use std::env::VarError;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use self::format::EventLines;
use self::writer::{Lines, LogWriter};

/// The target of the lines that say of each call what became of it.
pub const ACCESS: &str = "culvert::access";

/// What is logged where nobody says what. Of the libraries that speak HTTP with strangers only what is
/// wrong with them: h2 warns of frames, as many as a peer likes to send.
pub const USUAL: &str = "info,h2=error,hyper=error";

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// The log of a process. Dropped, it writes what it has collected.
#[derive(Debug)]
#[must_use = "the last lines are written when it is dropped"]
pub struct Log(Lines);

impl Log {
    /// Sets the log up for the whole process. What is logged says `RUST_LOG`; [`USUAL`] without it, or
    /// where it is not understood, which is said.
    /// A panic, which is a defect, is logged too.
    ///
    /// # Panics
    /// The second time.
    pub fn start(format: LogFormat) -> Self {
        let usual = || EnvFilter::new(USUAL);
        let (filter, wrong) = match std::env::var(EnvFilter::DEFAULT_ENV) {
            Ok(asked) => match EnvFilter::try_new(&asked) {
                Ok(filter) => (filter, None),
                Err(error) => (usual(), Some(error.to_string())),
            },
            Err(VarError::NotPresent) => (usual(), None),
            Err(error @ VarError::NotUnicode(_)) => (usual(), Some(error.to_string())),
        };
        let lines = Lines::to(std::io::stderr(), format);
        lines.clone().keep_flushing();
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(LogWriter(lines.clone()));
        match format {
            LogFormat::Text if std::io::stderr().is_terminal() => builder.with_ansi(true).init(),
            format => builder.event_format(EventLines(format)).init(),
        }
        if let Some(error) = wrong {
            tracing::warn!("RUST_LOG is not understood, and info taken in its place: {error}");
        }
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string);
            let backtrace = std::backtrace::Backtrace::capture();
            let message = panic
                .payload_as_str()
                .unwrap_or("a panic without a message");
            tracing::error!(place, %backtrace, "a defect: {message}");
        }));
        Self(lines)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush();
    }
}
