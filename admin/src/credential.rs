//! What somebody beyond this machine has to show: a token, as `Authorization: Bearer TOKEN` (RFC 6750),
//! or as the password of `Basic` (RFC 7617) with any user, which browsers ask for.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};

use crate::listener::aside;

/// Reads the token as it is now.
type Read = dyn Fn() -> Result<SecretString, String> + Send + Sync;

/// The token that has to be shown. It is read anew for each request, so that a new one counts at once.
pub struct Credential(Arc<Read>);

impl Credential {
    /// A token that this function reads, which may block.
    pub fn new(read: impl Fn() -> Result<SecretString, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Whether a request shows the token. If it cannot be read, none does, and the log says why.
    pub(crate) async fn is_shown(&self, headers: &HeaderMap) -> bool {
        let Some(shown) = shown(headers) else {
            return false;
        };
        match aside(self.0.clone()).await {
            Ok(token) => verify_slices_are_equal(&shown, token.expose_secret().as_bytes()).is_ok(),
            Err(error) => {
                tracing::warn!("the admin listener lets nobody in: {error}");
                false
            }
        }
    }
}

/// What a request shows, in one of the two ways.
fn shown(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = STANDARD.decode(value.trim()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(***)")
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[tokio::test]
    async fn the_token_is_shown_as_bearer_or_as_a_password_and_nothing_else_will_do() {
        let credential = Credential::new(|| Ok(SecretString::from("a:long=secret")));
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (value, expected) in [
            ("Bearer a:long=secret".to_owned(), true),
            ("bearer  a:long=secret".to_owned(), true),
            (basic("admin:a:long=secret"), true),
            (basic(":a:long=secret"), true),
            (basic("a:long=secret"), false),
            (basic("a:long=secret:"), false),
            ("Bearer a:long=secreT".to_owned(), false),
            ("Bearer a:long=secret2".to_owned(), false),
            ("Bearer a:long=secre".to_owned(), false),
            ("Bearer ".to_owned(), false),
            ("Bearer".to_owned(), false),
            ("Basic a:long=secret".to_owned(), false),
            ("Digest a:long=secret".to_owned(), false),
            ("a:long=secret".to_owned(), false),
        ] {
            let value = HeaderValue::from_str(&value).unwrap();
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.clone())]);
            assert_eq!(credential.is_shown(&headers).await, expected, "{value:?}");
        }
        assert!(!credential.is_shown(&HeaderMap::new()).await);
        assert!(!format!("{credential:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_read_lets_nobody_in() {
        let credential = Credential::new(|| Err("the file is gone".to_owned()));
        let value = HeaderValue::from_static("Bearer ");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        assert!(!credential.is_shown(&headers).await);
    }

    /// On one thread, on which everything else would wait too.
    #[tokio::test]
    async fn a_file_that_takes_its_time_holds_nothing_else_up() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let receiver = std::sync::Mutex::new(receiver);
        let credential = Credential::new(move || {
            let token: &str = receiver.lock().unwrap().recv().unwrap();
            Ok(SecretString::from(token))
        });
        let value = HeaderValue::from_static("Bearer a-long-secret");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let (shown, ()) = tokio::join!(credential.is_shown(&headers), async move {
            sender.send("a-long-secret").unwrap();
        });
        assert!(shown);
    }
}
