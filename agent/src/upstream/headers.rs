//! Which headers never cross the agent, in either direction.

use culvert_http::headers::{begins, is, is_forwarding, of_trailers};
use culvert_proto::head::BodyLength;
use http::header::{CONNECTION, EXPECT, HeaderMap, HeaderName, HeaderValue, TE, TRAILER};

/// Removes from a request what belongs to one connection, what the agent sets itself, and what
/// an upstream could take for the word of somebody it trusts. The relay does the same, by the same
/// list of names; it is not trusted to.
///
/// Of what is about the way of a message, two words stay: that the caller takes trailers, and that
/// it waits with its body (`Expect: 100-continue`). `length` is that of the body: trailers follow
/// only one that is sent in chunks.
pub(crate) fn strip_request(headers: &mut HeaderMap, length: BodyLength) {
    let says = |name: HeaderName, word: &str| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| value.as_bytes().eq_ignore_ascii_case(word.as_bytes()))
    };
    let takes_trailers = says(TE, "trailers");
    let waits = length != BodyLength::Empty && says(EXPECT, "100-continue");
    strip(headers, |name| {
        is_hop_by_hop(name)
            || is_ours(name)
            || is_reserved(name.as_str())
            || is_forwarding(name.as_str())
            || (*name == TRAILER && length != BodyLength::Unknown)
    });
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if waits {
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
}

/// Removes from an answer what belongs to one connection and what only relay and agent may say.
///
/// Content-Length stays: the caller decides, who knows whether there is a body.
pub(crate) fn strip_answer(headers: &mut HeaderMap) {
    strip(headers, |name| {
        // Alt-Svc names another way to the *upstream*, which is none to the relay's name.
        is_hop_by_hop(name) || is_reserved(name.as_str()) || name == "alt-svc"
    });
}

/// Removes from trailers what strips from heads, and what may stand in no trailers.
pub(crate) fn strip_trailers(headers: &mut HeaderMap) {
    strip(headers, |name| is_reserved(name.as_str()));
    *headers = of_trailers(std::mem::take(headers));
}

fn strip(headers: &mut HeaderMap, mut drops: impl FnMut(&HeaderName) -> bool) {
    let mut doomed: Vec<HeaderName> = headers.keys().filter(|name| drops(name)).cloned().collect();
    // Whatever Connection names belongs to that connection too (RFC 9110, 7.6.1).
    for list in headers.get_all(CONNECTION) {
        let names = list
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii);
        doomed.extend(names.filter_map(|name| HeaderName::from_bytes(name).ok()));
    }
    for name in doomed {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    let names = [
        "connection",
        "transfer-encoding",
        "te",
        "upgrade",
        "keep-alive",
    ];
    names.iter().any(|pattern| is(name.as_str(), pattern))
}

/// The agent sets these, or HTTP on the next leg does.
fn is_ours(name: &HeaderName) -> bool {
    let names = ["host", "content-length", "expect", "http2-settings"];
    names.iter().any(|pattern| is(name.as_str(), pattern))
}

/// `Proxy-*` is between a client and its proxy, `Culvert-*` between caller and relay.
fn is_reserved(name: &str) -> bool {
    begins(name, "proxy-") || begins(name, "culvert-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(names: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        names.iter().map(pair).collect()
    }

    fn left(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_request_keeps_what_is_the_upstreams_and_loses_what_is_not() {
        let mut map = headers(&[
            ("accept", "*/*"),
            ("authorization", "Basic eA=="),
            ("cookie", "a=b"),
            ("vmware-api-session-id", "1"),
            ("x-xsrf-token", "1"),
            ("traceparent", "00-1-2-3"),
            ("connection", "close, X-Named , , keep-alive"),
            ("x-named", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("transfer_encoding", "chunked"),
            ("content_length", "9"),
            ("http2_settings", "x"),
            ("keep_alive", "x"),
            ("proxy-authorization", "Bearer x"),
            ("proxy-connection", "close"),
            ("culvert-authorization", "Bearer x"),
            ("culvert-call", "x"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-anything", "1"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("x-original-url", "/admin"),
            ("x-rewrite-url", "/admin"),
            ("x-http-method-override", "DELETE"),
            ("x_http_method_override", "DELETE"),
            ("x-method-override", "DELETE"),
            ("x-http-method", "DELETE"),
            ("x-method", "DELETE"),
            ("x_method", "DELETE"),
            ("x-host", "elsewhere"),
            ("x-http-host-override", "elsewhere"),
            ("client-ip", "1.2.3.4"),
            ("fastly-client-ip", "1.2.3.4"),
            ("forwarded-for", "1.2.3.4"),
            ("host", "elsewhere"),
            ("content-length", "5"),
            ("expect", "nonsense"),
        ]);
        strip_request(&mut map, BodyLength::Empty);
        assert_eq!(
            left(&map),
            [
                "accept",
                "authorization",
                "cookie",
                "traceparent",
                "vmware-api-session-id",
                "x-xsrf-token"
            ]
        );
    }

    #[test]
    fn an_answer_loses_hop_by_hop_headers_and_names_that_are_ours() {
        let mut map = headers(&[
            ("content-type", "text/html"),
            ("content-length", "5"),
            ("set-cookie", "a=b"),
            ("location", "https://elsewhere/"),
            ("connection", "keep-alive, x-named"),
            ("x-named", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x"),
            ("upgrade", "h2"),
            ("proxy-authenticate", "Basic"),
            ("proxy-status", "forged"),
            ("culvert-call", "forged"),
            ("alt-svc", "h3=\":443\""),
        ]);
        strip_answer(&mut map);
        assert_eq!(
            left(&map),
            [
                "content-length",
                "content-type",
                "location",
                "set-cookie",
                "trailer"
            ]
        );
    }

    #[test]
    fn trailers_cannot_bring_what_is_about_the_whole_message() {
        let mut map = headers(&[
            ("x-checksum", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("host", "x"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-http-method-override", "DELETE"),
            ("authorization", "Basic eA=="),
            ("content-type", "text/html"),
            ("location", "/elsewhere"),
            ("proxy-status", "1"),
        ]);
        strip_trailers(&mut map);
        assert_eq!(left(&map), ["x-checksum"]);
    }

    #[test]
    fn a_caller_may_take_trailers_send_some_and_wait_with_its_body() {
        let all = [
            ("te", "Trailers"),
            ("trailer", "x-sum"),
            ("expect", "100-Continue"),
        ];
        for (length, kept) in [
            (BodyLength::Unknown, &["expect", "te", "trailer"][..]),
            (BodyLength::Exact(5), &["expect", "te"]),
            (BodyLength::Empty, &["te"]),
        ] {
            let mut map = headers(&all);
            strip_request(&mut map, length);
            assert_eq!(left(&map), kept);
        }
    }

    #[test]
    fn every_value_of_a_dropped_header_goes() {
        let mut map = HeaderMap::new();
        map.append("x-forwarded-for", HeaderValue::from_static("1.1.1.1"));
        map.append("x-forwarded-for", HeaderValue::from_static("2.2.2.2"));
        map.append("connection", HeaderValue::from_static("x-a"));
        map.append("connection", HeaderValue::from_static("x-b"));
        map.append("x-b", HeaderValue::from_static("1"));
        strip_request(&mut map, BodyLength::Empty);
        assert!(map.is_empty());
    }
}
