//! Judging an access token: token, rules, keys and the time in; a principal or the failed check
//! out. Pure: no network, no clock (but that [`Proofs`] forgets by one that nobody sets), no task.
//!
//! The order is by what may be believed. [`Token::parse`] looks at nothing but the shape, the
//! header members that steer the search for a key (`alg`, `kid`, `typ`, `crit`) and `iss`;
//! `jku`, `jwk`, `x5u` and `x5c` are never read. The issuer that `iss` names exactly brings its
//! rules and its keys. [`Token::verify`] then checks the algorithm against the rules, the
//! signature against the keys (once per token and key set), and only then looks at the claims.
//!
//! A token that is bound to a key is good only with a proof by that key: [`Proofs`].
//!
//! **Which tokens are access tokens.** `typ` is `at+jwt` (RFC 9068). Many issuers write `JWT` or
//! nothing into access tokens and ID tokens alike; such a token is taken unless a claim gives it
//! away: `nonce`, `at_hash`, `c_hash`, `s_hash` (ID tokens), `events` (logout tokens), or a
//! claim `typ` that is not an access token's (Keycloak). Every other `typ` is refused.

mod algorithm;
mod claims;
mod dpop;
mod error;
mod key_set;
mod members;
mod patterns;
mod replay;
mod seen;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use culvert_proto::principal::{Principal, Proof};

pub use self::algorithm::{Algorithm, AlgorithmError};
pub use self::dpop::{MAX_PROOF_ID, PROOF_WINDOW, ProofError, Proofs, ProvedRequest, ProvedTarget};
pub use self::error::TokenError;
pub use self::key_set::{KeyFault, KeySet, KeySetError, MAX_KEY_SET, MAX_KEYS};
use self::members::Members;
pub use self::patterns::{EndpointPatterns, MAX_PATTERNS, PatternError};

use culvert_proto::names::{EndpointName, TenantName};

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// Longest key id (`kid`), in bytes.
pub const MAX_KEY_ID: usize = 128;
/// Longest subject, in bytes.
pub const MAX_SUBJECT: usize = 255;
/// Most scopes of one token.
pub const MAX_SCOPES: usize = 64;
/// Longest scope, in bytes.
pub const MAX_SCOPE: usize = 255;
/// Largest clock skew that can be allowed for.
pub const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// What is demanded of the tokens of one issuer, and how they are read.
#[derive(Debug, Clone)]
pub struct IssuerRules {
    /// The exact `iss`, compared byte by byte.
    pub issuer: String,
    /// What `aud` must be or contain.
    pub audience: String,
    /// The signature algorithms that the issuer may use.
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the tenant: a string.
    pub tenant_claim: String,
    /// The tenants that the issuer speaks for; `None`: all of them.
    pub tenants: Option<Vec<TenantName>>,
    /// The claim with endpoint patterns: an array of strings, or one string. Registering needs
    /// it; calling is limited by it where it is there.
    pub endpoints_claim: String,
    /// The scope that registering takes.
    pub register_scope: String,
    /// The scope that calling takes.
    pub call_scope: String,
    /// The clock skew allowed for, on `exp` and `nbf`. More than [`MAX_LEEWAY`] counts as that.
    pub leeway: Duration,
}

/// What a token (or a client certificate) that passed every check is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Who it speaks for.
    pub principal: Principal,
    /// The endpoints that it may register: the endpoints claim, or none without that claim.
    pub endpoints: EndpointPatterns,
    /// Whether it has the scope for registering.
    pub may_register: bool,
    /// Whether it has the scope for calling.
    pub may_call: bool,
    /// The endpoints that it may call: the endpoints claim, or all of its tenant's (`None`)
    /// without that claim.
    pub call_endpoints: Option<EndpointPatterns>,
    /// The thumbprint of the key that the token is bound to: it is good only with a proof by that
    /// key ([`Proofs`]).
    pub bound_to: Option<String>,
}

impl VerifiedToken {
    /// Whether the token registers this endpoint of its tenant.
    pub fn may_register_endpoint(&self, endpoint: &EndpointName) -> bool {
        self.may_register && self.endpoints.matches(endpoint)
    }

    /// Whether the token calls this endpoint of its tenant.
    pub fn may_call_endpoint(&self, endpoint: &EndpointName) -> bool {
        self.may_call
            && self
                .call_endpoints
                .as_ref()
                .is_none_or(|patterns| patterns.matches(endpoint))
    }
}

/// A token that has the right shape. Nothing in it is believed yet.
pub struct Token<'a> {
    text: &'a str,
    /// Header and claims as they were signed.
    message: &'a str,
    signature: &'a str,
    algorithm: Algorithm,
    kid: Option<String>,
    /// Whether `typ` says outright that this is an access token.
    typed: bool,
    claims: Vec<u8>,
    issuer: String,
}

impl<'a> Token<'a> {
    /// Takes a token apart, as far as is needed to find its issuer's rules and keys.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::NotCompact);
        };
        let message = &token[..header.len() + 1 + payload.len()];
        let decode = |part| {
            BASE64_URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| TokenError::NotCompact)
        };
        let (header, claims) = (decode(header)?, decode(payload)?);
        decode(signature)?;

        let header = Members::parse(&header).ok_or(TokenError::Header)?;
        if header.has("crit") {
            return Err(TokenError::Critical);
        }
        let text = |name| {
            header
                .text(name)
                .map_err(|_| TokenError::WrongType(String::from(name)))
        };
        let algorithm = text("alg")?.ok_or_else(|| TokenError::Missing("alg".into()))?;
        let algorithm = algorithm.parse().map_err(|_| TokenError::Algorithm)?;
        let typed = is_access_token_type(text("typ")?.as_deref())?;
        let kid = text("kid")?;
        if kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID) {
            return Err(TokenError::KeyId);
        }
        let issuer = Members::parse(&claims)
            .ok_or(TokenError::Claims)?
            .text("iss");
        let issuer = issuer
            .map_err(|_| TokenError::WrongType("iss".into()))?
            .ok_or_else(|| TokenError::Missing("iss".into()))?;
        Ok(Self {
            text: token,
            message,
            signature,
            algorithm,
            kid,
            typed,
            claims,
            issuer,
        })
    }

    /// The issuer that the token claims: good for choosing whose rules and keys it must satisfy,
    /// for nothing else.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What one claim says, if it is text: of a token that one has obtained oneself.
    pub fn claim(&self, name: &str) -> Option<String> {
        Members::parse(&self.claims)?.text(name).ok()?
    }

    /// Judges the token by the rules and keys of one issuer at one time.
    pub fn verify(
        &self,
        rules: &IssuerRules,
        keys: &KeySet,
        now: SystemTime,
    ) -> Result<VerifiedToken, TokenError> {
        if self.issuer != rules.issuer {
            return Err(TokenError::Issuer);
        }
        if !rules.algorithms.contains(&self.algorithm) {
            return Err(TokenError::Algorithm);
        }
        keys.verify(self)?;
        let members = Members::parse(&self.claims).ok_or(TokenError::Claims)?;
        claims::judge(&members, self.typed, rules, now, Proof::Jwt)
    }
}

/// Judges what an issuer says of an opaque token (RFC 7662, 2.2) like the claims of any other.
/// `iss` may be absent, since it is the issuer that was asked; `aud` may not. What does not say whether
/// the token is active is no answer: that is the endpoint's fault, a gateway's page for example.
pub(crate) fn judge_introspected(
    answer: &[u8],
    rules: &IssuerRules,
    now: SystemTime,
) -> Result<VerifiedToken, TokenError> {
    let no_answer = || TokenError::NoIntrospection {
        issuer: rules.issuer.clone(),
    };
    let members = Members::parse(answer).ok_or_else(no_answer)?;
    match members.flag("active") {
        Ok(Some(true)) => {}
        Ok(Some(false)) => return Err(TokenError::Inactive),
        Ok(None) | Err(_) => return Err(no_answer()),
    }
    if is_other_token(&members)? {
        return Err(TokenError::NotAccessToken);
    }
    let issuer = text(&members, "iss")?;
    if issuer.is_some_and(|issuer| issuer != rules.issuer) {
        return Err(TokenError::Issuer);
    }
    claims::judge(&members, true, rules, now, Proof::Introspection)
}

/// Whether an issuer says of a token that it is one for another use. It knows its refresh and ID tokens,
/// too, and calls them active.
fn is_other_token(members: &Members<'_>) -> Result<bool, TokenError> {
    let is = |kind: Option<String>, kinds: &[&str]| {
        kind.map(|kind| kinds.contains(&kind.to_ascii_lowercase().as_str()))
    };
    let others = [
        "refresh",
        "refresh_token",
        "offline",
        "id",
        "id_token",
        "logout",
    ];
    let access = ["access", "access_token"];
    Ok(is(text(members, "typ")?, &others) == Some(true)
        || is(text(members, "token_use")?, &access) == Some(false))
}

fn text(members: &Members<'_>, name: &str) -> Result<Option<String>, TokenError> {
    let text = members.text(name);
    text.map_err(|_| TokenError::WrongType(name.into()))
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// Whether `typ` names an access token outright; `false` where it leaves that open.
/// Media types are compared without case, and `application/` may be left out (RFC 7515, 4.1.9).
fn is_access_token_type(typ: Option<&str>) -> Result<bool, TokenError> {
    let Some(typ) = typ else { return Ok(false) };
    let typ = typ.to_ascii_lowercase();
    match typ.strip_prefix("application/").unwrap_or(&typ) {
        "at+jwt" => Ok(true),
        "jwt" => Ok(false),
        _ => Err(TokenError::Type),
    }
}
