//! Where an issuer's keys come from, and how they are kept fresh.

mod refresh;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use url::Url;

use crate::fetch::{DiscoveryError, FetchError, Fetcher, Proxying, discover, read_bounded};
use crate::verify::{KeySet, KeySetError, MAX_KEY_SET};

pub(crate) use self::refresh::Keys;
pub use self::refresh::{KEEP_KEYS, MIN_REFRESH_INTERVAL, REFRESH_INTERVAL};

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The `jwks_uri` of the issuer's metadata (OpenID Connect Discovery, RFC 8414).
    Discovery {
        /// The CA for connections to the issuer; the system's if none.
        ca: Option<PathBuf>,
    },
    /// A JWK set at an address: `https`, or `http` to a loopback address.
    Url {
        /// The address.
        url: Url,
        /// The CA for the connection; the system's if none.
        ca: Option<PathBuf>,
    },
    /// A JWK set in a file. It is read again at every refresh; a bad one keeps the old keys.
    File(PathBuf),
}

/// Why an issuer's keys could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// The key file cannot be read.
    #[error("cannot read the key file {}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The issuer's metadata is of no use.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The exchange failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What was found is not a usable key set.
    #[error("{from}: {error}")]
    KeySet {
        /// The file or address.
        from: String,
        /// What is wrong.
        error: KeySetError,
    },
}

impl KeySource {
    /// Gets the keys of `issuer` once.
    pub(crate) async fn fetch(
        &self,
        issuer: &str,
        proxying: &Proxying,
    ) -> Result<KeySet, KeysError> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                read.unwrap_or_else(|error| Err(file_error(Path::new(""), error.to_string())))
            }
            Self::Url { url, ca } => {
                let fetcher = Fetcher::open(ca.clone(), url.clone(), proxying.clone()).await?;
                key_set_at(&fetcher, url).await
            }
            Self::Discovery { ca } => {
                let fetcher =
                    Fetcher::open(ca.clone(), issuer_url(issuer)?, proxying.clone()).await?;
                let url = discover(&fetcher, issuer).await?.jwks_uri()?;
                key_set_at(&fetcher, &url).await
            }
        }
    }

    /// What can be known without the network: a key file is read, a CA file is loaded.
    pub(crate) fn prepare(
        &self,
        issuer: &str,
        proxying: &Proxying,
    ) -> Result<Option<KeySet>, KeysError> {
        match self {
            Self::File(path) => read_file(path).map(Some),
            Self::Url { url, ca } => {
                Fetcher::new(ca.as_deref(), url, proxying.clone())?;
                Ok(None)
            }
            Self::Discovery { ca } => {
                Fetcher::new(ca.as_deref(), &issuer_url(issuer)?, proxying.clone())?;
                Ok(None)
            }
        }
    }
}

/// The issuer as an address.
pub(crate) fn issuer_url(issuer: &str) -> Result<Url, DiscoveryError> {
    Url::parse(issuer).map_err(|_| DiscoveryError::IssuerUrl {
        issuer: issuer.into(),
    })
}

async fn key_set_at(fetcher: &Fetcher, url: &Url) -> Result<KeySet, KeysError> {
    let json = fetcher.get(url).await?;
    KeySet::parse(&json).map_err(|error| KeysError::KeySet {
        from: crate::fetch::shown(url),
        error,
    })
}

fn read_file(path: &Path) -> Result<KeySet, KeysError> {
    let json =
        read_bounded(path, MAX_KEY_SET).map_err(|error| file_error(path, error.to_string()))?;
    KeySet::parse(&json).map_err(|error| KeysError::KeySet {
        from: path.display().to_string(),
        error,
    })
}

fn file_error(path: &Path, reason: String) -> KeysError {
    KeysError::File {
        path: path.to_owned(),
        reason,
    }
}
