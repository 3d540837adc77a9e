//! The smallest relay there is: TLS on loopback, then whatever answer a test wants.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use culvert_session::socket::ReadAhead;
use culvert_session::tls::{pin_of, provider, server_identity, server_tls};
use culvert_session::upgrade::accept_key;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A certificate authority, and one certificate of it for `localhost`.
pub struct Certificates {
    folder: TempDir,
    pub leaf: CertificateDer<'static>,
}

impl Certificates {
    pub fn new() -> Self {
        let mut authority = CertificateParams::new(vec![]).unwrap();
        // Two authorities of one name would be told apart by their signatures alone.
        let key = KeyPair::generate().unwrap();
        let name = format!("authority {:02x?}", &key.public_key_raw()[..8]);
        authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificates = Self {
            folder,
            leaf: leaf.der().clone(),
        };
        certificates.write("ca.pem", &authority.as_ref().pem());
        certificates.write("leaf.pem", &leaf.pem());
        certificates.write("leaf.key", &key.serialize_pem());
        certificates
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        path
    }

    pub fn pin(&self) -> [u8; 32] {
        pin_of(&self.leaf)
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        let identity = server_identity(&self.path("leaf.pem"), &self.path("leaf.key")).unwrap();
        server_tls(identity, &[b"h2", b"http/1.1"])
    }

    /// A server that knows nothing newer than TLS 1.2.
    pub fn old_server(&self) -> Arc<ServerConfig> {
        let identity = server_identity(&self.path("leaf.pem"), &self.path("leaf.key")).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity)));
        Arc::new(config)
    }
}

pub type ServerIo = TlsStream<ReadAhead<TcpStream>>;

pub struct Relay {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Relay {
    pub async fn new(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            listener,
            acceptor: TlsAcceptor::from(config),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub fn url(&self) -> String {
        format!("wss://localhost:{}", self.address().port())
    }

    /// One TLS connection; the client may dislike the certificate.
    pub async fn accept(&self) -> std::io::Result<ServerIo> {
        let (tcp, _) = self.listener.accept().await.unwrap();
        culvert_session::socket::tune(&tcp);
        self.acceptor.accept(ReadAhead::new(tcp)).await
    }
}

/// Reads a request's head.
pub async fn read_request(io: &mut ServerIo) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

/// Reads a request's head and answers it with an upgrade.
pub async fn upgrade(io: &mut ServerIo) -> String {
    let request = read_request(io).await;
    let key = request
        .split("Sec-WebSocket-Key: ")
        .nth(1)
        .unwrap()
        .split("\r\n")
        .next()
        .unwrap();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: culvert.v1\r\n\r\n",
        accept_key(key.as_bytes())
    );
    io.write_all(answer.as_bytes()).await.unwrap();
    io.flush().await.unwrap();
    request
}
