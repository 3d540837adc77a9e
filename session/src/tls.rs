//! TLS: whom a dialer trusts, who an acceptor is.
//!
//! The provider is passed explicitly; its first key exchange is X25519MLKEM768.

mod provider;
mod trouble;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

pub use provider::{install_provider, provider};
pub use trouble::TlsTrouble;

/// What convinces a dialer that it talks to the right server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerTrust {
    /// The certificate authorities of the operating system (`SSL_CERT_FILE` and `SSL_CERT_DIR`
    /// replace them).
    SystemRoots,
    /// The authorities in this PEM file, and no others.
    CaFile(PathBuf),
    /// These authorities, and no others.
    Ca(Vec<CertificateDer<'static>>),
    /// Exactly these certificates: SHA-256 of the server certificate's DER. A match takes the
    /// place of chain, name and validity period alike, as a thumbprint does for self-signed
    /// VMware certificates; that the server holds the key is still verified.
    Pins(Vec<[u8; 32]>),
}

/// The oldest TLS version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMin {
    /// TLS 1.2: upstreams.
    V12,
    /// TLS 1.3: between agent and relay.
    V13,
}

impl TlsMin {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static FROM_V12: [&SupportedProtocolVersion; 2] =
            [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Self::V12 => &FROM_V12,
            Self::V13 => &FROM_V12[..1],
        }
    }
}

/// Why a TLS configuration cannot be made. Every variant that concerns a file names it.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// A file cannot be read or is not PEM.
    #[error("{}: {}", .path.display(), PemProblem(.source))]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file has no certificate in it.
    #[error("{}: no certificate found: expected PEM with BEGIN CERTIFICATE", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate in a file cannot be used.
    #[error("{}: certificate {number} is not usable: {source}", .path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Which certificate in the file, from 1.
        number: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// A private key cannot be used, or is not that of the certificate.
    #[error("{}: the key does not serve the certificate in {}: {source}", .key.display(), .certificate.display())]
    Key {
        /// The private key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The operating system has no certificate authorities.
    #[error(
        "the system has no trusted certificate authorities ({detail}): install ca-certificates or name a CA file"
    )]
    NoSystemRoots {
        /// What was found instead.
        detail: String,
    },
    /// The TLS library refuses.
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
    /// The trust given in memory is empty or not usable.
    #[error("the given trust is not usable: {detail}")]
    BadTrust {
        /// What is wrong with it.
        detail: String,
    },
}

impl TlsConfigError {
    /// Whether it is about this file, read for certificates.
    pub fn is_about_certificates_in(&self, file: &Path) -> bool {
        matches!(self, Self::Pem { path, .. } | Self::NoCertificate { path }
            | Self::BadCertificate { path, .. } if path == file)
    }

    /// Whether it is about this file, read for a private key.
    pub fn is_about_key_in(&self, file: &Path) -> bool {
        matches!(self, Self::Pem { path, .. } | Self::Key { key: path, .. } if path == file)
    }
}

/// Words for a PEM error that a person can act on.
struct PemProblem<'a>(&'a pem::Error);

impl fmt::Display for PemProblem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            pem::Error::Io(error) => write!(f, "cannot be read: {error}"),
            pem::Error::NoItemsFound => f.write_str("no private key found: expected PEM"),
            other => write!(f, "not valid PEM: {other}"),
        }
    }
}

/// The TLS side of a dialer: the agent towards its relay (`TlsMin::V13`) and towards its
/// upstreams (`TlsMin::V12`). Offers ALPN `http/1.1`, no client certificate.
///
/// Reads files: call at start and at reload, not on a busy runtime thread.
pub fn client_tls(trust: &ServerTrust, min: TlsMin) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        ServerTrust::SystemRoots => web_pki(system_roots()?)?,
        ServerTrust::CaFile(path) => web_pki(roots_from_file(path)?)?,
        ServerTrust::Ca(certificates) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates {
                roots.add(certificate.clone()).map_err(bad_trust)?;
            }
            web_pki(roots)?
        }
        ServerTrust::Pins(pins) if pins.is_empty() => return Err(bad_trust("no pin is given")),
        ServerTrust::Pins(pins) => Arc::new(PinVerifier {
            pins: pins.clone(),
            provider: provider(),
        }),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(min.versions())
        .map_err(bad_trust)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A certificate chain with its key, from two PEM files (they may be one and the same). Refuses
/// a key that is not the certificate's.
pub fn server_identity(
    certificate: &Path,
    key: &Path,
) -> Result<Arc<CertifiedKey>, TlsConfigError> {
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsConfigError::Pem {
        path: key.into(),
        source,
    })?;
    let identity = CertifiedKey::from_der(chain, private, &provider()).map_err(|source| {
        TlsConfigError::Key {
            key: key.into(),
            certificate: certificate.into(),
            source,
        }
    })?;
    Ok(Arc::new(identity))
}

/// The TLS side of an acceptor with one identity, TLS 1.2 and 1.3, no client certificates.
/// `alpn` in order of preference.
pub fn server_tls(identity: Arc<CertifiedKey>, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let resolver = SingleCertAndKey::from(identity);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(TlsMin::V12.versions())
        .expect("the provider serves both versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// What an acceptor asks of clients: a certificate that an authority in this PEM file has signed,
/// or none at all. One that does not verify fails the handshake.
pub fn client_certificates(ca: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsConfigError> {
    let roots = Arc::new(roots_from_file(ca)?);
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(bad_trust)
}

/// The TLS side of an acceptor for callers: TLS 1.2 and 1.3, `alpn` in order of preference, the
/// certificate that `resolver` picks, and certificates of clients where somebody judges them.
///
/// Callers such as govc connect anew for every command: they may resume, and nothing is held for them
/// meanwhile. Tickets hold client certificates; no other configuration than this one takes them.
pub fn acceptor_tls(
    resolver: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(TlsMin::V12.versions())?;
    let config = match clients {
        Some(clients) => config.with_client_cert_verifier(clients),
        None => config.with_no_client_auth(),
    };
    let mut config = config.with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The SHA-256 of a certificate's DER: what a pin is compared with.
pub fn pin_of(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    digest
        .as_ref()
        .try_into()
        .expect("a SHA-256 digest has 32 bytes")
}

fn bad_trust(detail: impl ToString) -> TlsConfigError {
    TlsConfigError::BadTrust {
        detail: detail.to_string(),
    }
}

fn web_pki(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, TlsConfigError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(bad_trust)
}

/// Like every TLS client, skips the odd root that cannot be parsed; only none at all is an error.
fn system_roots() -> Result<RootCertStore, TlsConfigError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(
        added,
        ignored,
        errors = found.errors.len(),
        "loaded the system's roots"
    );
    if roots.is_empty() {
        let detail = found
            .errors
            .first()
            .map_or("none found".into(), ToString::to_string);
        return Err(TlsConfigError::NoSystemRoots { detail });
    }
    Ok(roots)
}

/// The authorities of a PEM file, at least one.
pub fn roots_from_file(path: &Path) -> Result<RootCertStore, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(path)?.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|source| TlsConfigError::BadCertificate {
                path: path.into(),
                number: index + 1,
                source,
            })?;
    }
    Ok(roots)
}

/// Every certificate of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsConfigError::Pem {
            path: path.into(),
            source,
        })?;
    if chain.is_empty() {
        return Err(TlsConfigError::NoCertificate { path: path.into() });
    }
    Ok(chain)
}

/// Accepts exactly the pinned certificates; verifies the handshake's signature like everybody.
#[derive(Debug)]
struct PinVerifier {
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

/// The server's certificate is not a pinned one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server's certificate (SHA-256 {found}) is not pinned: if it was renewed, compare it out of band and pin the new one"
)]
pub struct PinMismatch {
    /// SHA-256 of the certificate that the server showed, in lower-case hex.
    pub found: String,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = pin_of(end_entity);
        if self.pins.contains(&found) {
            return Ok(ServerCertVerified::assertion());
        }
        let found = found.iter().map(|byte| format!("{byte:02x}")).collect();
        let mismatch = OtherError(Arc::new(PinMismatch { found }));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(
            mismatch,
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
