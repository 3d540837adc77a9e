//! The client of one upstream: takes a permit and a request, gives an answer that was checked.
//!
//! * `dial`, `address`, `transport`: a new connection to an address that was checked;
//! * `connection`, `pool`: HTTP/1.1 on it, driven by the call that holds it, kept while idle;
//! * `request`, `request_body`, `headers`: what the upstream gets;
//! * `answer`: what it may say; `switch`: how a call leaves HTTP (WebSocket);
//! * `error`: what went wrong, for the log and for the caller.
//!
//! Redirects are answers like any other: they are passed on, never followed.

mod address;
mod answer;
mod connection;
mod dial;
mod error;
mod headers;
mod patience;
mod pool;
mod request;
mod request_body;
mod switch;
#[cfg(test)]
mod tests;
mod transport;

use std::sync::Arc;

use culvert_config::endpoint::{Endpoint, HostHeader, Timeouts};
use culvert_policy::Permit;
use http::header::HeaderValue;
use http::{Method, Request, Response};
use hyper::body::Incoming;

pub(crate) use self::answer::{Answer, AnswerBody};
use self::connection::{Connection, SendFailure};
use self::dial::Dialer;
pub(crate) use self::dial::DialerError;
pub(crate) use self::error::{BadAnswer, Phase, UpstreamError};
pub(crate) use self::headers::strip_trailers;
pub(crate) use self::patience::Timer;
use self::patience::patience;
use self::pool::Pool;
pub(crate) use self::request::{RequestError, RequestParts};
pub(crate) use self::request_body::{Progress, RequestBody};
pub(crate) use self::switch::{Switch, Switched};

/// One upstream: how to reach it, and the connections to it that are idle.
#[derive(Debug)]
pub(crate) struct Upstream {
    dialer: Dialer,
    host: HostHeader,
    upstream_host: HeaderValue,
    timeouts: Timeouts,
    pool: Arc<Pool>,
}

impl Upstream {
    /// Reads the endpoint's CA file or the system's roots.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, DialerError> {
        Ok(Self {
            dialer: Dialer::new(endpoint)?,
            host: endpoint.host,
            upstream_host: request::upstream_host(endpoint)
                .ok_or_else(|| DialerError::Name(endpoint.upstream.to_string()))?,
            timeouts: endpoint.timeouts.clone(),
            pool: Arc::default(),
        })
    }

    /// An upstream in memory: where its connections come out.
    #[cfg(test)]
    pub(crate) fn in_memory(endpoint: &Endpoint) -> (Self, crate::testing::Connections) {
        let (sender, connections) = tokio::sync::mpsc::unbounded_channel();
        let mut upstream = Self::new(endpoint).unwrap();
        upstream.dialer.memory = Some(sender);
        (upstream, connections)
    }

    /// The limits of this upstream's phases.
    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The request that `parts` make, with `body`.
    pub(crate) fn request(
        &self,
        parts: RequestParts,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, RequestError> {
        request::request(parts, self.host, &self.upstream_host, body)
    }

    /// Sends a permitted request and waits for the head of its answer; `progress` is that of its
    /// body, if it has one.
    ///
    /// Cancel safe: dropping the future closes the connection.
    pub(crate) async fn send(
        &self,
        _permit: Permit,
        mut request: Request<RequestBody>,
        progress: Option<&Progress>,
    ) -> Result<Answer, UpstreamError> {
        let method = request.method().clone();
        if let Some(mut connection) = self.pool.take() {
            let copy = repeatable(&request);
            let failure = match self.attempt(&mut connection, request, progress).await {
                Ok(answer) => return Answer::check(&method, answer, connection, self.pool.clone()),
                Err(failure) => failure,
            };
            request = again(failure, copy)?;
        }
        let mut connection = Box::new(Connection::open(self.dialer.dial().await?).await?);
        let sent = self.attempt(&mut connection, request, progress).await;
        let answer = sent.map_err(|failure| failure.error)?;
        Answer::check(&method, answer, connection, self.pool.clone())
    }

    async fn attempt(
        &self,
        connection: &mut Connection,
        request: Request<RequestBody>,
        progress: Option<&Progress>,
    ) -> Result<Response<Incoming>, SendFailure> {
        let failure = tokio::select! {
            biased;
            sent = connection.send(request) => match sent {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            },
            (phase, limit) = patience(&self.timeouts, progress) => {
                SendFailure::last(UpstreamError::Timeout { phase, limit })
            }
        };
        // A connection that breaks because of the request's own body is not the upstream's fault.
        Err(match progress.and_then(Progress::failure) {
            Some(error) => SendFailure::last(UpstreamError::RequestBody(error.clone())),
            None => failure,
        })
    }

    /// Closes connections that idled too long. Call it every few seconds.
    pub(crate) fn sweep(&self) {
        self.pool.sweep();
    }
}

/// A copy to send again, of a request that may be sent twice: it only asks, and has no body.
fn repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let only_asks = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if !only_asks || !http_body::Body::is_end_stream(request.body()) {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// What to send on a fresh connection after an idle one turned out to be dead: the request
/// itself where not a byte of it had left, or its copy where not a byte of an answer had come.
fn again(
    failure: SendFailure,
    copy: Option<Request<RequestBody>>,
) -> Result<Request<RequestBody>, UpstreamError> {
    match failure.unsent {
        Some(unsent) => Ok(*unsent),
        None if failure.unanswered => copy.ok_or(failure.error),
        None => Err(failure.error),
    }
}
