//! The body of a call on its way to the upstream.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::ResetCode;
use culvert_session::StreamError;
use culvert_session::body::RecvBodyError;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::caller_body::CallerBody;
use super::headers::strip_trailers;

/// Why a request's body cannot be forwarded: never the upstream's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestBodyError {
    /// The caller went away, the session was lost, or the body is not what its head announced.
    #[error(transparent)]
    Tunnel(#[from] RecvBodyError),
    /// The caller does not go on with it.
    #[error("the request's body stopped coming")]
    Stalled,
    /// The caller's connection, or HTTP on it, broke.
    #[error("the request's body broke off: {0}")]
    Broken(String),
    /// The rule that allowed the call sets a limit, which the body exceeds.
    #[error("the body is longer than the {limit} bytes that the policy allows")]
    TooLong {
        /// `max_body` of the rule, in bytes.
        limit: u64,
    },
}

impl RequestBodyError {
    /// How the caller's side ended, where nobody is left there to be told.
    pub(crate) fn stream_error(&self) -> Option<StreamError> {
        match self {
            Self::Tunnel(RecvBodyError::Stream(error)) => Some(*error),
            Self::Broken(_) => Some(StreamError::Reset(ResetCode::Cancelled)),
            Self::Tunnel(_) | Self::Stalled | Self::TooLong { .. } => None,
        }
    }
}

/// How far a request's body has got: noted by the body, which the connection owns meanwhile,
/// read by the call.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    /// Microseconds from `started` to the last move.
    moved: AtomicU64,
    bytes: AtomicU64,
    ended: AtomicBool,
    failure: OnceLock<RequestBodyError>,
}

impl Progress {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            moved: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            failure: OnceLock::new(),
        })
    }

    /// Bytes of the body that were handed to the connection.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the whole body was handed to the connection.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// When the last bytes, or the end, were handed to the connection.
    pub(crate) fn last_move(&self) -> Instant {
        self.started + Duration::from_micros(self.moved.load(Ordering::Relaxed))
    }

    /// Why the body broke off, if it did.
    pub(crate) fn failure(&self) -> Option<&RequestBodyError> {
        self.failure.get()
    }

    /// Notes bytes that were handed over, and whether they were the last ones.
    pub(crate) fn note(&self, bytes: usize, ended: bool) {
        let moved = self.started.elapsed().as_micros();
        self.moved
            .store(u64::try_from(moved).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.ended.fetch_or(ended, Ordering::Relaxed);
    }
}

/// The body of a call: what was read for inspection first, then the rest of the stream.
///
/// Trailers follow; over HTTP/1.1 those that the request has announced.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inspected: Bytes,
    rest: CallerBody,
    /// `max_body` of the rule.
    limit: u64,
    progress: Option<Arc<Progress>>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, RequestBodyError>>>;

impl RequestBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self {
            inspected: Bytes::new(),
            rest: CallerBody::Empty,
            limit: 0,
            progress: None,
        }
    }

    /// `inspected`, then `rest`; at most `limit` bytes where there is a limit.
    pub(crate) fn new(
        inspected: Bytes,
        rest: CallerBody,
        limit: Option<u64>,
        progress: Arc<Progress>,
    ) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        Self {
            inspected,
            rest,
            limit,
            progress: Some(progress),
        }
    }

    fn data(&mut self, data: Bytes) -> Polled {
        if let Some(progress) = &self.progress {
            if progress.bytes() + data.len() as u64 > self.limit {
                return self.fail(RequestBodyError::TooLong { limit: self.limit });
            }
            // Behind its last piece nobody asks for the end that is known.
            let ended = self.is_end_stream() || self.size_hint().exact() == Some(0);
            progress.note(data.len(), ended);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn end(&mut self) -> Polled {
        self.rest = CallerBody::Empty;
        if let Some(progress) = &self.progress {
            progress.note(0, true);
        }
        Poll::Ready(None)
    }

    fn fail(&mut self, error: RequestBodyError) -> Polled {
        self.rest = CallerBody::Empty;
        if let Some(progress) = &self.progress {
            let _ = progress.failure.set(error.clone());
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        if !this.inspected.is_empty() {
            let inspected = std::mem::take(&mut this.inspected);
            return this.data(inspected);
        }
        loop {
            if matches!(this.rest, CallerBody::Empty) {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.rest).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return this.data(data),
                    Err(frame) => {
                        if let Ok(mut trailers) = frame.into_trailers() {
                            strip_trailers(&mut trailers);
                            // Nothing comes behind them, and nobody asks.
                            if let Some(progress) = &this.progress {
                                progress.note(0, true);
                            }
                            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                        }
                    }
                },
                Some(Err(error)) => return this.fail(error),
                None => return this.end(),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inspected.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inspected = self.inspected.len() as u64;
        let rest = self.rest.size_hint().exact();
        rest.map_or_else(SizeHint::default, |rest| {
            SizeHint::with_exact(inspected + rest)
        })
    }
}
