//! Proof of a client by its own key: `private_key_jwt` (RFC 7523; OpenID Connect Core, 9).

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use url::Url;

use super::ObtainError;
use crate::verify::Algorithm;

/// How long an assertion is good, in seconds: it is used at once.
const LIFE: u64 = 60;

/// Makes assertions: short-lived JWTs, signed with the client's key, each used once.
#[derive(Clone)]
pub struct Assertions {
    key: Arc<EncodingKey>,
    header: Box<Header>,
    audience: Option<String>,
}

/// Why a key cannot sign assertions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the private key cannot sign with {algorithm}: {reason}")]
pub struct BadSigningKey {
    /// What it was to sign with.
    pub algorithm: &'static str,
    /// What the library says.
    pub reason: String,
}

impl Assertions {
    /// Takes a private key as PEM (PKCS #8; for RSA also PKCS #1), which must fit `algorithm`.
    /// `key_id` goes into the header as `kid`. `audience` is what the assertions are for:
    /// the token endpoint's address where none is given; some servers want their issuer's.
    pub fn new(
        pem: &SecretString,
        algorithm: Algorithm,
        key_id: Option<String>,
        audience: Option<String>,
    ) -> Result<Self, BadSigningKey> {
        let pem = pem.expose_secret().as_bytes();
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
            _ => EncodingKey::from_rsa_pem(pem),
        };
        let bad = |error: jsonwebtoken::errors::Error| BadSigningKey {
            algorithm: algorithm.as_str(),
            reason: error.to_string(),
        };
        let mut header = Box::new(Header::new(algorithm.library()));
        header.kid = key_id;
        let assertions = Self {
            key: Arc::new(key.map_err(bad)?),
            header,
            audience,
        };
        // A key of another curve shows only when it signs.
        assertions.sign(&json!({})).map_err(bad)?;
        Ok(assertions)
    }

    /// A new assertion of `client` for the token endpoint.
    pub(super) fn make(&self, client: &str, endpoint: &Url) -> Result<String, ObtainError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |time| time.as_secs());
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| ObtainError::Assertion("no random numbers".into()))?;
        let audience = self.audience.as_deref().unwrap_or(endpoint.as_str());
        self.sign(&json!({
            "iss": client,
            "sub": client,
            "aud": audience,
            "jti": BASE64_URL_SAFE_NO_PAD.encode(id),
            "iat": now,
            "exp": now + LIFE,
        }))
        .map_err(|error| ObtainError::Assertion(error.to_string()))
    }

    fn sign(&self, claims: &serde_json::Value) -> jsonwebtoken::errors::Result<String> {
        jsonwebtoken::encode(&self.header, claims, &self.key)
    }
}

impl fmt::Debug for Assertions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assertions")
            .field("algorithm", &self.header.alg)
            .field("key_id", &self.header.kid)
            .finish_non_exhaustive()
    }
}
