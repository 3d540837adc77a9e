//! DPoP (RFC 9449): the proof that a caller has the key that its token is bound to.
//!
//! A token with a claim `cnf.jkt` is good only together with a proof: a small JWT that the bound
//! key signed for one request. So whoever sees the token, and even the proof, can make no other
//! request with them, and not the same one twice.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::limits::MAX_PROOF;
use serde_json::value::RawValue;
use url::Url;

use super::VerifiedToken;
use super::algorithm::Algorithm;
use super::key_set::Key;
use super::members::Members;
use super::replay::{Moment, Replays};

/// How far the time of a proof may be from now: it is made for one request, a moment before.
pub const PROOF_WINDOW: Duration = Duration::from_secs(60);

/// Longest id of a proof (`jti`), in bytes.
pub const MAX_PROOF_ID: usize = 256;

/// The SHA-256 thumbprint of a key (RFC 7638) in base64url, as in `cnf.jkt`, has so many letters.
pub(super) const THUMBPRINT: usize = 43;

/// What a caller does with its token, as a proof has to name it.
#[derive(Debug, Clone, Copy)]
pub struct ProvedRequest<'a> {
    /// The method (`htm`).
    pub method: &'a str,
    /// Where it goes (`htu`).
    pub to: ProvedTarget<'a>,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub enum ProvedTarget<'a> {
    /// `https://AUTHORITY/PATH`: the host as the caller called it, and a path in its one spelling,
    /// with or without a query.
    Https {
        /// Host, and port if it was written.
        authority: &'a str,
        /// The path.
        path: &'a str,
    },
    /// What a CONNECT is for. Its proof names it as the request did (`NAME:PORT`, RFC 9110, 7.1),
    /// or as a URL, `https://NAME:PORT/`.
    Connect(&'a ConnectName),
}

/// Why a proof is refused, or its absence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The token is bound to a key, and there is no proof.
    #[error("the token is bound to a key (cnf.jkt), and no DPoP proof came with it")]
    Missing,
    /// There is a proof, and the token is not bound.
    #[error("a DPoP proof came with a token that is not bound to a key")]
    NotBound,
    /// Not a JWS in compact form of distinct members, or longer than [`MAX_PROOF`].
    #[error("the DPoP proof is not a JWS in compact form, or longer than {MAX_PROOF} bytes")]
    Malformed,
    /// `typ` is not `dpop+jwt`.
    #[error("the DPoP proof's type (typ) is not dpop+jwt")]
    Type,
    /// `alg` is not a known asymmetric algorithm, or not one for the key.
    #[error("the DPoP proof's algorithm (alg) is not an asymmetric one for its key")]
    Algorithm,
    /// `jwk` is no public key that can be used, or a private one.
    #[error("the DPoP proof's key (jwk) is not a usable public key")]
    Key,
    /// The key is not the one that the token is bound to.
    #[error("the DPoP proof's key is not the one that the token is bound to (cnf.jkt)")]
    OtherKey,
    /// The signature is not by that key.
    #[error("the DPoP proof's signature is wrong")]
    Signature,
    /// A claim is absent or has the wrong type.
    #[error("the DPoP proof's claim {0} is absent or malformed")]
    Claim(&'static str),
    /// `htm` is another method.
    #[error("the DPoP proof is for another method (htm)")]
    Method,
    /// `htu` is another address.
    #[error("the DPoP proof is for another address (htu)")]
    Address,
    /// `ath` is another token's.
    #[error("the DPoP proof is for another token (ath)")]
    Token,
    /// `iat` is further from now than [`PROOF_WINDOW`].
    #[error("the DPoP proof was not made within {} s of now (iat)", PROOF_WINDOW.as_secs())]
    Time,
    /// It was used before.
    #[error("the DPoP proof was used before (jti)")]
    Replayed,
    /// So many proofs came lately that no more can be remembered.
    #[error("more DPoP proofs came within a minute than can be remembered")]
    Crowded,
}

/// What tells a proof from every other one: made of its key and its `jti`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ProofId(pub(super) [u8; 16]);

/// Checks proofs, each of which counts once.
#[derive(Default)]
pub struct Proofs(Mutex<Replays>);

impl Proofs {
    /// Whether a caller may use its verified `token` for this request: one that is bound to a key
    /// needs a proof for it that was not used before, one that is not bound must come without.
    /// `now` is what the clock says, which may be set meanwhile: that forgets no proof that was used
    /// less than two minutes ago.
    pub fn check(
        &self,
        verified: &VerifiedToken,
        token: &str,
        proof: Option<&str>,
        request: &ProvedRequest<'_>,
        now: SystemTime,
    ) -> Result<(), ProofError> {
        match (&verified.bound_to, proof) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(ProofError::NotBound),
            (Some(_), None) => Err(ProofError::Missing),
            (Some(key), Some(proof)) => {
                let id = check(proof, token, key, request, now)?;
                let mut replays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                replays.use_up(&verified.principal.tenant, id, Moment::now(now))
            }
        }
    }
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proofs").finish_non_exhaustive()
    }
}

impl ProofError {
    /// What the peer may be told, as the `error_description` of `invalid_dpop_proof` (RFC 9449, 7.1).
    pub fn public_reason(&self) -> &'static str {
        match self {
            Self::Missing => "the token is bound to a key and needs a DPoP proof",
            Self::NotBound => "the token is not bound to a key and takes no DPoP proof",
            Self::Malformed | Self::Type | Self::Claim(_) => "the DPoP proof is malformed",
            Self::Algorithm | Self::Key | Self::Signature => {
                "the DPoP proof's signature is not accepted"
            }
            Self::OtherKey => "the DPoP proof is by another key than the token's",
            Self::Method | Self::Address => "the DPoP proof is for another request",
            Self::Token => "the DPoP proof is for another token",
            Self::Time => "the DPoP proof was not made just now",
            Self::Replayed => "the DPoP proof was used before",
            Self::Crowded => "there are too many DPoP proofs at the moment",
        }
    }

    /// A bounded word for metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "proof-missing",
            Self::NotBound => "proof-unwanted",
            Self::Time => "proof-time",
            Self::Replayed => "proof-replayed",
            Self::Crowded => "proofs-crowded",
            _ => "proof",
        }
    }
}

/// Members of a JWK that only its owner may have (RFC 7518, 6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Checks everything of a proof but whether it was used before (RFC 9449, 4.3).
pub(super) fn check(
    proof: &str,
    token: &str,
    bound_to: &str,
    request: &ProvedRequest<'_>,
    now: SystemTime,
) -> Result<ProofId, ProofError> {
    if proof.len() > MAX_PROOF {
        return Err(ProofError::Malformed);
    }
    let mut parts = proof.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(ProofError::Malformed);
    };
    let message = &proof[..header.len() + 1 + payload.len()];
    let decode = |part| {
        BASE64_URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| ProofError::Malformed)
    };
    let (header, claims) = (decode(header)?, decode(payload)?);
    let header = Members::parse(&header).ok_or(ProofError::Malformed)?;
    if header.has("crit") {
        return Err(ProofError::Malformed);
    }
    if !matches!(header.text("typ"), Ok(Some(typ)) if is_proof_type(&typ)) {
        return Err(ProofError::Type);
    }
    let algorithm = header.text("alg").ok().flatten();
    let algorithm = algorithm.and_then(|name| name.parse::<Algorithm>().ok());
    let algorithm = algorithm.ok_or(ProofError::Algorithm)?;
    let jwk = header.raw("jwk").ok_or(ProofError::Key)?;
    if thumbprint(jwk)? != bound_to {
        return Err(ProofError::OtherKey);
    }
    let key = Key::parse(jwk).map_err(|_| ProofError::Key)?;
    if !key.is_for(algorithm) {
        return Err(ProofError::Algorithm);
    }
    if !key.verify(algorithm, message, signature) {
        return Err(ProofError::Signature);
    }
    let claims = Members::parse(&claims).ok_or(ProofError::Malformed)?;
    let id = check_claims(&claims, token, request, now)?;
    let mut named = bound_to.as_bytes().to_vec();
    named.push(0);
    named.extend_from_slice(id.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&digest(&SHA256, &named).as_ref()[..16]);
    Ok(ProofId(short))
}

/// `typ` is a media type: compared without case, and `application/` may be left out.
fn is_proof_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").unwrap_or(&typ) == "dpop+jwt"
}

/// The claims of a proof whose signature is good; gives its `jti`.
fn check_claims(
    claims: &Members<'_>,
    token: &str,
    request: &ProvedRequest<'_>,
    now: SystemTime,
) -> Result<String, ProofError> {
    let text = |name: &'static str| {
        let text = claims.text(name).ok().flatten();
        text.filter(|text| !text.is_empty())
            .ok_or(ProofError::Claim(name))
    };
    let id = text("jti")?;
    if id.len() > MAX_PROOF_ID {
        return Err(ProofError::Claim("jti"));
    }
    if text("htm")? != request.method {
        return Err(ProofError::Method);
    }
    if !request.to.is(&text("htu")?) {
        return Err(ProofError::Address);
    }
    let hash = digest(&SHA256, token.as_bytes());
    if text("ath")? != BASE64_URL_SAFE_NO_PAD.encode(hash) {
        return Err(ProofError::Token);
    }
    let made = claims.number("iat").ok().flatten();
    let made = made.ok_or(ProofError::Claim("iat"))?;
    let now = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    // Written so that what is no number is refused.
    if (now - made).abs() <= PROOF_WINDOW.as_secs_f64() {
        Ok(id)
    } else {
        Err(ProofError::Time)
    }
}

/// The SHA-256 thumbprint of a public key (RFC 7638): its required members, as they are written,
/// in the order of their names.
fn thumbprint(jwk: &RawValue) -> Result<String, ProofError> {
    let members = Members::parse(jwk.get().as_bytes()).ok_or(ProofError::Key)?;
    if PRIVATE.iter().any(|name| members.has(name)) {
        return Err(ProofError::Key);
    }
    let text = |name| {
        let text = members.text(name).ok().flatten().ok_or(ProofError::Key)?;
        // Where these letters are all there is, JSON has one spelling.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        text.bytes()
            .all(plain)
            .then_some(text)
            .ok_or(ProofError::Key)
    };
    let names: &[&str] = match text("kty")?.as_str() {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return Err(ProofError::Key),
    };
    let mut json = String::from("{");
    for name in names {
        let comma = if json.len() > 1 { "," } else { "" };
        json.push_str(&format!("{comma}\"{name}\":\"{}\"", text(name)?));
    }
    json.push('}');
    Ok(BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, json.as_bytes())))
}

impl ProvedTarget<'_> {
    /// Whether an `htu` names it, in whatever spelling (RFC 9449, 4.3: normalised, without query
    /// and fragment).
    fn is(&self, htu: &str) -> bool {
        match self {
            Self::Https { authority, path } => {
                let path = path.split('?').next().unwrap_or_default();
                let own = Url::parse(&format!("https://{authority}{path}")).ok();
                let named = Url::parse(htu).ok();
                match (own.as_ref().and_then(plain), named.as_ref().and_then(plain)) {
                    (Some(own), Some(named)) => own == named,
                    _ => false,
                }
            }
            Self::Connect(name) => {
                let named = match Url::parse(htu).ok().filter(|url| url.scheme() == "https") {
                    None => ConnectName::parse(htu).ok(),
                    Some(url) => plain(&url).and_then(|(host, port, path)| {
                        let is_root = path == "/";
                        let named = ConnectName::parse(&format!("{host}:{port}")).ok();
                        named.filter(|_| is_root)
                    }),
                };
                named.is_some_and(|named| named == **name)
            }
        }
    }
}

/// Host, port and path of an https address without credentials, in one spelling.
fn plain(url: &Url) -> Option<(String, u16, String)> {
    let bare = url.scheme() == "https" && url.username().is_empty() && url.password().is_none();
    let host = url.host_str().filter(|_| bare)?;
    Some((
        host.to_owned(),
        url.port_or_known_default()?,
        one_spelling(&escaped(url.path())),
    ))
}

/// A path with escapes for the characters that [`Url`] leaves raw, as the request's own path has them.
fn escaped(path: &str) -> String {
    path.replace('[', "%5B")
        .replace(']', "%5D")
        .replace('|', "%7C")
        .replace('^', "%5E")
}

/// A path with its escapes of unreserved characters decoded and all others in capitals (RFC 3986,
/// 6.2.2).
fn one_spelling(path: &str) -> String {
    let mut spelled = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        spelled.push_str(before);
        let Some(hex) = escape.get(1..3) else {
            spelled.push_str(escape);
            return spelled;
        };
        match u8::from_str_radix(hex, 16) {
            Ok(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                spelled.push(char::from(byte));
            }
            _ => {
                spelled.push('%');
                spelled.push_str(&hex.to_ascii_uppercase());
            }
        }
        rest = &escape[3..];
    }
    spelled.push_str(rest);
    spelled
}
