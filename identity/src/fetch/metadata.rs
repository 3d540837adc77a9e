//! Authorization server metadata: OpenID Connect Discovery 1.0 and RFC 8414.

use serde::Deserialize;
use url::Url;

use super::{FetchError, Fetcher, check_address, shown};

/// Why an issuer's metadata is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The exchange failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The configured issuer is not an absolute URL without query and fragment (RFC 8414, 2).
    #[error("the issuer {issuer:?} is not a URL from which metadata can be found")]
    IssuerUrl {
        /// The configured issuer.
        issuer: String,
    },
    /// Neither of the well-known addresses has metadata.
    #[error(
        "issuer {issuer} has metadata neither under .well-known/openid-configuration nor under \
         .well-known/oauth-authorization-server; check the URL, or name the endpoint itself"
    )]
    NotFound {
        /// The configured issuer.
        issuer: String,
    },
    /// The metadata is not a JSON object with the right members.
    #[error("{url} is not authorization server metadata (RFC 8414)")]
    NotMetadata {
        /// Where the document came from.
        url: String,
    },
    /// The metadata speaks for another issuer (RFC 8414, 3.3).
    #[error(
        "{url} speaks for issuer {found:?}, not for {expected:?}; they must be equal, also \
             in a slash at the end"
    )]
    IssuerMismatch {
        /// Where the document came from.
        url: String,
        /// The `issuer` in the document, at most 256 bytes of it.
        found: String,
        /// The configured issuer.
        expected: String,
    },
    /// The metadata lacks an address that is needed, or it is not https.
    #[error("{url} has no usable {member:?}")]
    Lacks {
        /// Where the document came from.
        url: String,
        /// The member.
        member: &'static str,
    },
}

/// What an issuer says about itself, as far as it matters here.
pub(crate) struct Metadata {
    source: String,
    jwks_uri: Option<String>,
    token_endpoint: Option<String>,
}

#[derive(Deserialize)]
struct Written {
    issuer: String,
    jwks_uri: Option<String>,
    token_endpoint: Option<String>,
}

impl Metadata {
    /// Where the issuer's keys are.
    pub(crate) fn jwks_uri(&self) -> Result<Url, DiscoveryError> {
        self.address("jwks_uri", self.jwks_uri.as_deref())
    }

    /// Where the issuer gives tokens.
    pub(crate) fn token_endpoint(&self) -> Result<Url, DiscoveryError> {
        self.address("token_endpoint", self.token_endpoint.as_deref())
    }

    fn address(&self, member: &'static str, text: Option<&str>) -> Result<Url, DiscoveryError> {
        text.and_then(|text| Url::parse(text).ok())
            .filter(|url| check_address(url).is_ok())
            .ok_or_else(|| DiscoveryError::Lacks {
                url: self.source.clone(),
                member,
            })
    }
}

/// Fetches the metadata of `issuer`: OpenID Connect's address first, then RFC 8414's.
pub(crate) async fn discover(fetcher: &Fetcher, issuer: &str) -> Result<Metadata, DiscoveryError> {
    let [first, second] = well_known(issuer).ok_or_else(|| DiscoveryError::IssuerUrl {
        issuer: issuer.into(),
    })?;
    match discover_at(fetcher, &first, issuer).await {
        Err(error) if is_absence(&error) => {}
        outcome => return outcome,
    }
    match discover_at(fetcher, &second, issuer).await {
        Err(error) if is_absence(&error) => Err(DiscoveryError::NotFound {
            issuer: issuer.into(),
        }),
        outcome => outcome,
    }
}

/// Whether the server is there but has no such document: refused, or a page for people.
fn is_absence(error: &DiscoveryError) -> bool {
    match error {
        DiscoveryError::Fetch(FetchError::Status { status, .. }) => (400..500).contains(status),
        DiscoveryError::NotMetadata { .. } => true,
        _ => false,
    }
}

async fn discover_at(
    fetcher: &Fetcher,
    url: &Url,
    issuer: &str,
) -> Result<Metadata, DiscoveryError> {
    let body = fetcher.get(url).await?;
    let url = shown(url);
    let Ok(written) = serde_json::from_slice::<Written>(&body) else {
        return Err(DiscoveryError::NotMetadata { url });
    };
    if written.issuer != issuer {
        let found = written.issuer.chars().take(64).collect();
        return Err(DiscoveryError::IssuerMismatch {
            url,
            found,
            expected: issuer.into(),
        });
    }
    let Written {
        jwks_uri,
        token_endpoint,
        ..
    } = written;
    Ok(Metadata {
        source: url,
        jwks_uri,
        token_endpoint,
    })
}

/// `ISSUER/.well-known/openid-configuration`, and RFC 8414's, which goes before the path.
fn well_known(issuer: &str) -> Option<[Url; 2]> {
    let base = Url::parse(issuer).ok()?;
    if base.cannot_be_a_base() || base.query().is_some() || base.fragment().is_some() {
        return None;
    }
    let path = base.path().trim_end_matches('/');
    let at = |path: &str| {
        let mut url = base.clone();
        url.set_path(path);
        url
    };
    Some([
        at(&format!("{path}/.well-known/openid-configuration")),
        at(&format!("/.well-known/oauth-authorization-server{path}")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_looked_for_where_the_two_standards_put_it() {
        let addresses = |issuer| well_known(issuer).map(|urls| urls.map(String::from));
        assert_eq!(
            addresses("https://id.example.com"),
            Some([
                "https://id.example.com/.well-known/openid-configuration".into(),
                "https://id.example.com/.well-known/oauth-authorization-server".into(),
            ])
        );
        assert_eq!(
            addresses("https://id.example.com/realms/a/"),
            Some([
                "https://id.example.com/realms/a/.well-known/openid-configuration".into(),
                "https://id.example.com/.well-known/oauth-authorization-server/realms/a".into(),
            ])
        );
        for bad in ["culvert", "urn:issuer", "https://a/?x", "https://a/#x"] {
            assert_eq!(addresses(bad), None, "{bad}");
        }
    }
}
