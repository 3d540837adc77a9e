//! What is happening, while it happens: one line that changes where a person looks at a terminal,
//! elsewhere a line of the log every few seconds.

use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use culvert_process::log::LogFormat;

/// Between two lines of the log.
const EVERY: Duration = Duration::from_secs(5);

/// Where progress is shown.
#[derive(Debug)]
pub struct Progress {
    format: LogFormat,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    step: String,
    shown: Option<Instant>,
}

impl Progress {
    /// On standard error, beside a log of this form.
    pub fn new(format: LogFormat) -> Self {
        Self {
            format,
            terminal: format == LogFormat::Text && stderr().is_terminal(),
            state: Mutex::new(State {
                step: String::new(),
                shown: None,
            }),
        }
    }

    /// The next step begins; how it is going is shown as soon as it is known.
    pub fn step(&self, step: String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.step = step;
        state.shown = None;
    }

    /// How the step is going, as often as it is known.
    pub fn show(&self, how: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = state.shown.is_some_and(|shown| shown.elapsed() < EVERY);
        // Where nobody reads standard error, the run goes on.
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K{} {how}", state.step);
            let _ = stderr().flush();
        } else if !recent {
            tracing::info!("{} {}", state.step, how.trim_start());
        } else {
            return;
        }
        state.shown = Some(Instant::now());
    }

    /// The rows of a table for people, as soon as there are some; the report has them too.
    pub fn rows(&self, rows: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        if self.format == LogFormat::Text {
            let _ = write!(stderr(), "{clear}{rows}");
            let _ = stderr().flush();
        }
    }
}
