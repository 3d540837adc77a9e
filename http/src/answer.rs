//! The head of an upstream's answer, as its caller gets it.

use culvert_proto::head::{BodyLength, ResponseHead};
use http::Response;
use http::header::CONTENT_LENGTH;
use hyper::ext::ReasonPhrase;

use crate::headers;

/// The length of an answer's body as the caller sees it; `to_head`: the request was a HEAD.
fn visible_length(to_head: bool, answer: &ResponseHead) -> BodyLength {
    let none = to_head || matches!(answer.status.as_u16(), 204 | 304);
    if none { BodyLength::Empty } else { answer.body }
}

/// What the caller gets of an answer, and the length of the body that is to follow. `to_head`: the
/// request was a HEAD; `host` as for [`headers::of_response`].
pub fn head(
    mut answer: ResponseHead,
    to_head: bool,
    host: Option<&str>,
) -> (Response<()>, BodyLength) {
    let length = visible_length(to_head, &answer);
    if !to_head {
        // Where there is a body, its own length counts; elsewhere the field promises one.
        answer.headers.remove(CONTENT_LENGTH);
    }
    let promised = answer.headers.remove(CONTENT_LENGTH);
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    // HTTP/2 has none.
    if let Some(Ok(phrase)) = answer.phrase.map(ReasonPhrase::try_from) {
        response.extensions_mut().insert(phrase);
    }
    *response.headers_mut() =
        headers::of_response(answer.headers, length != BodyLength::Empty, host);
    if let Some(promised) = promised {
        response.headers_mut().insert(CONTENT_LENGTH, promised);
    }
    (response, length)
}
