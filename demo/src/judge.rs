//! Whether what callers and the API saw while relays were killed and replaced is what Culvert promises.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::load::{Book, CallFailed};

/// How soon after a relay's death new calls must work.
pub const BLIND: Duration = Duration::from_secs(2);

/// Something that may cost calls.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    /// Calls that were in flight then may fail.
    pub from: Instant,
    /// Calls that are made later may not.
    pub until: Instant,
}

impl Trouble {
    /// A relay, or an agent, died at this moment.
    pub fn death(at: Instant) -> Self {
        Self {
            from: at,
            until: at + BLIND,
        }
    }
}

/// The findings.
#[derive(Debug, PartialEq, Eq)]
pub struct Findings {
    /// Failed calls that a trouble explains: in flight when it began, or made before anybody had to
    /// know.
    pub held: usize,
    /// Every other failed call.
    pub unexplained: usize,
    /// Successful answers that were another tenant's.
    pub wrong: usize,
    /// Reports that succeeded and arrived once.
    pub once: usize,
    /// Events that arrived more than once.
    pub twice: usize,
    /// Reports that succeeded without arriving.
    pub never: usize,
}

impl Findings {
    /// `troubles`: what explains failures; `arrived`: how often the API got each event.
    pub fn of(book: &Book, troubles: &[Trouble], arrived: &HashMap<String, u32>) -> Self {
        let (failures, reported) = (book.failures(), book.reported());
        let held = |failed: &&CallFailed| troubles.iter().any(|trouble| failed.is_of(trouble));
        let held = failures.iter().filter(held).count();
        let came = |event: &&String| arrived.get(*event).copied().unwrap_or(0);
        Self {
            held,
            unexplained: book.failed() - held,
            wrong: book.wrong(),
            once: reported.iter().filter(|event| came(event) == 1).count(),
            twice: arrived.values().filter(|count| **count > 1).count(),
            never: reported.iter().filter(|event| came(event) == 0).count(),
        }
    }

    /// Whether nothing happened that must not.
    pub fn are_as_promised(&self) -> bool {
        (self.unexplained, self.wrong, self.twice, self.never) == (0, 0, 0, 0)
    }
}

impl CallFailed {
    /// Whether a trouble explains it.
    pub fn is_of(&self, trouble: &Trouble) -> bool {
        self.begun < trouble.until && self.ended > trouble.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_explains_what_was_in_flight_and_what_came_at_once() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let explained = |begun, ended| {
            let failed = CallFailed {
                begun: at(begun),
                ended: at(ended),
                call: String::new(),
                why: String::new(),
            };
            failed.is_of(&Trouble::death(at(10)))
        };
        assert!(explained(3, 11));
        assert!(explained(11, 12));
        assert!(!explained(8, 9));
        assert!(!explained(13, 14));
    }

    #[test]
    fn what_is_not_promised_is_found() {
        let findings = |wrong, twice, never, unexplained| Findings {
            held: 3,
            unexplained,
            wrong,
            once: 10,
            twice,
            never,
        };
        assert!(findings(0, 0, 0, 0).are_as_promised());
        for bad in [
            findings(1, 0, 0, 0),
            findings(0, 1, 0, 0),
            findings(0, 0, 1, 0),
            findings(0, 0, 0, 1),
        ] {
            assert!(!bad.are_as_promised());
        }
    }
}
