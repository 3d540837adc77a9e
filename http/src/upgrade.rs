//! Which requests ask to leave HTTP, and what for: HTTP/1.1's Upgrade, and HTTP/2's extended
//! CONNECT (RFC 8441). Whether they may is the agent's policy's to say.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use culvert_proto::code::ErrorCode;
use http::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::ext::Protocol;

use crate::problem::Problem;

/// The one protocol that HTTP/2 callers may ask for: others have other meanings there.
const WEBSOCKET: &str = "websocket";

/// Whether a protocol, in lower case, is another HTTP or what is below one: nobody would look at what is
/// said in it.
pub fn is_http(protocol: &str) -> bool {
    matches!(protocol, "h2c" | "h2" | "http" | "tls")
}

/// The protocol that a request asks for, in lower case. A request that cannot be carried out is
/// refused, never sent on as if it had not asked.
pub fn asked<B: Body>(request: &Request<B>) -> Result<Option<String>, Problem> {
    let headers = request.headers();
    if request.version() == Version::HTTP_2 {
        let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
        return match (request.method() == Method::CONNECT, protocol) {
            _ if headers.contains_key(UPGRADE) => refuse("HTTP/2 has no Upgrade"),
            (false, _) => Ok(None),
            (true, Some(WEBSOCKET)) => Ok(Some(WEBSOCKET.to_owned())),
            (true, _) => refuse("of extended CONNECTs only websocket is accepted"),
        };
    }
    if !headers.contains_key(UPGRADE) {
        return Ok(None);
    }
    let Some(protocol) = only(headers, UPGRADE).filter(|protocol| is_token(protocol)) else {
        return refuse("an Upgrade must name one protocol");
    };
    let protocol = protocol.to_ascii_lowercase();
    if is_http(&protocol) {
        return refuse("upgrades to another HTTP are not accepted");
    }
    let names_upgrade = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    if request.version() != Version::HTTP_11 || !names_upgrade {
        return refuse("an Upgrade takes HTTP/1.1 and a Connection that names it");
    }
    if request.method() != Method::GET || !request.body().is_end_stream() {
        return refuse("an Upgrade is accepted of a GET without a body");
    }
    if protocol == WEBSOCKET {
        let nonce =
            only(headers, SEC_WEBSOCKET_KEY).and_then(|key| BASE64_STANDARD.decode(key).ok());
        if nonce.is_none_or(|nonce| nonce.len() != 16) {
            return refuse("the Sec-WebSocket-Key is not 16 bytes in base64");
        }
        if only(headers, SEC_WEBSOCKET_VERSION).is_none() {
            return refuse("a WebSocket handshake has one Sec-WebSocket-Version");
        }
    }
    Ok(Some(protocol))
}

/// Makes a plain GET of a request that asks to switch: what HTTP/2 calls CONNECT is one to those who
/// do not know it; its key, which it has none of, the agent makes up.
pub fn as_get(parts: &mut Parts) {
    parts.method = Method::GET;
    if parts.version == Version::HTTP_2 {
        parts.headers.remove(SEC_WEBSOCKET_KEY);
    }
}

/// What a caller of HTTP/2 gets where the upstream answered without switching: its success would
/// mean there that it has.
pub fn stays_with_http() -> Problem {
    Problem::of_agent(
        ErrorCode::UpstreamProtocol,
        "the local API answered without switching to the protocol that was asked for",
    )
}

/// The head of the answer to a caller whose upstream has switched.
pub fn switched(version: Version, protocol: &str, headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    if version < Version::HTTP_2 {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Ok(protocol) = HeaderValue::try_from(protocol) {
            headers.insert(UPGRADE, protocol);
        }
    }
    response
}

fn refuse<T>(detail: &'static str) -> Result<T, Problem> {
    Err(Problem::bad_request(detail))
}

/// The value of a field that is there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

/// `websocket`, `spdy/3.1`: what the tunnel carries as a protocol's name.
fn is_token(protocol: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    (1..=32).contains(&protocol.len()) && protocol.bytes().all(legal)
}
