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

/// What a proxy says about the caller, or what stands in for host or target.
const FORWARDING: [&str; 12] = [
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
];

/// What some servers take for the method in place of the request's own.
const METHOD_OVERRIDES: [&str; 4] = [
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
        || is_one_of(name, &METHOD_OVERRIDES)
        || begins(name, "x-forwarded")
        || begins(name, "x-original-")
        || is_ours(name)
}

/// Whether a field asks for another method than the request's. It does not pass, and without it the upstream
/// would do what its caller has not asked for.
pub(crate) fn overrides_method(fields: &HeaderMap, method: &str) -> bool {
    fields.iter().any(|(name, value)| {
        is_one_of(name.as_str(), &METHOD_OVERRIDES)
            && !value.as_bytes().eq_ignore_ascii_case(method.as_bytes())
    })
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
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn soap_1_2_is_known_by_its_media_type() {
        for (media, is) in [
            ("application/soap+xml", true),
            ("Application/SOAP+xml; charset=utf-8; action=\"a\"", true),
            ("application/soap+xml-not", false),
            ("application/soap", false),
            ("text/xml", false),
        ] {
            assert_eq!(is_soap12(&map(&[("content-type", media)])), is, "{media}");
        }
        assert!(!is_soap12(&HeaderMap::new()));
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn what_belongs_to_one_connection_or_speaks_for_a_proxy_does_not_reach_the_upstream() {
        let dropped = [
            "Connection",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authorization",
            "Proxy-Authenticate",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Upgrade",
            "HTTP2-Settings",
            "Content-Length",
            "Host",
            "Expect",
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Forwarded-Anything",
            "X_Forwarded_For",
            "X-Forwarded",
            "X-Real-IP",
            "X-Original-URL",
            "X_Original_Url",
            "X-Rewrite-URL",
            "X-HTTP-Method",
            "X-HTTP-Method-Override",
            "X-Method-Override",
            "X-Method",
            "X-Host",
            "X-HTTP-Host-Override",
            "Client-IP",
            "Fastly-Client-IP",
            "Forwarded-For",
            "Culvert-Authorization",
            "Culvert-Call",
            "Culvert-Anything",
            "Culvert_Call",
        ];
        for name in dropped {
            let headers = of_request(map(&[(name, "x"), ("Accept", "y")]), false);
            assert_eq!(names(&headers), ["accept"], "{name}");
        }
    }

    #[test]
    fn a_field_may_name_the_requests_own_method_and_no_other() {
        for (name, value, another) in [
            ("X-HTTP-Method-Override", "DELETE", true),
            ("X_HTTP_Method_Override", "DELETE", true),
            ("X-HTTP-Method", "MERGE", true),
            ("X-Method-Override", "", true),
            ("X-Method", "POST, DELETE", true),
            ("X-HTTP-Method-Override", "Post", false),
            ("X-Methods", "DELETE", false),
        ] {
            let fields = map(&[("accept", "x"), (name, value)]);
            assert_eq!(
                overrides_method(&fields, "POST"),
                another,
                "{name}: {value}"
            );
        }
        let twice = [("x-method", "POST"), ("x-method", "DELETE")];
        assert!(overrides_method(&map(&twice), "POST"));
    }

    #[test]
    fn what_belongs_to_the_upstream_passes_untouched_and_in_order() {
        let fields = [
            ("authorization", "Basic eDp5"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("vmware-api-session-id", "s"),
            ("x-xsrf-token", "t"),
            ("soapaction", "urn:vim25/8.0"),
            ("x-forward", "x"),
            ("teapot", "x"),
            ("via", "1.1 x"),
        ];
        assert_eq!(of_request(map(&fields), true), map(&fields));
        let answer = [
            ("set-cookie", "a=b; Path=/"),
            ("set-cookie", "c=d"),
            ("date", "x"),
        ];
        let mut passed = of_response(map(&answer), true, Some("a--b.c"));
        assert_eq!(passed.remove("via").unwrap(), "1.1 culvert");
        assert_eq!(passed, map(&answer));
        let teed = of_request(map(&[("te", "gzip, Trailers")]), false);
        assert_eq!(teed, map(&[("te", "trailers")]));
    }

    #[test]
    fn what_connection_names_is_removed_wherever_and_however_it_is_named() {
        let fields = [
            ("connection", "close, X-One ,"),
            ("connection", "x-TWO"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
        ];
        assert_eq!(names(&of_request(map(&fields), false)), ["x-three"]);
        assert_eq!(
            names(&of_response(map(&fields), false, Some("a"))),
            ["x-three", "via"]
        );
    }

    /// What is kept of such a head is what it has, not what it names: each word and each field is looked up
    /// once.
    #[test]
    fn thousands_of_names_in_connection_take_no_more_room_than_the_fields_that_are_there() {
        let words = (0..10_000).map(|number| format!("x-{number},X-ONE,@"));
        let words = words.collect::<Vec<_>>().join(", ");
        let fields = map(&[("connection", &words), ("x-one", "1"), ("x-three", "3")]);
        assert_eq!(Named::of(&fields).0.len(), 1);
        assert_eq!(names(&of_request(fields, false)), ["x-three"]);
    }

    #[test]
    fn an_answer_cannot_speak_for_the_relay_or_lead_the_caller_elsewhere() {
        for name in [
            "Culvert-Call",
            "Alt-Svc",
            "Proxy-Authenticate",
            "Proxy-Status",
            "Connection",
            "Upgrade",
        ] {
            let headers = of_response(map(&[(name, "x"), ("ETag", "y")]), false, None);
            assert_eq!(names(&headers), ["etag", "via"], "{name}");
        }
    }

    #[test]
    fn trailer_passes_only_where_trailers_can_follow() {
        let fields = map(&[("trailer", "x-sum")]);
        assert_eq!(names(&of_request(fields.clone(), true)), ["trailer"]);
        assert_eq!(names(&of_request(fields, false)), [""; 0]);
    }

    #[test]
    fn a_cookie_stays_with_the_host_that_was_called() {
        let cookies = map(&[
            ("set-cookie", "a=1; Domain=relay.example.com; Path=/"),
            ("set-cookie", "b=2; domain = .Example.com"),
            ("set-cookie", "c=3; Domain=vc--acme.relay.example.com"),
            ("set-cookie", "d=4; Secure"),
            ("set-cookie", "e=domain=x; Path=/"),
        ]);
        let own = of_response(cookies.clone(), true, None);
        assert_eq!(own.get_all(SET_COOKIE).iter().count(), 5);
        let headers = of_response(cookies, true, Some("VC--acme.relay.example.com"));
        let kept: Vec<_> = headers
            .get_all(SET_COOKIE)
            .iter()
            .map(|c| &c.as_bytes()[..1])
            .collect();
        assert_eq!(kept, [b"c", b"d", b"e"]);
    }

    #[test]
    fn trailers_cannot_say_what_only_a_head_may() {
        let fields = [
            ("x-checksum", "1"),
            ("grpc-status", "0"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("authorization", "x"),
            ("host", "x"),
            ("set-cookie", "x"),
            ("x-forwarded-for", "x"),
            ("culvert-call", "x"),
            ("trailer", "x"),
        ];
        assert_eq!(
            names(&of_trailers(map(&fields))),
            ["x-checksum", "grpc-status"]
        );
    }
}
