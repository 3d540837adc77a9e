//! What the upstream gets: method, target, headers that say truly where the call comes from.

use std::fmt::Write;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use culvert_config::endpoint::{Endpoint, HostHeader};
use culvert_proto::head::BodyLength;
use http::header::{
    CONTENT_LENGTH, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
    VIA,
};
use http::{Method, Request, Uri};

use super::headers;
use super::request_body::RequestBody;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How the agent names itself to upstreams and in answers (RFC 9110, 7.6.3).
const VIA_CULVERT: HeaderValue = HeaderValue::from_static("1.1 culvert");

/// A request from a call's parts.
pub(crate) struct RequestParts {
    pub(crate) method: Method,
    /// The canonical target, byte for byte what the policy saw.
    pub(crate) target: Bytes,
    pub(crate) headers: HeaderMap,
    /// The name under which the caller called.
    pub(crate) authority: Bytes,
    /// The name is the upstream's own, which it gets as it is, whatever the endpoint's `host` says.
    pub(crate) keeps_name: bool,
    /// The caller's address.
    pub(crate) source: Option<IpAddr>,
    pub(crate) length: BodyLength,
}

/// A part of a call that cannot be forwarded, although the policy had nothing against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// The target cannot be written as an HTTP request line.
    #[error("the target cannot be forwarded")]
    Target,
    /// The public host name is not one.
    #[error("the host name is not valid")]
    Authority,
}

/// Whether `authority` is a host with an optional port, in the characters that those have: it is
/// copied into headers with a syntax of their own.
fn is_authority(authority: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte);
    !authority.is_empty() && authority.len() <= 300 && authority.iter().all(legal)
}

/// `Host` of an endpoint under [`HostHeader::Rewrite`]: as configured, the port unless it is the
/// scheme's own. `None` where a header cannot hold it.
pub(crate) fn upstream_host(endpoint: &Endpoint) -> Option<HeaderValue> {
    let host = endpoint.upstream.host_str()?;
    let text = match endpoint.upstream.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    HeaderValue::try_from(text).ok()
}

/// The request that is sent upstream, for a body of `parts.length`.
pub(crate) fn request(
    parts: RequestParts,
    host: HostHeader,
    upstream_host: &HeaderValue,
    body: RequestBody,
) -> Result<Request<RequestBody>, RequestError> {
    if !is_authority(&parts.authority) {
        return Err(RequestError::Authority);
    }
    let authority = HeaderValue::from_maybe_shared(parts.authority.clone())
        .map_err(|_| RequestError::Authority)?;
    let uri = Uri::from_maybe_shared(parts.target).map_err(|_| RequestError::Target)?;
    if uri.authority().is_some() || uri.path_and_query().is_none() {
        return Err(RequestError::Target);
    }

    let mut headers = parts.headers;
    headers::strip_request(&mut headers, parts.length);
    join_cookies(&mut headers);
    headers.reserve(8);
    headers.insert(
        HOST,
        match host {
            HostHeader::Rewrite => upstream_host.clone(),
            HostHeader::Preserve => authority.clone(),
        },
    );
    match parts.length {
        BodyLength::Exact(length) => {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        BodyLength::Unknown => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // Methods that mostly have a body say that they have none (RFC 9110, 8.6).
        BodyLength::Empty if [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        BodyLength::Empty => {}
    }
    forwarded(&mut headers, parts.source, &parts.authority);
    headers.insert(X_FORWARDED_HOST, authority);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.append(VIA, VIA_CULVERT);

    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// `Forwarded` (RFC 7239) and the older `X-Forwarded-For`, in one allocation.
fn forwarded(headers: &mut HeaderMap, source: Option<IpAddr>, authority: &[u8]) {
    let mut text = BytesMut::with_capacity(authority.len() + 128);
    let mut set = |name, text: BytesMut| {
        if let Ok(value) = HeaderValue::from_maybe_shared(text.freeze()) {
            headers.insert(name, value);
        }
    };
    if let Some(source) = source {
        put(&mut text, format_args!("{source}"));
        set(X_FORWARDED_FOR, text.split());
    }
    match source {
        Some(IpAddr::V4(v4)) => put(&mut text, format_args!("for={v4}")),
        Some(IpAddr::V6(v6)) => put(&mut text, format_args!("for=\"[{v6}]\"")),
        None => put(&mut text, format_args!("for=unknown")),
    }
    text.extend_from_slice(b";host=\"");
    text.extend_from_slice(authority);
    text.extend_from_slice(b"\";proto=https");
    set(FORWARDED, text);
}

/// Formats into a buffer in memory, which takes everything.
fn put(text: &mut BytesMut, what: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(what);
    debug_assert!(written.is_ok(), "a buffer in memory takes everything");
}

/// HTTP/2 splits cookies over several fields; HTTP/1.1 has one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    let (Some(_), Some(_)) = (cookies.next(), cookies.next()) else {
        return;
    };
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(all.join(&b"; "[..]))) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: Method, target: &'static str) -> RequestParts {
        RequestParts {
            method,
            target: Bytes::from_static(target.as_bytes()),
            headers: HeaderMap::new(),
            authority: Bytes::from_static(b"vcenter--acme.relay.example"),
            keeps_name: false,
            source: Some("192.0.2.7".parse().unwrap()),
            length: BodyLength::Empty,
        }
    }

    fn build(parts: RequestParts) -> Result<Request<RequestBody>, RequestError> {
        let host = HeaderValue::from_static("vcenter.sddc.local:8443");
        request(parts, HostHeader::Rewrite, &host, RequestBody::empty())
    }

    fn header<'a>(request: &'a Request<RequestBody>, name: &str) -> Vec<&'a str> {
        request
            .headers()
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect()
    }

    #[test]
    fn the_upstream_learns_from_the_agent_alone_who_called_under_which_name() {
        let mut call = parts(Method::GET, "/api/x?y=z");
        call.headers
            .insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
        call.headers
            .insert("forwarded", HeaderValue::from_static("for=6.6.6.6"));
        call.headers
            .insert("via", HeaderValue::from_static("2 relay"));
        let request = build(call).unwrap();
        assert_eq!(header(&request, "host"), ["vcenter.sddc.local:8443"]);
        assert_eq!(header(&request, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(
            header(&request, "x-forwarded-host"),
            ["vcenter--acme.relay.example"]
        );
        assert_eq!(header(&request, "x-forwarded-proto"), ["https"]);
        assert_eq!(
            header(&request, "forwarded"),
            ["for=192.0.2.7;host=\"vcenter--acme.relay.example\";proto=https"]
        );
        assert_eq!(header(&request, "via"), ["2 relay", "1.1 culvert"]);
    }

    #[test]
    fn an_ipv6_caller_is_quoted_and_an_unknown_one_is_said_to_be_unknown() {
        let mut call = parts(Method::GET, "/");
        call.source = Some("2001:db8::1".parse().unwrap());
        let request = build(call).unwrap();
        assert!(header(&request, "forwarded")[0].starts_with("for=\"[2001:db8::1]\";"));
        let mut call = parts(Method::GET, "/");
        call.source = None;
        let request = build(call).unwrap();
        assert!(header(&request, "forwarded")[0].starts_with("for=unknown;"));
        assert!(header(&request, "x-forwarded-for").is_empty());
    }

    #[test]
    fn the_public_name_is_kept_where_the_endpoint_says_so() {
        let host = HeaderValue::from_static("vcenter.sddc.local");
        let call = parts(Method::GET, "/");
        let request = request(call, HostHeader::Preserve, &host, RequestBody::empty()).unwrap();
        assert_eq!(header(&request, "host"), ["vcenter--acme.relay.example"]);
    }

    #[test]
    fn a_host_name_that_could_break_out_of_a_header_is_refused() {
        for authority in [
            "", "a\"b", "a,b", "a;b", "a b", "a/b", "a\r\nb", "a@b", "\u{e4}",
        ] {
            let mut call = parts(Method::GET, "/");
            call.authority = Bytes::copy_from_slice(authority.as_bytes());
            assert_eq!(
                build(call).err(),
                Some(RequestError::Authority),
                "{authority:?}"
            );
        }
    }

    #[test]
    fn the_body_is_framed_by_what_the_tunnel_says_of_it_and_by_nothing_else() {
        let with = |method, length, claimed: &'static str| {
            let mut call = parts(method, "/");
            call.length = length;
            call.headers
                .insert("content-length", HeaderValue::from_static(claimed));
            call.headers
                .insert("transfer-encoding", HeaderValue::from_static("gzip"));
            build(call).unwrap()
        };
        let request = with(Method::POST, BodyLength::Exact(7), "9");
        assert_eq!(header(&request, "content-length"), ["7"]);
        assert!(header(&request, "transfer-encoding").is_empty());
        let request = with(Method::GET, BodyLength::Unknown, "9");
        assert_eq!(header(&request, "transfer-encoding"), ["chunked"]);
        assert!(header(&request, "content-length").is_empty());
        let request = with(Method::POST, BodyLength::Empty, "9");
        assert_eq!(header(&request, "content-length"), ["0"]);
        let request = with(Method::GET, BodyLength::Empty, "9");
        assert!(header(&request, "content-length").is_empty());
    }

    #[test]
    fn cookies_that_http_2_split_are_one_again() {
        let mut call = parts(Method::GET, "/");
        call.headers
            .append("cookie", HeaderValue::from_static("a=1"));
        call.headers
            .append("cookie", HeaderValue::from_static("b=2"));
        assert_eq!(header(&build(call).unwrap(), "cookie"), ["a=1; b=2"]);
    }

    #[test]
    fn every_byte_that_a_canonical_target_may_have_is_forwarded_unchanged() {
        use culvert_policy::{CanonicalTarget, PathOptions};
        let options = PathOptions::ALL;
        for byte in 0x20..0x7fu8 {
            for target in [
                format!("/a{}b", byte as char),
                format!("/a?q{}b", byte as char),
            ] {
                let Ok(canonical) = CanonicalTarget::parse_canonical(&target, options) else {
                    continue;
                };
                let mut call = parts(Method::GET, "/");
                call.target = Bytes::copy_from_slice(canonical.as_str().as_bytes());
                let request = build(call).unwrap_or_else(|_| panic!("{target} is refused"));
                assert_eq!(request.uri().to_string(), target);
            }
        }
    }
}
