//! The body of a caller's request.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::head::BodyLength;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::headers;
use crate::pace::Patience;
use crate::progress::Progress;
use crate::throttle::Throttle;

/// How long the rest of a body is read that nobody wants any more, how long its caller may pause in it, and
/// how many bytes that may be. The times are those of nginx's `lingering_close`; without a call a connection
/// may stay for longer, and one on which nobody is known ends at its time whatever is read.
const HEAR_OUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(5);
/// How long it is read yet once the connection is to end: a drain waits for it.
const HEAR_OUT_LAST: Duration = Duration::from_secs(5);
const HEAR_OUT_BYTES: u64 = 1 << 30;

/// A request's body: counted, filtered, and given up where the caller stalls.
///
/// Dropped in the midst, the rest of it is read and thrown away for up to 30 s, and for 5 s once the
/// connection is to end. The answer is there already then, and a caller that is cut off while it still
/// sends may never look at it: a closed connection resets, and curl 7.88, which Debian 12 has, throws away
/// an answer whose HTTP/2 stream was reset behind it.
#[derive(Debug)]
pub struct Upload {
    /// `None` once it has ended or failed.
    incoming: Option<Incoming>,
    /// What was found while looking for the first bytes and is not data.
    trailers: Option<Frame<Bytes>>,
    patience: Patience,
    throttle: Throttle,
    progress: Arc<Progress>,
}

/// Why a request's body is not whole.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The caller did not go on.
    #[error("the request's body stopped coming")]
    Stalled,
    /// The connection or the framing broke.
    #[error("the request's body broke off: {0}")]
    Broken(#[from] hyper::Error),
}

/// The bytes that are there already when a call begins.
#[derive(Debug, Default)]
pub struct FirstBytes {
    /// They themselves.
    pub data: Bytes,
    /// Whether they are all of the body.
    pub end: bool,
}

impl Upload {
    /// The body of a request whose caller is waited for so long whenever it is its turn.
    pub fn new(incoming: Incoming, stall: Duration, progress: Arc<Progress>) -> Self {
        Self {
            incoming: Some(incoming),
            trailers: None,
            patience: Patience::new(stall),
            throttle: Throttle::default(),
            progress,
        }
    }

    /// The same, at the rate of this throttle.
    pub fn throttled(mut self, throttle: Throttle) -> Self {
        self.throttle = throttle;
        self
    }

    /// Whether nothing more comes from the caller.
    fn has_ended(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    /// What the request's head says about its body.
    pub fn length(&self) -> BodyLength {
        match (self.has_ended(), self.size_hint().exact()) {
            (true, _) => BodyLength::Empty,
            (false, Some(length)) => BodyLength::Exact(length),
            (false, None) => BodyLength::Unknown,
        }
    }

    /// Takes what came together with the head, so that a small request leaves in one frame.
    /// Does not wait for the caller, only for hyper's turn to hand over what it has read.
    pub async fn first_bytes(&mut self) -> Result<FirstBytes, UploadError> {
        if self.has_ended() {
            return Ok(FirstBytes {
                data: Bytes::new(),
                end: true,
            });
        }
        let mut yielded = false;
        let frame = poll_fn(|cx| match self.poll_incoming(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending if yielded => Poll::Ready(None),
            Poll::Pending => {
                yielded = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        });
        let (data, ended) = match frame.await {
            None => (Bytes::new(), false),
            Some(None) => (Bytes::new(), true),
            Some(Some(frame)) => match frame?.into_data() {
                Ok(data) => (data, false),
                Err(frame) => {
                    self.trailers = Some(frame);
                    (Bytes::new(), false)
                }
            },
        };
        Ok(FirstBytes {
            data,
            end: ended || self.is_end_stream(),
        })
    }

    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = match ready!(Pin::new(incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            ended => {
                self.incoming = None;
                return Poll::Ready(ended.map(|failed| failed.map_err(Into::into)));
            }
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.progress.waits.store(false, Ordering::Relaxed);
        self.progress.on_received(length);
        self.patience.on_progress(length);
        self.throttle.on_moved(length);
        let frame = match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(headers::of_trailers(trailers)),
            Err(data) => data,
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = self.get_mut();
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(trailers)));
        }
        // Nor is it the caller's turn while its tenant is too fast.
        ready!(this.throttle.poll_turn(cx));
        match this.poll_incoming(cx) {
            // Not the caller's turn.
            Poll::Pending if this.progress.may_pause() => Poll::Pending,
            Poll::Pending => {
                ready!(this.patience.poll_exhausted(cx));
                this.incoming = None;
                Poll::Ready(Some(Err(UploadError::Stalled)))
            }
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let ended = || SizeHint::with_exact(0);
        self.incoming.as_ref().map_or_else(ended, Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.has_ended()
            && let Some(rest) = self.incoming.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let drain = self.progress.drain().clone();
            runtime.spawn(async move {
                tokio::select! {
                    _ = timeout(HEAR_OUT, hear_out(rest)) => {}
                    () = async { drain.cancelled().await; sleep(HEAR_OUT_LAST).await } => {}
                }
            });
        }
    }
}

/// Reads a body, and throws it away.
async fn hear_out(mut rest: Incoming) {
    let mut bytes = 0;
    while bytes < HEAR_OUT_BYTES
        && let Ok(Some(Ok(frame))) = timeout(PAUSE, rest.frame()).await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
}
