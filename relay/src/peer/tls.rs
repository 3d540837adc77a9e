//! Who is a node of the cluster: whoever shows a certificate of the cluster's authority for the
//! cluster's name. The files are read again as they change, so certificates may be short-lived; they are
//! judged as those of the public address are.

#[cfg(test)]
pub(super) mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use std::{fmt, io};

use arc_swap::ArcSwap;
use culvert_config::cluster::PeerTls as PeerTlsFiles;
use culvert_process::files::Watched;
use culvert_session::tls::{TlsConfigError, provider, roots_from_file, server_identity};
use rustls::client::verify_server_name;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ClientConfig, ServerConfig, version};
use rustls_pki_types::{CertificateDer, ServerName};

use super::ALPN;
use crate::tls::{NotTaken, Renewed, Shortcomings, Validity, leaf};

/// The cluster's TLS, both ways.
pub(crate) struct PeerTls {
    files: PeerTlsFiles,
    name: ServerName<'static>,
    watched: Watched,
    current: ArcSwap<Loaded>,
}

/// What the files hold: what a node is, and whom it trusts.
struct Loaded {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    identity: Arc<CertifiedKey>,
    validity: Validity,
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
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
}

/// Whoever dialled is no node of the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stranger {
    #[error("no certificate was shown")]
    NoCertificate,
    #[error("the certificate is not for the cluster's name: {0}")]
    Name(#[from] rustls::Error),
}

/// The node at the other end does not take this one for one of the cluster. TLS 1.3 says so after this side
/// has taken the handshake for done.
#[derive(Debug, thiserror::Error)]
#[error("the other side refuses this node's certificate: {0:?}")]
pub(super) struct Refused(AlertDescription);

impl Refused {
    /// Whether that is what an error of a connection comes from.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        use AlertDescription::{
            AccessDenied, BadCertificate, CertificateExpired, CertificateRequired,
            CertificateRevoked, CertificateUnknown, UnknownCA, UnsupportedCertificate,
        };
        match error.get_ref()?.downcast_ref()? {
            rustls::Error::AlertReceived(
                alert @ (AccessDenied
                | BadCertificate
                | CertificateExpired
                | CertificateRequired
                | CertificateRevoked
                | CertificateUnknown
                | UnknownCA
                | UnsupportedCertificate),
            ) => Some(Self(*alert)),
            _ => None,
        }
    }
}

impl PeerTls {
    /// Reads the files. Blocks: for the start of a program.
    pub(crate) fn load(files: &PeerTlsFiles) -> Result<Self, PeerTlsError> {
        let name = ServerName::try_from(files.name.clone())
            .map_err(|_| rustls::Error::General("peer.name is no DNS name".into()))?;
        let PeerTlsFiles {
            name: _,
            certificate,
            private_key,
            ca,
        } = files;
        Ok(Self {
            files: files.clone(),
            name,
            watched: Watched::new([certificate, private_key, ca].into_iter().cloned()),
            current: ArcSwap::from_pointee(Loaded::read(files)?),
        })
    }

    /// Loads the files again; says what is wrong with them all the same. On an error everything stays as
    /// it is. Blocks.
    fn reload(&self) -> Result<Vec<String>, PeerTlsError> {
        self.files.check_key().map_err(NotTaken::OpenKey)?;
        let new = Loaded::read(&self.files)?;
        let now = SystemTime::now();
        let shortcomings = self.judge(&new, now);
        shortcomings.may_replace(&self.judge(&self.current.load(), now))?;
        self.current.store(Arc::new(new));
        Ok(shortcomings.words())
    }

    /// What is wrong with the node's certificate. Other nodes will say so, one by one.
    pub(crate) fn shortcomings(&self) -> Vec<String> {
        self.judge(&self.current.load(), SystemTime::now()).words()
    }

    fn judge(&self, loaded: &Loaded, now: SystemTime) -> Shortcomings {
        let Loaded {
            identity, validity, ..
        } = loaded;
        let missing = self.check(Some(&identity.cert)).err().map(|_| {
            let file = self.files.certificate.display();
            let name = &self.files.name;
            format!("the certificate in {file} is not for {name}, the peer.name of other nodes")
        });
        Shortcomings {
            out_of_time: validity.out_of_time(now).into_iter().collect(),
            missing: missing.into_iter().collect(),
            ending: validity.near_its_end(now).into_iter().collect(),
        }
    }

    /// The name that every node's certificate is for.
    pub(crate) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// What a node dials with.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.current.load().client.clone()
    }

    /// What a node accepts with.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
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

impl Renewed for PeerTls {
    fn watched(&self) -> &Watched {
        &self.watched
    }

    fn read_again(&self) -> Result<Vec<String>, String> {
        self.reload().map_err(|why| why.to_string())
    }

    fn time_left(&self) -> Vec<String> {
        self.judge(&self.current.load(), SystemTime::now())
            .of_time()
    }

    fn first_end(&self) -> i64 {
        self.current.load().validity.end()
    }

    fn file(&self) -> &Path {
        &self.files.certificate
    }

    fn first(&self) -> Arc<CertifiedKey> {
        self.current.load().identity.clone()
    }
}

impl Loaded {
    fn read(files: &PeerTlsFiles) -> Result<Self, PeerTlsError> {
        let identity = server_identity(&files.certificate, &files.private_key)?;
        let validity = Validity::of(&files.certificate, &leaf(&files.certificate, &identity)?);
        let shown = Arc::new(SingleCertAndKey::from(identity.clone()));
        let authorities = Arc::new(roots_from_file(&files.ca)?);
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(authorities.clone())
            .with_client_cert_resolver(shown.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        let nodes = WebPkiClientVerifier::builder_with_provider(authorities, provider()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(nodes)
            .with_cert_resolver(shown);
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection shows its certificates anew.
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
            identity,
            validity,
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
