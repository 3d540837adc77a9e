//! Upstreams for tests: servers that do exactly what a test tells them to.

pub(crate) mod log;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use culvert_config::endpoint::{Endpoint, HostHeader, Timeouts, Trust, UpstreamProtocol};
use culvert_config::units::Span;
use culvert_policy::{CallFacts, CanonicalTarget, Soap};
use culvert_proto::head::Mode;
use culvert_proto::names::EndpointName;
use culvert_session::tls::provider;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A `GET` of a target that says as little as possible, for a policy to decide on.
pub(crate) fn get(target: &CanonicalTarget) -> CallFacts<'_> {
    CallFacts {
        endpoint: "api",
        mode: culvert_policy::Mode::Http,
        method: "GET",
        target: Some(target),
        destination: None,
        caller: "somebody",
        scopes: &[],
        soap: Soap::No,
        upgrade: None,
        source: None,
        host: None,
        port: None,
    }
}

/// The far ends of connections in memory.
pub(crate) type Connections = tokio::sync::mpsc::UnboundedReceiver<tokio::io::DuplexStream>;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A certificate for `localhost` and 127.0.0.1, signed by itself.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) pem: String,
    key: String,
    /// What a server with this identity speaks, by ALPN; nothing: whatever comes.
    pub(crate) alpn: Vec<Vec<u8>>,
    /// Whose client certificates such a server asks for.
    pub(crate) client_ca: Option<CertificateDer<'static>>,
}

impl Identity {
    pub(crate) fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self {
            certificate: made.cert.der().clone(),
            pem: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            alpn: Vec::new(),
            client_ca: None,
        }
    }

    pub(crate) fn key_pem(&self) -> &str {
        &self.key
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match &self.client_ca {
            None => config.with_no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(ca.clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = config
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap();
        config.alpn_protocols = self.alpn.clone();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// One connection as the server sees it.
pub(crate) struct Connection {
    io: Box<dyn Io>,
    buffer: BytesMut,
    /// From 1, in the order in which they were accepted.
    pub(crate) number: usize,
}

impl Connection {
    pub(crate) fn new(io: impl Io + 'static, number: usize) -> Self {
        Self {
            io: Box::new(io),
            buffer: BytesMut::new(),
            number,
        }
    }

    /// The head of the next request; `None` when the agent closed the connection.
    pub(crate) async fn request(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                let head = self.buffer.split_to(end + 4);
                return Some(String::from_utf8(head.to_vec()).unwrap());
            }
            if self.io.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next `length` bytes of a request's body.
    pub(crate) async fn body(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if self.io.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        Some(self.buffer.split_to(length).to_vec())
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Whether the agent still listens is the test's business.
        let _ = self.io.write_all(bytes.as_ref()).await;
        let _ = self.io.flush().await;
    }

    /// The connection itself, for another protocol than HTTP/1.1; what was read of it already
    /// comes first.
    pub(crate) fn into_io(self) -> Box<dyn Io> {
        let (read, write) = tokio::io::split(self.io);
        let read = std::io::Cursor::new(self.buffer.freeze()).chain(read);
        Box::new(tokio::io::join(read, write))
    }

    /// Whether the first bytes are these. Takes none of them.
    pub(crate) async fn begins_with(&mut self, bytes: &[u8]) -> bool {
        while self.buffer.len() < bytes.len() {
            if self.io.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return false;
            }
        }
        self.buffer.starts_with(bytes)
    }

    /// Waits until the agent has closed the connection.
    pub(crate) async fn closed(&mut self) {
        while self.io.read_buf(&mut self.buffer).await.unwrap_or(0) > 0 {
            self.buffer.clear();
        }
    }
}

/// A server that runs a script on each connection, and counts them.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    opened: watch::Receiver<usize>,
    ended: watch::Receiver<usize>,
}

impl Server {
    /// `http://` where there is no identity.
    pub(crate) async fn start<F, Fut>(identity: Option<&Identity>, script: F) -> Self
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = identity.map(Identity::acceptor);
        let (opened_sender, opened) = watch::channel(0);
        let (ended_sender, ended) = watch::channel(0);
        let (script, ended_sender) = (Arc::new(script), Arc::new(ended_sender));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                opened_sender.send_modify(|count| *count += 1);
                let number = *opened_sender.borrow();
                let (script, ended) = (script.clone(), ended_sender.clone());
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor {
                        None => script(Connection::new(tcp, number)).await,
                        Some(acceptor) => {
                            if let Ok(tls) = acceptor.accept(tcp).await {
                                script(Connection::new(tls, number)).await;
                            }
                        }
                    }
                    ended.send_modify(|count| *count += 1);
                });
            }
        });
        Self {
            address,
            opened,
            ended,
        }
    }

    /// A server that answers every request with `answer` and keeps its connections.
    pub(crate) async fn answering(identity: Option<&Identity>, answer: &'static str) -> Self {
        Self::start(identity, move |mut connection| async move {
            while connection.request().await.is_some() {
                connection.send(answer).await;
            }
        })
        .await
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        *self.opened.borrow()
    }

    /// Waits until the scripts of `count` connections have ended.
    pub(crate) async fn ended(&mut self, count: usize) {
        self.ended.wait_for(|ended| *ended >= count).await.unwrap();
    }

    /// The endpoint of this server.
    pub(crate) fn endpoint(&self, trust: Option<Trust>) -> Endpoint {
        let scheme = if trust.is_some() { "https" } else { "http" };
        let upstream = format!("{scheme}://{}", self.address);
        endpoint(&upstream, trust.unwrap_or(Trust::SystemRoots))
    }
}

/// An endpoint `api` with generous limits.
pub(crate) fn endpoint(upstream: &str, trust: Trust) -> Endpoint {
    Endpoint {
        name: EndpointName::new("api").unwrap(),
        upstream: upstream.parse().unwrap(),
        modes: vec![Mode::Http],
        connect: Vec::new(),
        allow_no_sni: false,
        terminate: None,
        trust,
        upstream_protocol: UpstreamProtocol::Auto,
        client_identity: None,
        allow_networks: Vec::new(),
        host: HostHeader::Rewrite,
        timeouts: Timeouts {
            connect: Span::secs(60),
            tls: Span::secs(60),
            head: Span::secs(60),
            idle: Span::secs(60),
        },
        priority: None,
        max_streams: 100,
        allow_semicolon: false,
        allow_encoded_slash: false,
        allow_encoded_percent: false,
    }
}

/// What a TLS client says first that means this server.
pub(crate) fn client_hello(server: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let server = server.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), server).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
