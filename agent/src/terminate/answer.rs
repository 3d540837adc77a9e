//! The body of an answer, whoever gives it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_http::{Progress, Traffic, Written};
use culvert_proto::code::ResetCode;
use culvert_proto::head::BodyLength;
use http::Version;
use http_body::{Body, Frame, SizeHint};

use super::call::InFlight;
use super::handover::{AnswerReceiver, Next};

/// The body of an answer. Dropped before its end, it cancels the call.
#[derive(Debug)]
pub(super) struct AnswerBody {
    source: Source,
    progress: Arc<Progress>,
    /// None of an answer after which the call goes on.
    _in_flight: Option<InFlight>,
}

/// Where an answer goes.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) version: Version,
    pub(super) traffic: Arc<Traffic>,
    /// The connection ends with an answer that broke off.
    pub(super) cut_short: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Source {
    /// The agent's own words, until they are taken.
    Text(Option<Bytes>),
    /// The upstream's, and how many bytes are still to come, where that is known; whether there is
    /// a body at all.
    Call {
        receiver: AnswerReceiver,
        left: Option<u64>,
        is_empty: bool,
        way: Way,
    },
    /// It broke off, which its caller is to see behind what came of it.
    Broken(ResetCode, Written),
}

/// An answer breaks off.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off: {0}")]
pub(super) struct Broken(ResetCode);

impl AnswerBody {
    /// The agent's own words; may be empty.
    pub(super) fn text(text: Bytes, progress: Arc<Progress>, in_flight: InFlight) -> Self {
        let text = (!text.is_empty()).then_some(text);
        Self {
            source: Source::Text(text),
            progress,
            _in_flight: Some(in_flight),
        }
    }

    /// None: what follows the answer's head is no body.
    pub(super) fn none(progress: Arc<Progress>) -> Self {
        Self {
            source: Source::Text(None),
            progress,
            _in_flight: None,
        }
    }

    /// The upstream's, of so many bytes.
    pub(super) fn of_call(
        receiver: AnswerReceiver,
        length: BodyLength,
        way: Way,
        progress: Arc<Progress>,
        in_flight: InFlight,
    ) -> Self {
        let left = match length {
            BodyLength::Empty => Some(0),
            BodyLength::Exact(length) => Some(length),
            BodyLength::Unknown => None,
        };
        Self {
            source: Source::Call {
                receiver,
                left,
                is_empty: left == Some(0),
                way,
            },
            progress,
            _in_flight: Some(in_flight),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        this.progress.handed.store(false, Ordering::Relaxed);
        let frame = match &mut this.source {
            Source::Text(text) => text.take().map(Frame::data),
            Source::Call {
                receiver,
                left,
                way,
                ..
            } => match ready!(receiver.poll_next(cx)) {
                Ok(Next::Data(data)) => {
                    *left = left.map(|left| left.saturating_sub(data.len() as u64));
                    Some(Frame::data(data))
                }
                Ok(Next::Trailers(trailers)) => Some(Frame::trailers(trailers)),
                Ok(Next::End) => None,
                Err(code) if !code.keeps_data() => return Poll::Ready(Some(Err(Broken(code)))),
                Err(code) => {
                    let is_http1 = way.version < Version::HTTP_2;
                    way.cut_short.fetch_or(is_http1, Ordering::Relaxed);
                    let (written, last) = Written::awaited(way.version, &way.traffic, cx);
                    this.source = Source::Broken(code, written);
                    this.progress.handed.store(true, Ordering::Relaxed);
                    return last.map(|last| Some(Ok(Frame::data(last))));
                }
            },
            Source::Broken(code, written) => {
                if written.poll(cx).is_pending() {
                    this.progress.handed.store(true, Ordering::Relaxed);
                    return Poll::Pending;
                }
                return Poll::Ready(Some(Err(Broken(*code))));
            }
        };
        if let Some(frame) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len);
            this.progress.on_sent(length);
            this.progress.handed.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Call {
                receiver, is_empty, ..
            } => *is_empty || receiver.has_ended(),
            Source::Broken(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Call { left, .. } => left.map_or_else(SizeHint::default, SizeHint::with_exact),
            Source::Broken(..) => SizeHint::default(),
        }
    }
}

impl Drop for AnswerBody {
    /// hyper does not ask for the end where it knows it: behind the last announced byte, and where
    /// the answer has no body. That is no cancellation.
    fn drop(&mut self) {
        if let Source::Call {
            receiver,
            left: Some(0),
            ..
        } = &mut self.source
        {
            receiver.stop(ResetCode::NotNeeded);
        }
    }
}
