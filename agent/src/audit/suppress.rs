//! Refused calls beyond a number of lines a minute: counted in place of a line each. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

/// How long a combination is counted before the count starts again.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Combinations that are told apart at once.
const MAX_KEYS: usize = 1024;

/// Whose calls are refused, to where, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Refusals {
    pub(crate) tenant: String,
    pub(crate) caller: String,
    pub(crate) endpoint: String,
    pub(crate) rule: Option<String>,
    pub(crate) code: Option<String>,
}

impl Refusals {
    /// All that cannot be told apart any more.
    fn others() -> Self {
        Self {
            tenant: "*".into(),
            caller: "*".into(),
            endpoint: "*".into(),
            rule: None,
            code: None,
        }
    }
}

/// Refused calls that have no line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) of: Refusals,
    pub(crate) suppressed: u64,
    /// When the counting began.
    pub(crate) since: SystemTime,
}

#[derive(Debug)]
struct Tally {
    began: Instant,
    since: SystemTime,
    lines: u32,
    suppressed: u64,
}

/// Who was refused how often within the last minute.
#[derive(Debug)]
pub(crate) struct Suppressor {
    lines: u32,
    tallies: HashMap<Refusals, Tally>,
}

impl Suppressor {
    /// Lets `lines` of each combination through, per [`WINDOW`].
    pub(crate) fn new(lines: u32) -> Self {
        Self {
            lines,
            tallies: HashMap::new(),
        }
    }

    /// Whether a refused call gets a line. Otherwise it is counted.
    pub(crate) fn admit(&mut self, of: Refusals, now: Instant) -> bool {
        let full = self.tallies.len() >= MAX_KEYS && !self.tallies.contains_key(&of);
        let of = if full { Refusals::others() } else { of };
        let tally = self.tallies.entry(of).or_insert_with(|| Tally {
            began: now,
            since: SystemTime::now(),
            lines: 0,
            suppressed: 0,
        });
        if tally.lines < self.lines {
            tally.lines += 1;
            return true;
        }
        tally.suppressed += 1;
        false
    }

    /// Takes what was counted for as long as `window`; the count of these starts again.
    pub(crate) fn due(&mut self, now: Instant, window: Duration) -> Vec<Summary> {
        let over = |_: &Refusals, tally: &mut Tally| now - tally.began >= window;
        self.tallies
            .extract_if(over)
            .filter(|(_, tally)| tally.suppressed > 0)
            .map(|(of, tally)| Summary {
                of,
                suppressed: tally.suppressed,
                since: tally.since,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusals(caller: u32) -> Refusals {
        Refusals {
            caller: caller.to_string(),
            ..Refusals::others()
        }
    }

    #[test]
    fn the_first_have_lines_and_the_rest_a_number() {
        let mut suppressor = Suppressor::new(2);
        let start = Instant::now();
        let admitted = |s: &mut Suppressor, at| (0..5).filter(|_| s.admit(refusals(1), at)).count();
        assert_eq!(admitted(&mut suppressor, start), 2);
        assert!(suppressor.due(start + WINDOW / 2, WINDOW).is_empty());
        let summaries = suppressor.due(start + WINDOW, WINDOW);
        assert_eq!(summaries.len(), 1);
        assert_eq!(
            (&summaries[0].of, summaries[0].suppressed),
            (&refusals(1), 3)
        );
        assert_eq!(admitted(&mut suppressor, start + WINDOW), 2, "a new minute");
    }

    proptest! {
        /// Lines and counts together are the calls, however many combinations there are, and
        /// these are bounded.
        #[test]
        fn no_refused_call_is_forgotten(callers in proptest::collection::vec(0u32..3000, 1..6000)) {
            let mut suppressor = Suppressor::new(1);
            let now = Instant::now();
            let lines = callers.iter().filter(|c| suppressor.admit(refusals(**c), now)).count();
            prop_assert!(suppressor.tallies.len() <= MAX_KEYS + 1);
            let counted: u64 = suppressor.due(now, Duration::ZERO).iter().map(|s| s.suppressed).sum();
            prop_assert_eq!(lines as u64 + counted, callers.len() as u64);
        }
    }
}
