//! The dialer's half of the WebSocket opening handshake (RFC 6455, section 4).
//!
//! Written out here, and not left to a library, because a refusal matters as much as success:
//! its status, its Retry-After and the text of its body say what an operator must do.

use std::io;
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::websocket::WebSocketIo;

/// The WebSocket subprotocol of a session.
pub const SUBPROTOCOL: &str = "culvert.v1";

/// Longest head of an answer, in bytes, and most fields in it.
const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 64;

/// Bytes of a refusal's body that are read, and how long they are waited for.
const MAX_BODY: usize = 4 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// What the dialer asks for.
pub(crate) struct Request<'a> {
    /// `host` or `host:port`, as the URL has it.
    pub(crate) authority: &'a str,
    /// Path of the session resource.
    pub(crate) path: &'a str,
    /// The access token: goes into the Authorization header and nowhere else.
    pub(crate) bearer: &'a str,
    /// Name and version of the program.
    pub(crate) user_agent: &'a str,
}

/// The server answered with something else than an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// Its Retry-After, where it is a number of seconds.
    pub retry_after: Option<Duration>,
    /// The beginning of its body (at most 4 KiB), control characters replaced by spaces.
    pub body: String,
}

/// Why the handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The server does not want us.
    #[error("the server refused the session with status {}: {}", .0.status, .0.body)]
    Refused(Refusal),
    /// The connection broke.
    #[error("the connection broke during the WebSocket handshake: {0}")]
    Io(#[from] io::Error),
    /// The answer is not a WebSocket handshake.
    #[error("the server's answer is not a WebSocket handshake: {0}")]
    Answer(&'static str),
    /// Token or user agent hold bytes that no header can carry.
    #[error("the {0} holds characters that an HTTP header cannot carry")]
    Header(&'static str),
}

/// The value of Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2): for acceptors
/// that answer the handshake themselves.
pub fn accept_key(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    // SHA-1 proves nothing here but that the answer is meant for this request.
    let mut digest = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(GUID);
    BASE64_STANDARD.encode(digest.finish())
}

/// A value of Sec-WebSocket-Key: 16 random bytes.
fn random_key() -> Result<String, UpgradeError> {
    let mut nonce = [0; 16];
    rand::fill(&mut nonce).map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(BASE64_STANDARD.encode(nonce))
}

/// Shakes hands on a fresh connection.
pub(crate) async fn upgrade<IO>(
    mut io: IO,
    request: &Request<'_>,
) -> Result<WebSocketIo<IO>, UpgradeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let key = random_key()?;
    io.write_all(request.to_http(&key)?.as_bytes()).await?;
    io.flush().await?;

    let mut buffer = BytesMut::with_capacity(1024);
    let answer = loop {
        if let Some(answer) = Answer::parse(&buffer)? {
            break answer;
        }
        if buffer.len() >= MAX_HEAD {
            return Err(UpgradeError::Answer("its head is too long"));
        }
        if io.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    let rest = buffer.split_off(answer.head_length);
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        let mut refusal = answer.into_refusal(io, rest).await;
        // A server that answers with what it was asked would put the token into logs.
        refusal.body = without(&refusal.body, request.bearer);
        return Err(UpgradeError::Refused(refusal));
    }
    answer.verify(&key)?;
    Ok(WebSocketIo::dialer(io, rest.into()))
}

impl Request<'_> {
    fn to_http(&self, key: &str) -> Result<String, UpgradeError> {
        let visible = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !visible(self.bearer) {
            return Err(UpgradeError::Header("access token"));
        }
        if !visible(self.user_agent) {
            return Err(UpgradeError::Header("user agent"));
        }
        let Self {
            authority,
            path,
            bearer,
            user_agent,
        } = self;
        Ok(format!(
            "GET {path} HTTP/1.1\r\n\
             Host: {authority}\r\n\
             Connection: Upgrade\r\n\
             Upgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\
             Authorization: Bearer {bearer}\r\n\
             User-Agent: {user_agent}\r\n\r\n"
        ))
    }
}

/// What matters of the answer's head.
struct Answer {
    status: StatusCode,
    head_length: usize,
    upgrade: String,
    connection: String,
    accept: String,
    protocol: String,
    extensions: bool,
    content_length: Option<usize>,
    retry_after: Option<Duration>,
}

impl Answer {
    fn parse(buffer: &[u8]) -> Result<Option<Self>, UpgradeError> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let head_length = match head.parse(buffer) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(UpgradeError::Answer("it is not HTTP/1.1")),
        };
        let text = |name: &str| {
            let values = head
                .headers
                .iter()
                .filter(|field| field.name.eq_ignore_ascii_case(name));
            let values: Vec<_> = values
                .map(|field| String::from_utf8_lossy(field.value))
                .collect();
            values.join(",").trim().to_owned()
        };
        Ok(Some(Self {
            status: head
                .code
                .and_then(|code| StatusCode::from_u16(code).ok())
                .ok_or(UpgradeError::Answer("its status is out of range"))?,
            head_length,
            upgrade: text("upgrade"),
            connection: text("connection"),
            accept: text("sec-websocket-accept"),
            protocol: text("sec-websocket-protocol"),
            extensions: !text("sec-websocket-extensions").is_empty(),
            content_length: text("content-length").parse().ok(),
            retry_after: text("retry-after").parse().ok().map(Duration::from_secs),
        }))
    }

    fn verify(&self, key: &str) -> Result<(), UpgradeError> {
        let named = |list: &str, word: &str| {
            list.split(',')
                .any(|item| item.trim().eq_ignore_ascii_case(word))
        };
        if !named(&self.upgrade, "websocket") || !named(&self.connection, "upgrade") {
            return Err(UpgradeError::Answer("it does not upgrade to a WebSocket"));
        }
        if self.accept != accept_key(key.as_bytes()) {
            return Err(UpgradeError::Answer(
                "its Sec-WebSocket-Accept does not fit our key",
            ));
        }
        if self.protocol != SUBPROTOCOL {
            return Err(UpgradeError::Answer(
                "it does not speak the subprotocol culvert.v1",
            ));
        }
        if self.extensions {
            return Err(UpgradeError::Answer(
                "it names an extension that was not asked for",
            ));
        }
        Ok(())
    }

    /// Reads as much of the body as is soon there; a body that breaks off is no second error.
    async fn into_refusal(self, mut io: impl AsyncRead + Unpin, mut body: BytesMut) -> Refusal {
        let length = self.content_length.unwrap_or(MAX_BODY).min(MAX_BODY);
        let read = async {
            while body.len() < length {
                match io.read_buf(&mut body).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
            }
        };
        let _ = tokio::time::timeout(BODY_TIMEOUT, read).await;
        body.truncate(length);
        let body = String::from_utf8_lossy(&body);
        let body: String = body
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Refusal {
            status: self.status,
            retry_after: self.retry_after,
            body: body.trim().to_owned(),
        }
    }
}

/// A text that may have been cut, without a secret that may be in it, nor most of it at the end.
fn without(text: &str, secret: &str) -> String {
    /// So few letters of a secret give nothing away.
    const FEW: usize = 8;
    if secret.is_empty() {
        return text.to_owned();
    }
    let mut text = text.replace(secret, "***");
    let cut = (FEW..secret.len()).rev();
    let cut = cut.filter(|length| secret.is_char_boundary(*length));
    if let Some(length) = cut
        .into_iter()
        .find(|length| text.ends_with(&secret[..*length]))
    {
        text.truncate(text.len() - length);
        text.push_str("***");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request<'_> = Request {
        authority: "relay.example.com",
        path: "/.culvert/v1/session",
        bearer: "secret",
        user_agent: "culvert-agent/0",
    };

    /// Answers the handshake with what `answer` makes of the request.
    async fn meet(answer: impl FnOnce(&str) -> String) -> Result<(), UpgradeError> {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let server = async move {
            let mut request = vec![0; 4096];
            let length = far.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            far.write_all(answer(&request).as_bytes()).await.unwrap();
            far
        };
        let (result, _far) = tokio::join!(upgrade(near, &REQUEST), server);
        result.map(drop)
    }

    /// A right answer, with `more` fields.
    fn right(request: &str, more: &str) -> String {
        let key = request
            .split("Sec-WebSocket-Key: ")
            .nth(1)
            .unwrap()
            .split("\r\n")
            .next();
        let accept = accept_key(key.unwrap().as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, \
             Upgrade\r\nsec-websocket-accept: {accept}\r\n{more}\r\n"
        )
    }

    const PROTOCOL: &str = "sec-websocket-protocol: culvert.v1\r\n";

    #[tokio::test]
    async fn a_right_answer_upgrades_and_the_request_is_complete() {
        meet(|request| {
            assert!(request.starts_with("GET /.culvert/v1/session HTTP/1.1\r\nHost: relay.exa"));
            assert!(request.contains("\r\nAuthorization: Bearer secret\r\n"));
            assert!(request.contains("\r\nSec-WebSocket-Protocol: culvert.v1\r\n"));
            assert!(!request.to_lowercase().contains("sec-websocket-extensions"));
            right(request, PROTOCOL)
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn answers_that_are_no_handshake_are_refused() {
        type Answer = fn(&str) -> String;
        let wrong: [(&str, Answer); 6] = [
            ("Accept", |_| {
                format!(
                    "HTTP/1.1 101 S\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                     sec-websocket-accept: AAAA\r\n{PROTOCOL}\r\n"
                )
            }),
            ("culvert.v1", |request| right(request, "")),
            ("culvert.v1", |request| {
                right(request, "sec-websocket-protocol: mqtt\r\n")
            }),
            ("extension", |request| {
                right(
                    request,
                    &format!("{PROTOCOL}sec-websocket-extensions: x\r\n"),
                )
            }),
            ("does not upgrade", |_| {
                "HTTP/1.1 101 Switching\r\n\r\n".into()
            }),
            ("not HTTP", |_| "SSH-2.0-OpenSSH_9.2\r\n".into()),
        ];
        for (word, answer) in wrong {
            let error = meet(answer).await.unwrap_err();
            assert!(matches!(error, UpgradeError::Answer(_)), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        let endless = |_: &str| format!("HTTP/1.1 101 S\r\nx: {}", "y".repeat(20_000));
        let error = meet(endless).await.unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_carries_status_retry_after_and_text_even_when_the_body_stalls() {
        let error = meet(|_| {
            "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 900\r\n\r\ntoo many\x1b agents"
                .into()
        })
        .await
        .unwrap_err();
        let UpgradeError::Refused(refusal) = error else {
            panic!("{error}")
        };
        assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(refusal.body, "too many  agents");
    }

    #[tokio::test]
    async fn a_server_that_echoes_the_request_does_not_put_the_token_into_the_error() {
        let error = meet(|request| {
            let length = request.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{request}")
        })
        .await
        .unwrap_err()
        .to_string();
        assert!(error.contains("Authorization: Bearer ***"), "{error}");
        assert!(!error.contains(REQUEST.bearer), "{error}");
        let token = "eyJhbGciOi.eyJzdWIi.c2ln";
        assert_eq!(without("x eyJhbGciOi.ey", token), "x ***");
        assert_eq!(without("x eyJhbGc", token), "x eyJhbGc");
        assert_eq!(without("x", ""), "x");
    }

    #[tokio::test]
    async fn a_token_cannot_smuggle_header_lines() {
        let (near, _far) = tokio::io::duplex(1024);
        let request = Request {
            bearer: "a\r\nX: b",
            ..REQUEST
        };
        let error = upgrade(near, &request).await.map(drop).unwrap_err();
        assert!(matches!(error, UpgradeError::Header("access token")));
    }
}
