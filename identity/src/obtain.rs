//! Obtaining access tokens: the agent's side of OAuth 2.0.
//!
//! [`Grant`] says how, an [`OAuthClient`] asks once; [`TokenSource`] keeps asking, so that there is
//! always a token while the issuer plays along, and says why where it does not.

mod assertions;
mod client;
mod error;
mod refresh;
mod source;
#[cfg(test)]
mod tests;
mod token_file;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

pub use self::assertions::{Assertions, BadSigningKey};
pub use self::client::{ASSUMED_LIFE, ClientAuth, MAX_LIFE, OAuthClient, TokenServer};
pub use self::error::{Fault, ObtainError};
pub use self::refresh::RefreshTokenFile;
pub use self::source::{MIN_RENEWAL, TokenSource, TokenStatus};

/// How access tokens come about.
#[derive(Debug, Clone)]
pub enum Grant {
    /// The client asks for itself (RFC 6749, 4.4).
    ClientCredentials(OAuthClient),
    /// Somebody consented once; the refresh token of that is in a file (RFC 6749, 6).
    RefreshToken(OAuthClient, RefreshTokenFile),
    /// Somebody else obtains them and keeps the current one in this file.
    TokenFile(PathBuf),
}

impl Grant {
    /// Obtains a token, once. Ends within half a minute.
    pub async fn obtain(&self) -> Result<AccessToken, ObtainError> {
        match self {
            Self::ClientCredentials(client) => client.client_credentials().await,
            Self::RefreshToken(client, file) => file.obtain(client).await,
            Self::TokenFile(path) => token_file::read(path).await,
        }
    }
}

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
