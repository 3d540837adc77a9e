//! The upstream's answer: checked before anything of it is passed on, streamed afterwards.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::head::{BodyLength, ResponseHead};
use culvert_proto::heads::is_phrase;
use culvert_proto::limits::MAX_PHRASE;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Extensions, Method, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;

use super::bound;
use super::connection::{Connection, MAX_HEADERS, MAX_IDLE};
use super::error::{BadAnswer, UpstreamError};
use super::headers;
use super::http2::Exchange;
use super::pool::Pool;

/// An answer that may be passed on.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: ResponseHead,
    pub(crate) body: AnswerBody,
}

impl Answer {
    /// Checks an answer over HTTP/1.1. A bad one takes its connection with it.
    pub(crate) fn http1(
        method: &Method,
        answer: Response<Incoming>,
        mut connection: Box<Connection>,
        home: Arc<Pool>,
    ) -> Result<Self, UpstreamError> {
        let (mut parts, incoming) = answer.into_parts();
        let phrase = take_phrase(&mut parts.extensions);
        connection.idle = idle_time(&parts.headers);
        connection.is_bound |= bound::is_offered(&parts.headers);
        let length = match (incoming.is_end_stream(), incoming.size_hint().exact()) {
            (true, _) => BodyLength::Empty,
            (false, Some(length)) => BodyLength::Exact(length),
            (false, None) => BodyLength::Unknown,
        };
        let head = checked(method, parts.status, parts.headers, length)?;
        let head = ResponseHead { phrase, ..head };
        let source = Source::Http1 {
            incoming,
            connection: Some(connection),
            home,
        };
        let body = AnswerBody { source };
        Ok(Self { head, body })
    }

    /// Checks an answer over HTTP/2, whose frames the library has checked. A bad one takes its
    /// stream with it.
    pub(crate) fn http2(
        method: &Method,
        answer: Response<()>,
        exchange: Exchange,
    ) -> Result<Self, UpstreamError> {
        let (parts, ()) = answer.into_parts();
        if parts.headers.len() > MAX_HEADERS {
            return Err(UpstreamError::Answer(BadAnswer::Head));
        }
        // What has no content may still end with an empty frame.
        let is_bodiless = *method == Method::HEAD
            || parts.status == StatusCode::NO_CONTENT
            || parts.status == StatusCode::NOT_MODIFIED;
        let length = if exchange.is_end_stream() || is_bodiless {
            BodyLength::Empty
        } else {
            let said = parts.headers.get(CONTENT_LENGTH);
            let said = said.and_then(|value| value.to_str().ok()?.parse().ok());
            said.map_or(BodyLength::Unknown, BodyLength::Exact)
        };
        let head = checked(method, parts.status, parts.headers, length)?;
        let source = Source::Http2 {
            exchange: Box::new(exchange),
            is_bodiless,
        };
        let body = AnswerBody { source };
        Ok(Self { head, body })
    }
}

/// The head that is passed on, if it may be.
fn checked(
    method: &Method,
    status: StatusCode,
    mut headers: HeaderMap,
    body: BodyLength,
) -> Result<ResponseHead, UpstreamError> {
    check_framing(status, &headers).map_err(UpstreamError::Answer)?;
    headers::strip_answer(&mut headers);
    // It tells the length of what is not there; everywhere else the head's own field does.
    if *method != Method::HEAD && status != StatusCode::NOT_MODIFIED {
        headers.remove(CONTENT_LENGTH);
    }
    Ok(ResponseHead {
        status,
        phrase: None,
        headers,
        body,
    })
}

/// What the upstream says beside its status, where hyper has found that it is not what everybody says. One
/// of bytes that are not ASCII is empty here.
fn take_phrase(extensions: &mut Extensions) -> Option<Bytes> {
    let mut phrase = Bytes::from(extensions.remove::<ReasonPhrase>()?);
    phrase.truncate(MAX_PHRASE);
    is_phrase(&phrase).then_some(phrase)
}

/// hyper takes the stronger of two framings and reads unknown codings to the end of the
/// connection; what crosses the tunnel must not depend on who is more lenient.
fn check_framing(status: StatusCode, headers: &HeaderMap) -> Result<(), BadAnswer> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(BadAnswer::Switched);
    }
    // RFC 9110, 15: there are five classes.
    if status.as_u16() >= 600 {
        return Err(BadAnswer::Status);
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (coding, length) = (codings.next(), lengths.next());
    if codings.next().is_some() || lengths.next().is_some() || coding.is_some() && length.is_some()
    {
        return Err(BadAnswer::DoublyFramed);
    }
    // A list of lengths, which hyper takes where they are the same.
    if length.is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit)) {
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
        let mut parameters = text.split(',').filter_map(|part| part.split_once('='));
        let (_, timeout) =
            parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
        timeout.trim().parse::<u64>().ok()
    };
    let seconds = headers.get("keep-alive").and_then(seconds);
    seconds.map_or(MAX_IDLE, |s| {
        Duration::from_secs(s.saturating_sub(1)).min(MAX_IDLE)
    })
}

/// The body of an answer. Reading it also moves what is left of the request.
///
/// Over HTTP/1.1 the connection goes home to its pool at the clean end, unless it has become one
/// user's; anything else, dropping included, closes it. Over HTTP/2 anything else resets the stream.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Http1 {
        incoming: Incoming,
        connection: Option<Box<Connection>>,
        home: Arc<Pool>,
    },
    Http2 {
        exchange: Box<Exchange>,
        /// Method or status say that there is no content.
        is_bodiless: bool,
    },
}

impl AnswerBody {
    /// Moves bytes in both directions without taking any: the rest of a request may still have
    /// to go out while nobody has room for the answer.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        match &mut self.source {
            Source::Http1 { connection, .. } => {
                if let Some(connection) = connection {
                    connection.drive(cx);
                }
            }
            Source::Http2 { exchange, .. } => exchange.drive(cx),
        }
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, UpstreamError>>>;

fn poll_http1(
    incoming: &mut Incoming,
    connection: &mut Option<Box<Connection>>,
    home: &Pool,
    cx: &mut Context<'_>,
) -> Polled {
    // The first look tells the connection that there is room for more.
    let mut polled = Pin::new(&mut *incoming).poll_frame(cx);
    if polled.is_pending() {
        if let Some(connection) = connection {
            connection.drive(cx);
        }
        polled = Pin::new(&mut *incoming).poll_frame(cx);
    }
    match &polled {
        Poll::Ready(Some(Err(_))) => *connection = None,
        Poll::Ready(Some(Ok(_))) if !incoming.is_end_stream() => {}
        Poll::Ready(_) => {
            if let Some(mut connection) = connection.take()
                && !connection.idle.is_zero()
                && !connection.is_bound
                && connection.is_at_rest(cx)
            {
                home.put(connection);
            }
        }
        Poll::Pending => {}
    }
    polled.map_err(UpstreamError::Http)
}

fn poll_http2(exchange: &mut Exchange, is_bodiless: bool, cx: &mut Context<'_>) -> Polled {
    let polled = exchange.poll_frame(cx);
    match &polled {
        Poll::Ready(Some(Ok(frame)))
            if is_bodiless && frame.data_ref().is_some_and(|data| !data.is_empty()) =>
        {
            Poll::Ready(Some(Err(UpstreamError::Answer(BadAnswer::Bodiless))))
        }
        _ => polled,
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match &mut self.get_mut().source {
            Source::Http1 {
                incoming,
                connection,
                home,
            } => poll_http1(incoming, connection, home, cx),
            Source::Http2 {
                exchange,
                is_bodiless,
            } => poll_http2(exchange, *is_bodiless, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Http1 {
                incoming,
                connection,
                ..
            } => connection.is_none() && incoming.is_end_stream(),
            Source::Http2 { exchange, .. } => exchange.is_end_stream(),
        }
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
        assert_eq!(idle("Timeout = 5"), Duration::from_secs(4));
        assert_eq!(idle("timeout=100000"), MAX_IDLE);
        assert_eq!(idle("timeout=1"), Duration::ZERO);
        assert_eq!(idle("nonsense"), MAX_IDLE);
    }
}
