//! The body of an upstream's answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_http::{Throttle, headers};
use culvert_session::body::{RecvBody, RecvBodyError};
use http_body::{Body, Frame, SizeHint};
use tokio_util::task::AbortOnDropHandle;

use super::forward::Uploading;
use super::leave::{Leave, Withdrawn};

/// An upstream's body on its way to the caller.
pub(crate) struct Download {
    body: RecvBody,
    /// The rest of the request's body, which an upstream may take while it answers. It ends with the
    /// answer.
    _uploading: Option<AbortOnDropHandle<()>>,
    leave: Leave,
    throttle: Throttle,
}

/// Why an answer breaks off.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DownloadError {
    /// The upstream's did.
    #[error(transparent)]
    Body(#[from] RecvBodyError),
    /// The caller has no right to it any more.
    #[error(transparent)]
    Withdrawn(#[from] Withdrawn),
}

impl Download {
    /// `uploading` goes on by itself: nobody asks for more of an answer while the caller has no room for
    /// it, and a caller may take it only once all of its request is sent.
    pub(crate) fn new(
        body: RecvBody,
        uploading: Option<Uploading>,
        leave: Leave,
        throttle: Throttle,
    ) -> Self {
        // How it ends does not matter any more: if it broke off, so does the answer.
        let uploading = uploading.map(|uploading| {
            let uploading = tokio::spawn(async { drop(uploading.await) });
            AbortOnDropHandle::new(uploading)
        });
        Self {
            body,
            _uploading: uploading,
            leave,
            throttle,
        }
    }

    /// Whether nothing is missing any more.
    pub(crate) fn is_whole(&self) -> bool {
        self.body.is_end_stream() || self.body.size_hint().exact() == Some(0)
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let this = self.get_mut();
        if let Err(withdrawn) = this.leave.watch(cx) {
            return Poll::Ready(Some(Err(withdrawn.into())));
        }
        let frame = match this.throttle.poll_turn(cx) {
            Poll::Ready(()) => Pin::new(&mut this.body).poll_frame(cx),
            Poll::Pending => Poll::Pending,
        };
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            this.throttle
                .on_moved(frame.data_ref().map_or(0, Bytes::len));
        }
        match frame {
            Poll::Pending => {
                let withdrawn = this.leave.poll(cx);
                withdrawn.map(|withdrawn| Some(Err(withdrawn.into())))
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(headers::of_trailers(trailers)),
                Err(data) => data,
            }))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
