//! Who is a node of the cluster: whoever shows a certificate of the cluster's authority for the
//! cluster's name. The files are read again as they change, so certificates may be short-lived.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_config::cluster::PeerTls as PeerTlsFiles;
use culvert_session::tls::{TlsConfigError, provider, roots_from_file, server_identity};
use rustls::client::verify_server_name;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig, version};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::Instant;

use super::ALPN;

/// How long what was read is good.
const FRESH: Duration = Duration::from_secs(10);

/// The cluster's TLS, both ways.
pub(crate) struct PeerTls {
    files: PeerTlsFiles,
    name: ServerName<'static>,
    loaded: Mutex<(Instant, Configs)>,
}

/// What a node is, and whom it trusts.
#[derive(Clone)]
struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Why the cluster's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerTlsError {
    #[error(transparent)]
    File(#[from] TlsConfigError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("the authorities cannot be used: {0}")]
    Authority(#[from] rustls::server::VerifierBuilderError),
}

/// Whoever dialled is no node of the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stranger {
    #[error("no certificate was shown")]
    NoCertificate,
    #[error("the certificate is not for the cluster's name: {0}")]
    Name(#[from] rustls::Error),
}

impl PeerTls {
    /// Reads the files. Blocks: for the start of a program.
    pub(crate) fn load(files: &PeerTlsFiles) -> Result<Self, PeerTlsError> {
        let name = ServerName::try_from(files.name.clone())
            .map_err(|_| rustls::Error::General("peer.name is no DNS name".into()))?;
        Ok(Self {
            files: files.clone(),
            name,
            loaded: Mutex::new((Instant::now(), Configs::read(files)?)),
        })
    }

    /// The name that every node's certificate is for.
    pub(crate) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// What a node dials with.
    pub(crate) async fn client(&self) -> Arc<ClientConfig> {
        self.current().await.client
    }

    /// What a node accepts with.
    pub(crate) async fn server(&self) -> Arc<ServerConfig> {
        self.current().await.server
    }

    /// What the files say, or said when they could be read last.
    async fn current(&self) -> Configs {
        let (read, configs) = self.loaded().clone();
        if read.elapsed() < FRESH {
            return configs;
        }
        self.loaded().0 = Instant::now();
        let files = self.files.clone();
        match tokio::task::spawn_blocking(move || Configs::read(&files)).await {
            Ok(Ok(fresh)) => {
                self.loaded().1 = fresh.clone();
                fresh
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    "the cluster's certificate is of no use, the old one stays: {error}"
                );
                configs
            }
            Err(_) => configs,
        }
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, (Instant, Configs)> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether whoever dialled, whose chain is verified, is a node of this cluster.
    pub(crate) fn check(&self, shown: Option<&[CertificateDer<'_>]>) -> Result<(), Stranger> {
        let leaf = shown
            .and_then(<[_]>::first)
            .ok_or(Stranger::NoCertificate)?;
        verify_server_name(&ParsedCertificate::try_from(leaf)?, &self.name)?;
        Ok(())
    }
}

impl Configs {
    fn read(files: &PeerTlsFiles) -> Result<Self, PeerTlsError> {
        let identity = server_identity(&files.certificate, &files.private_key)?;
        let identity = Arc::new(SingleCertAndKey::from(identity));
        let authorities = Arc::new(roots_from_file(&files.ca)?);
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(authorities.clone())
            .with_client_cert_resolver(identity.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        let nodes = WebPkiClientVerifier::builder_with_provider(authorities, provider()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(nodes)
            .with_cert_resolver(identity);
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection shows its certificates anew.
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}
