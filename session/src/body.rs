//! Streams as HTTP message bodies, for relay and agent alike.

use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_proto::code::ResetCode;
use culvert_proto::head::{BodyLength, Head};
use culvert_proto::mux::{Item, StreamError};
use http_body::{Body, Frame, SizeHint};

use crate::stream::{RecvStream, SendStream};

/// The rest of a stream, after its head, as an HTTP body.
///
/// Ends cleanly only where the peer finished in good order and, where the head announced a
/// length, after exactly so many bytes: a body that was cut short is an error, so that whoever
/// forwards it cuts its own message short visibly.
pub struct RecvBody {
    stream: RecvStream,
    /// Bytes still to come, where the head said so.
    remaining: Option<u64>,
    /// The head said that there is no body.
    empty: bool,
    finished: bool,
    /// What came right behind the last announced byte.
    next: Option<Result<Frame<Bytes>, RecvBodyError>>,
}

/// Why a received body is not whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecvBodyError {
    /// The stream was broken off.
    #[error("the body was broken off: {0}")]
    Stream(#[from] StreamError),
    /// The peer finished before the announced length.
    #[error("the body is {missing} bytes shorter than announced")]
    Short {
        /// Bytes that did not come.
        missing: u64,
    },
    /// The peer sent more than the announced length.
    #[error("the body is longer than announced")]
    Long,
    /// A head that is no trailers, in the midst of the body.
    #[error("a head in the midst of the body")]
    Head,
}

impl RecvBody {
    /// The body of a message whose head, already taken, announced `length`.
    pub fn new(stream: RecvStream, length: BodyLength) -> Self {
        let remaining = match length {
            BodyLength::Empty => Some(0),
            BodyLength::Exact(length) => Some(length),
            BodyLength::Unknown => None,
        };
        let empty = remaining == Some(0);
        Self {
            stream,
            remaining,
            empty,
            finished: false,
            next: None,
        }
    }

    fn on_item(
        &mut self,
        item: Result<Item, StreamError>,
    ) -> Option<Result<Frame<Bytes>, RecvBodyError>> {
        let frame = match item {
            Ok(Item::Data(data)) => Some(self.on_data(data)),
            Ok(Item::Head(Head::Trailers(trailers))) => {
                Some(self.check_end().map(|()| Frame::trailers(trailers)))
            }
            Ok(Item::Head(_)) => Some(Err(RecvBodyError::Head)),
            Ok(Item::Finished) => self.check_end().err().map(Err),
            Err(error) => Some(Err(error.into())),
        };
        self.finished = matches!(frame, None | Some(Err(_)));
        if let Some(Err(RecvBodyError::Long | RecvBodyError::Head)) = frame {
            self.stream.stop(ResetCode::Protocol);
        }
        frame
    }

    fn on_data(&mut self, data: Bytes) -> Result<Frame<Bytes>, RecvBodyError> {
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining
                .checked_sub(data.len() as u64)
                .ok_or(RecvBodyError::Long)?;
        }
        Ok(Frame::data(data))
    }

    fn check_end(&self) -> Result<(), RecvBodyError> {
        match self.remaining {
            None | Some(0) => Ok(()),
            Some(missing) => Err(RecvBodyError::Short { missing }),
        }
    }
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = RecvBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RecvBodyError>>> {
        let this = self.get_mut();
        if let Some(next) = this.next.take() {
            return Poll::Ready(Some(next));
        }
        if this.finished {
            return Poll::Ready(None);
        }
        let item = ready!(this.stream.poll_item(cx));
        let frame = this.on_item(item);
        // Behind the last announced byte the end is mostly here already: to know it now lets
        // hyper end the message with its last piece.
        if !this.finished
            && this.remaining == Some(0)
            && let Poll::Ready(item) = this.stream.poll_item(cx)
        {
            this.next = this.on_item(item);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && (self.finished || self.empty)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for RecvBody {
    /// HTTP/1 does not ask again after the last announced byte. That is no cancellation.
    fn drop(&mut self) {
        if !self.finished && self.remaining == Some(0) {
            self.stream.stop(ResetCode::NotNeeded);
        }
    }
}

impl fmt::Debug for RecvBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBody")
            .field("remaining", &self.remaining)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

/// Why a body was not sent to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendBodyError<E> {
    /// The body's source failed; the peer was told with [`ResetCode::Truncated`].
    #[error("the body's source failed: {0}")]
    Source(E),
    /// The peer went away or wants no more.
    #[error("the body's receiver is gone: {0}")]
    Stream(#[from] StreamError),
}

/// Sends a body and finishes the stream: data as the peer's credit permits, trailers as a head.
///
/// Ends as soon as the peer stops or resets the stream, even while the source has nothing to
/// give: dropping the source is how the cancellation travels on. A peer that says
/// [`ResetCode::NotNeeded`] has all it wants; that is success.
pub async fn send_body<B>(body: B, send: &mut SendStream) -> Result<(), SendBodyError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    while !body.is_end_stream() {
        let next = std::future::poll_fn(|cx| match send.poll_stopped(cx) {
            Poll::Ready(why) => Poll::Ready(Err(why)),
            Poll::Pending => body.as_mut().poll_frame(cx).map(Ok),
        });
        let sent = match next.await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => send_frame(frame, send).await,
            Ok(Some(Err(error))) => {
                send.cut_short(ResetCode::Truncated);
                return Err(SendBodyError::Source(error));
            }
            Err(why) => Err(why),
        };
        match sent {
            Ok(()) => {}
            Err(StreamError::Stopped(ResetCode::NotNeeded)) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match send.finish() {
        Ok(()) | Err(StreamError::Stopped(ResetCode::NotNeeded)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn send_frame(frame: Frame<Bytes>, send: &mut SendStream) -> Result<(), StreamError> {
    match frame.into_data() {
        Ok(data) => send.write_bytes(data).await,
        Err(frame) => match frame.into_trailers() {
            Ok(trailers) => send.send_head(&Head::Trailers(trailers)).await,
            // Frames of a kind that HTTP does not have yet carry nothing we could forward.
            Err(_) => Ok(()),
        },
    }
}
