//! What is happening, on standard error while it happens: one line that changes on a terminal,
//! elsewhere a line every few seconds.

use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines where it is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// Where progress is shown.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    step: String,
    shown: Option<Instant>,
}

impl Progress {
    /// On standard error.
    pub fn new() -> Self {
        Self {
            terminal: stderr().is_terminal(),
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
            let _ = writeln!(stderr(), "{} {how}", state.step);
        } else {
            return;
        }
        state.shown = Some(Instant::now());
    }

    /// Makes room for what is printed next.
    pub fn clear(&self) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
            let _ = stderr().flush();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
