//! Points in time as operators read them.

use std::time::{Duration, UNIX_EPOCH};

/// The end of the year 9999: later, there is no date of four digits.
const LAST: u64 = 253_402_300_799;

/// The date of so many seconds since the Unix epoch. `None`: there is none, as of a certificate for ever;
/// what comes out of the JSON of another version need not be a date either.
pub(super) fn of(seconds: u64) -> Option<String> {
    let date = || humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds));
    (seconds <= LAST).then(|| date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_date_is_shown_as_none() {
        for (seconds, date) in [
            (0, Some("1970-01-01T00:00:00Z")),
            (1_795_954_540, Some("2026-11-29T12:15:40Z")),
            (LAST, Some("9999-12-31T23:59:59Z")),
            (LAST + 1, None),
            (u64::MAX, None),
        ] {
            assert_eq!(of(seconds).as_deref(), date, "{seconds}");
        }
    }
}
