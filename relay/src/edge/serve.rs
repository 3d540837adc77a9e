//! Serving one connection: the strict server of [`culvert_http`], with the edge's answers.

use std::sync::Arc;

use culvert_http::{Alpn, Progress};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Edge;
use super::answer::AnswerBody;
use super::certificates::ShownCertificate;
use super::connection::Connection;
use super::record::CallRecord;
use crate::listener::{Peer, Transport};

impl Edge {
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
        let shown = ShownCertificate::of(io.client_certificates());
        let connection = Arc::new(Connection::new(peer, io.breaker(), shown));
        let answer = |request, progress| self.serve(&connection, request, progress);
        let traffic = &connection.traffic;
        let ended = self.server.serve(io, alpn, traffic, &drain, answer).await;
        if let Err(error) = ended {
            debug!(%error, peer = %peer.address, "a caller's connection ended");
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
