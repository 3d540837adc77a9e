//! Dialling a relay: DNS, TCP, a corporate proxy where there is one, TLS, WebSocket, each with its
//! own limit and its own error.

mod avoided;
mod error;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::avoided::Avoided;
pub use self::error::{DialError, DialPhase};
use crate::proxy::HttpProxy;
use crate::race;
use crate::socket::{self, ReadAhead};
use crate::upgrade;
use crate::websocket::WebSocketIo;

/// Path of the session resource on every relay.
pub const SESSION_PATH: &str = "/.culvert/v1/session";

/// How long one phase of a dial may take. A relay at 300 ms round trip and 5 % loss needs a
/// tenth of it.
const PHASE_TIMEOUT: Duration = Duration::from_secs(10);

/// The transport of a dialled session.
pub type DialIo = TlsStream<ReadAhead<TcpStream>>;

/// A relay to dial.
#[derive(Clone)]
pub struct DialTarget {
    host: String,
    port: u16,
    /// Host and port as the URL has them: the Host header.
    authority: String,
    server_name: ServerName<'static>,
    /// Clones share it.
    tls: Arc<RwLock<Arc<ClientConfig>>>,
    proxy: Option<HttpProxy>,
    /// The addresses at which dials came to nothing behind TCP. Clones share it.
    avoided: Avoided,
}

impl fmt::Debug for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialTarget")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("proxy", &self.proxy)
            .finish()
    }
}

/// Why a URL does not name a relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a URL with a host.
    #[error("expected wss://HOST or wss://HOST:PORT")]
    Url,
    /// Another scheme than `wss`.
    #[error("expected wss://...: the tunnel is always encrypted")]
    Scheme,
    /// User information, path or query that no relay has.
    #[error("expected wss://HOST[:PORT] with nothing after it: the path is always {SESSION_PATH}")]
    Path,
}

impl DialTarget {
    /// Takes a relay's URL: `wss://HOST[:PORT]`, where [`SESSION_PATH`] may follow.
    pub fn new(url: &str, tls: Arc<ClientConfig>) -> Result<Self, TargetError> {
        let uri: http::Uri = url.parse().map_err(|_| TargetError::Url)?;
        if uri.scheme_str() != Some("wss") {
            return Err(TargetError::Scheme);
        }
        let authority = uri.authority().ok_or(TargetError::Url)?;
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        if authority.as_str().contains('@') || !matches!(path, "" | "/" | SESSION_PATH) {
            return Err(TargetError::Path);
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let server_name = ServerName::try_from(host.clone()).map_err(|_| TargetError::Url)?;
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 443,
            Some(port) => port[1..].parse().map_err(|_| TargetError::Url)?,
            None => return Err(TargetError::Url),
        };
        Ok(Self {
            host,
            port,
            authority: authority.as_str().to_owned(),
            server_name,
            tls: Arc::new(RwLock::new(tls)),
            proxy: None,
            avoided: Avoided::default(),
        })
    }

    /// The same by way of a proxy, which resolves the relay's name.
    pub fn through(mut self, proxy: HttpProxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Takes another TLS for the connections that begin from now on, also by way of clones.
    pub fn set_tls(&self, tls: Arc<ClientConfig>) {
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    fn tls(&self) -> Arc<ClientConfig> {
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner);
        tls.clone()
    }

    /// The name that the relay's certificate has to be for.
    pub fn server_name(&self) -> &ServerName<'static> {
        &self.server_name
    }

    /// The proxy, if there is one.
    pub fn proxy(&self) -> Option<&HttpProxy> {
        self.proxy.as_ref()
    }

    /// The host: a DNS name or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Makes a connection to a relay, up to and with the WebSocket handshake: TLS as the target's
/// configuration says, subprotocol `culvert.v1`, `bearer` as the credential.
///
/// Each phase has 10 s. Cancel safe: dropping the future closes the connection.
pub async fn dial(
    target: &DialTarget,
    bearer: &str,
    user_agent: &str,
) -> Result<WebSocketIo<DialIo>, DialError> {
    let tcp = connect(target, user_agent).await?;
    let address = tcp.peer_addr().ok();
    let dialled = open(target, tcp, bearer, user_agent).await;
    // Who refuses is a relay.
    let is_relay = match &dialled {
        Ok(_) => true,
        Err(error) => error.refusal().is_some(),
    };
    match address {
        Some(address) if is_relay => target.avoided.answered(address),
        Some(address) => target.avoided.failed(address),
        None => {}
    }
    dialled
}

/// What comes behind TCP.
async fn open(
    target: &DialTarget,
    tcp: TcpStream,
    bearer: &str,
    user_agent: &str,
) -> Result<WebSocketIo<DialIo>, DialError> {
    let tls = secure(target, tcp).await?;
    let request = upgrade::Request {
        authority: &target.authority,
        path: SESSION_PATH,
        bearer,
        user_agent,
    };
    within(
        &target.host,
        DialPhase::WebSocket,
        upgrade::upgrade(tls, &request),
    )
    .await?
    .map_err(|source| DialError::WebSocket {
        host: target.host.clone(),
        source,
    })
}

/// The third step of a dial: TLS as the target's configuration says.
pub async fn secure(target: &DialTarget, tcp: TcpStream) -> Result<DialIo, DialError> {
    let connector = TlsConnector::from(target.tls());
    let shake = connector.connect(target.server_name.clone(), ReadAhead::new(tcp));
    let shaken = within(&target.host, DialPhase::Tls, shake).await?;
    shaken.map_err(|source| DialError::Tls {
        host: target.host.clone(),
        source,
    })
}

/// The first steps of a dial: a byte stream to the target, through its proxy where it has one.
pub async fn connect(target: &DialTarget, user_agent: &str) -> Result<TcpStream, DialError> {
    let Some(proxy) = &target.proxy else {
        let order = |addresses: &mut [SocketAddr]| target.avoided.sort(addresses);
        return reach_host(&target.host, target.port, order).await;
    };
    let reached = reach_host(proxy.host(), proxy.port(), |_| ()).await;
    let mut tcp = reached.map_err(|source| DialError::ProxyUnreachable {
        proxy: proxy.to_string(),
        source: Box::new(source),
    })?;
    let tunnel = proxy.tunnel(&mut tcp, &target.host, target.port, user_agent);
    within(proxy.host(), DialPhase::Proxy, tunnel)
        .await?
        .map_err(|source| DialError::Proxy {
            host: target.host.clone(),
            proxy: proxy.to_string(),
            source,
        })?;
    Ok(tcp)
}

/// A byte stream to a host: name resolution, TCP, and a tunnel's socket options.
async fn reach_host(
    name: &str,
    port: u16,
    order: impl FnOnce(&mut [SocketAddr]),
) -> Result<TcpStream, DialError> {
    let host = || name.to_owned();
    let lookup = tokio::net::lookup_host((name, port));
    let found = within(name, DialPhase::Dns, lookup)
        .await?
        .map_err(|source| DialError::Dns {
            host: host(),
            source,
        })?;
    let mut addresses = race::alternate(found.collect());
    order(&mut addresses);
    let tcp = within(name, DialPhase::Tcp, race::connect_in_order(addresses))
        .await?
        .map_err(|source| DialError::Tcp {
            host: host(),
            port,
            source,
        })?;
    socket::tune(&tcp);
    Ok(tcp)
}

async fn within<T>(
    host: &str,
    phase: DialPhase,
    step: impl Future<Output = T>,
) -> Result<T, DialError> {
    tokio::time::timeout(PHASE_TIMEOUT, step)
        .await
        .map_err(|_| DialError::Timeout {
            host: host.to_owned(),
            phase,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{ServerTrust, TlsMin, client_tls};

    fn tls() -> Arc<ClientConfig> {
        client_tls(&ServerTrust::Pins(vec![[0; 32]]), TlsMin::V13).unwrap()
    }

    #[test]
    fn urls_that_name_a_relay() {
        for (url, host, port) in [
            ("wss://relay.example.com", "relay.example.com", 443),
            ("wss://relay.example.com:8443/", "relay.example.com", 8443),
            (
                "wss://relay.example.com/.culvert/v1/session",
                "relay.example.com",
                443,
            ),
            ("wss://[::1]:9000", "::1", 9000),
            ("wss://127.0.0.1", "127.0.0.1", 443),
        ] {
            let target = DialTarget::new(url, tls()).unwrap();
            assert_eq!((target.host(), target.port()), (host, port), "{url}");
        }
        for (url, error) in [
            ("ws://relay.example.com", TargetError::Scheme),
            ("https://relay.example.com", TargetError::Scheme),
            ("relay.example.com", TargetError::Scheme),
            ("wss://user:pass@relay.example.com", TargetError::Path),
            ("wss://relay.example.com/other", TargetError::Path),
            ("wss://relay.example.com/?token=x", TargetError::Path),
            ("wss://relay.example.com:99999", TargetError::Url),
            ("wss://", TargetError::Url),
            ("wss://a b", TargetError::Url),
        ] {
            assert_eq!(DialTarget::new(url, tls()).unwrap_err(), error, "{url}");
        }
    }

    /// Nodes whose processes hang, or a way that large packets do not get through.
    #[tokio::test(start_paused = true)]
    async fn addresses_that_take_connections_and_say_nothing_are_tried_last_the_next_time() {
        let silent = || tokio::net::TcpListener::bind("127.0.0.1:0");
        let silent = [silent().await.unwrap(), silent().await.unwrap()];
        let [one, other] = silent.each_ref().map(|node| node.local_addr().unwrap());
        let good: SocketAddr = "127.0.0.2:443".parse().unwrap();
        // One name with three addresses, as far as what is remembered of it goes.
        let avoided = Avoided::default();
        let target = |address| {
            let mut target = DialTarget::new(&format!("wss://{address}"), tls()).unwrap();
            target.avoided = avoided.clone();
            target
        };
        let sorted = || {
            let mut addresses = [one, other, good];
            avoided.sort(&mut addresses);
            addresses
        };
        assert_eq!(sorted(), [one, other, good]);
        let error = dial(&target(one), "token", "agent/0").await.unwrap_err();
        assert_eq!(error.phase(), DialPhase::Tls);
        assert_eq!(sorted(), [other, good, one]);
        let error = dial(&target(other), "token", "agent/0").await.unwrap_err();
        assert_eq!(error.phase(), DialPhase::Tls);
        assert_eq!(sorted(), [good, one, other]);
    }

    #[tokio::test]
    async fn a_tunnels_socket_queues_little_in_the_kernel() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("wss://{}", listener.local_addr().unwrap());
        let tcp = connect(&DialTarget::new(&url, tls()).unwrap(), "agent/0")
            .await
            .unwrap();
        let socket = socket2::SockRef::from(&tcp);
        assert!(socket.tcp_nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket.tcp_notsent_lowat().unwrap(),
            socket::NOT_SENT_LOW_WATER
        );
    }
}
