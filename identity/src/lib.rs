//! Who somebody is: access tokens, verified on one side and obtained on the other.
//!
//! ```text
//!   relay (and agents that verify callers)            agent
//!
//!   Verifier ── Token::parse ── Token::verify         TokenSource ── Grant::obtain
//!      │             verify: pure                         │                 │
//!      └── Keys ── KeySource                              │                 │
//!            └───────────────── fetch: bounded HTTPS to the issuer ─────────┘
//! ```
//!
//! * [`verify`] judges a token by the rules and keys of its issuer at a given time. It is pure,
//!   knows neither network nor clock, and makes the [`Principal`](culvert_proto::principal::Principal)
//!   in one function.
//! * [`certificate`] does the same for client certificates.
//! * [`Verifier`] is what a program holds: several issuers, their keys fetched from
//!   [`KeySource`]s, refreshed one at a time and kept through outages. Verifying takes a snapshot
//!   of the keys and locks nothing.
//! * [`introspection`] asks an issuer about tokens that are not JWTs.
//! * [`obtain`] gets tokens: [`Grant`] says how, [`TokenSource`] keeps a token at
//!   hand.
//! * `fetch` is the only way out: HTTPS (plain HTTP to loopback addresses, for development),
//!   no redirects, every answer bounded in time and size.
//!
//! Tokens and secrets appear in no error, log line or `Debug` output.

pub mod certificate;
pub mod fetch;
pub mod introspection;
pub mod keys;
pub mod obtain;
#[cfg(test)]
mod testing;
mod verifier;
pub mod verify;

pub use self::certificate::{CertificateError, KnownCaller, KnownCallers};
pub use self::fetch::Proxying;
pub use self::introspection::Introspection;
pub use self::keys::{KeySource, KeysError};
pub use self::obtain::{
    AccessToken, Assertions, BadSigningKey, ClientAuth, Grant, OAuthClient, ObtainError,
    RefreshTokenFile, TokenServer, TokenSource,
};
pub use self::verifier::{IssuerStatus, TrustedIssuer, Verifier, VerifierError};
pub use self::verify::{EndpointPatterns, IssuerRules, TokenError, VerifiedToken};
