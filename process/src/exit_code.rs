//! What the programs end with, beside 0.

/// It failed while it ran.
pub const FAILED: u8 = 1;

/// The command line makes no sense.
pub const USAGE: u8 = 2;

/// The configuration cannot be run with (`EX_CONFIG` of `sysexits.h`).
pub const BAD_CONFIG: u8 = 78;

/// The same in words, with what 0 means to the program: for its `--help`. They stand in the manual, too.
pub fn in_words(zero: &str) -> String {
    format!(
        "Exit codes: 0 {zero}, {FAILED} failed at run time, {USAGE} wrong usage, {BAD_CONFIG} wrong configuration"
    )
}
