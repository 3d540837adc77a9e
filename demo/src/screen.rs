//! What the user sees. Colour only on a terminal, and not if `NO_COLOR` is set.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Standard output.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    colour: bool,
    terminal: bool,
}

/// How a piece of text stands out.
#[derive(Debug, Clone, Copy)]
pub enum Tone {
    /// A title.
    Bold,
    /// As hoped for.
    Good,
    /// Not as hoped for.
    Bad,
    /// Less important.
    Faint,
}

impl Screen {
    /// Standard output as it is.
    pub fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { colour, terminal }
    }

    /// `text`, coloured where colour helps.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Bold => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A title, after an empty line.
    pub fn title(self, text: &str) {
        say(&format!("\n{}", self.paint(Tone::Bold, text)));
    }

    /// A line of a table: what, and which.
    pub fn row(self, what: &str, which: &str) {
        say(&format!("  {what:<14}{which}"));
    }

    /// An indented line.
    pub fn line(self, text: &str) {
        say(&format!("   {text}"));
    }

    /// How often a status is worth showing: often where it replaces the last one.
    pub fn refresh(self) -> Duration {
        Duration::from_millis(if self.terminal { 200 } else { 1000 })
    }

    /// Shows how things are, in place of the last status on a terminal.
    pub fn status(self, text: &str) {
        if !self.terminal {
            return self.line(text);
        }
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "\r\x1b[2K   {text}").and_then(|()| out.flush());
    }

    /// What is written from now on comes below the last status.
    pub fn status_over(self) {
        if self.terminal {
            say("");
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a line to standard output at once. A reader that went away is no reason to fail.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
