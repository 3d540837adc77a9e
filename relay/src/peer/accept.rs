//! The connections of other nodes, and the calls that come on them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_process::workers::Workers;
use culvert_proto::code::ResetCode;
use culvert_proto::mux::Side;
use culvert_session::socket::{self, ReadAhead};
use culvert_session::{Incoming, Session, WebSocketIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ALPN, Carried, Introduction, PeerTls, carry};
use crate::directory::Directory;
use crate::drain::Ending;
use crate::metrics::Metrics;

/// How long TLS and the greeting may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most connections at once, strangers included: some for each of a hundred nodes.
const MAX_CONNECTIONS: usize = 512;

/// How long the listener rests when the system has no descriptor for another connection.
const REST: Duration = Duration::from_millis(100);

/// Least time between two log lines about connections that were closed because there are too many.
const QUIET: Duration = Duration::from_secs(10);

/// Takes connections of nodes.
pub(crate) struct Acceptor {
    socket: TcpListener,
    tls: Arc<PeerTls>,
    introduction: Introduction,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    ending: Ending,
    workers: Arc<Workers>,
}

impl Acceptor {
    /// Binds the address.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: Arc<PeerTls>,
        introduction: Introduction,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
        ending: Ending,
        workers: Arc<Workers>,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::bind(address).await?,
            tls,
            introduction,
            directory,
            metrics,
            ending,
            workers,
        })
    }

    /// Takes connections until it is dropped. Calls in flight are among what a drain waits for.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut complained: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = this.socket.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection of a node cannot be taken");
                    sleep(REST).await;
                    continue;
                }
            };
            let Ok(seat) = seats.clone().try_acquire_owned() else {
                if complained.is_none_or(|last| last.elapsed() >= QUIET) {
                    complained = Some(Instant::now());
                    tracing::warn!(
                        peer = %address,
                        most = MAX_CONNECTIONS,
                        "too many connections at the address for nodes: new ones are closed"
                    );
                }
                continue;
            };
            let (serving, tcp) = (this.clone(), tcp.into_std());
            let served = async move {
                let _seat = seat;
                match tcp.and_then(TcpStream::from_std) {
                    Ok(tcp) => serving.serve(tcp, address).await,
                    Err(error) => tracing::warn!(%error, "a connection of a node is lost"),
                }
            };
            connections.spawn_on(served, this.workers.next());
        }
    }

    async fn serve(&self, tcp: TcpStream, address: SocketAddr) {
        socket::tune(&tcp);
        let acceptor = TlsAcceptor::from(self.tls.server().await);
        let tls = match timeout(PATIENCE, acceptor.accept(ReadAhead::new(tcp))).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                return tracing::warn!(peer = %address, "no node of this cluster: {error}");
            }
            Err(_) => return tracing::debug!(peer = %address, "no TLS in time"),
        };
        if let Err(error) = self.check(&tls) {
            return tracing::warn!(peer = %address, "no node of this cluster: {error}");
        }
        let config = self.introduction.config(Side::Acceptor);
        let (session, incoming, _) = Session::spawn(WebSocketIo::acceptor(tls), config);
        match timeout(PATIENCE, session.ready()).await {
            Ok(Ok(hello)) => {
                let node = hello.name.escape_debug().to_string();
                tracing::info!(peer = %address, node, "a node is connected");
                self.take_calls(&session, incoming).await;
                tracing::info!(peer = %address, node, "a node is gone");
            }
            Ok(Err(error)) => tracing::debug!(peer = %address, "no greeting: {error}"),
            Err(_) => tracing::debug!(peer = %address, "no greeting in time"),
        }
    }

    fn check<IO>(&self, tls: &TlsStream<IO>) -> Result<(), String> {
        let (_, connection) = tls.get_ref();
        if connection.alpn_protocol() != Some(ALPN) {
            return Err("it speaks something else".into());
        }
        let shown = connection.peer_certificates();
        self.tls
            .check(shown)
            .map_err(|stranger| stranger.to_string())
    }

    /// Takes calls until the session ends. A node that drains goes on as long as its agents' sessions take
    /// calls; then it tells the other one so, and takes no more: they go elsewhere untouched.
    async fn take_calls(&self, session: &Session, mut incoming: Incoming) {
        let mut told = false;
        loop {
            let call = tokio::select! {
                call = incoming.accept() => call,
                () = self.ending.moving.cancelled(), if !told => {
                    told = true;
                    session.drain(Duration::ZERO);
                    continue;
                }
            };
            let Some((head, mut stream)) = call else {
                return;
            };
            let (directory, metrics) = (self.directory.clone(), self.metrics.clone());
            let moving = self.ending.moving.clone();
            self.ending.spawn(async move {
                // Asked within the task: a drain either waits for the task, or is seen here.
                let outcome = if moving.is_cancelled() {
                    stream.send.reset(ResetCode::NotHere);
                    Carried::NotHere
                } else {
                    carry::carry(&directory, head, stream).await
                };
                metrics.peers.on_call(outcome);
            });
        }
    }
}
