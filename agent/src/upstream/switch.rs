//! How a call leaves HTTP: the upstream is asked to switch protocols, and its 101 checked, before
//! anything else goes either way.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf, Bytes};
use culvert_policy::Permit;
use culvert_proto::head::{BodyLength, ResponseHead};
use culvert_session::upgrade::accept_key;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Upstream;
use super::answer::Answer;
use super::connection::Connection;
use super::dial::Protocol;
use super::error::{BadAnswer, UpstreamError};
use super::headers;
use super::health::Way;
use super::request_body::RequestBody;
use super::transport::Noted;

/// What an upstream says to a request to switch.
#[derive(Debug)]
pub(crate) enum Switch {
    /// It has switched.
    Switched(ResponseHead, Box<Switched>),
    /// It stays with HTTP, for this answer. Its connection is not used again.
    Refused(Answer),
}

/// What was asked for: the only 101 that is taken is the one to this.
struct Asked {
    protocol: HeaderValue,
    /// What the 101 of a WebSocket proves, and whether the key was the agent's own.
    accept: Option<(String, bool)>,
}

impl Upstream {
    /// Sends a permitted request that asks to switch to `protocol`, on a connection of its own,
    /// and waits for the answer's head.
    ///
    /// Cancel safe: dropping the future closes the connection.
    pub(crate) async fn switch(
        &self,
        _permit: Permit,
        request: Request<RequestBody>,
        protocol: &str,
    ) -> Result<Switch, UpstreamError> {
        let switched = self.ask_to_switch(request, protocol).await;
        self.note(&switched);
        switched
    }

    async fn ask_to_switch(
        &self,
        mut request: Request<RequestBody>,
        protocol: &str,
    ) -> Result<Switch, UpstreamError> {
        let method = request.method().clone();
        let asked = Asked::write(protocol, request.headers_mut())?;
        // Over HTTP/1.1, whatever the endpoint prefers: it is the way that everybody has.
        let dial = || self.dialer.dial(Protocol::Http1);
        let transport = self.health.dial(Way::Http1, dial).await?;
        let mut connection = Box::new(Connection::open(transport).await?);
        let sent = self.attempt(pin!(connection.send(request)), None).await;
        let answer = sent.map_err(|failure| failure.error)?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // A pool that nobody takes from: what was asked to switch is closed, whatever it says.
            let nowhere = Arc::default();
            return Answer::http1(&method, answer, connection, nowhere).map(Switch::Refused);
        }
        let mut headers = answer.into_parts().0.headers;
        asked.check(&headers).map_err(UpstreamError::Answer)?;
        headers::strip_answer(&mut headers);
        headers.remove(CONTENT_LENGTH);
        if let Some((_, true)) = asked.accept {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
        }
        let head = ResponseHead {
            status: StatusCode::SWITCHING_PROTOCOLS,
            phrase: None,
            headers,
            body: BodyLength::Unknown,
        };
        let switched = Box::new(connection.into_switched().await);
        Ok(Switch::Switched(head, switched))
    }
}

impl Asked {
    /// Asks in `headers`. A WebSocket without a key is a caller's whose HTTP has none (RFC 8441,
    /// 5): the agent takes one of its own.
    fn write(protocol: &str, headers: &mut HeaderMap) -> Result<Self, UpstreamError> {
        let unusable = |_| UpstreamError::Answer(BadAnswer::Handshake("it cannot be asked for"));
        let protocol = HeaderValue::try_from(protocol).map_err(unusable)?;
        let mut accept = None;
        if protocol == "websocket" {
            let given = headers.get(SEC_WEBSOCKET_KEY).cloned();
            let own = given.is_none();
            let key = given.map_or_else(random_key, Ok)?;
            accept = Some((accept_key(key.as_bytes()), own));
            headers.insert(SEC_WEBSOCKET_KEY, key);
            headers
                .entry(SEC_WEBSOCKET_VERSION)
                .or_insert(HeaderValue::from_static("13"));
        }
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol.clone());
        Ok(Self { protocol, accept })
    }

    /// Checks a 101 (RFC 9110, 7.8; RFC 6455, 4.1).
    fn check(&self, headers: &HeaderMap) -> Result<(), BadAnswer> {
        let only = |name: HeaderName| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none())
        };
        let lists_upgrade = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
        let same = |value: &HeaderValue| {
            value
                .as_bytes()
                .eq_ignore_ascii_case(self.protocol.as_bytes())
        };
        if !lists_upgrade {
            return Err(BadAnswer::Handshake("its Connection does not say upgrade"));
        }
        if !only(UPGRADE).is_some_and(same) {
            return Err(BadAnswer::Handshake("it names another protocol"));
        }
        match &self.accept {
            Some((accept, _))
                if only(SEC_WEBSOCKET_ACCEPT).is_none_or(|value| value != accept.as_str()) =>
            {
                Err(BadAnswer::Handshake("its Sec-WebSocket-Accept is wrong"))
            }
            _ => Ok(()),
        }
    }
}

/// 16 random bytes in base64.
fn random_key() -> Result<HeaderValue, UpstreamError> {
    let mut nonce = [0; 16];
    let made = rand::fill(&mut nonce).ok();
    made.and_then(|()| HeaderValue::try_from(BASE64_STANDARD.encode(nonce)).ok())
        .ok_or(UpstreamError::Answer(BadAnswer::Handshake(
            "the system has no random numbers to ask with",
        )))
}

/// A connection that has left HTTP.
#[derive(Debug)]
pub(crate) struct Switched {
    /// What came together with the 101.
    early: Bytes,
    transport: Noted,
}

impl Switched {
    pub(crate) fn new(transport: Noted, early: Bytes) -> Self {
        Self { early, transport }
    }
}

impl AsyncRead for Switched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.transport).poll_read(cx, out);
        }
        let length = out.remaining().min(self.early.len());
        out.put_slice(&self.early[..length]);
        self.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Switched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
