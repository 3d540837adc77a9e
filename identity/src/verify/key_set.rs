//! An issuer's public keys, read from a JWK set (RFC 7517).

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::algorithm::Algorithm;
use super::seen::{Fingerprint, Seen};
use super::{MAX_KEY_ID, Token, TokenError};

/// Most members of a key set, usable or not.
pub const MAX_KEYS: usize = 128;

/// Largest JWK set, in bytes.
pub const MAX_KEY_SET: usize = 1024 * 1024;

/// Most signatures that are tried for one token: keys may share a `kid` (RFC 7517, 4.5), and
/// tokens of issuers with few keys may name none.
const MAX_TRIES: usize = 4;

/// RSA moduli in bits: fewer are weak, more cost too much to verify.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The public keys of one issuer that can verify signatures. At least one, at most [`MAX_KEYS`].
pub struct KeySet {
    keys: Vec<Key>,
    skipped: usize,
    seen: Seen,
}

/// Why bytes are not a usable key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Larger than [`MAX_KEY_SET`].
    #[error("the key set is larger than {MAX_KEY_SET} bytes")]
    TooLarge,
    /// Not a JSON object with an array `keys`.
    #[error("the key set is not a JSON object with an array \"keys\" (RFC 7517)")]
    NotAKeySet,
    /// More than [`MAX_KEYS`] keys.
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// No key that can be used; the first reason, where there is a key at all.
    #[error("the key set has no usable key{}", .first.map(|f| format!(": {f}")).unwrap_or_default())]
    NoUsableKey {
        /// Why the first key is of no use.
        first: Option<KeyFault>,
    },
}

/// Why one key of a set is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The key is not an object with members of the right types.
    #[error("a key is not a JWK")]
    NotAJwk,
    /// `use`, `key_ops` or `alg` say that it is not for the signatures known here.
    #[error("a key is not meant for signatures of a known algorithm")]
    Purpose,
    /// `kty` or `crv` is none of RSA, EC P-256, EC P-384, OKP Ed25519.
    #[error("a key is of an unknown kind (kty, crv)")]
    Kind,
    /// The key's numbers are missing, malformed, not on the curve, or of a refused size.
    #[error("a key is malformed, or RSA of less than 2048 or more than 8192 bits")]
    Material,
    /// `kid` is longer than [`MAX_KEY_ID`]: no token could name it.
    #[error("a key's id is longer than {MAX_KEY_ID} bytes")]
    KeyId,
}

pub(super) struct Key {
    id: Option<String>,
    kind: Kind,
    /// The only algorithm that the key is for, if it says so.
    algorithm: Option<Algorithm>,
    material: DecodingKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    fn signs(self, algorithm: Algorithm) -> bool {
        use Algorithm::*;
        match algorithm {
            ES256 => self == Self::P256,
            ES384 => self == Self::P384,
            EdDSA => self == Self::Ed25519,
            RS256 | RS384 | RS512 | PS256 | PS384 | PS512 => self == Self::Rsa,
        }
    }
}

/// The members of a JWK that matter here. Others (`x5u`, `x5c`, ...) are not even read.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl KeySet {
    /// Reads a JWK set. Keys that cannot be used (encryption keys, unknown kinds, broken ones)
    /// are skipped: issuers add what we do not know. A set without a usable key is an error.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Written<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }

        if json.len() > MAX_KEY_SET {
            return Err(KeySetError::TooLarge);
        }
        let written: Written<'_> =
            serde_json::from_slice(json).map_err(|_| KeySetError::NotAKeySet)?;
        if written.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys);
        }
        let (mut keys, mut faults) = (Vec::new(), Vec::new());
        for raw in written.keys {
            match Key::parse(raw) {
                Ok(key) => keys.push(key),
                Err(fault) => faults.push(fault),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey {
                first: faults.first().copied(),
            });
        }
        Ok(Self {
            keys,
            skipped: faults.len(),
            seen: Seen::new(),
        })
    }

    /// How many keys there are.
    #[expect(clippy::len_without_is_empty, reason = "a key set is never empty")]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many keys of the written set are of no use here.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Whether the token's signature is by the key that `kid` names, or, without a `kid`, by any
    /// key that is for its algorithm.
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<(), TokenError> {
        let fingerprint = Fingerprint::of(token.text);
        if self.seen.contains(fingerprint) {
            return Ok(());
        }
        let kid = token.kid.as_deref();
        let named = |key: &&Key| kid.is_none() || key.id.as_deref() == kid;
        if !self.keys.iter().any(|key| named(&key)) {
            return Err(TokenError::UnknownKey {
                issuer: token.issuer.clone(),
            });
        }
        let fitting = self
            .keys
            .iter()
            .filter(named)
            .filter(|key| key.is_for(token.algorithm));
        let mut tried = false;
        for key in fitting.take(MAX_TRIES) {
            tried = true;
            if key.verify(token.algorithm, token.message, token.signature) {
                self.seen.insert(fingerprint);
                return Ok(());
            }
        }
        Err(match kid {
            None => TokenError::UnnamedKey {
                issuer: token.issuer.clone(),
            },
            Some(_) if tried => TokenError::Signature,
            Some(_) => TokenError::KeyMismatch,
        })
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| key.id.as_deref());
        f.debug_list().entries(ids).finish()
    }
}

impl Key {
    pub(super) fn parse(raw: &RawValue) -> Result<Self, KeyFault> {
        let jwk: Jwk = serde_json::from_str(raw.get()).map_err(|_| KeyFault::NotAJwk)?;
        if jwk.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID) {
            return Err(KeyFault::KeyId);
        }
        let kind = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => Kind::Rsa,
            ("EC", Some("P-256")) => Kind::P256,
            ("EC", Some("P-384")) => Kind::P384,
            ("OKP", Some("Ed25519")) => Kind::Ed25519,
            _ => return Err(KeyFault::Kind),
        };
        let algorithm = jwk.alg.as_deref().map(str::parse::<Algorithm>).transpose();
        let algorithm = algorithm.map_err(|_| KeyFault::Purpose)?;
        if jwk
            .purpose
            .as_deref()
            .is_some_and(|purpose| purpose != "sig")
            || jwk
                .key_ops
                .as_ref()
                .is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
            || algorithm.is_some_and(|algorithm| !kind.signs(algorithm))
        {
            return Err(KeyFault::Purpose);
        }
        let material = match kind {
            Kind::Rsa => rsa(&jwk)?,
            Kind::P256 => ec(&jwk, 32)?,
            Kind::P384 => ec(&jwk, 48)?,
            Kind::Ed25519 => ed25519(&jwk)?,
        };
        Ok(Self {
            id: jwk.kid,
            kind,
            algorithm,
            material,
        })
    }

    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.kind.signs(algorithm) && self.algorithm.is_none_or(|only| only == algorithm)
    }

    /// Whether a signature (in base64url) of a message is by this key.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        let (message, algorithm) = (message.as_bytes(), algorithm.library());
        jsonwebtoken::crypto::verify(signature, message, &self.material, algorithm).unwrap_or(false)
    }
}

fn bytes(member: Option<&String>) -> Result<Vec<u8>, KeyFault> {
    let text = member.ok_or(KeyFault::Material)?;
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| KeyFault::Material)
}

fn rsa(jwk: &Jwk) -> Result<DecodingKey, KeyFault> {
    // Some issuers write the sign byte of DER integers; the library refuses it.
    let unsigned = |mut bytes: Vec<u8>| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.drain(..zeros);
        bytes
    };
    let modulus = unsigned(bytes(jwk.n.as_ref())?);
    let exponent = unsigned(bytes(jwk.e.as_ref())?);
    let leading = modulus
        .first()
        .map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&(modulus.len() * 8 - leading)) {
        return Err(KeyFault::Material);
    }
    // An exponent of 1 would make every message its own signature.
    let odd = exponent.last().is_some_and(|byte| byte % 2 == 1);
    if !odd || exponent == [1] || exponent.len() > 4 {
        return Err(KeyFault::Material);
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn ec(jwk: &Jwk, length: usize) -> Result<DecodingKey, KeyFault> {
    let (x, y) = (bytes(jwk.x.as_ref())?, bytes(jwk.y.as_ref())?);
    if x.len() != length || y.len() != length {
        return Err(KeyFault::Material);
    }
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    let curve = if length == 32 {
        &ECDSA_P256_SHA256_FIXED
    } else {
        &ECDSA_P384_SHA384_FIXED
    };
    ParsedPublicKey::new(curve, &point).map_err(|_| KeyFault::Material)?;
    Ok(DecodingKey::from_ec_der(&point))
}

fn ed25519(jwk: &Jwk) -> Result<DecodingKey, KeyFault> {
    let point = bytes(jwk.x.as_ref())?;
    ParsedPublicKey::new(&ED25519, &point).map_err(|_| KeyFault::Material)?;
    Ok(DecodingKey::from_ed_der(&point))
}
