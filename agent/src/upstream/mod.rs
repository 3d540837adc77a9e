//! The client of one upstream: takes a permit and a request, gives an answer that was checked.
//!
//! * `dial`, `address`, `transport`: a new connection to an address that was checked; `trust`: to a
//!   server that is known;
//! * `connection`, `pool`: HTTP/1.1 on it, driven by the call that holds it, kept while idle;
//!   `bound`: unless it has become one user's;
//! * `http2`: HTTP/2 on it, shared by calls;
//! * `health`: how it is doing, and who dials while it is down;
//! * `request`, `caller_body`, `request_body`, `headers`: what the upstream gets;
//! * `answer`, `interim`: what it may say; `switch`: how a call leaves HTTP (WebSocket);
//! * `error`: what went wrong, for the log and for the caller;
//! * `probe`: what there is, for an administrator who asks.
//!
//! Redirects are answers like any other: they are passed on, never followed.

mod address;
mod answer;
mod bound;
mod caller_body;
mod connection;
mod dial;
mod error;
mod headers;
mod health;
mod http2;
mod interim;
mod patience;
mod pool;
mod probe;
mod request;
mod request_body;
mod switch;
#[cfg(test)]
mod tests;
mod transport;
mod trust;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use culvert_config::endpoint::{Endpoint, HostHeader, Timeouts, UpstreamProtocol};
use culvert_http::headers::is_grpc;
use culvert_policy::Permit;
use http::header::HeaderValue;
use http::uri::Scheme;
use http::{Method, Request};

pub(crate) use self::answer::{Answer, AnswerBody};
pub(crate) use self::caller_body::CallerBody;
use self::connection::{Connection, SendFailure};
pub(crate) use self::dial::DialerError;
use self::dial::{Dialer, Protocol};
pub(crate) use self::error::{BadAnswer, Phase, UpstreamError};
pub(crate) use self::headers::strip_trailers;
use self::health::{Health, Status, Way};
use self::http2::{Exchange, Place, Shared};
pub(crate) use self::interim::Interims;
pub(crate) use self::patience::Timer;
use self::patience::patience;
use self::pool::Pool;
pub(crate) use self::probe::{Heard, ProbeError, Probed};
pub(crate) use self::request::{RequestError, RequestParts};
pub(crate) use self::request_body::{Progress, RequestBody, RequestBodyError};
pub(crate) use self::switch::{Switch, Switched};

/// One upstream: how to reach it, and the connections to it that are idle.
#[derive(Debug)]
pub(crate) struct Upstream {
    dialer: Dialer,
    host: HostHeader,
    upstream_host: HeaderValue,
    timeouts: Timeouts,
    protocol: UpstreamProtocol,
    /// The upstream has turned HTTP/1.1 down, and not HTTP/2 since.
    has_only_http2: AtomicBool,
    pool: Arc<Pool>,
    shared: Shared,
    health: Health,
}

/// Most times that one request is sent, whatever the upstream says of the attempts.
const MAX_ATTEMPTS: usize = 3;

impl Upstream {
    /// Reads the endpoint's CA file or the system's roots.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, DialerError> {
        Ok(Self {
            dialer: Dialer::new(endpoint)?,
            host: endpoint.host,
            upstream_host: request::upstream_host(endpoint)
                .ok_or_else(|| DialerError::Name(endpoint.upstream.to_string()))?,
            timeouts: endpoint.timeouts.clone(),
            protocol: endpoint.upstream_protocol,
            has_only_http2: AtomicBool::new(false),
            pool: Arc::default(),
            shared: Shared::default(),
            health: Health::default(),
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
        let host = match parts.keeps_name {
            true => HostHeader::Preserve,
            false => self.host,
        };
        request::request(parts, host, &self.upstream_host, body)
    }

    /// Sends a permitted request and waits for the head of its answer; `progress` is that of its
    /// body, if it has one.
    ///
    /// Cancel safe: dropping the future closes the connection, or resets the stream.
    pub(crate) async fn send(
        &self,
        _permit: Permit,
        request: Request<RequestBody>,
        progress: Option<&Progress>,
    ) -> Result<Answer, UpstreamError> {
        let sent = match self.protocol_for(&request) {
            Protocol::Http1 => self.send_http1(request, progress).await,
            // In a box, as all that is rare here: every call has room for it otherwise.
            Protocol::Http2 => Box::pin(self.send_http2(request, progress)).await,
        };
        self.note(&sent);
        sent
    }

    /// Takes note of what came of a call.
    fn note<T>(&self, outcome: &Result<T, UpstreamError>) {
        match outcome {
            Ok(_) => self.health.answered(),
            Err(UpstreamError::RequestBody(_) | UpstreamError::Authority) => {}
            Err(error) => self.health.failed(error),
        }
    }

    /// HTTP/1.1 costs less per call, and breaks for one call at a time; HTTP/2 is for what needs
    /// it (`docs/adr/0003-http1-to-upstreams.md`).
    fn protocol_for(&self, request: &Request<RequestBody>) -> Protocol {
        match self.protocol {
            UpstreamProtocol::Http1 => Protocol::Http1,
            UpstreamProtocol::H2 => Protocol::Http2,
            UpstreamProtocol::Auto => {
                let only_http2 = self.has_only_http2.load(Ordering::Relaxed);
                match only_http2 || is_grpc(request.headers()) {
                    true => Protocol::Http2,
                    false => Protocol::Http1,
                }
            }
        }
    }

    async fn send_http1(
        &self,
        mut request: Request<RequestBody>,
        progress: Option<&Progress>,
    ) -> Result<Answer, UpstreamError> {
        let method = request.method().clone();
        if !may_be_repeated(&request) {
            // Such a request is lost on a connection that has been closed meanwhile. Who yields goes on
            // after a look at the sockets, and then the pool knows what the kernel knows.
            tokio::task::yield_now().await;
        }
        if let Some(mut connection) = self.pool.take() {
            let copy = repeatable(&request);
            let sent = self.attempt(pin!(connection.send(request)), progress).await;
            let failure = match sent {
                Ok(answer) => return Answer::http1(&method, answer, connection, self.pool.clone()),
                Err(failure) => failure,
            };
            request = again(failure, copy)?;
        }
        Box::pin(self.send_on_new(request, progress)).await
    }

    /// Sends over a new connection; over HTTP/2 where the upstream turns out to have nothing else.
    async fn send_on_new(
        &self,
        request: Request<RequestBody>,
        progress: Option<&Progress>,
    ) -> Result<Answer, UpstreamError> {
        let method = request.method().clone();
        let era = self.pool.era();
        let dialled = self
            .health
            .dial(Way::Http1, || self.dialer.dial(Protocol::Http1))
            .await;
        let transport = match dialled {
            Ok(transport) => transport,
            Err(error) if self.protocol == UpstreamProtocol::Auto && error.is_alpn_refusal() => {
                self.has_only_http2.store(true, Ordering::Relaxed);
                let place = self.place_http2().await?;
                return self.send_in(place, request, progress).await;
            }
            Err(error) => return Err(error),
        };
        let mut connection = Box::new(Connection::open(transport).await?);
        connection.era = era;
        let sent = self.attempt(pin!(connection.send(request)), progress).await;
        let answer = sent.map_err(|failure| failure.error)?;
        Answer::http1(&method, answer, connection, self.pool.clone())
    }

    /// Over HTTP/2; over HTTP/1.1 where the upstream had nothing but HTTP/2 before and now has none.
    async fn send_http2(
        &self,
        request: Request<RequestBody>,
        progress: Option<&Progress>,
    ) -> Result<Answer, UpstreamError> {
        let may_be_http1 = self.protocol == UpstreamProtocol::Auto && !is_grpc(request.headers());
        match self.place_http2().await {
            Ok(place) => self.send_in(place, request, progress).await,
            Err(error) if may_be_http1 && error.is_about_protocol() => {
                self.send_http1(request, progress).await
            }
            Err(error) => Err(error),
        }
    }

    /// Sends over HTTP/2, first in `place`.
    async fn send_in(
        &self,
        mut place: Place,
        mut request: Request<RequestBody>,
        progress: Option<&Progress>,
    ) -> Result<Answer, UpstreamError> {
        let method = request.method().clone();
        let scheme = self.scheme();
        let mut attempts = 1;
        loop {
            let copy = repeatable(&request);
            let sending = pin!(Exchange::send(place, scheme.clone(), request));
            let failure = match self.attempt(sending, progress).await {
                Ok((answer, exchange)) => return Answer::http2(&method, answer, exchange),
                Err(failure) if attempts == MAX_ATTEMPTS => return Err(failure.error),
                Err(failure) => failure,
            };
            attempts += 1;
            request = again(failure, copy)?;
            place = self.place_http2().await?;
        }
    }

    fn scheme(&self) -> Scheme {
        match self.dialer.is_tls() {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        }
    }

    /// A place for a call over HTTP/2.
    async fn place_http2(&self) -> Result<Place, UpstreamError> {
        let placed = self.shared.place(|| self.open_http2()).await;
        if placed.as_ref().is_err_and(UpstreamError::is_about_protocol) {
            self.has_only_http2.store(false, Ordering::Relaxed);
        }
        placed
    }

    async fn open_http2(&self) -> Result<Arc<http2::Connection>, UpstreamError> {
        let open = || async {
            let transport = self.dialer.dial(Protocol::Http2).await?;
            http2::Connection::open(transport, self.timeouts.tls.0).await
        };
        self.health.dial(Way::Http2, open).await
    }

    /// One attempt at a request, for as long as the endpoint has patience.
    async fn attempt<T>(
        &self,
        sending: Pin<&mut impl Future<Output = Result<T, SendFailure>>>,
        progress: Option<&Progress>,
    ) -> Result<T, SendFailure> {
        let failure = tokio::select! {
            biased;
            sent = sending => match sent {
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

    /// A TCP connection to a port of the upstream, at an address that was checked, within
    /// `timeouts.connect`: for permitted calls that are bytes.
    pub(crate) async fn tcp(
        &self,
        _permit: Permit,
        port: u16,
    ) -> Result<tokio::net::TcpStream, UpstreamError> {
        let way = Way::Bytes(port);
        let dialled = self.health.dial(way, || self.dialer.tcp(port)).await;
        self.note(&dialled);
        dialled
    }

    /// How it is doing.
    pub(crate) fn status(&self) -> Status {
        self.health.status()
    }

    /// Closes connections that idled too long. Call it every few seconds.
    pub(crate) fn sweep(&self) {
        self.pool.sweep();
        self.shared.sweep();
    }
}

/// Whether a request may be sent twice: it only asks, has no body, and has not been sent twice.
fn may_be_repeated(request: &Request<RequestBody>) -> bool {
    let only_asks = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let is_first = request.extensions().get::<Repeated>().is_none();
    is_first && only_asks && http_body::Body::is_end_stream(request.body())
}

/// A copy to send again, of a request that [may be sent twice](may_be_repeated).
fn repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !may_be_repeated(request) {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// What to send on another connection: the request itself where not a byte of it had left or the
/// upstream says that it has not begun with it, or its copy where not a byte of an answer had come.
fn again(
    failure: SendFailure,
    copy: Option<Request<RequestBody>>,
) -> Result<Request<RequestBody>, UpstreamError> {
    match failure.unsent {
        Some(unsent) => Ok(*unsent),
        None if failure.unanswered => {
            let mut copy = copy.ok_or(failure.error)?;
            copy.extensions_mut().insert(Repeated);
            Ok(copy)
        }
        None => Err(failure.error),
    }
}

/// Marks a request that the upstream may have had once already: it is not sent a third time, whatever way
/// its second attempt takes.
#[derive(Debug, Clone, Copy)]
struct Repeated;
