//! `[[issuer]]` of `relay.toml` and `[verify_callers]` of `agent.toml`: whose tokens are accepted, and how they are read.

use std::path::PathBuf;

use culvert_proto::names::TenantName;
use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer};
use toml::Spanned;
use url::Url;

use crate::document::Document;
use crate::error::ConfigError;

/// One accepted issuer of access tokens.
#[derive(Debug, Clone, Serialize)]
pub struct Issuer {
    /// The exact `iss` of its tokens.
    pub url: String,
    /// The `aud` that its tokens must have.
    pub audience: String,
    /// JWS algorithms (RFC 7518, 3.1) that its tokens may use.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are.
    #[serde(skip_serializing_if = "Jwks::is_discovery")]
    pub jwks: Jwks,
    /// Where it is asked about tokens that are not JWTs (RFC 7662).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introspection: Option<Introspection>,
    /// The CA for connections to it; system roots if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// The tenants that it speaks for; `None`: all of them.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "tenant_words"
    )]
    pub tenants: Option<Vec<TenantName>>,
    /// The claim with the endpoint patterns that an agent may register.
    pub endpoints_claim: String,
    /// The scope that registering takes.
    pub register_scope: String,
    /// The scope that calling takes.
    pub call_scope: String,
}

/// Where and as whom an issuer is asked about tokens.
#[derive(Debug, Clone, Serialize)]
pub struct Introspection {
    /// The introspection endpoint.
    pub url: Url,
    /// The relay's client at the issuer.
    pub client_id: String,
    /// Its secret. Never shown.
    #[serde(serialize_with = "crate::secret::masked")]
    pub client_secret: SecretString,
}

/// A JWS algorithm: asymmetric ones only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[allow(missing_docs)]
pub enum Algorithm {
    ES256,
    ES384,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    EdDSA,
}

/// Where an issuer's key set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    /// Named by the issuer's metadata (RFC 8414, OpenID Connect Discovery).
    Discovery,
    /// At this address.
    Url(Url),
    /// In this file.
    File(PathBuf),
}

impl Jwks {
    fn is_discovery(&self) -> bool {
        *self == Self::Discovery
    }
}

impl Serialize for Jwks {
    /// As it is written; discovery is not.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Discovery => serializer.serialize_none(),
            Self::Url(url) => url.serialize(serializer),
            Self::File(file) => serializer.collect_str(&format_args!("file:{}", file.display())),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenIssuer {
    url: Spanned<String>,
    audience: Spanned<String>,
    algorithms: Spanned<Vec<Algorithm>>,
    jwks: Option<Spanned<String>>,
    introspection: Option<WrittenIntrospection>,
    ca: Option<Spanned<PathBuf>>,
    #[serde(default = "tenant_claim")]
    tenant_claim: String,
    tenants: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default = "endpoints_claim")]
    endpoints_claim: String,
    #[serde(default = "register_scope")]
    register_scope: String,
    #[serde(default = "call_scope")]
    call_scope: String,
}

impl WrittenIssuer {
    /// One whose keys are where its metadata says, and whose claims have their usual names.
    pub(crate) fn flat(
        url: Spanned<String>,
        audience: Spanned<String>,
        algorithms: Spanned<Vec<Algorithm>>,
    ) -> Self {
        Self {
            url,
            audience,
            algorithms,
            jwks: None,
            introspection: None,
            ca: None,
            tenant_claim: tenant_claim(),
            tenants: None,
            endpoints_claim: endpoints_claim(),
            register_scope: register_scope(),
            call_scope: call_scope(),
        }
    }

    /// Says how it is asked.
    pub(crate) fn with_keys(
        self,
        jwks: Option<Spanned<String>>,
        introspection: Option<WrittenIntrospection>,
        ca: Option<Spanned<PathBuf>>,
    ) -> Self {
        Self {
            jwks,
            introspection,
            ca,
            ..self
        }
    }

    /// Says how its claims are named, where that is unusual.
    pub(crate) fn with_words(
        self,
        tenant_claim: Option<String>,
        endpoints_claim: Option<String>,
        call_scope: Option<String>,
    ) -> Self {
        Self {
            tenant_claim: tenant_claim.unwrap_or(self.tenant_claim),
            endpoints_claim: endpoints_claim.unwrap_or(self.endpoints_claim),
            call_scope: call_scope.unwrap_or(self.call_scope),
            ..self
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenIntrospection {
    url: Spanned<String>,
    client_id: String,
    client_secret_file: Spanned<PathBuf>,
}

fn tenant_claim() -> String {
    "tenant".into()
}

fn endpoints_claim() -> String {
    "culvert_endpoints".into()
}

fn register_scope() -> String {
    "culvert:register".into()
}

fn call_scope() -> String {
    "culvert:call".into()
}

pub(crate) fn check_all(
    document: &Document,
    written: &[Spanned<WrittenIssuer>],
) -> Result<Vec<Issuer>, ConfigError> {
    let issuers = written
        .iter()
        .map(|issuer| check(document, issuer.get_ref()))
        .collect();
    crate::check::unique(
        document,
        written.iter().map(|issuer| &issuer.get_ref().url),
        "url",
    )?;
    issuers
}

pub(crate) fn check(document: &Document, written: &WrittenIssuer) -> Result<Issuer, ConfigError> {
    crate::check::http_url(document, &written.url)?;
    if written.audience.get_ref().is_empty() {
        return Err(document.error(
            written.audience.span(),
            "found an empty audience; expected the one that the issuer writes into tokens for \
             this relay",
        ));
    }
    if written.algorithms.get_ref().is_empty() {
        return Err(document.error(
            written.algorithms.span(),
            "found an empty list; expected at least one algorithm, like \"ES256\"",
        ));
    }
    let jwks = match &written.jwks {
        None => Jwks::Discovery,
        Some(jwks) => match jwks.get_ref().strip_prefix("file:") {
            Some(path) => {
                let path = Spanned::new(jwks.span(), PathBuf::from(path));
                Jwks::File(crate::check::file(document, &path)?)
            }
            None if !jwks.get_ref().contains("://") => {
                let found = jwks.get_ref();
                let message = format!("found {found:?}; expected https://... or file:PATH");
                return Err(document.error(jwks.span(), message));
            }
            None => Jwks::Url(crate::check::http_url(document, jwks)?),
        },
    };
    let introspection = match &written.introspection {
        None => None,
        Some(written) => {
            let file = &written.client_secret_file;
            Some(Introspection {
                url: crate::check::http_url(document, &written.url)?,
                client_id: written.client_id.clone(),
                client_secret: crate::secret::read(&document.path(file.get_ref()), file.get_ref())
                    .map_err(|message| document.error(file.span(), message))?,
            })
        }
    };
    let ca = written
        .ca
        .as_ref()
        .map(|ca| crate::check::file(document, ca))
        .transpose()?;
    let tenants = written.tenants.as_ref();
    let tenants = tenants.map(|names| check_tenants(document, names));
    Ok(Issuer {
        url: written.url.get_ref().clone(),
        audience: written.audience.get_ref().clone(),
        algorithms: written.algorithms.get_ref().clone(),
        jwks,
        introspection,
        ca,
        tenant_claim: written.tenant_claim.clone(),
        tenants: tenants.transpose()?,
        endpoints_claim: written.endpoints_claim.clone(),
        register_scope: written.register_scope.clone(),
        call_scope: written.call_scope.clone(),
    })
}

fn check_tenants(
    document: &Document,
    written: &Spanned<Vec<Spanned<String>>>,
) -> Result<Vec<TenantName>, ConfigError> {
    let names = written.get_ref();
    if names.is_empty() {
        return Err(document.error(
            written.span(),
            "found an empty list; expected the tenants that this issuer speaks for",
        ));
    }
    names
        .iter()
        .map(|name| crate::check::name(document, name))
        .collect()
}

fn tenant_words<S: Serializer>(
    tenants: &Option<Vec<TenantName>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let words = tenants.iter().flatten().map(TenantName::as_str);
    serializer.collect_seq(words)
}
