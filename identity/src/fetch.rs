//! The way to an issuer: small HTTPS exchanges, bounded in time and size, never redirected.
//!
//! A `Fetcher` lives for one errand. Errands are minutes apart, so a kept connection would be
//! stale anyway, and a replaced CA file is in force at the next errand without any reload.

mod metadata;

use std::error::Error;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{Request, Response, StatusCode};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use url::{Host, Url};

pub use self::metadata::DiscoveryError;
pub(crate) use self::metadata::discover;

/// Largest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// Longest wait for TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest exchange, from the first packet to the last byte of the answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an exchange with an issuer failed. Addresses are shown without query or credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The address is not `https`, nor `http` to a loopback address, or has credentials.
    #[error("{url} is not an https address (http is for loopback addresses only)")]
    Address {
        /// The address.
        url: String,
    },
    /// The CA file or the system's roots cannot be used.
    #[error("cannot load the certificate authorities for issuers from {from}: {reason}")]
    Authorities {
        /// The file, or the system.
        from: String,
        /// What is wrong.
        reason: String,
    },
    /// No connection: name resolution, TCP, or the way broke down in between.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The server's certificate or TLS is not acceptable.
    #[error("the TLS of {url} is not acceptable: {reason} (a private CA is named by `ca`)")]
    Tls {
        /// The address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The corporate proxy on the way does not let through, or cannot be reached.
    #[error("cannot reach {url} through the corporate proxy {proxy}: {reason}")]
    Proxy {
        /// The address.
        url: String,
        /// The proxy's host and port.
        proxy: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// No answer in time.
    #[error("{url} did not answer in time")]
    TimedOut {
        /// The address.
        url: String,
    },
    /// The answer is larger than [`MAX_ANSWER`].
    #[error("the answer of {url} is larger than {MAX_ANSWER} bytes")]
    TooLarge {
        /// The address.
        url: String,
    },
    /// The server answered with a status that has no meaning here. Redirects are not followed.
    #[error("{url} answered with status {status}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
        /// Seconds that the server asks to wait, if it does.
        retry_after: Option<u64>,
    },
}

/// Says of an address which proxy leads there: `http://[USER:PASSWORD@]HOST:PORT`, or none.
pub type ChooseProxy = dyn Fn(&Url) -> Option<Url> + Send + Sync;

/// Which corporate proxy leads to which address.
#[derive(Clone, Default)]
pub enum Proxying {
    /// What the environment says (`HTTPS_PROXY`, `NO_PROXY`), but never to a loopback address.
    #[default]
    Environment,
    /// What the function says.
    Chosen(Arc<ChooseProxy>),
}

/// Without addresses, which may have credentials.
impl fmt::Debug for Proxying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "Environment",
            Self::Chosen(_) => "Chosen",
        })
    }
}

impl Proxying {
    /// Host and port of the proxy on the way to `url`, where it is a chosen one.
    fn proxy_of(&self, url: &Url) -> Option<String> {
        let Self::Chosen(choose) = self else {
            return None;
        };
        let proxy = choose(url)?;
        Some(format!(
            "{}:{}",
            proxy.host()?,
            proxy.port_or_known_default()?
        ))
    }
}

/// A client for one errand at an issuer.
pub(crate) struct Fetcher {
    client: reqwest::Client,
    proxying: Proxying,
}

impl Fetcher {
    /// A client that trusts the authorities in `ca`, or the system's.
    ///
    /// Reads files; [`Fetcher::open`] does so off the runtime's threads.
    pub(crate) fn new(
        ca: Option<&Path>,
        target: &Url,
        proxying: Proxying,
    ) -> Result<Self, FetchError> {
        check_address(target)?;
        let roots = authorities(ca)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let unusable = |error: &dyn Error| FetchError::Authorities {
            from: "the TLS library".into(),
            reason: error.to_string(),
        };
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("culvert/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(EXCHANGE_TIMEOUT);
        match &proxying {
            Proxying::Environment if is_loopback(target) => builder = builder.no_proxy(),
            Proxying::Environment => {}
            Proxying::Chosen(choose) => {
                let choose = choose.clone();
                let proxy = reqwest::Proxy::custom(move |url| choose(url));
                builder = builder.no_proxy().proxy(proxy);
            }
        }
        let client = builder.build().map_err(|error| unusable(&error))?;
        Ok(Self { client, proxying })
    }

    /// Like [`Fetcher::new`], for use in a running program.
    pub(crate) async fn open(
        ca: Option<PathBuf>,
        target: Url,
        proxying: Proxying,
    ) -> Result<Self, FetchError> {
        tokio::task::spawn_blocking(move || Self::new(ca.as_deref(), &target, proxying))
            .await
            .unwrap_or_else(|error| {
                Err(FetchError::Authorities {
                    from: "a thread".into(),
                    reason: error.to_string(),
                })
            })
    }

    /// Gets a document. Any status but 200 is an error.
    pub(crate) async fn get(&self, url: &Url) -> Result<Vec<u8>, FetchError> {
        let request = Request::get(url.as_str()).header("accept", "application/json");
        let request = request
            .body(Vec::new())
            .map_err(|_| FetchError::Address { url: shown(url) })?;
        let response = self.send(request).await?;
        if response.status() == StatusCode::OK {
            Ok(response.into_body())
        } else {
            Err(status_error(shown(url), &response))
        }
    }

    /// Sends one request and reads the whole answer, whatever its status.
    pub(crate) async fn send(
        &self,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Vec<u8>>, FetchError> {
        let url = Url::parse(&request.uri().to_string()).map_err(|_| FetchError::Address {
            url: request.uri().path().into(),
        })?;
        check_address(&url)?;
        let fault = |error: reqwest::Error| match self.proxying.proxy_of(&url) {
            None => exchange_error(&url, error),
            Some(proxy) => by_proxy(proxy, exchange_error(&url, error)),
        };
        let request = reqwest::Request::try_from(request).map_err(fault)?;
        let mut answer = self.client.execute(request).await.map_err(fault)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(fault)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(FetchError::TooLarge { url: shown(&url) });
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(body);
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}

/// The error for an answer whose status has no meaning.
pub(crate) fn status_error(url: String, response: &Response<Vec<u8>>) -> FetchError {
    let retry_after = response.headers().get(RETRY_AFTER);
    FetchError::Status {
        url,
        status: response.status().as_u16(),
        retry_after: retry_after.and_then(|value| value.to_str().ok()?.parse().ok()),
    }
}

/// The address without what may be secret or long: query, fragment, credentials.
pub(crate) fn shown(url: &Url) -> String {
    format!(
        "{}://{}{}",
        url.scheme(),
        url.authority().rsplit('@').next().unwrap_or(""),
        url.path()
    )
}

/// Refuses addresses over which keys and secrets must not travel.
pub(crate) fn check_address(url: &Url) -> Result<(), FetchError> {
    let secure = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url));
    if secure && url.username().is_empty() && url.password().is_none() {
        Ok(())
    } else {
        Err(FetchError::Address { url: shown(url) })
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(std::io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// The authorities in this file, or the system's.
pub(crate) fn authorities(ca: Option<&Path>) -> Result<RootCertStore, FetchError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return Ok(roots);
    };
    let unusable = |reason: String| FetchError::Authorities {
        from: path.display().to_string(),
        reason,
    };
    let pem = read_bounded(path, MAX_ANSWER).map_err(|error| unusable(error.to_string()))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable(
            "found no certificate; expected PEM (BEGIN CERTIFICATE)".into(),
        ));
    }
    Ok(roots)
}

/// An error on a way that leads through a proxy.
///
/// The HTTP library says what a proxy answered in words only; a test keeps them.
fn by_proxy(proxy: String, error: FetchError) -> FetchError {
    let (url, reason) = match error {
        FetchError::Unreachable { url, reason } => {
            let refusal = reason.strip_prefix("tunnel error: ");
            let reason = match refusal {
                Some("proxy authorization required") => {
                    "it wants a user and a password, or others than it got (407)".into()
                }
                Some("unsuccessful") => {
                    "it refused the tunnel: ask for CONNECT to that host and port to be allowed, \
                     and check that the proxy reaches it"
                        .into()
                }
                _ => reason,
            };
            (url, reason)
        }
        FetchError::TimedOut { url } => (url, "no answer in time".into()),
        other => return other,
    };
    FetchError::Proxy { url, proxy, reason }
}

fn exchange_error(url: &Url, error: reqwest::Error) -> FetchError {
    let url = shown(url);
    if error.is_timeout() {
        return FetchError::TimedOut { url };
    }
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return FetchError::Tls {
                url,
                reason: tls.to_string(),
            };
        }
        reason = error.to_string();
        // An `io::Error` names as its source the source of what it wraps, not that itself.
        cause = match error
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref())
        {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    FetchError::Unreachable { url, reason }
}
