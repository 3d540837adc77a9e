//! The connections of other nodes, and the calls that come on them.

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_process::workers::Workers;
use culvert_proto::mux::Side;
use culvert_session::socket::{self, ReadAhead};
use culvert_session::{Incoming, Session, WebSocketIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::carry::Carrier;
use super::strangers::{QUIET, Seat, Strangers};
use super::tls::Refused;
use super::{ALPN, Introduction, PeerTls};
use crate::drain::Ending;
use crate::node::Node;

/// How long TLS and the greeting may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the listener rests when the system has no descriptor for another connection.
const REST: Duration = Duration::from_millis(100);

/// Takes connections of nodes.
pub(crate) struct Acceptor {
    socket: TcpListener,
    tls: Arc<PeerTls>,
    introduction: Introduction,
    carrier: Arc<Carrier>,
    ending: Ending,
    workers: Arc<Workers>,
    strangers: Arc<Strangers>,
}

impl Acceptor {
    /// Binds the address, for calls to sessions of `node`.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: Arc<PeerTls>,
        introduction: Introduction,
        node: &Node,
        workers: Arc<Workers>,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::bind(address).await?,
            tls,
            introduction,
            carrier: Arc::new(Carrier::new(node)),
            ending: node.ending.clone(),
            workers,
            strangers: Strangers::new(),
        })
    }

    /// Takes connections until it is dropped. Calls in flight are among what a drain waits for.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let mut connections = JoinSet::new();
        let mut ticks = interval(QUIET);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                accepted = this.socket.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                _ = ticks.tick() => {
                    this.strangers.say_rest();
                    continue;
                }
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection of a node cannot be taken");
                    sleep(REST).await;
                    continue;
                }
            };
            let seat = match this.strangers.seat(address.ip()) {
                Ok(seat) => seat,
                Err(why) => {
                    this.strangers.complain(address.ip(), &why);
                    continue;
                }
            };
            let (serving, tcp) = (this.clone(), tcp.into_std());
            let served = async move {
                match tcp.and_then(TcpStream::from_std) {
                    Ok(tcp) => serving.serve(tcp, address, seat).await,
                    Err(error) => tracing::warn!(%error, "a connection of a node is lost"),
                }
            };
            connections.spawn_on(served, this.workers.next());
        }
    }

    async fn serve(&self, tcp: TcpStream, address: SocketAddr, mut seat: Seat) {
        socket::tune(&tcp);
        let acceptor = TlsAcceptor::from(self.tls.server());
        let tls = match timeout(PATIENCE, acceptor.accept(ReadAhead::new(tcp))).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                return match Refused::of(&error) {
                    Some(refused) => self.strangers.complain(address.ip(), &refused),
                    None => self.complain(address, &error),
                };
            }
            Err(_) => return tracing::debug!(peer = %address, "no TLS in time"),
        };
        if let Err(error) = self.check(&tls) {
            return self.complain(address, &error);
        }
        seat.prove();
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

    fn complain(&self, address: SocketAddr, why: &dyn Display) {
        let why = format_args!("no node of this cluster: {why}");
        self.strangers.complain(address.ip(), &why);
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
            let Some((head, stream)) = call else {
                return;
            };
            let (carrier, moving) = (self.carrier.clone(), self.ending.moving.clone());
            self.ending.spawn(async move {
                // Asked within the task: a drain either waits for the task, or is seen here.
                if moving.is_cancelled() {
                    carrier.send_back(stream);
                } else {
                    carrier.carry(head, stream).await;
                }
            });
        }
    }
}
