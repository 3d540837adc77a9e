//! The WebSocket opening handshake, as the relay takes it (RFC 6455, 4.2).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use culvert_http::Problem;
use culvert_session::upgrade::{SUBPROTOCOL, accept_key};
use http::header::{
    AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};

use crate::listener::Peer;

/// A handshake that is all right, as far as it goes without a token.
#[derive(Debug)]
pub(crate) struct Handshake {
    accept: String,
}

impl Handshake {
    /// Judges a request for a session. What it carries beyond a handshake of ours, such as
    /// extensions that it offers, is not taken.
    pub(crate) fn check<B>(request: &Request<B>, peer: Peer) -> Result<Self, Problem> {
        let headers = request.headers();
        if request.version() != Version::HTTP_11 {
            return Err(Problem::upgrade_required("sessions begin with HTTP/1.1"));
        }
        if request.method() != Method::GET
            || !lists(headers, &CONNECTION, "upgrade")
            || !lists(headers, &UPGRADE, "websocket")
        {
            return Err(Problem::upgrade_required(
                "this address takes WebSocket handshakes only",
            ));
        }
        if !peer.tls13 {
            return Err(Problem::upgrade_required("sessions take TLS 1.3"));
        }
        if only(headers, &SEC_WEBSOCKET_VERSION)? != "13" {
            return Err(Problem::upgrade_required(
                "sessions take WebSocket version 13",
            ));
        }
        if !lists(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
            return Err(Problem::upgrade_required(
                "sessions take the subprotocol culvert.v1",
            ));
        }
        let key = only(headers, &SEC_WEBSOCKET_KEY)?;
        if BASE64_STANDARD
            .decode(key)
            .is_ok_and(|nonce| nonce.len() == 16)
        {
            return Ok(Self {
                accept: accept_key(key.as_bytes()),
            });
        }
        Err(Problem::bad_request(
            "the Sec-WebSocket-Key is not 16 bytes in base64",
        ))
    }

    /// The answer that makes the connection a WebSocket.
    pub(crate) fn response(self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
        if let Ok(accept) = HeaderValue::try_from(self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

/// The access token of an agent: exactly one Authorization field, of the scheme Bearer.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let wrong = |detail| Problem::unauthenticated(detail, Some("invalid_request"));
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = fields.next() else {
        return Err(Problem::unauthenticated(
            "send an access token in Authorization",
            None,
        ));
    };
    if fields.next().is_some() {
        return Err(wrong("more than one credential was sent"));
    }
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(wrong("sessions take the scheme Bearer"));
    }
    Ok(token.trim_start_matches(' '))
}

/// The value of a field that must be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next().map(HeaderValue::to_str), values.next()) {
        (Some(Ok(value)), None) => Ok(value.trim()),
        _ => Err(Problem::bad_request(format!("expected one header {name}"))),
    }
}

/// Whether a field that is a list has a word, in any letter case.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|member| member.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use http::header::{HOST, SEC_WEBSOCKET_EXTENSIONS};

    use super::*;

    const PEER: Peer = Peer {
        address: std::net::SocketAddr::new(
            std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            4711,
        ),
        tls13: true,
        door: crate::listener::Door::Public,
    };

    /// A good handshake; the key and its answer are those of RFC 6455, 1.3.
    fn request() -> Request<()> {
        Request::get("/.culvert/v1/session")
            .header(HOST, "relay.example.com")
            .header(CONNECTION, "keep-alive, Upgrade")
            .header(UPGRADE, "WebSocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
            .header(SEC_WEBSOCKET_PROTOCOL, "other, culvert.v1")
            .body(())
            .unwrap()
    }

    fn refused(change: impl FnOnce(&mut Request<()>)) -> u16 {
        let mut request = request();
        change(&mut request);
        Handshake::check(&request, PEER)
            .unwrap_err()
            .status()
            .as_u16()
    }

    #[test]
    fn a_good_handshake_gets_the_answer_that_belongs_to_its_key() {
        let response = Handshake::check(&request(), PEER).unwrap().response();
        assert_eq!(response.status(), 101);
        assert_eq!(
            response.headers()[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "culvert.v1");
        assert_eq!(response.headers()[UPGRADE], "websocket");
        assert_eq!(response.headers()[CONNECTION], "Upgrade");
    }

    #[test]
    fn an_offer_of_compression_is_not_taken() {
        let mut request = request();
        let offer = HeaderValue::from_static("permessage-deflate; client_max_window_bits");
        request
            .headers_mut()
            .insert(SEC_WEBSOCKET_EXTENSIONS, offer);
        let response = Handshake::check(&request, PEER).unwrap().response();
        assert_eq!(response.status(), 101);
        assert!(!response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS));
    }

    #[test]
    fn what_is_not_our_handshake_is_told_what_would_be() {
        let remove =
            |name: HeaderName| refused(move |request| _ = request.headers_mut().remove(name));
        let set = |name: HeaderName, value| {
            let value = HeaderValue::from_static(value);
            refused(move |request| _ = request.headers_mut().insert(name, value))
        };
        assert_eq!(
            refused(|request| *request.version_mut() = Version::HTTP_2),
            426
        );
        assert_eq!(
            refused(|request| *request.version_mut() = Version::HTTP_10),
            426
        );
        assert_eq!(refused(|request| *request.method_mut() = Method::POST), 426);
        assert_eq!(remove(CONNECTION), 426);
        assert_eq!(remove(UPGRADE), 426);
        assert_eq!(set(UPGRADE, "h2c"), 426);
        assert_eq!(set(SEC_WEBSOCKET_VERSION, "8"), 426);
        assert_eq!(remove(SEC_WEBSOCKET_PROTOCOL), 426);
        assert_eq!(set(SEC_WEBSOCKET_PROTOCOL, "culvert.v2"), 426);
        assert_eq!(remove(SEC_WEBSOCKET_VERSION), 400);
        assert_eq!(remove(SEC_WEBSOCKET_KEY), 400);
        assert_eq!(set(SEC_WEBSOCKET_KEY, "dGhl"), 400);
        let twice = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(
            refused(|r| _ = r.headers_mut().append(SEC_WEBSOCKET_KEY, twice)),
            400
        );
    }

    #[test]
    fn a_session_takes_tls_1_3() {
        let peer = Peer {
            tls13: false,
            door: crate::listener::Door::Public,
            ..PEER
        };
        assert_eq!(
            Handshake::check(&request(), peer).unwrap_err().status(),
            426
        );
    }

    fn token(values: &[&'static str]) -> Result<String, bool> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        bearer(&headers).map(str::to_owned).map_err(|problem| {
            assert_eq!(problem.status(), 401);
            problem.challenge.unwrap().contains("invalid_request")
        })
    }

    #[test]
    fn one_bearer_token_is_taken_and_nothing_else() {
        assert_eq!(token(&["Bearer a.b.c"]).as_deref(), Ok("a.b.c"));
        assert_eq!(token(&["bearer  a.b.c"]).as_deref(), Ok("a.b.c"));
        assert_eq!(token(&[]), Err(false));
        assert_eq!(token(&["Bearer a.b.c", "Bearer a.b.c"]), Err(true));
        assert_eq!(token(&["Basic eDp5"]), Err(true));
        assert_eq!(token(&["a.b.c"]), Err(true));
        assert_eq!(token(&[""]), Err(true));
    }
}
