//! `[verify_callers]` of `agent.toml`: whose tokens callers have, for an agent that does not take
//! the relay's word for who calls.

use std::fmt;
use std::path::PathBuf;

use culvert_proto::names::TenantName;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use toml::Spanned;

use crate::document::Document;
use crate::error::ConfigError;
use crate::issuer::{Algorithm, Issuer, WrittenIntrospection, WrittenIssuer};
use crate::oauth::WrittenOAuth;

/// How callers are verified.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyCallers {
    /// The tenant whose callers may call; the one of the agent's own token if none is given.
    #[serde(
        serialize_with = "display_some",
        skip_serializing_if = "Option::is_none"
    )]
    pub tenant: Option<TenantName>,
    /// Who issues callers' tokens.
    #[serde(rename = "issuer")]
    pub issuers: Vec<Issuer>,
}

fn display_some<S: serde::Serializer>(
    name: &Option<TenantName>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.collect_str(name),
        None => serializer.serialize_none(),
    }
}

/// One issuer is written flat, several as tables.
#[derive(DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenVerifyCallers {
    tenant: Option<Spanned<String>>,
    issuer: Option<Spanned<WrittenIssuers>>,
    audience: Option<Spanned<String>>,
    algorithms: Option<Spanned<Vec<Algorithm>>>,
    jwks: Option<Spanned<String>>,
    introspection: Option<WrittenIntrospection>,
    ca: Option<Spanned<PathBuf>>,
    tenant_claim: Option<Spanned<String>>,
    endpoints_claim: Option<Spanned<String>>,
    call_scope: Option<Spanned<String>>,
}

enum WrittenIssuers {
    One(String),
    Several(Vec<Spanned<WrittenIssuer>>),
}

impl<'de> Deserialize<'de> for WrittenIssuers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = WrittenIssuers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "the exact iss of the callers' tokens, or tables [[verify_callers.issuer]]",
                )
            }

            fn visit_str<E>(self, url: &str) -> Result<WrittenIssuers, E> {
                Ok(WrittenIssuers::One(url.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WrittenIssuers, A::Error> {
                let mut issuers = Vec::new();
                while let Some(issuer) = seq.next_element()? {
                    issuers.push(issuer);
                }
                Ok(WrittenIssuers::Several(issuers))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// What tokens of a single issuer may be signed with, where nothing is said: what issuers use
/// unless they are told otherwise.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::ES256, Algorithm::RS256];

/// `own`: whose tokens the agent itself has, which is whose its callers have where nothing else is said.
pub(crate) fn check(
    document: &Document,
    mut written: WrittenVerifyCallers,
    own: &WrittenOAuth,
) -> Result<VerifyCallers, ConfigError> {
    let tenant = written.tenant.as_ref();
    let tenant = tenant.map(|tenant| crate::check::name(document, tenant));
    let tenant = tenant.transpose()?;
    let Some(issuer) = written.issuer.take() else {
        let Some(url) = own.issuer.clone() else {
            let message = "not given, nor is oauth.issuer, which would stand for it; expected the \
                           exact iss of callers' tokens";
            return Err(document.error_of("verify_callers.issuer", message));
        };
        written.audience = written.audience.or_else(|| own.audience.clone());
        written.ca = written.ca.or_else(|| own.ca.clone());
        return check_one(document, tenant, url, written);
    };
    let span = issuer.span();
    match issuer.into_inner() {
        WrittenIssuers::One(url) => check_one(document, tenant, Spanned::new(span, url), written),
        WrittenIssuers::Several(issuers) => {
            let flat = [
                written.audience.as_ref().map(Spanned::span),
                written.algorithms.as_ref().map(Spanned::span),
                written.jwks.as_ref().map(Spanned::span),
                written.ca.as_ref().map(Spanned::span),
                written.tenant_claim.as_ref().map(Spanned::span),
                written.endpoints_claim.as_ref().map(Spanned::span),
                written.call_scope.as_ref().map(Spanned::span),
            ];
            let flat = flat.into_iter().flatten().next();
            let flat = flat.or(written.introspection.map(|_| span.clone()));
            if let Some(flat) = flat {
                let message = "found several issuers, which have keys of their own; expected no \
                               such key beside them";
                return Err(document.error(flat, message));
            }
            if issuers.is_empty() {
                return Err(document.error(span, "found no issuer; expected at least one"));
            }
            let issuers = crate::issuer::check_all(document, &issuers)?;
            Ok(VerifyCallers { tenant, issuers })
        }
    }
}

/// A single issuer of this URL, with the keys that stand beside it.
fn check_one(
    document: &Document,
    tenant: Option<TenantName>,
    url: Spanned<String>,
    written: WrittenVerifyCallers,
) -> Result<VerifyCallers, ConfigError> {
    let span = url.span();
    let Some(audience) = written.audience else {
        let message = "found an issuer without verify_callers.audience; expected the audience of \
                       callers' tokens";
        return Err(document.error(span, message));
    };
    let algorithms = written.algorithms;
    let algorithms = algorithms.unwrap_or_else(|| Spanned::new(span, ALGORITHMS.to_vec()));
    let text = |written: Option<Spanned<String>>| written.map(Spanned::into_inner);
    let issuer = WrittenIssuer::flat(url, audience, algorithms)
        .with_keys(written.jwks, written.introspection, written.ca)
        .with_words(
            text(written.tenant_claim),
            text(written.endpoints_claim),
            text(written.call_scope),
        );
    Ok(VerifyCallers {
        tenant,
        issuers: vec![crate::issuer::check(document, &issuer)?],
    })
}
