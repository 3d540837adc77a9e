//! What the user sees. Colour only on a terminal, and not if `NO_COLOR` is set.

use std::io::{IsTerminal, Write};

/// Standard output.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    colour: bool,
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
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colour }
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
