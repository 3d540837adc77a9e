//! `[[caller]]` of `relay.toml`: who calls with a client certificate, by its name.

use std::collections::HashSet;

use culvert_proto::certificate_name::{CertificateName, CertificateNameError};
use culvert_proto::names::TenantName;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::document::Document;
use crate::error::ConfigError;

/// A caller that is known by its client certificate.
#[derive(Debug, Clone, Serialize)]
pub struct Caller {
    /// The subject alternative name that its certificates have; also its subject.
    #[serde(serialize_with = "crate::display")]
    pub san: CertificateName,
    /// Its tenant.
    #[serde(serialize_with = "crate::display")]
    pub tenant: TenantName,
    /// The endpoints of its tenant that it may call, as patterns; all of them if none are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
    /// Its scopes, as those of a token.
    pub scopes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenCaller {
    san: Spanned<String>,
    tenant: Spanned<String>,
    endpoints: Option<Spanned<Vec<String>>>,
    scopes: Option<Spanned<Vec<String>>>,
}

/// What a caller gets that names no scopes.
const CALL_SCOPE: &str = "culvert:call";

/// `has_ca`: there is an authority that client certificates are verified against.
pub(crate) fn check_all(
    document: &Document,
    written: &[WrittenCaller],
    has_ca: bool,
) -> Result<Vec<Caller>, ConfigError> {
    if let Some(first) = written.first().filter(|_| !has_ca) {
        return Err(document.error(
            first.san.span(),
            "found a caller that is known by its certificate, and no tls.client_ca; expected the \
             file with the authority that signs callers' certificates",
        ));
    }
    let callers = written.iter().map(|caller| check(document, caller));
    let callers = callers.collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    for (caller, written) in callers.iter().zip(written) {
        if !seen.insert(&caller.san) {
            let found = written.san.get_ref();
            let message = format!("the san {found:?} occurs twice; expected it once");
            return Err(document.error(written.san.span(), message));
        }
    }
    Ok(callers)
}

fn check(document: &Document, written: &WrittenCaller) -> Result<Caller, ConfigError> {
    let text = written.san.get_ref();
    let san = text.parse().map_err(|error: CertificateNameError| {
        document.error(written.san.span(), format!("found {text:?}; {error}"))
    })?;
    let not_empty = |list: &Spanned<Vec<String>>| {
        if list.get_ref().is_empty() {
            let message = "found an empty list; expected at least one, or no such key";
            return Err(document.error(list.span(), message));
        }
        Ok(list.get_ref().clone())
    };
    let scopes = match &written.scopes {
        None => vec![CALL_SCOPE.to_owned()],
        Some(list) => {
            let word = |scope: &String| {
                !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic())
            };
            if let Some(bad) = list.get_ref().iter().find(|scope| !word(scope)) {
                let message = format!("found {bad:?}; expected scopes, a word each");
                return Err(document.error(list.span(), message));
            }
            not_empty(list)?
        }
    };
    Ok(Caller {
        san,
        tenant: crate::check::name(document, &written.tenant)?,
        endpoints: written.endpoints.as_ref().map(not_empty).transpose()?,
        scopes,
    })
}
