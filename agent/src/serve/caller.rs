//! The caller's side of a call: a stream of the tunnel, or a request within TLS that ends here.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_http::upload::Upload;
use culvert_proto::code::ResetCode;
use culvert_proto::head::{BodyLength, Head};
use culvert_proto::mux::{Item, StreamError};
use culvert_proto::priority::Priority;
use culvert_session::body::RecvBody;
use culvert_session::{RecvStream, SendStream};
use futures_util::FutureExt;

use crate::terminate::AnswerSender;
use crate::upstream::CallerBody;

/// Where the answer of a call goes.
#[derive(Debug)]
pub(crate) enum ToCaller {
    /// To the relay, which answers its caller.
    Tunnel(SendStream),
    /// To the caller's own HTTP, which this agent speaks.
    Inside(AnswerSender),
}

/// Where the rest of a call comes from.
#[derive(Debug)]
pub(crate) enum FromCaller {
    /// From the relay, which has read its caller's request.
    Tunnel(RecvStream),
    /// From the request that this agent has read.
    Inside(Box<Upload>),
}

impl ToCaller {
    pub(super) fn set_priority(&mut self, priority: Option<Priority>) {
        match self {
            Self::Tunnel(send) => send.set_priority(priority),
            // Its stream is that of the connection.
            Self::Inside(_) => {}
        }
    }

    /// Sends a head, for which there is room of its own.
    pub(super) async fn send_head(&mut self, head: Head) -> Result<(), StreamError> {
        match self {
            Self::Tunnel(send) => send.send_head(&head).await,
            Self::Inside(answer) => answer.send_head(head),
        }
    }

    /// Takes as much of `data` as there is room for; waits while there is none.
    pub(super) fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<usize, StreamError>> {
        match self {
            Self::Tunnel(send) => send.poll_write_bytes(cx, data),
            Self::Inside(answer) => answer.poll_write_bytes(cx, data),
        }
    }

    /// The answer is whole.
    pub(super) fn finish(&mut self) -> Result<(), StreamError> {
        match self {
            Self::Tunnel(send) => send.finish(),
            Self::Inside(answer) => answer.finish(),
        }
    }

    /// Ready once the caller wants no more, or is gone.
    pub(super) fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match self {
            Self::Tunnel(send) => send.poll_stopped(cx),
            Self::Inside(answer) => answer.poll_stopped(cx),
        }
    }

    pub(super) async fn stopped(&mut self) -> StreamError {
        poll_fn(|cx| self.poll_stopped(cx)).await
    }
}

impl FromCaller {
    /// The body of a request whose head announced `length`.
    pub(super) fn into_body(self, length: BodyLength) -> CallerBody {
        let is_empty = matches!(length, BodyLength::Empty | BodyLength::Exact(0));
        match self {
            Self::Tunnel(mut recv) if is_empty => {
                // Mostly the end came with the head; to take note of it spares the relay a STOP.
                if !matches!(recv.item().now_or_never(), Some(Ok(Item::Finished))) {
                    recv.stop(ResetCode::NotNeeded);
                }
                CallerBody::Empty
            }
            Self::Inside(_) if is_empty => CallerBody::Empty,
            Self::Tunnel(recv) => CallerBody::Tunnel(RecvBody::new(recv, length)),
            Self::Inside(upload) => CallerBody::Inside(upload),
        }
    }

    /// Says that nothing more is wanted, without prejudice.
    pub(super) fn stop(&mut self) {
        match self {
            Self::Tunnel(recv) => recv.stop(ResetCode::NotNeeded),
            Self::Inside(_) => {}
        }
    }
}
