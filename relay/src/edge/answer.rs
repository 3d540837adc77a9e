//! The body of an answer, whoever gives it.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_session::body::{RecvBody, RecvBodyError};
use http_body::{Body, Frame, SizeHint};

use super::forward::Uploading;
use super::headers;
use super::record::CallRecord;

/// The body of an answer. With it the call ends: dropping it writes the call's record, and
/// breaks off what is still under way.
pub(crate) struct AnswerBody {
    source: Source,
    /// The rest of the request's body, which an upstream may take while it answers.
    uploading: Option<Uploading>,
    record: CallRecord,
}

enum Source {
    /// The relay's own words, until they are taken.
    Text(Option<Bytes>),
    /// The upstream's.
    Stream(RecvBody),
}

impl AnswerBody {
    /// The relay's own words; may be empty.
    pub(crate) fn text(text: Bytes, record: CallRecord) -> Self {
        let text = (!text.is_empty()).then_some(text);
        Self {
            source: Source::Text(text),
            uploading: None,
            record,
        }
    }

    /// The upstream's answer.
    pub(crate) fn stream(body: RecvBody, uploading: Option<Uploading>, record: CallRecord) -> Self {
        Self {
            source: Source::Stream(body),
            uploading,
            record,
        }
    }

    /// Nothing is missing any more: the last byte was handed over, or there never was one.
    fn is_whole(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Stream(body) => body.is_end_stream() || body.size_hint().exact() == Some(0),
        }
    }

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RecvBodyError>>> {
        // How the upload ends does not matter any more: if it broke off, so does the answer.
        if let Some(uploading) = &mut self.uploading
            && uploading.as_mut().poll(cx).is_ready()
        {
            self.uploading = None;
        }
        match &mut self.source {
            Source::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = RecvBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RecvBodyError>>> {
        let this = self.get_mut();
        let handed = &this.record.progress.handed;
        handed.store(false, Ordering::Relaxed);
        let frame = match ready!(this.poll_stream(cx)) {
            None => {
                this.record.on_end();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                this.record.on_cut_short(error.to_string());
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        let progress = &this.record.progress;
        progress.handed.store(true, Ordering::Relaxed);
        let frame = match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(headers::of_trailers(trailers)),
            Err(data) => {
                let length = data.data_ref().map_or(0, Bytes::len);
                progress.sent.fetch_add(length as u64, Ordering::Relaxed);
                data
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Stream(body) => body.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // hyper does not ask for the end where it knows it: behind the last announced byte, and
        // where the answer has no body.
        if self.is_whole() {
            self.record.on_end();
        }
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}
