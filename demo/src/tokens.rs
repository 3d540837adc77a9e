//! The key that signs access tokens, and their form (RFC 9068).

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::failure::{Doing, Result};

/// An ES256 key (P-256), with the id under which its public half is published.
pub struct SigningKey {
    id: String,
    key: EncodingKey,
    public: Value,
    private: String,
    pem: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes a key; `id` becomes its `kid`.
    pub fn generate(id: &str) -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .doing(|| "cannot make a signing key")?;
        let pkcs8 = pair.to_pkcs8v1().doing(|| "cannot encode a signing key")?;
        let secret = pair
            .private_key()
            .as_be_bytes()
            .doing(|| "cannot encode a signing key")?;
        // The uncompressed point: 0x04, then x and y, 32 bytes each.
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        Ok(Self {
            id: id.to_owned(),
            key: EncodingKey::from_ec_der(pkcs8.as_ref()),
            public: json!({
                "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id,
                "x": encode(x), "y": encode(y),
            }),
            private: encode(secret.as_ref()),
            pem: format!(
                "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
                BASE64_STANDARD.encode(pkcs8.as_ref())
            ),
        })
    }

    /// The public half as a JWK (RFC 7517).
    pub fn public_jwk(&self) -> &Value {
        &self.public
    }

    /// The whole key as a JWK, for an issuer that is told its key.
    pub fn private_jwk(&self) -> Value {
        let mut jwk = self.public.clone();
        jwk["d"] = json!(self.private);
        jwk
    }

    /// The whole key as PEM (PKCS #8), for a client that proves itself with it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs `claims` as an access token: header `typ` is `at+jwt`.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        self.sign_as("at+jwt", claims)
    }

    /// Signs `claims` under another `typ`.
    pub fn sign_as(&self, typ: &str, claims: &Value) -> Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.key).doing(|| "cannot sign a token")
    }
}

/// Seconds since 1970, as tokens count time.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};

    #[test]
    fn a_token_verifies_with_the_published_key() {
        let key = SigningKey::generate("k1").unwrap();
        let token = key
            .sign(&json!({"sub": "a", "aud": "culvert", "exp": now() + 60}))
            .unwrap();
        let jwk = serde_json::from_value(key.public_jwk().clone()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&["culvert"]);
        let key = DecodingKey::from_jwk(&jwk).unwrap();
        let token = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
        assert_eq!(token.header.typ.as_deref(), Some("at+jwt"));
        assert_eq!(token.header.kid.as_deref(), Some("k1"));
    }
}
