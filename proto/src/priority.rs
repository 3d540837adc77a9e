//! How urgent what a stream sends is, against the other streams of its session.

use std::fmt;
use std::str::FromStr;

/// A class of streams. Each has its part of a busy line; none ever starves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Little at a time, and somebody waits for it.
    Interactive,
    /// An ordinary answer.
    Normal,
    /// Much, for which nobody waits by the second.
    Bulk,
}

impl Priority {
    /// Every class, the most urgent one first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Bulk];

    /// Its word in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }

    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The class of a number on the wire; `None` for one that this version does not know.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// A word that is none of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected \"interactive\", \"normal\" or \"bulk\"")]
pub struct UnknownPriority;

impl FromStr for Priority {
    type Err = UnknownPriority;

    fn from_str(word: &str) -> Result<Self, UnknownPriority> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == word)
            .ok_or(UnknownPriority)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_come_back_as_the_class_that_they_were_of() {
        for (number, priority) in (0..).zip(Priority::ALL) {
            assert_eq!(priority.number(), number);
            assert_eq!(Priority::from_number(number), Some(priority));
            assert_eq!(priority.to_string().parse(), Ok(priority));
        }
        assert_eq!(Priority::from_number(3), None);
        assert_eq!("urgent".parse::<Priority>(), Err(UnknownPriority));
    }
}
