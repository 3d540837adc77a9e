//! One HTTP/1.1 connection, driven by the call that holds it.
//!
//! hyper splits a connection into a part that sends requests and a part that moves bytes, and
//! wants a task for the latter. Here the call's own task does both: no hand-over between tasks
//! per chunk, and a call that is dropped takes its connection with it at once.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, TE};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::bound;
use super::error::{BadAnswer, UpstreamError};
use super::interim::Interims;
use super::request_body::RequestBody;
use super::switch::Switched;
use super::transport::{Noted, Seen, Transport};

/// Most interim answers (1xx) to one request. A server sends one or two; more keep a call alive
/// that never gets its answer.
pub(crate) const MAX_INTERIM: usize = 10;

/// Most headers of an answer.
pub(crate) const MAX_HEADERS: usize = 100;

/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Read and write buffer of a connection, in bytes: large enough for eight frames of the
/// tunnel, small enough for a thousand calls at once.
const BUFFER: usize = 128 * 1024;

/// How long an idle connection is kept where the upstream does not say less (`Keep-Alive:
/// timeout`). Below the 75 s of nginx and the 2 min of vCenter's proxy.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(60);

/// An open connection.
pub(crate) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driver: http1::Connection<TokioIo<Noted>, RequestBody>,
    has_ended: bool,
    seen: Arc<Seen>,
    /// How long the upstream lets the connection idle.
    pub(crate) idle: Duration,
    /// It may be one user's to the upstream, and is not for others.
    pub(crate) is_bound: bool,
    /// Its pool's when it was dialled.
    pub(crate) era: u64,
}

/// A request that got no answer.
pub(crate) struct SendFailure {
    pub(crate) error: UpstreamError,
    /// The request, if not one byte of it was sent.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
    /// Not one byte of an answer has come.
    pub(crate) unanswered: bool,
}

impl SendFailure {
    /// A failure after which nothing may be sent again.
    pub(crate) fn last(error: UpstreamError) -> Self {
        Self {
            error,
            unsent: None,
            unanswered: false,
        }
    }
}

impl Connection {
    pub(crate) async fn open(transport: Transport) -> Result<Self, UpstreamError> {
        let seen = Arc::new(Seen::default());
        let (sender, driver) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD)
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(Noted::new(transport, seen.clone())))
            .await
            .map_err(UpstreamError::Http)?;
        Ok(Self {
            sender,
            driver,
            has_ended: false,
            seen,
            idle: MAX_IDLE,
            is_bound: false,
            era: 0,
        })
    }

    /// Moves bytes, as far as they go. Wakes the task when there may be more to move.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.has_ended && Pin::new(&mut self.driver).poll(cx).is_ready() {
            // An error that matters has gone to the answer or its body.
            self.has_ended = true;
        }
    }

    /// Sends a request and waits for the head of its answer. Dropped, it leaves the connection
    /// unusable: drop that too.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendFailure> {
        self.is_bound |= bound::is_asked(request.headers());
        if request.headers().contains_key(TE) {
            // Of this connection (RFC 9110, 10.1.4).
            let connection = request.headers_mut().entry(CONNECTION);
            connection.or_insert(HeaderValue::from_static("TE"));
        }
        let interims = request.extensions().get::<Interims>().cloned();
        let interims = interims.unwrap_or_default();
        let noted = interims.clone();
        hyper::ext::on_informational(&mut request, move |interim| {
            noted.on_interim(interim.status(), interim.headers());
        });
        self.seen.forget();
        let mut answer = pin!(self.sender.try_send_request(request));
        let sent = poll_fn(|cx| {
            self.drive(cx);
            if interims.are_too_many() {
                return Poll::Ready(None);
            }
            answer.as_mut().poll(cx).map(Some)
        });
        let unanswered = |this: &Self| !this.seen.anything();
        match sent.await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(mut error)) => Err(SendFailure {
                unsent: error.take_message().map(Box::new),
                error: UpstreamError::Http(error.into_error()),
                unanswered: unanswered(self),
            }),
            None => Err(SendFailure::last(UpstreamError::Answer(BadAnswer::Interim))),
        }
    }

    /// The bare connection, after an answer that switches protocols, with what came behind it.
    pub(crate) async fn into_switched(mut self) -> Switched {
        // hyper lets go of it only once it has handed the answer over.
        poll_fn(|cx| {
            self.drive(cx);
            if self.has_ended {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let parts = self.driver.into_parts();
        Switched::new(parts.io.into_inner(), parts.read_buf)
    }

    /// Whether the connection is open and at rest between two calls: nothing of a request is
    /// left to send, and nothing has come that nobody asked for.
    pub(crate) fn is_at_rest(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        !self.has_ended && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    /// [`is_at_rest`](Self::is_at_rest) for a connection that nobody waits on.
    pub(crate) fn is_still_at_rest(&mut self) -> bool {
        self.is_at_rest(&mut Context::from_waker(Waker::noop()))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("has_ended", &self.has_ended)
            .finish_non_exhaustive()
    }
}
