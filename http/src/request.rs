//! What a parsed request must be, beyond its framing: the guard of HTTP/1 has checked it already,
//! and HTTP/2 has not.

use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request};
use hyper::ext::Protocol;

use crate::guard::{Violation, head as strict};
use crate::problem::Problem;

/// Whether a request asks for a way to somewhere, and not for another protocol (RFC 8441).
pub fn is_connect<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none()
}

/// Checks method, target and host of a request that is no plain CONNECT; gives the host, as the
/// caller wrote it.
pub fn check<B>(request: &Request<B>) -> Result<String, Problem> {
    let (uri, fields) = (request.uri(), request.headers());
    let refuse = |detail: &'static str| Err(Problem::bad_request(detail));
    if too_many_fields(fields) {
        return refuse("the request has too many header fields, or too long ones");
    }
    let method = request.method().as_str();
    let refused = |violation: Violation| Problem::bad_request(violation.to_string());
    strict::check_method(method.as_bytes()).map_err(refused)?;
    if method == "TRACE" || is_connect(request) {
        return refuse("the method is not accepted at this address");
    }
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTPS) {
        return refuse("the scheme must be https");
    }
    let mut hosts = fields.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let authority = uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let host = match (authority, hosts.next(), hosts.next()) {
        (_, _, Some(_)) => return refuse("the request has more than one Host"),
        (None, None, None) => return refuse("the request has no Host"),
        (Some(authority), Some(host), None) if !authority.eq_ignore_ascii_case(host) => {
            return refuse("the Host and the :authority differ");
        }
        (Some(host), _, None) | (None, Some(host), None) => host,
    };
    strict::host(host).map_err(refused)?;
    // A checked host is ASCII.
    Ok(String::from_utf8_lossy(host).into_owned())
}

/// Whether a request has more fields than anybody needs.
pub fn too_many_fields(fields: &HeaderMap) -> bool {
    fields.len() > strict::MAX_FIELDS || size(fields) > strict::MAX_HEAD
}

/// How much the fields take in bytes, as HTTP/2 counts (RFC 9113, 10.5.1).
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}
