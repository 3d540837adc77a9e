//! New connections to an upstream: name, TCP, TLS, each with its limit.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use culvert_config::endpoint::{Endpoint, Trust};
use culvert_session::socket::{self, ReadAhead};
use culvert_session::tls::{PinMismatch, ServerTrust, TlsConfigError, TlsMin, client_tls};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use url::Host;

use super::address::Scope;
use super::error::{Phase, UpstreamError, rustls_error};
use super::transport::Transport;

/// Head start of one address over the next (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Makes connections to one upstream.
pub(crate) struct Dialer {
    /// The name without brackets, for the resolver and the log.
    host: String,
    address: Option<IpAddr>,
    scope: Scope,
    port: u16,
    tls: Option<Tls>,
    connect: Duration,
    handshake: Duration,
    /// Instead of all that: a pipe in memory, whose other end goes here.
    #[cfg(test)]
    pub(super) memory: Option<tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>>,
}

/// TLS with one upstream.
struct Tls {
    trusting: TlsConnector,
    /// Trusts no certificate, and says which one it was shown.
    asking: TlsConnector,
    name: ServerName<'static>,
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

impl Dialer {
    /// Reads the CA file or the system's roots.
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
        let tls = match url.scheme() {
            "https" => {
                let trust = match &endpoint.trust {
                    Trust::SystemRoots => ServerTrust::SystemRoots,
                    Trust::Ca(file) => ServerTrust::CaFile(file.clone()),
                    Trust::Pins(pins) => ServerTrust::Pins(pins.clone()),
                };
                // No certificate has this hash.
                let nobody = ServerTrust::Pins(vec![[0; 32]]);
                Some(Tls {
                    trusting: TlsConnector::from(client_tls(&trust, TlsMin::V12)?),
                    asking: TlsConnector::from(client_tls(&nobody, TlsMin::V12)?),
                    name: ServerName::try_from(name.clone()).map_err(|_| no_name())?,
                })
            }
            _ => None,
        };
        Ok(Self {
            scope: Scope::of(&host),
            host: name,
            address,
            port: url.port_or_known_default().unwrap_or(443),
            tls,
            connect: endpoint.timeouts.connect.0,
            handshake: endpoint.timeouts.tls.0,
            #[cfg(test)]
            memory: None,
        })
    }

    /// A new connection, ready for HTTP. Cancel safe: dropped, it closes what it has opened.
    pub(crate) async fn dial(&self) -> Result<Transport, UpstreamError> {
        #[cfg(test)]
        if let Some(peer) = &self.memory {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let _ = peer.send(far);
            return Ok(Transport::Memory(near));
        }
        let limit = |phase, limit| move |_| UpstreamError::Timeout { phase, limit };
        let tcp = timeout(self.connect, self.reach())
            .await
            .map_err(limit(Phase::Connect, self.connect))??;
        socket::tune(&tcp);
        let Some(tls) = &self.tls else {
            return Ok(Transport::Plain(tcp));
        };
        let address = tcp.peer_addr();
        let shake = tls.trusting.connect(tls.name.clone(), ReadAhead::new(tcp));
        let shaken = timeout(self.handshake, shake)
            .await
            .map_err(limit(Phase::Tls, self.handshake))?;
        let source = match shaken {
            Ok(stream) => return Ok(Transport::Tls(Box::new(stream))),
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
    async fn reach(&self) -> Result<TcpStream, UpstreamError> {
        let addresses = match self.address {
            Some(address) => vec![SocketAddr::new(address, self.port)],
            None => self.resolve().await?,
        };
        race(addresses)
            .await
            .map_err(|source| UpstreamError::Connect {
                host: self.host.clone(),
                port: self.port,
                source,
            })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, UpstreamError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map_err(|source| UpstreamError::Resolve {
            name: self.host.clone(),
            source,
        })?;
        permitted(&self.host, self.scope, found)
    }
}

impl Tls {
    /// The SHA-256 of the certificate that the server at `address` shows, for the administrator
    /// to compare: an error about a certificate does not say which one it was.
    async fn ask(&self, address: SocketAddr) -> Option<String> {
        let tcp = TcpStream::connect(address).await.ok()?;
        let refused = self.asking.connect(self.name.clone(), tcp).await.err()?;
        pin_in(&refused)
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
    found: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, UpstreamError> {
    let mut allowed = Vec::new();
    let mut refused = None;
    for address in found.take(MAX_ADDRESSES) {
        match scope.check(address.ip()) {
            Ok(()) => allowed.push(address),
            Err(kind) => {
                tracing::warn!(
                    target: "culvert::security",
                    name,
                    address = %address.ip(),
                    "an upstream's name resolves to a {kind} address, which is not dialled"
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

/// Connects to the first address that answers; a dead one costs a quarter of a second, not a
/// timeout (in the manner of RFC 8305).
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        attempts.extend(waiting.next().map(TcpStream::connect));
        tokio::select! {
            attempt = attempts.next() => match attempt {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failure = error,
                None => return Err(failure),
            },
            () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
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
