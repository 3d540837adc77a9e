//! Obtaining tokens from a token server on a loopback port, and keeping them on a paused clock.

mod assertions;
mod client;
mod refresh;
mod source;
mod token_file;

use std::time::Duration;

use tokio::time::Instant;

use super::*;

/// A source whose work goes on for as long as the test's runtime.
fn started<F>((source, renewing): (TokenSource, F)) -> TokenSource
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(renewing);
    source
}

/// A token that lives so long from now.
fn token(text: &str, lifetime: Duration) -> AccessToken {
    AccessToken {
        secret: text.into(),
        expires_at: Instant::now() + lifetime,
        lifetime,
    }
}
