//! Which header fields pass a relay, and an agent in its place.
//!
//! What concerns one connection only stays there (RFC 9110, 7.6.1), what could make somebody
//! believe that a proxy of ours said something is dropped, and so are the credentials that the
//! relay itself has used up. `_` counts as `-`: many servers behind CGI-like interfaces cannot
//! tell them apart.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};
use culvert_proto::head::ResponseHead;
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, SET_COOKIE, TE, TRAILER, VIA};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::guard::MASKED_EXPECT;

/// How relay and agent, which are one to the world outside, name themselves in answers (RFC 9110,
/// 7.6.3); the agent does it in requests.
const VIA_CULVERT: HeaderValue = HeaderValue::from_static("1.1 culvert");

/// Of one connection, in either direction. `trailer` is decided on apart.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    // The length of a body crosses the tunnel in the head, as a number.
    "content-length",
];

/// What a proxy says about the caller, or what stands in for host, target or method.
const FORWARDING: [&str; 16] = [
    "forwarded",
    "forwarded-for",
    "client-ip",
    "fastly-client-ip",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-rewrite-url",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-method",
];

/// Fields that mean something for the message as a whole and so never come in its trailers
/// (RFC 9110, 6.5.1).
const NOT_IN_TRAILERS: [&str; 20] = [
    "authorization",
    "cookie",
    "set-cookie",
    "host",
    "content-encoding",
    "content-type",
    "content-range",
    "content-location",
    "cache-control",
    "expect",
    "expires",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "trailer",
    "vary",
    "www-authenticate",
    "alt-svc",
];

/// Compares a field's name, which is lower case, with a pattern; `_` counts as `-`.
pub fn is(name: &str, pattern: &str) -> bool {
    name.len() == pattern.len() && begins(name, pattern)
}

/// Whether a field's name, in lower case, begins with `prefix`. Servers that read fields as environment
/// variables take `_` for `-`, so it counts as one.
pub fn begins(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

fn is_one_of(name: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| is(name, pattern))
}

fn is_ours(name: &str) -> bool {
    begins(name, "culvert-")
}

/// Whether a field claims that its message comes from somewhere else, goes somewhere else or has
/// another method, or is one of ours. Upstreams get none of these from a caller. The name is in lower
/// case, as of a `HeaderName`.
pub fn is_forwarding(name: &str) -> bool {
    is_one_of(name, &FORWARDING)
        || begins(name, "x-forwarded")
        || begins(name, "x-original-")
        || is_ours(name)
}

/// The fields of a message that its Connection fields name. In a set: they may name thousands, and each of
/// the message's fields is looked for.
struct Named(HashSet<HeaderName>);

impl Named {
    fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CONNECTION).iter();
        let words = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        let names = words.filter_map(|word| HeaderName::from_bytes(word.trim_ascii()).ok());
        Self(names.filter(|name| headers.contains_key(name)).collect())
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.0.contains(name)
    }
}

/// Fields that a message gets on its way: `Via`, `Culvert-Call`, its length. There is room for them at once.
const ADDED: usize = 4;

/// `headers` without the fields that `drop` picks.
fn without(headers: HeaderMap, mut drop: impl FnMut(&HeaderName) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len() + ADDED);
    let mut current: Option<HeaderName> = None;
    for (name, value) in headers {
        if let Some(name) = name {
            current = (!drop(&name)).then_some(name);
        }
        if let Some(name) = &current {
            kept.append(name.clone(), value);
        }
    }
    kept
}

/// The fields of a request that go to the upstream. `body` says whether one follows: without it,
/// no trailers do.
pub fn of_request(headers: HeaderMap, body: bool) -> HeaderMap {
    let named = Named::of(&headers);
    // That the caller takes trailers is the one thing of its connection that matters behind it.
    let takes_trailers = headers
        .get_all(TE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"));
    let waits = body && waits(&headers);
    let mut headers = without(headers, |field| {
        let name = field.as_str();
        is_one_of(name, &HOP_BY_HOP)
            || is_forwarding(name)
            || matches!(name, "host" | "expect" | MASKED_EXPECT)
            || (!body && name == TRAILER)
            || named.has(field)
    });
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if waits {
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
    headers
}

/// Whether a request is gRPC; gRPC-Web is not.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = media.and_then(|media| media.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Whether a request is SOAP 1.2 (RFC 3902); that of 1.1 is `text/xml`.
pub(crate) fn is_soap12(headers: &HeaderMap) -> bool {
    const MEDIA: &[u8] = b"application/soap+xml";
    let media = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let parts = media.and_then(|media| media.split_at_checked(MEDIA.len()));
    parts.is_some_and(|(start, rest)| {
        start.eq_ignore_ascii_case(MEDIA) && matches!(rest.first(), None | Some(b';' | b' '))
    })
}

/// Whether the caller waits with its body until it hears 100 (RFC 9110, 10.1.1). Over HTTP/2 it
/// cannot be told; such callers go on by themselves after a while.
pub fn waits(headers: &HeaderMap) -> bool {
    let mut expected = headers.get_all(MASKED_EXPECT).iter();
    expected.any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// An interim answer as a caller of HTTP/1.1 gets it.
pub(crate) fn of_interim(head: ResponseHead, host: Option<&str>) -> Bytes {
    let ResponseHead {
        status, headers, ..
    } = head;
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = BytesMut::with_capacity(256);
    text.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
    for (name, value) in &of_response(headers, false, host) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"\r\n");
    text.freeze()
}

/// The fields of an answer that go to the caller. `body` says whether one follows. `host` is the
/// name that the caller called, where it is one of the relay's: a cookie must not reach any other.
pub fn of_response(headers: HeaderMap, body: bool, host: Option<&str>) -> HeaderMap {
    let named = Named::of(&headers);
    let mut headers = without(headers, |field| {
        let name = field.as_str();
        is_one_of(name, &HOP_BY_HOP)
            || is_ours(name)
            || begins(name, "proxy-")
            || name == "alt-svc"
            || (!body && name == TRAILER)
            || named.has(field)
    });
    headers.append(VIA, VIA_CULVERT);
    if let Some(host) = host
        && headers
            .get_all(SET_COOKIE)
            .iter()
            .any(|cookie| is_for_others(cookie, host))
    {
        let all = headers.get_all(SET_COOKIE).iter();
        let own: Vec<_> = all
            .filter(|cookie| !is_for_others(cookie, host))
            .cloned()
            .collect();
        headers.remove(SET_COOKIE);
        for cookie in own {
            headers.append(SET_COOKIE, cookie);
        }
    }
    headers
}

/// Whether a cookie would also be sent to another host than the one that was called: upstreams
/// of all tenants share the relay's domain.
fn is_for_others(cookie: &HeaderValue, host: &str) -> bool {
    let attributes = cookie.as_bytes().split(|&byte| byte == b';').skip(1);
    let mut domains = attributes.filter_map(|attribute| {
        let equals = attribute.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (
            attribute[..equals].trim_ascii(),
            attribute[equals + 1..].trim_ascii(),
        );
        name.eq_ignore_ascii_case(b"domain").then_some(value)
    });
    domains.any(|domain| {
        let domain = domain.strip_prefix(b".").unwrap_or(domain);
        !domain.is_empty() && !domain.eq_ignore_ascii_case(host.as_bytes())
    })
}

/// The trailers that pass, in either direction.
pub fn of_trailers(trailers: HeaderMap) -> HeaderMap {
    without(trailers, |field| {
        let name = field.as_str();
        is_one_of(name, &HOP_BY_HOP) || is_forwarding(name) || is_one_of(name, &NOT_IN_TRAILERS)
    })
}

#[cfg(test)]
mod tests;
