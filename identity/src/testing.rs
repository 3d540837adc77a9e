//! What the tests of several modules share: signing keys made at run time, and tokens.

pub(crate) mod server;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::verify::{Algorithm, IssuerRules, KeySet};

pub(crate) const ISSUER: &str = "https://issuer.example.com";

/// The time at which the tests' tokens are judged.
pub(crate) const NOW: u64 = 1_790_000_000;

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key pair of an issuer.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) kid: String,
    pub(crate) algorithm: Algorithm,
    pair: Pair,
}

#[derive(Clone)]
enum Pair {
    Ec(Arc<EcdsaKeyPair>),
    Rsa(Arc<RsaKeyPair>),
    Ed(Arc<Ed25519KeyPair>),
}

impl Signer {
    pub(crate) fn new(kid: &str, algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::ES256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
                Pair::Ec(Arc::new(pair.unwrap()))
            }
            Algorithm::ES384 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING);
                Pair::Ec(Arc::new(pair.unwrap()))
            }
            Algorithm::EdDSA => Pair::Ed(Arc::new(Ed25519KeyPair::generate().unwrap())),
            _ => {
                // Made once: RSA keys take long.
                static RSA: OnceLock<Arc<RsaKeyPair>> = OnceLock::new();
                let make = || Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
                Pair::Rsa(RSA.get_or_init(make).clone())
            }
        };
        Self {
            kid: kid.into(),
            algorithm,
            pair,
        }
    }

    /// The public key as a JWK with `kid` and `use`, without `alg`.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(self.coordinate());
                let crv = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": crv, "x": base64(x), "y": base64(y)})
            }
            Pair::Rsa(pair) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": base64(public.n), "e": base64(public.e)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key())})
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }

    fn coordinate(&self) -> usize {
        if self.algorithm == Algorithm::ES384 {
            48
        } else {
            32
        }
    }

    /// The raw signature of a message.
    pub(crate) fn signature(&self, message: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Ec(pair) => pair
                .sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding = match self.algorithm {
                    Algorithm::PS256 => &RSA_PSS_SHA256,
                    Algorithm::RS512 => &RSA_PKCS1_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    /// A token of these texts, signed as they are.
    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header), base64(claims));
        let signature = base64(self.signature(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A token of these values.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// The header that goes with this key.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.algorithm.as_str(), "typ": "at+jwt", "kid": self.kid})
    }

    /// A good token.
    pub(crate) fn token(&self) -> String {
        self.sign(&self.header(), &claims())
    }
}

/// A JWK set of these keys.
pub(crate) fn jwks<'a>(keys: impl IntoIterator<Item = &'a Signer>) -> Value {
    json!({"keys": keys.into_iter().map(Signer::jwk).collect::<Vec<_>>()})
}

pub(crate) fn key_set<'a>(keys: impl IntoIterator<Item = &'a Signer>) -> KeySet {
    KeySet::parse(jwks(keys).to_string().as_bytes()).unwrap()
}

/// Good claims.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": "culvert",
        "sub": "director-7",
        "exp": NOW + 300,
        "nbf": NOW - 10,
        "iat": NOW - 10,
        "tenant": "acme",
        "scope": "culvert:call vcenter.read",
    })
}

/// The rules that good tokens satisfy.
pub(crate) fn rules() -> IssuerRules {
    IssuerRules {
        issuer: ISSUER.into(),
        audience: "culvert".into(),
        algorithms: vec![
            Algorithm::ES256,
            Algorithm::RS256,
            Algorithm::RS512,
            Algorithm::EdDSA,
        ],
        tenants: None,
        tenant_claim: "tenant".into(),
        endpoints_claim: "culvert_endpoints".into(),
        register_scope: "culvert:register".into(),
        call_scope: "culvert:call".into(),
        leeway: Duration::from_secs(60),
    }
}
