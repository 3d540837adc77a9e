//! One request and its answer on a stream, moved by the call that holds them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::{HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame};

use super::super::connection::SendFailure;
use super::super::error::{BadAnswer, UpstreamError};
use super::super::headers;
use super::super::interim::Interims;
use super::super::request_body::RequestBody;
use super::Place;

/// A request on its way, and what has come of its answer. Dropped before both are complete, it
/// resets its stream, and nothing else of the connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Before the place: the stream is over before its place is free.
    sending: Option<Sending>,
    answer: Option<RecvStream>,
    place: Place,
}

/// The part of a request that is still to be sent.
#[derive(Debug)]
struct Sending {
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// What the stream has no room for yet.
    chunk: Bytes,
    /// Something of the body was taken, so that it cannot be sent again.
    has_begun: bool,
}

impl Exchange {
    /// Sends a request and waits for the head of its answer.
    ///
    /// Cancel safe: dropping the future resets the stream.
    pub(crate) async fn send(
        mut place: Place,
        scheme: Scheme,
        request: Request<RequestBody>,
    ) -> Result<(Response<()>, Self), SendFailure> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let head = translate(&request, scheme).map_err(SendFailure::last)?;
        let is_whole = body.is_end_stream();
        let (mut answer, stream) = match place.requests.send_request(head, is_whole) {
            Ok(sent) => sent,
            Err(error) => {
                return Err(SendFailure {
                    error: place.error(error),
                    unsent: Some(Box::new(request.map(|()| body))),
                    unanswered: true,
                });
            }
        };
        let mut sending = Sending {
            stream,
            body,
            chunk: Bytes::new(),
            has_begun: false,
        };
        let mut is_sent = is_whole;
        let interims = request.extensions().get::<Interims>().cloned();
        let interims = interims.unwrap_or_default();
        let arrived = poll_fn(|cx| {
            if !is_sent {
                is_sent = sending.poll(cx).is_ready();
            }
            poll_head(&mut answer, &interims, cx)
        });
        match arrived.await {
            Ok(answer) => {
                let (parts, stream) = answer.into_parts();
                let exchange = Self {
                    sending: (!is_sent).then_some(sending),
                    answer: Some(stream),
                    place,
                };
                Ok((Response::from_parts(parts, ()), exchange))
            }
            Err(Unanswered::Bad(bad)) => Err(SendFailure::last(UpstreamError::Answer(bad))),
            Err(Unanswered::Http2(error)) => {
                let may_go_again = is_untouched(&error) && !sending.has_begun;
                Err(SendFailure {
                    unsent: may_go_again.then(|| Box::new(request.map(|()| sending.body))),
                    // A reset is an answer of its kind; a dead connection is none.
                    unanswered: error.is_io() && !place.is_first,
                    error: place.error(error),
                })
            }
        }
    }

    /// Whether the answer's body, where it has one, is still to come.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.answer.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    /// Sends what there is room for of the request. Wakes the task when there is more.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(sending) = &mut self.sending
            && sending.poll(cx).is_ready()
        {
            self.sending = None;
        }
    }

    /// The next piece of the answer.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        self.drive(cx);
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(None);
        };
        let frame = match ready!(answer.poll_data(cx)) {
            // The caller holds one piece at a time: the window is the bound of the others.
            Some(Ok(data)) => match answer.flow_control().release_capacity(data.len()) {
                Ok(()) => Ok(Frame::data(data)),
                Err(error) => Err(error),
            },
            Some(Err(error)) => Err(error),
            None => match ready!(answer.poll_trailers(cx)) {
                Ok(trailers) => {
                    // What is left of the request is of no use to anybody.
                    (self.answer, self.sending) = (None, None);
                    match trailers {
                        Some(trailers) => Ok(Frame::trailers(trailers)),
                        None => return Poll::Ready(None),
                    }
                }
                Err(error) => Err(error),
            },
        };
        Poll::Ready(Some(frame.map_err(|error| {
            (self.answer, self.sending) = (None, None);
            self.place.error(error)
        })))
    }
}

impl Sending {
    /// Sends what there is room for. Ready when there is no more to send: all of it is sent, or
    /// the upstream wants no more, or the body broke off, of which its progress tells.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.chunk.is_empty() {
                self.stream.reserve_capacity(self.chunk.len());
                let room = match self.stream.capacity() {
                    0 => match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(room)) => room,
                        Some(Err(_)) | None => return Poll::Ready(()),
                    },
                    room => room,
                };
                let piece = self.chunk.split_to(room.min(self.chunk.len()));
                let is_last = self.chunk.is_empty() && self.body.is_end_stream();
                if self.stream.send_data(piece, is_last).is_err() || is_last {
                    return Poll::Ready(());
                }
                continue;
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            self.has_begun = true;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.chunk = data,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.end(trailers);
                        return Poll::Ready(());
                    }
                },
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(());
                }
                None => {
                    self.end(HeaderMap::new());
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Ends the request. Errors are the stream's, and come with the answer.
    fn end(&mut self, mut trailers: HeaderMap) {
        headers::strip_trailers(&mut trailers);
        let _ = match trailers.is_empty() {
            true => self.stream.send_data(Bytes::new(), true),
            false => self.stream.send_trailers(trailers),
        };
    }
}

/// Why there is no answer.
enum Unanswered {
    Bad(BadAnswer),
    Http2(h2::Error),
}

fn poll_head(
    answer: &mut ResponseFuture,
    interims: &Interims,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<RecvStream>, Unanswered>> {
    while let Poll::Ready(Some(head)) = answer.poll_informational(cx) {
        let head = head.map_err(Unanswered::Http2)?;
        if head.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Err(Unanswered::Bad(BadAnswer::Switched)));
        }
        interims.on_interim(head.status(), head.headers());
        if interims.are_too_many() {
            return Poll::Ready(Err(Unanswered::Bad(BadAnswer::Interim)));
        }
    }
    Pin::new(answer).poll(cx).map_err(Unanswered::Http2)
}

/// Whether the upstream says that it has not begun to work on a request (RFC 9113, 8.7): refused
/// by name, or beyond the last stream of its GOAWAY, the only GOAWAY that a stream is told of.
fn is_untouched(error: &h2::Error) -> bool {
    error.is_remote()
        && (error.is_go_away()
            || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM))
}

/// The head of a request as HTTP/2 has it (RFC 9113, 8.2.2 and 8.3.1).
fn translate(request: &Request<()>, scheme: Scheme) -> Result<Request<()>, UpstreamError> {
    let mut headers = request.headers().clone();
    headers.remove(TRANSFER_ENCODING);
    // Trailers are taken, as gRPC servers want to be told.
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let authority = headers
        .remove(HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = authority;
    parts.path_and_query = request.uri().path_and_query().cloned();
    let uri = Uri::from_parts(parts).map_err(|_| UpstreamError::Authority)?;
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = uri;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = headers;
    Ok(head)
}
