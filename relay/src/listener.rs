//! The public listener: TCP within limits, TLS within its timer, then on to the edge.
//!
//! What is too much is turned away before TLS, which is where the cost begins. Running out of
//! file descriptors is waited out, never spun on.

mod admitted;
mod parting;
mod proxy_header;
#[cfg(test)]
mod tests;
mod transport;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_http::Alpn;
use culvert_process::workers::Workers;
use culvert_session::socket::{self, ReadAhead};
use ipnet::IpNet;
use rustls::ProtocolVersion;
use rustls::server::Acceptor;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;

pub use self::admitted::Admitted;
use self::admitted::{Arrived, Seat};
pub use self::transport::{Connection, Door, Peer, PlainConnection, Transport};
use crate::drain::Ending;
use crate::handshakes::{Handshakes, Late};
use crate::metrics::{Arrival, Metrics};
use crate::strangers::{Standing, Strangers};
use crate::tls::PublicTls;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// How long the listener rests when the system has no file descriptor or memory for another
/// connection.
const REST: Duration = Duration::from_millis(100);

/// Least time between two log lines about connections that could not be taken.
const QUIET: Duration = Duration::from_secs(10);

/// What a listener must know.
#[derive(Clone)]
pub(crate) struct Terms {
    /// The TLS side.
    pub(crate) tls: Arc<PublicTls>,
    /// TCP accepted to TLS established.
    pub(crate) handshake: Duration,
    /// Most connections at once.
    pub(crate) connections: usize,
    /// Counts those of each source that are unproven.
    pub(crate) strangers: Arc<Strangers>,
    /// The queue in which connections wait for TLS.
    pub(crate) handshakes: Arc<Handshakes>,
    /// Whose connections begin with a PROXY protocol header; nobody else's may.
    pub(crate) balancers: Arc<[IpNet]>,
    /// Who carries the connections.
    pub(crate) workers: Arc<Workers>,
}

impl Terms {
    fn is_balancer(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.balancers.iter().any(|network| network.contains(&ip))
    }

    /// Does the server's part of a TLS handshake, when it is its turn. Who has not said all of a
    /// ClientHello has none.
    async fn speak_tls(&self, tcp: Admitted) -> Result<io::Result<Connection>, Late> {
        // Who says nothing costs no more than a socket.
        if let Err(error) = tcp.tcp.readable().await {
            return Ok(Err(error));
        }
        // In boxes, so that there is room for it once it is needed.
        let io = ReadAhead::new(tcp);
        let acceptor = Box::pin(LazyConfigAcceptor::new(Acceptor::default(), io));
        let start = match acceptor.await {
            Ok(start) => start,
            Err(error) => return Ok(Err(error)),
        };
        // Within: it is here that keys are agreed on and signed for.
        let rest = Box::pin(async move { start.into_stream(self.tls.server()).await });
        self.handshakes.take(rest).await
    }
}

/// Takes connections from a socket.
pub(crate) struct Listener {
    socket: TcpListener,
    terms: Terms,
    seats: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    complaints: Complaints,
}

impl Listener {
    /// Binds the address.
    pub(crate) fn bind(
        address: SocketAddr,
        terms: Terms,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let seats = Arc::new(Semaphore::new(
            terms.connections.min(Semaphore::MAX_PERMITS),
        ));
        Ok(Self {
            socket: bind(address)?,
            terms,
            seats,
            metrics,
            complaints: Complaints::default(),
        })
    }

    /// The address that it is bound to.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// A further listener, for connections without TLS, that shares this one's limits.
    pub(crate) fn beside(&self, address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            socket: bind(address)?,
            terms: self.terms.clone(),
            seats: self.seats.clone(),
            metrics: self.metrics.clone(),
            complaints: Complaints::default(),
        })
    }

    /// Takes connections without TLS.
    pub(crate) async fn run_plain<S, F>(self, ending: Ending, serve: S)
    where
        S: Fn(PlainConnection, Peer) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let metrics = self.metrics.clone();
        let each = move |tcp, address| {
            metrics.connections.on_arrival(Arrival::Established);
            let peer = Peer {
                address,
                tls13: false,
                door: Door::Proxy,
            };
            serve(ReadAhead::new(tcp), peer)
        };
        self.take(ending, each).await;
    }

    /// Takes connections and speaks TLS with them. Those whose server name has a `home` are served
    /// there, if it is one of the workers and has room.
    pub(crate) async fn run<S, F, H>(self, ending: Ending, home: H, serve: S)
    where
        S: Fn(Connection, Alpn, Peer) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
        H: Fn(&str) -> Option<Handle> + Clone + Send + 'static,
    {
        let (terms, metrics) = (self.terms.clone(), self.metrics.clone());
        let tracker = ending.clone();
        let each = move |tcp: Admitted, address| {
            let (terms, metrics, serve) = (terms.clone(), metrics.clone(), serve.clone());
            let (home, ending) = (home.clone(), tracker.clone());
            async move {
                // In boxes, one after the other: a connection has room for no more than it is at.
                let spoken = Box::pin(timeout(terms.handshake, terms.speak_tls(tcp))).await;
                match spoken {
                    Ok(Ok(Ok(connection))) => {
                        metrics.connections.on_arrival(Arrival::Established);
                        let (alpn, peer) = describe(&connection, address);
                        let name = connection.get_ref().1.server_name();
                        let home = name.and_then(home);
                        match home.filter(|home| is_better(home, &terms.workers)) {
                            Some(home) => ending.spawn_on(&home, async move {
                                if let Some(connection) = moved_here(connection) {
                                    serve(connection, alpn, peer).await;
                                }
                            }),
                            None => Box::pin(serve(connection, alpn, peer)).await,
                        }
                    }
                    Ok(Ok(Err(error))) => {
                        metrics.connections.on_arrival(Arrival::NoTls);
                        tracing::debug!(peer = %address, %error, "no TLS");
                    }
                    Ok(Err(late)) => {
                        metrics.connections.on_arrival(Arrival::Late);
                        tracing::debug!(peer = %address, "a connection is closed: {late}");
                    }
                    Err(_) => {
                        metrics.connections.on_arrival(Arrival::NoTls);
                        tracing::debug!(peer = %address, "no TLS in time");
                    }
                }
            }
        };
        self.take(ending, each).await;
    }

    /// Takes connections until the node drains, each served by a task of its own on the worker
    /// whose turn it is; then closes the socket.
    async fn take<S, F>(self, ending: Ending, serve: S)
    where
        S: Fn(Admitted, SocketAddr) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        // Until those that are left are handed out: a node with nothing else to wait for would be gone
        // before it has seen them.
        let _more = ending.more_to_come();
        loop {
            let accepted = tokio::select! {
                biased;
                () = ending.drain.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.on_error(&error).await;
                    continue;
                }
            };
            self.begin(tcp, address, &ending, &serve);
        }
        // Those that the kernel has taken for us already know nothing of the end.
        for (tcp, address) in self.left() {
            self.begin(tcp, address, &ending, &serve);
        }
    }

    /// Serves a new connection by a task of its own, if there is room for it.
    fn begin<S, F>(&self, tcp: TcpStream, address: SocketAddr, ending: &Ending, serve: &S)
    where
        S: Fn(Admitted, SocketAddr) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let Some(arrived) = self.admit(tcp, address, ending) else {
            return;
        };
        let serve = serve.clone();
        let worker = self.terms.workers.next();
        if !self.terms.is_balancer(address) {
            let served = async move {
                if let Some(tcp) = arrived.settle() {
                    serve(tcp, address).await;
                }
            };
            ending.spawn_on(worker, served);
            return;
        }
        let (terms, metrics) = (self.terms.clone(), self.metrics.clone());
        let complaints = self.complaints.clone();
        ending.spawn_on(worker, async move {
            let Some(mut tcp) = arrived.settle() else {
                return;
            };
            let introduced = timeout(terms.handshake, tcp.introduced(address)).await;
            let why = match introduced {
                Ok(Ok(from)) if tcp.arrive(from, &terms.strangers) => {
                    return serve(tcp, from).await;
                }
                Ok(Ok(from)) => {
                    metrics.connections.on_arrival(Arrival::SourceShed);
                    return complaints.say(&too_many_of(from));
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no PROXY header in time".to_owned(),
            };
            metrics.connections.on_arrival(Arrival::NotIntroduced);
            tracing::debug!(peer = %address, "a balancer's connection is closed: {why}");
        });
    }

    /// What the kernel has accepted and nobody has taken.
    fn left(&self) -> Vec<(TcpStream, SocketAddr)> {
        let socket = SockRef::from(&self.socket);
        let taken = std::iter::from_fn(|| socket.accept().ok()).take(BACKLOG as usize);
        let taken = taken.filter_map(|(socket, address)| {
            socket.set_nonblocking(true).ok()?;
            let tcp = TcpStream::from_std(socket.into()).ok()?;
            Some((tcp, address.as_socket()?))
        });
        taken.collect()
    }

    /// Finds a seat for a new connection; without one it is closed at once.
    fn admit(&self, tcp: TcpStream, address: SocketAddr, ending: &Ending) -> Option<Arrived> {
        let Ok(permit) = self.seats.clone().try_acquire_owned() else {
            self.metrics.connections.on_arrival(Arrival::Shed);
            self.complaints
                .say("too many connections: new ones are closed");
            return None;
        };
        let standing = if self.terms.is_balancer(address) {
            // Whose it is shows in its header.
            Some(Standing::default())
        } else {
            self.terms.strangers.arrive(address.ip())
        };
        let Some(standing) = standing else {
            self.metrics.connections.on_arrival(Arrival::SourceShed);
            self.complaints.say(&too_many_of(address));
            return None;
        };
        socket::tune(&tcp);
        let seat = Seat::new(permit, ending.socket(), self.metrics.clone());
        let tcp = tcp.into_std().ok()?;
        Some(Arrived {
            tcp,
            standing,
            seat,
        })
    }

    /// Some errors of accept(2) are those of a connection that is gone already; the others last.
    async fn on_error(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        self.metrics.connections.on_arrival(Arrival::AcceptError);
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
        ) {
            return;
        }
        self.complaints
            .say(&format!("new connections cannot be taken: {error}"));
        sleep(REST).await;
    }
}

/// What is said of connections that are not taken, but not of each: when something was said last. Clones
/// are the same.
#[derive(Debug, Clone, Default)]
struct Complaints(Arc<Mutex<Option<Instant>>>);

impl Complaints {
    fn say(&self, what: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= QUIET) {
            *last = Some(Instant::now());
            tracing::warn!("{what}");
        }
    }
}

fn too_many_of(source: SocketAddr) -> String {
    let source = source.ip();
    format!("too many unauthenticated connections from {source}: new ones are closed")
}

/// `[::]` takes IPv4 too, whatever the system's default is.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether a connection of this worker is better with `home`.
fn is_better(home: &Handle, workers: &Workers) -> bool {
    home.id() != Handle::current().id() && workers.has_room(home)
}

/// Lets the worker that this is called on hear of what happens on the connection, in place of the one
/// that did.
fn moved_here(mut connection: Connection) -> Option<Connection> {
    let admitted = connection.get_mut().0.io_mut();
    let again = SockRef::from(&admitted.tcp).try_clone();
    match again.and_then(|again| TcpStream::from_std(again.into())) {
        Ok(tcp) => {
            admitted.tcp = tcp;
            Some(connection)
        }
        Err(error) => {
            tracing::warn!(%error, "a connection is lost");
            None
        }
    }
}

fn describe(connection: &Connection, address: SocketAddr) -> (Alpn, Peer) {
    let (_, tls) = connection.get_ref();
    let alpn = if tls.alpn_protocol() == Some(b"h2") {
        Alpn::H2
    } else {
        Alpn::Http1
    };
    let tls13 = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let door = Door::Public;
    let peer = Peer {
        address,
        tls13,
        door,
    };
    (alpn, peer)
}
