//! Access tokens that somebody else obtains and puts into a file, as Kubernetes does with projected
//! service account tokens.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;

use super::client::{ASSUMED_LIFE, MAX_LIFE};
use super::{AccessToken, ObtainError, refresh};

/// Reads the token that is there now. Its life is what its `exp` says where it is a JWT, and
/// [`ASSUMED_LIFE`] from now on where it is not.
pub(super) async fn read(path: &Path) -> Result<AccessToken, ObtainError> {
    let file = path.to_owned();
    let secret = tokio::task::spawn_blocking(move || refresh::read(&file))
        .await
        .map_err(|_| ObtainError::Stopped)?
        .map_err(|error| ObtainError::file(path, &error))?;
    let lifetime = match expiry(&secret) {
        None => ASSUMED_LIFE,
        Some(expiry) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let left = expiry.saturating_sub(now.unwrap_or_default());
            if left.is_zero() {
                return Err(ObtainError::Expired {
                    path: path.display().to_string(),
                });
            }
            left.min(MAX_LIFE)
        }
    };
    Ok(AccessToken {
        secret,
        expires_at: Instant::now() + lifetime,
        lifetime,
    })
}

/// When a JWT says that it expires, since 1970. Nobody has verified it: the relay will.
fn expiry(token: &SecretString) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let payload = token.expose_secret().split('.').nth(1)?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    let Claims { exp } = serde_json::from_slice(&claims).ok()?;
    Duration::try_from_secs_f64(exp).ok()
}
