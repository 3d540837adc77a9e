//! The body of a call as its caller sends it, by whichever way the call came.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_http::upload::{Upload, UploadError};
use culvert_session::body::RecvBody;
use http_body::{Body, Frame, SizeHint};

use super::request_body::RequestBodyError;

/// A caller's body, whose end is an error where it is not whole.
#[derive(Debug)]
pub(crate) enum CallerBody {
    /// There is none.
    Empty,
    /// Through the tunnel, from a relay that has read the caller's HTTP.
    Tunnel(RecvBody),
    /// From the caller's own HTTP, which this agent reads.
    Inside(Box<Upload>),
}

impl From<UploadError> for RequestBodyError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Stalled => Self::Stalled,
            UploadError::Broken(error) => Self::Broken(error.to_string()),
        }
    }
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Tunnel(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Inside(body) => Pin::new(body.as_mut()).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Tunnel(body) => body.is_end_stream(),
            Self::Inside(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Tunnel(body) => body.size_hint(),
            Self::Inside(body) => body.size_hint(),
        }
    }
}
