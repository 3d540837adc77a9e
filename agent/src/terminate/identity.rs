//! What the agent shows callers of one endpoint: loaded at start, read again when its files change.
//!
//! New connections get what is new, the old ones go on undisturbed. Files that cannot be used keep
//! the old ones in force and say so.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use culvert_config::terminate::Terminate;
use culvert_http::ALPN;
use culvert_process::files::Watched;
use culvert_proto::connect_name::ConnectName;
use culvert_session::tls::{TlsConfigError, acceptor_tls, server_identity};
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::issuer::{BadIssuer, Issuer};

/// The certificates of an endpoint.
#[derive(Debug)]
pub(crate) struct Identity {
    written: Terminate,
    names: Vec<ConnectName>,
    shown: RwLock<Arc<Shown>>,
    files: Watched,
}

#[derive(Debug)]
enum Shown {
    /// One for all names.
    Given(Arc<ServerConfig>),
    /// One for each, when it is asked for.
    Issued(Box<Issuer>),
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("{0}")]
    Files(#[from] TlsConfigError),
    #[error("{0}")]
    Names(String),
    #[error("{0}")]
    Issuer(#[from] BadIssuer),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl Identity {
    /// Reads the files. Blocks.
    pub(crate) fn load(written: &Terminate, names: &[ConnectName]) -> Result<Self, IdentityError> {
        let (certificate, key) = written.files();
        let files = Watched::new([certificate.clone(), key.clone()]);
        let shown = Shown::load(written, names)?;
        Ok(Self {
            written: written.clone(),
            names: names.to_vec(),
            shown: RwLock::new(Arc::new(shown)),
            files,
        })
    }

    /// The TLS of a connection to this host, one of the endpoint's names.
    pub(crate) fn config_for(&self, host: &str) -> Option<Arc<ServerConfig>> {
        let shown = self
            .shown
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match &*shown {
            Shown::Given(config) => Some(config.clone()),
            Shown::Issued(issuer) => issuer
                .config_for(host, SystemTime::now())
                .inspect_err(|error| tracing::error!(host, "no certificate can be issued: {error}"))
                .ok(),
        }
    }

    /// Reads the files again if they have changed, or if it is `asked` for. Blocks.
    pub(crate) fn look(&self, asked: bool) {
        if !self.files.are_due(asked) {
            return;
        }
        let certificate = self.written.files().0.display();
        match Shown::load(&self.written, &self.names) {
            Ok(shown) => {
                *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
                tracing::info!(%certificate, "loaded the certificate for callers again");
            }
            Err(error) => {
                tracing::warn!("the new certificate is of no use, the old one stays: {error}");
            }
        }
    }
}

impl Shown {
    fn load(written: &Terminate, names: &[ConnectName]) -> Result<Self, IdentityError> {
        written.check(names).map_err(IdentityError::Names)?;
        Ok(match written {
            Terminate::Certificate {
                certificate,
                private_key,
            } => Self::Given(tls(server_identity(certificate, private_key)?)?),
            Terminate::Issue {
                ca_certificate,
                ca_private_key,
            } => Self::Issued(Box::new(Issuer::load(
                ca_certificate,
                ca_private_key,
                names,
            )?)),
        })
    }
}

/// The TLS of an endpoint with this certificate.
pub(super) fn tls(identity: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
    acceptor_tls(Arc::new(SingleCertAndKey::from(identity)), None, &ALPN)
}
