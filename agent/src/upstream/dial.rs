//! New connections to an upstream: name, TCP, TLS, each with its limit.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use culvert_config::endpoint::{Endpoint, Trust};
use culvert_session::race;
use culvert_session::socket::{self, ReadAhead};
use culvert_session::tls::{PinMismatch, TlsConfigError};
use ipnet::IpNet;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Host;

use super::address::Scope;
use super::error::{Phase, UpstreamError, rustls_error};
use super::transport::Transport;
use super::trust::Tls;
use crate::certificate;

/// Addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 64;

/// The one protocol that a connection is opened for, and that ALPN offers: whoever offers two
/// lets the upstream choose, which mostly prefers HTTP/2 where it has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge (RFC 9113, 3.3).
    Http2,
}

/// Makes connections to one upstream.
pub(crate) struct Dialer {
    /// The name without brackets, for the resolver and the log.
    host: String,
    address: Option<IpAddr>,
    scope: Scope,
    /// Where the name may lead, if the endpoint says so.
    networks: Vec<IpNet>,
    port: u16,
    pub(super) tls: Option<Tls>,
    no_identity: Arc<NoIdentity>,
    connect: Duration,
    handshake: Duration,
    /// Instead of all that: a pipe in memory, whose other end goes here.
    #[cfg(test)]
    pub(super) memory: Option<tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>>,
}

/// No certificate for an upstream that asks for one. Many go on without, so that it is only noted.
#[derive(Debug, Default)]
struct NoIdentity {
    is_asked_for: AtomicBool,
}

impl ResolvesClientCert for NoIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.is_asked_for.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Why an endpoint's upstream cannot be dialled whatever the network does.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialerError {
    /// The trust does not make a TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// The host is no name that a certificate could have.
    #[error("{0:?} is not a host name")]
    Name(String),
}

impl DialerError {
    /// Which of the endpoint's keys it is about.
    pub(crate) fn key(&self, endpoint: &Endpoint) -> &'static str {
        let (Self::Tls(error), identity) = (self, &endpoint.client_identity) else {
            return "upstream";
        };
        match (&endpoint.trust, identity) {
            (Trust::Ca(file), _) if error.is_about_certificates_in(file) => "ca",
            (_, Some(identity)) if error.is_about_key_in(&identity.private_key) => {
                "client_private_key"
            }
            (_, Some(identity)) if error.is_about_certificates_in(&identity.certificate) => {
                "client_certificate"
            }
            _ => "ca",
        }
    }
}

impl Dialer {
    /// Reads the CA file or the system's roots, and the client certificate. Blocks.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, DialerError> {
        let url = &endpoint.upstream;
        let no_name = || DialerError::Name(url.to_string());
        let host = url.host().ok_or_else(no_name)?;
        let address = match host {
            Host::Ipv4(v4) => Some(IpAddr::V4(v4)),
            Host::Ipv6(v6) => Some(IpAddr::V6(v6)),
            Host::Domain(_) => None,
        };
        let name = address.map_or_else(|| host.to_string(), |address| address.to_string());
        let no_identity = Arc::<NoIdentity>::default();
        let tls = match url.scheme() {
            "https" => {
                let name = ServerName::try_from(name.clone()).map_err(|_| no_name())?;
                Some(Tls::load(endpoint, name, no_identity.clone())?)
            }
            _ => None,
        };
        Ok(Self {
            scope: Scope::of(&host),
            networks: endpoint.allow_networks.clone(),
            host: name,
            address,
            port: url.port_or_known_default().unwrap_or(443),
            tls,
            no_identity,
            connect: endpoint.timeouts.connect.0,
            handshake: endpoint.timeouts.tls.0,
            #[cfg(test)]
            memory: None,
        })
    }

    /// A TCP connection to a port of an address that was checked. Cancel safe.
    pub(crate) async fn tcp(&self, port: u16) -> Result<TcpStream, UpstreamError> {
        let phase = Phase::Connect;
        let limit = self.connect;
        let reached = timeout(limit, self.reach(port)).await;
        let tcp = reached.map_err(|_| UpstreamError::Timeout { phase, limit })??;
        socket::tune(&tcp);
        Ok(tcp)
    }

    /// The upstream's name or address.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the connections are TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the upstream has asked for a client certificate, and there is none.
    pub(crate) fn lacks_identity(&self) -> bool {
        self.no_identity.is_asked_for.load(Ordering::Relaxed)
    }

    /// The certificates that the upstream shows, none of them verified.
    pub(crate) async fn shown(&self) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
        let Ok(name) = ServerName::try_from(self.host.clone()) else {
            return Ok(Vec::new());
        };
        let shown = certificate::shown(self.tcp(self.port).await?, name).await;
        shown.map_err(|source| UpstreamError::Tls {
            host: self.host.clone(),
            source,
            pin: None,
        })
    }

    /// A new connection, ready for `protocol`. Cancel safe: dropped, it closes what it has opened.
    pub(crate) async fn dial(&self, protocol: Protocol) -> Result<Transport, UpstreamError> {
        #[cfg(test)]
        if let Some(peer) = &self.memory {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let _ = peer.send(far);
            return Ok(Transport::Memory(near));
        }
        let tcp = self.tcp(self.port).await?;
        let Some(tls) = &self.tls else {
            return Ok(Transport::Plain(tcp));
        };
        let address = tcp.peer_addr();
        let connector = tls.connector(protocol);
        let (phase, limit) = (Phase::Tls, self.handshake);
        let shake = connector.connect(tls.name.clone(), ReadAhead::new(tcp));
        let shaken = timeout(limit, shake).await;
        let source = match shaken.map_err(|_| UpstreamError::Timeout { phase, limit })? {
            Ok(stream) => {
                let chosen = stream.get_ref().1.alpn_protocol();
                if protocol == Protocol::Http2 && chosen != Some(b"h2") {
                    let host = self.host.clone();
                    return Err(UpstreamError::NoHttp2 { host });
                }
                return Ok(Transport::Tls(Box::new(stream)));
            }
            Err(source) => source,
        };
        let pin = match (pin_in(&source), address) {
            (None, Ok(address)) if is_about_certificate(&source) => {
                timeout(self.handshake, tls.ask(address))
                    .await
                    .ok()
                    .flatten()
            }
            (pin, _) => pin,
        };
        Err(UpstreamError::Tls {
            host: self.host.clone(),
            source,
            pin,
        })
    }

    /// A TCP connection to an address that was checked: the name is resolved once, and what was
    /// checked is what is dialled.
    async fn reach(&self, port: u16) -> Result<TcpStream, UpstreamError> {
        let addresses = match self.address {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => self.resolve(port).await?,
        };
        race::connect(addresses)
            .await
            .map_err(|source| UpstreamError::Connect {
                host: self.host.clone(),
                port,
                source,
            })
    }

    async fn resolve(&self, port: u16) -> Result<Vec<SocketAddr>, UpstreamError> {
        let found = tokio::net::lookup_host((self.host.as_str(), port)).await;
        let found = found.map_err(|source| UpstreamError::Resolve {
            name: self.host.clone(),
            source,
        })?;
        permitted(&self.host, self.scope, &self.networks, found)
    }
}

fn is_about_certificate(error: &io::Error) -> bool {
    matches!(
        rustls_error(error),
        Some(rustls::Error::InvalidCertificate(_))
    )
}

/// The SHA-256 of the certificate, where an error tells it.
fn pin_in(error: &io::Error) -> Option<String> {
    match rustls_error(error)? {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => other
            .0
            .downcast_ref::<PinMismatch>()
            .map(|mismatch| mismatch.found.clone()),
        _ => None,
    }
}

/// The addresses of `found` that `scope` allows; an error that names a refused one if there are
/// no others.
pub(super) fn permitted(
    name: &str,
    scope: Scope,
    networks: &[IpNet],
    found: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, UpstreamError> {
    let mut allowed = Vec::new();
    let mut refused = None;
    for address in found.take(MAX_ADDRESSES) {
        match scope.check(address.ip(), networks) {
            Ok(()) => allowed.push(address),
            Err(kind) => {
                tracing::warn!(
                    target: "culvert::security",
                    name,
                    address = %address.ip(),
                    "an upstream's name resolves to {kind}, which is not dialled"
                );
                refused = Some((address.ip(), kind));
            }
        }
    }
    match refused {
        Some((address, kind)) if allowed.is_empty() => Err(UpstreamError::Forbidden {
            name: name.to_owned(),
            address,
            kind,
        }),
        _ => Ok(allowed),
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish()
    }
}
