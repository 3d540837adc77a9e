//! Authentication that is the connection's, and not the request's: with NTLM, and with Negotiate and
//! Kerberos as many servers do them, whoever proves who he is on a connection is whom every later
//! request on it is taken to be from.
//!
//! So a connection on which such a scheme was seen is nobody else's any more, and does not go back to
//! the pool. HTTP/2 connections are shared by calls from the outset, as its servers know: they have no
//! such authentication there, and ask for HTTP/1.1 instead (HTTP_1_1_REQUIRED, RFC 9113, 7).

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};

/// The schemes, whose names ignore letter case (RFC 9110, 11.1).
const SCHEMES: [&[u8]; 3] = [b"ntlm", b"negotiate", b"kerberos"];

/// Whether a request with these headers may make its connection one user's.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    headers
        .get_all(AUTHORIZATION)
        .iter()
        .any(|credentials| begins_with_scheme(credentials.as_bytes()))
}

/// Whether an answer with these headers shows that its connection is, or may become, one user's. A
/// field lists challenges with commas between them; what only looks like one costs a connection.
pub(crate) fn is_offered(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(WWW_AUTHENTICATE).iter();
    lists
        .map(HeaderValue::as_bytes)
        .flat_map(|list| list.split(|byte| *byte == b','))
        .any(begins_with_scheme)
}

fn begins_with_scheme(text: &[u8]) -> bool {
    let mut words = text.trim_ascii_start().split(u8::is_ascii_whitespace);
    let first = words.next().unwrap_or_default();
    SCHEMES
        .iter()
        .any(|scheme| first.eq_ignore_ascii_case(scheme))
}
