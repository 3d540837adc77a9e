//! Obtaining access tokens: the agent's side of OAuth 2.0.
//!
//! [`ClientCredentials`] asks once; [`TokenSource`] keeps asking, so that there is always a
//! token while the issuer plays along, and says why where it does not.

mod error;
mod grant;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

pub use self::error::{Fault, ObtainError};
pub use self::grant::{ASSUMED_LIFE, ClientAuth, ClientCredentials, MAX_LIFE, TokenServer};
pub use self::source::{MIN_RENEWAL, TokenSource, TokenStatus};

/// An access token, as the issuer gave it. Cheap enough to clone; never shown by `Debug`.
#[derive(Clone)]
pub struct AccessToken {
    /// The token: visible ASCII, fit for an `Authorization` header.
    pub secret: SecretString,
    /// When it expires, by the monotonic clock: a jump of the wall clock changes nothing.
    pub expires_at: Instant,
    /// How long it lives in all, counted from the moment it was asked for.
    pub lifetime: Duration,
}

impl AccessToken {
    /// The token's text.
    pub fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Whether it expired.
    pub fn is_expired(&self) -> bool {
        Instant::now() >= self.expires_at
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}
