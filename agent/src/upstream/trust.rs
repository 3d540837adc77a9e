//! By what an upstream is known, and the agent to it: read at start, and again when the files change.
//!
//! New connections are made by what is new. Files that cannot be used keep the old in force.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use culvert_config::endpoint::{ClientIdentity, Endpoint, Trust};
use culvert_process::files::Watched;
use culvert_proto::names::EndpointName;
use culvert_session::tls::{ServerTrust, TlsConfigError, TlsMin, client_tls, server_identity};
use rustls::client::ResolvesClientCert;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Upstream;
use super::dial::Protocol;
use crate::certificate::{self, pin_hex};

impl Upstream {
    /// Reads the files again if they have changed, or if it is `asked` for. Calls in progress go on; what
    /// is idle was let in by the old files, and is not used again. Blocks.
    pub(crate) fn look_at_files(&self, endpoint: &EndpointName, asked: bool) {
        let Some(tls) = &self.dialer.tls else {
            return;
        };
        let files = &tls.files;
        match tls.look(asked) {
            None => {}
            Some(Ok(())) => {
                self.pool.clear();
                self.shared.clear();
                tracing::info!(%endpoint, %files, "loaded what the upstream is known by again");
            }
            Some(Err(error)) => tracing::warn!(
                %endpoint,
                "the new CA file or client certificate is of no use, the old one stays: {error}"
            ),
        }
    }
}

/// TLS with one upstream.
pub(super) struct Tls {
    pub(super) name: ServerName<'static>,
    written: Written,
    files: Watched,
    loaded: RwLock<Connectors>,
}

/// What the endpoint says of it.
struct Written {
    trust: ServerTrust,
    identity: Option<ClientIdentity>,
    /// What an upstream is shown that asks for a certificate where there is none.
    no_identity: Arc<dyn ResolvesClientCert>,
}

/// One for each protocol, by ALPN.
struct Connectors {
    http1: TlsConnector,
    http2: TlsConnector,
}

impl Tls {
    /// Reads the CA file or the system's roots, and the client certificate. Blocks.
    pub(super) fn load(
        endpoint: &Endpoint,
        name: ServerName<'static>,
        no_identity: Arc<dyn ResolvesClientCert>,
    ) -> Result<Self, TlsConfigError> {
        let (trust, ca) = match &endpoint.trust {
            Trust::SystemRoots => (ServerTrust::SystemRoots, None),
            Trust::Ca(file) => (ServerTrust::CaFile(file.clone()), Some(file)),
            Trust::Pins(pins) => (ServerTrust::Pins(pins.clone()), None),
        };
        let identity = endpoint.client_identity.as_ref();
        let identity = identity.map(|files| [&files.certificate, &files.private_key]);
        let files = ca.into_iter().chain(identity.into_iter().flatten());
        let files = Watched::new(files.cloned());
        let written = Written {
            trust,
            identity: endpoint.client_identity.clone(),
            no_identity,
        };
        Ok(Self {
            name,
            loaded: RwLock::new(written.connectors()?),
            written,
            files,
        })
    }

    /// Reads the files again if they have changed, or if it is `asked` for; `None` if not. Blocks.
    fn look(&self, asked: bool) -> Option<Result<(), TlsConfigError>> {
        if !self.files.are_due(asked) {
            return None;
        }
        Some(self.written.connectors().map(|connectors| {
            *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = connectors;
        }))
    }

    /// What a connection for `protocol` is made with.
    pub(super) fn connector(&self, protocol: Protocol) -> TlsConnector {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        match protocol {
            Protocol::Http1 => loaded.http1.clone(),
            Protocol::Http2 => loaded.http2.clone(),
        }
    }

    /// The SHA-256 of the certificate that the server at `address` shows, for the administrator
    /// to compare: an error about a certificate does not say which one it was.
    pub(super) async fn ask(&self, address: SocketAddr) -> Option<String> {
        let tcp = TcpStream::connect(address).await.ok()?;
        let chain = certificate::shown(tcp, self.name.clone()).await.ok()?;
        Some(pin_hex(chain.first()?))
    }
}

impl Written {
    /// Each time with a memory of sessions of its own: nothing is resumed that began under another
    /// trust.
    fn connectors(&self) -> Result<Connectors, TlsConfigError> {
        let mut http1 = client_tls(&self.trust, TlsMin::V12)?.as_ref().clone();
        http1.client_auth_cert_resolver = match &self.identity {
            None => self.no_identity.clone(),
            Some(files) => {
                let identity = server_identity(&files.certificate, &files.private_key)?;
                Arc::new(SingleCertAndKey::from(identity))
            }
        };
        let mut http2 = http1.clone();
        http2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Connectors {
            http1: TlsConnector::from(Arc::new(http1)),
            http2: TlsConnector::from(Arc::new(http2)),
        })
    }
}
