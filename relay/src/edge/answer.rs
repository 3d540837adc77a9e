//! The body of an answer, whoever gives it.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_http::Written;
use http::Version;
use http_body::{Body, Frame, SizeHint};

use super::download::{Download, DownloadError};
use super::record::CallRecord;

/// The relay's own words go in pieces of so many bytes: of what hyper has, it keeps all until the caller
/// takes it.
const PIECE: usize = 16 * 1024;

/// The body of an answer. With it the call ends: dropping it writes the call's record, and
/// breaks off what is still under way.
pub(crate) struct AnswerBody {
    source: Source,
    /// Of the HTTP that it is sent over.
    version: Version,
    /// None of an answer after which the call goes on.
    record: Option<CallRecord>,
}

#[allow(
    clippy::large_enum_variant,
    reason = "there is one a call, and a box would be one more allocation a call"
)]
enum Source {
    /// What is left of the relay's own words.
    Text(Bytes),
    /// The upstream's.
    Stream(Download),
    /// It broke off, which its caller is to see behind what came of it.
    Broken(DownloadError, Written),
}

impl AnswerBody {
    /// The relay's own words; may be empty.
    pub(crate) fn text(text: Bytes, record: CallRecord) -> Self {
        Self {
            source: Source::Text(text),
            version: Version::HTTP_11,
            record: Some(record),
        }
    }

    /// None: what follows the answer's head is no body, and the call's record is with whoever
    /// carries it.
    pub(crate) fn none() -> Self {
        Self {
            source: Source::Text(Bytes::new()),
            version: Version::HTTP_11,
            record: None,
        }
    }

    /// The upstream's answer.
    pub(crate) fn stream(download: Download, version: Version, record: CallRecord) -> Self {
        let source = Source::Stream(download);
        Self {
            source,
            version,
            record: Some(record),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let Self {
            source,
            version,
            record: Some(record),
        } = self.get_mut()
        else {
            return Poll::Ready(None);
        };
        record.progress.handed.store(false, Ordering::Relaxed);
        let next = match source {
            Source::Text(text) if text.is_empty() => None,
            Source::Text(text) => {
                let piece = text.split_to(text.len().min(PIECE));
                Some(Ok(Frame::data(piece)))
            }
            Source::Stream(download) => match ready!(Pin::new(download).poll_frame(cx)) {
                // Not what is withdrawn: that ends at once.
                Some(Err(error @ DownloadError::Body(_))) => {
                    let (written, last) = Written::awaited(*version, record.traffic(), cx);
                    *source = Source::Broken(error, written);
                    // hyper has the last piece, and a call that is withdrawn meanwhile ends at once.
                    record.progress.handed.store(true, Ordering::Relaxed);
                    return last.map(|last| Some(Ok(Frame::data(last))));
                }
                next => next,
            },
            Source::Broken(error, written) => {
                if written.poll(cx).is_pending() {
                    record.progress.handed.store(true, Ordering::Relaxed);
                    return Poll::Pending;
                }
                Some(Err(error.clone()))
            }
        };
        match &next {
            None => record.on_end(),
            Some(Err(error)) => record.on_cut_short(error.to_string()),
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                record.progress.on_sent(length);
                record.progress.handed.store(true, Ordering::Relaxed);
            }
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_empty(),
            Source::Stream(download) => download.is_end_stream(),
            Source::Broken(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.len() as u64),
            Source::Stream(download) => download.size_hint(),
            Source::Broken(..) => SizeHint::default(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // hyper does not ask for the end where it knows it: behind the last announced byte, and
        // where the answer has no body.
        let whole = match &self.source {
            Source::Text(text) => text.is_empty(),
            Source::Stream(download) => download.is_whole(),
            Source::Broken(..) => false,
        };
        if whole && let Some(record) = &mut self.record {
            record.on_end();
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
