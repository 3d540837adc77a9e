//! Callers whose tokens are bound to a key of theirs (DPoP, RFC 9449).

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use culvert_demo::tokens;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};

/// A caller's key (Ed25519).
#[derive(Debug)]
pub struct ProofKey(KeyPair);

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl ProofKey {
    /// Makes one.
    pub fn generate() -> Self {
        Self(KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key"))
    }

    fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(self.0.der_bytes()) })
    }

    /// The `jkt` of tokens that are bound to it.
    pub fn thumbprint(&self) -> String {
        let jwk: Jwk = serde_json::from_value(self.jwk()).expect("a JWK");
        jwk.thumbprint(ThumbprintHash::SHA256)
            .expect("a thumbprint")
    }

    /// A proof for one request, with the token where there is one yet.
    pub fn prove(&self, method: &str, address: &str, token: Option<&str>) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut claims = json!({
            "jti": format!("{}-{id}", std::process::id()), "htm": method, "htu": address,
            "iat": tokens::now(),
        });
        if let Some(token) = token {
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
            claims["ath"] = json!(encode(hash));
        }
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": self.jwk() });
        let message = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims.to_string())
        );
        let signature = encode(self.0.sign(message.as_bytes()).expect("a signature"));
        format!("{message}.{signature}")
    }
}
