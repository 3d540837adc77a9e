//! What could not be done, and why.

use std::error::Error;
use std::fmt;

/// The result of everything here that can fail.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// One step that failed: what was being done, and the cause.
///
/// The demo and the test harness only ever show a failure to a human, so this names the step
/// instead of listing every kind of cause.
#[derive(Debug)]
pub struct Failure {
    doing: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure without a deeper cause; `what` is a sentence for the user.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            doing: what.into(),
            cause: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        let mut cause = self.cause.as_deref().map(|cause| cause as &dyn Error);
        while let Some(error) = cause {
            write!(f, ": {}", plain(&error.to_string()))?;
            cause = error.source();
        }
        Ok(())
    }
}

/// What an error says, without the page of its documentation that rustls adds.
fn plain(text: &str) -> &str {
    text.split_once(": https://docs.rs/")
        .map_or(text, |(words, _)| words)
}

impl Error for Failure {}

/// Says what was being done when a result is an error.
pub trait Doing<T> {
    /// Turns the error into a [`Failure`] of the step `what`, like "cannot read FILE".
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Doing<T> for std::result::Result<T, E> {
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|cause| Failure {
            doing: what().into(),
            cause: Some(cause.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_cause_is_told_in_plain_words() {
        let cut = "peer closed connection without sending TLS close_notify: \
                   https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";
        for (cause, words) in [
            (
                cut,
                "peer closed connection without sending TLS close_notify",
            ),
            (
                "connection refused: os error 111",
                "connection refused: os error 111",
            ),
        ] {
            let failed: Result<()> = Err(io::Error::other(cause)).doing(|| "the request failed");
            let text = failed.unwrap_err().to_string();
            assert_eq!(text, format!("the request failed: {words}"));
        }
    }
}
