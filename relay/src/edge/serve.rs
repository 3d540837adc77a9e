//! Serving one connection: the strict server of [`culvert_http`], with the edge's answers.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use culvert_http::{Alpn, Progress};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Edge;
use super::answer::AnswerBody;
use super::connection::Connection;
use super::record::CallRecord;
use super::route::{Destination, Endpoint};
use crate::directory::Lookup;
use crate::listener::{Peer, Transport};

/// How long a credential may still be verified when the time for it is over.
const LAST_WORD: Duration = Duration::from_secs(5);

impl Edge {
    /// Where connections that ask for this server's name are best served: where a session of the
    /// endpoint is driven, or the one with the node that has it. What a call wakes on its way is on
    /// one thread then.
    pub(crate) fn home_of(&self, name: &str) -> Option<Handle> {
        let Destination::Endpoint(Endpoint { tenant, name }) = self.routes.resolve(name) else {
            return None;
        };
        match self.directory.lookup(&tenant, &name) {
            Lookup::Session(place, _) => place.runtime(),
            _ => None,
        }
    }

    /// Serves a connection whose TLS is established, to its end. A cancelled `drain` lets the
    /// calls in flight go on and takes no further ones.
    pub async fn serve_connection<IO>(
        self: Arc<Self>,
        io: IO,
        alpn: Alpn,
        peer: Peer,
        drain: CancellationToken,
    ) where
        IO: AsyncRead + AsyncWrite + Transport + Unpin + Send + 'static,
    {
        let connection = Arc::new(Connection::new(peer, &io));
        let answer = |request, progress| self.serve(&connection, request, progress);
        let traffic = &connection.traffic;
        let ended = tokio::select! {
            biased;
            ended = self.server.serve(io, alpn, traffic, &drain, answer) => ended,
            () = self.overdue(&connection) => {
                self.metrics.strangers.overdue.inc();
                debug!(peer = %peer.address, "nobody has shown a valid credential in time");
                return;
            }
        };
        if let Err(error) = ended {
            debug!(%error, peer = %peer.address, "a caller's connection ended");
        }
    }

    /// Completes when the time is over in which somebody must prove who they are, and nobody has.
    async fn overdue(&self, connection: &Connection) {
        let (standing, traffic) = (&connection.standing, &connection.traffic);
        let mut deadline = standing.since() + self.limits.unauthenticated.0;
        loop {
            sleep_until(deadline).await;
            if standing.is_proven() {
                return pending().await;
            }
            // One whose credential is just being verified hears of it.
            if deadline > standing.since() + self.limits.unauthenticated.0 || !traffic.is_busy() {
                return;
            }
            traffic.wind_up();
            deadline += LAST_WORD;
        }
    }

    /// Answers one request on a connection.
    fn serve(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
        progress: Arc<Progress>,
    ) -> impl Future<Output = Response<AnswerBody>> + Send + use<> {
        let (edge, connection) = (self.clone(), connection.clone());
        let method = request.method().clone();
        let record = CallRecord::begin(edge.metrics.clone(), connection.clone(), method, progress);
        edge.answer(connection, request, record)
    }
}
