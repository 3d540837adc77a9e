//! Why a token is refused: one variant for each check.

use culvert_proto::names::NameError;

use super::patterns::PatternError;
use super::{MAX_KEY_ID, MAX_SCOPES, MAX_SUBJECT, MAX_TOKEN};

/// Why a token is refused.
///
/// `Display` is for the verifier's own log and says which check failed. It never shows text of
/// the token, neither encoded nor decoded. What the peer may learn is [`TokenError::public_reason`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN`].
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// Not three parts of unpadded base64url with a dot between them (RFC 7515, 7.1).
    #[error("the token is not a JWS in compact form")]
    NotCompact,
    /// The header is not a JSON object, is too large, or repeats a member (RFC 7515, 4).
    #[error("the token's header is not a JSON object of distinct members")]
    Header,
    /// The claims are not a JSON object, are too many, or repeat one (RFC 7519, 4).
    #[error("the token's claims are not a JSON object of distinct members")]
    Claims,
    /// `alg` is none of those that the configuration allows for the issuer.
    #[error("the token's algorithm (alg) is not one that is configured for its issuer")]
    Algorithm,
    /// The header has `crit`: extensions that must be understood, and are not (RFC 7515, 4.1.11).
    #[error("the token's header names critical extensions (crit)")]
    Critical,
    /// `typ` names something else than an access token (RFC 9068, 2.1).
    #[error("the token's type (typ) is not that of an access token")]
    Type,
    /// `typ` says nothing, and the claims are those of an ID, refresh or logout token.
    #[error("the token is an ID, refresh or logout token, not an access token")]
    NotAccessToken,
    /// `kid` is longer than [`MAX_KEY_ID`].
    #[error("the token's key id (kid) is longer than {MAX_KEY_ID} bytes")]
    KeyId,
    /// `iss` is none of the configured issuers.
    #[error("the token's issuer (iss) is not a configured one")]
    Issuer,
    /// The issuer's keys are not known (yet, or any more): nothing is wrong with the token.
    #[error("the keys of issuer {issuer} are not known: it has not been reached")]
    NoKeys {
        /// The configured issuer.
        issuer: String,
    },
    /// The issuer may have a key of that `kid` by now, and does not give its keys at the moment: nothing is
    /// known to be wrong with the token.
    #[error(
        "no known key of issuer {issuer} has the token's key id (kid), and newer ones cannot be had"
    )]
    StaleKeys {
        /// The configured issuer.
        issuer: String,
    },
    /// The issuer does not answer questions about tokens: nothing is wrong with this one.
    #[error("issuer {issuer} could not be asked about the token")]
    NoIntrospection {
        /// The configured issuer.
        issuer: String,
    },
    /// The issuer says that the token is not, or no longer, good (RFC 7662, 2.2).
    #[error("the issuer says that the token is not active")]
    Inactive,
    /// The issuer has no key of that `kid`: perhaps a newer one than the known ones.
    #[error("issuer {issuer} has no key with the token's key id (kid)")]
    UnknownKey {
        /// The configured issuer.
        issuer: String,
    },
    /// The token names no key, and none of the issuer's keys verifies it.
    #[error("the token has no key id (kid), and no key of issuer {issuer} verifies it")]
    UnnamedKey {
        /// The configured issuer.
        issuer: String,
    },
    /// The named key is not meant for the token's algorithm.
    #[error("the named key (kid) is not one for the token's algorithm (alg)")]
    KeyMismatch,
    /// The signature is not that of the named key.
    #[error("the token's signature is wrong")]
    Signature,
    /// A required claim is absent or empty.
    #[error("the token lacks the claim {0:?}")]
    Missing(String),
    /// A header member or claim has another JSON type than it must have, or a number is out of
    /// range.
    #[error("the token's {0:?} has the wrong JSON type or range")]
    WrongType(String),
    /// `exp` and the allowed skew are past.
    #[error("the token expired (exp); if it is new, this clock is ahead of the issuer's")]
    Expired,
    /// `nbf` is ahead by more than the allowed skew, or `iat` by more than any could be.
    #[error("the token is not valid yet (nbf, iat): this clock is behind the issuer's")]
    NotYetValid,
    /// `aud` does not hold the configured audience.
    #[error("the token is for another audience (aud); expected {expected:?}")]
    Audience {
        /// The configured audience.
        expected: String,
    },
    /// The tenant claim is not a tenant name.
    #[error("the token's tenant claim is not a tenant name: {0}")]
    Tenant(NameError),
    /// The issuer speaks for other tenants alone.
    #[error("the token's tenant is none that its issuer speaks for (tenants)")]
    OtherTenant,
    /// `sub` is longer than [`MAX_SUBJECT`] or has control characters.
    #[error("the token's subject (sub) is longer than {MAX_SUBJECT} bytes or not plain text")]
    Subject,
    /// A scope has a byte that RFC 6749, 3.3 forbids, or is longer than any name.
    #[error("the token's scope is not a list of scope words")]
    Scope,
    /// More than [`MAX_SCOPES`] scopes.
    #[error("the token has more than {MAX_SCOPES} scopes")]
    TooManyScopes,
    /// `cnf` names something else than the thumbprint of a key (RFC 9449, 6.1).
    #[error("the token is bound (cnf) in another way than to the thumbprint of a key (jkt)")]
    Binding,
    /// The endpoints claim is not a list of endpoint patterns.
    #[error("the token's endpoints claim is not a list of endpoint patterns: {0}")]
    Patterns(PatternError),
}

impl TokenError {
    /// What the peer may be told, as the `error_description` of `invalid_token` (RFC 6750, 3.1):
    /// enough for its owner to know where to look, nothing about configuration or keys.
    pub fn public_reason(&self) -> &'static str {
        match self {
            Self::TooLong | Self::NotCompact | Self::Header | Self::Claims | Self::Critical => {
                "the token is malformed: send it as its issuer gave it"
            }
            Self::Type | Self::NotAccessToken => "the token is not an access token",
            Self::Issuer => "the token's issuer is not trusted here",
            Self::NoKeys { .. } | Self::StaleKeys { .. } | Self::NoIntrospection { .. } => {
                "the token cannot be checked at the moment"
            }
            Self::Inactive => "the token is not active",
            Self::Algorithm
            | Self::KeyId
            | Self::UnknownKey { .. }
            | Self::UnnamedKey { .. }
            | Self::KeyMismatch
            | Self::Signature => "the token's signature is not accepted",
            Self::Expired => {
                "the token expired; if it is new, the clock here is ahead of its issuer's"
            }
            Self::NotYetValid => {
                "the token is not valid yet: the clock here is behind its issuer's"
            }
            Self::Audience { .. } => {
                "the token is for another audience: ask its issuer for one that is for this relay"
            }
            Self::Missing(_) => {
                "the token lacks a claim that is needed here: exp, aud, sub and its tenant are"
            }
            Self::WrongType(_) => "a claim of the token has another type than it must have",
            Self::Tenant(_) => "the token's claim of its tenant is no tenant's name",
            Self::OtherTenant => "the token's issuer does not speak for its tenant here",
            Self::Subject => "the token's subject (sub) is too long, or no plain text",
            Self::Scope => "the token's scope is no list of scopes",
            Self::TooManyScopes => "the token has too many scopes",
            Self::Binding => "the token is bound to its owner in a way that is not known here",
            Self::Patterns(_) => "the token's claim of endpoints is no list of their patterns",
        }
    }

    /// Whether newer keys of the issuer may make the token good.
    pub fn wants_newer_keys(&self) -> bool {
        matches!(
            self,
            Self::NoKeys { .. }
                | Self::StaleKeys { .. }
                | Self::UnknownKey { .. }
                | Self::UnnamedKey { .. }
        )
    }

    /// Whether the token was not judged at all, because this side lacks keys or the issuer does
    /// not answer: the peer did nothing wrong and should try again later.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::NoKeys { .. } | Self::StaleKeys { .. } | Self::NoIntrospection { .. }
        )
    }
}
