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
use hyper::body::Incoming;

use crate::headers;
use crate::pace::Patience;
use crate::progress::Progress;
use crate::throttle::Throttle;

/// A request's body: counted, filtered, and given up where the caller stalls.
#[derive(Debug)]
pub struct Upload {
    incoming: Incoming,
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
            incoming,
            trailers: None,
            patience: Patience::new(stall),
            throttle: Throttle::default(),
            progress,
        }
    }

    /// The same, at the rate of this throttle.
    pub fn throttled(self, throttle: Throttle) -> Self {
        Self { throttle, ..self }
    }

    /// What the request's head says about its body.
    pub fn length(&self) -> BodyLength {
        match (
            self.incoming.is_end_stream(),
            self.incoming.size_hint().exact(),
        ) {
            (true, _) => BodyLength::Empty,
            (false, Some(length)) => BodyLength::Exact(length),
            (false, None) => BodyLength::Unknown,
        }
    }

    /// Takes what came together with the head, so that a small request leaves in one frame.
    /// Does not wait for the caller, only for hyper's turn to hand over what it has read.
    pub async fn first_bytes(&mut self) -> Result<FirstBytes, UploadError> {
        if self.incoming.is_end_stream() {
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
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.progress.waits.store(false, Ordering::Relaxed);
        self.progress
            .received
            .fetch_add(length as u64, Ordering::Relaxed);
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
            Poll::Pending if this.progress.waits.load(Ordering::Relaxed) => Poll::Pending,
            Poll::Pending => this
                .patience
                .poll_exhausted(cx)
                .map(|()| Some(Err(UploadError::Stalled))),
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
