//! The upstream's answer: checked before anything of it is passed on, streamed afterwards.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::head::{BodyLength, ResponseHead};
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::connection::{Connection, MAX_IDLE};
use super::error::{BadAnswer, UpstreamError};
use super::headers;
use super::pool::Pool;

/// An answer that may be passed on.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: ResponseHead,
    pub(crate) body: AnswerBody,
}

impl Answer {
    /// Checks an answer. A bad one takes its connection with it.
    pub(crate) fn check(
        method: &Method,
        answer: Response<Incoming>,
        mut connection: Box<Connection>,
        home: Arc<Pool>,
    ) -> Result<Self, UpstreamError> {
        let (parts, incoming) = answer.into_parts();
        let mut headers = parts.headers;
        check_framing(parts.status, &headers).map_err(UpstreamError::Answer)?;
        connection.idle = idle_time(&headers);
        headers::strip_answer(&mut headers);
        let body = match (incoming.is_end_stream(), incoming.size_hint().exact()) {
            (true, _) => BodyLength::Empty,
            (false, Some(length)) => BodyLength::Exact(length),
            (false, None) => BodyLength::Unknown,
        };
        // It tells the length of what is not there; everywhere else the head's own field does.
        if *method != Method::HEAD && parts.status != StatusCode::NOT_MODIFIED {
            headers.remove(CONTENT_LENGTH);
        }
        let head = ResponseHead {
            status: parts.status,
            headers,
            body,
        };
        let body = AnswerBody {
            incoming,
            connection: Some(connection),
            home,
        };
        Ok(Self { head, body })
    }
}

/// hyper takes the stronger of two framings and reads unknown codings to the end of the
/// connection; what crosses the tunnel must not depend on who is more lenient.
fn check_framing(status: StatusCode, headers: &HeaderMap) -> Result<(), BadAnswer> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(BadAnswer::Switched);
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (coding, length) = (codings.next(), lengths.next());
    if codings.next().is_some() || lengths.next().is_some() || coding.is_some() && length.is_some()
    {
        return Err(BadAnswer::DoublyFramed);
    }
    match coding {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Err(BadAnswer::Coding)
        }
        _ => Ok(()),
    }
}

/// How long the upstream keeps the connection (`Keep-Alive: timeout=5`), less a second so that
/// the agent lets go first.
fn idle_time(headers: &HeaderMap) -> Duration {
    let seconds = |value: &http::HeaderValue| {
        let text = value.to_str().ok()?;
        let timeout = text
            .split(',')
            .find_map(|part| part.trim().strip_prefix("timeout="))?;
        timeout.parse::<u64>().ok()
    };
    let seconds = headers.get("keep-alive").and_then(seconds);
    seconds.map_or(MAX_IDLE, |s| {
        Duration::from_secs(s.saturating_sub(1)).min(MAX_IDLE)
    })
}

/// The body of an answer. Reading it drives the connection; at its clean end the connection
/// goes home to its pool. Anything else, dropping included, closes the connection.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    incoming: Incoming,
    connection: Option<Box<Connection>>,
    home: Arc<Pool>,
}

impl AnswerBody {
    /// Moves bytes in both directions without taking any: the rest of a request may still have
    /// to go out while nobody has room for the answer.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection {
            connection.drive(cx);
        }
    }

    fn go_home(&mut self, cx: &mut Context<'_>) {
        if let Some(mut connection) = self.connection.take()
            && !connection.idle.is_zero()
            && connection.is_at_rest(cx)
        {
            self.home.put(connection);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        // The first look tells the connection that there is room for more.
        let mut polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if polled.is_pending() {
            this.drive(cx);
            polled = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        match &polled {
            Poll::Ready(Some(Err(_))) => this.connection = None,
            Poll::Ready(None) => this.go_home(cx),
            Poll::Ready(Some(Ok(_))) if this.incoming.is_end_stream() => this.go_home(cx),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled.map_err(UpstreamError::Http)
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none() && self.incoming.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn framing(status: u16, pairs: &[(&'static str, &'static str)]) -> Result<(), BadAnswer> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check_framing(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn an_answer_has_one_framing() {
        assert_eq!(framing(200, &[]), Ok(()));
        assert_eq!(framing(200, &[("content-length", "5")]), Ok(()));
        assert_eq!(framing(200, &[("transfer-encoding", "Chunked")]), Ok(()));
        for both in [
            &[("content-length", "5"), ("transfer-encoding", "chunked")][..],
            &[("transfer-encoding", "chunked"), ("content-length", "5")],
            &[
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
            &[("content-length", "5"), ("content-length", "5")],
        ] {
            assert_eq!(framing(200, both), Err(BadAnswer::DoublyFramed), "{both:?}");
        }
        for coding in [
            "gzip, chunked",
            "gzip",
            "identity",
            "chunked, chunked",
            "xchunked",
        ] {
            assert_eq!(
                framing(200, &[("transfer-encoding", coding)]),
                Err(BadAnswer::Coding)
            );
        }
        assert_eq!(
            framing(101, &[("upgrade", "websocket")]),
            Err(BadAnswer::Switched)
        );
    }

    #[test]
    fn an_idle_connection_is_given_up_before_the_upstream_does_it() {
        let idle = |value: &'static str| {
            idle_time(&HeaderMap::from_iter([(
                http::HeaderName::from_static("keep-alive"),
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(idle_time(&HeaderMap::new()), MAX_IDLE);
        assert_eq!(idle("timeout=5, max=100"), Duration::from_secs(4));
        assert_eq!(idle("max=100, timeout=5"), Duration::from_secs(4));
        assert_eq!(idle("timeout=100000"), MAX_IDLE);
        assert_eq!(idle("timeout=1"), Duration::ZERO);
        assert_eq!(idle("nonsense"), MAX_IDLE);
    }
}
