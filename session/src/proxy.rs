//! A corporate proxy on the way to a relay: asked with CONNECT (RFC 9110, 9.3.6) for a tunnel to
//! the relay, in which everything else then happens as without one.

use std::fmt;
use std::io;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest head of a proxy's answer, in bytes, and most fields in it.
const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 64;

/// An HTTP proxy that opens tunnels for others.
#[derive(Clone)]
pub struct HttpProxy {
    host: String,
    port: u16,
    /// `Proxy-Authorization`.
    authorization: Option<String>,
}

impl HttpProxy {
    /// A proxy that wants no credential. `host` is a name, or an address without brackets.
    pub fn new(host: String, port: u16) -> Self {
        Self {
            host,
            port,
            authorization: None,
        }
    }

    /// The same with a user and a password for Basic (RFC 7617), in UTF-8.
    pub fn with_credential(mut self, user: &str, password: &str) -> Self {
        let credential = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.authorization = Some(format!("Basic {credential}"));
        self
    }

    /// Its name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks it for a tunnel to `host:port`. Afterwards `io` is that tunnel.
    pub(crate) async fn tunnel<IO>(
        &self,
        io: &mut IO,
        host: &str,
        port: u16,
        user_agent: &str,
    ) -> Result<(), ProxyError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let target = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let credential = self.authorization.as_ref();
        let credential =
            credential.map_or_else(String::new, |c| format!("Proxy-Authorization: {c}\r\n"));
        let request = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {user_agent}\r\n\
             {credential}\r\n"
        );
        io.write_all(request.as_bytes()).await?;
        io.flush().await?;
        let mut buffer = BytesMut::with_capacity(1024);
        loop {
            // A byte too many would be the first of the tunnel's own: the relay is silent until
            // the agent has spoken, so that there is none.
            if io.read_buf(&mut buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if let Some((status, length)) = parse(&buffer)? {
                return match status.is_success() {
                    true if length == buffer.len() => Ok(()),
                    true => Err(ProxyError::Answer("it says more than it was asked")),
                    false => Err(ProxyError::Refused(status)),
                };
            }
            if buffer.len() >= MAX_HEAD {
                return Err(ProxyError::Answer("its head is too long"));
            }
        }
    }
}

/// The status of a whole head, and the head's length.
fn parse(bytes: &[u8]) -> Result<Option<(StatusCode, usize)>, ProxyError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    match answer.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.ok_or(ProxyError::Answer("its status is none"))?;
            Ok(Some((status, length)))
        }
        Err(_) => Err(ProxyError::Answer("it is not HTTP")),
    }
}

impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Without the credential.
impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("has_credential", &self.authorization.is_some())
            .finish()
    }
}

/// Why a proxy opened no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It does not want to.
    #[error("it refused the tunnel with status {0}")]
    Refused(StatusCode),
    /// What it said is no answer to CONNECT.
    #[error("its answer is not one of an HTTP proxy: {0}")]
    Answer(&'static str),
    /// The connection to it broke.
    #[error("the connection to it broke: {0}")]
    Io(#[from] io::Error),
}

impl ProxyError {
    /// What an operator can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Refused(StatusCode::PROXY_AUTHENTICATION_REQUIRED) => {
                "the corporate proxy wants a user and a password, or others than it got: check \
                 relay.proxy and relay.proxy_password_file (Basic is what the agent speaks)"
            }
            Self::Refused(StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED) => {
                "a rule of the corporate proxy forbids it: ask for CONNECT to the relay's host and \
                 port to be allowed"
            }
            Self::Refused(
                StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT,
            ) => {
                "the corporate proxy cannot reach the relay: check the relay's name, and that the \
                 proxy resolves it and may go there"
            }
            Self::Refused(_) => "see the corporate proxy's log",
            Self::Answer(_) => "check that host and port are those of an HTTP proxy",
            Self::Io(_) => "check the corporate proxy: it closed the connection without an answer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers a CONNECT with `answer`, in pieces of `piece` bytes.
    async fn meet(
        proxy: &HttpProxy,
        host: &str,
        answer: impl Into<Vec<u8>>,
        piece: usize,
    ) -> (String, Result<(), ProxyError>) {
        let answer = answer.into();
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        let server = async move {
            let mut request = vec![0; 4096];
            let length = far.read(&mut request).await.unwrap();
            for part in answer.chunks(piece) {
                let _ = far.write_all(part).await;
                tokio::task::yield_now().await;
            }
            String::from_utf8_lossy(&request[..length]).into_owned()
        };
        let (request, result) = tokio::join!(server, proxy.tunnel(&mut near, host, 443, "agent/0"));
        (request, result)
    }

    fn proxy() -> HttpProxy {
        HttpProxy::new("proxy.corp".into(), 3128)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_by_the_relays_name_and_with_the_credential() {
        let named = proxy().with_credential("me", "p\u{e9}ss:word");
        for piece in [1, 7, 4096] {
            let answer = "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n";
            let (request, result) = meet(&named, "relay.example", answer, piece).await;
            result.unwrap();
            assert_eq!(
                request,
                "CONNECT relay.example:443 HTTP/1.1\r\nHost: relay.example:443\r\nUser-Agent: \
                 agent/0\r\nProxy-Authorization: Basic bWU6cMOpc3M6d29yZA==\r\n\r\n"
            );
        }
        let (request, result) = meet(&proxy(), "2001:db8::1", "HTTP/1.0 200 OK\r\n\r\n", 99).await;
        result.unwrap();
        assert!(
            request.starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(!request.contains("Authorization"), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_says_what_the_operator_can_do() {
        for (status, words) in [
            (407, "relay.proxy_password_file"),
            (403, "forbids"),
            (502, "cannot reach the relay"),
            (503, "cannot reach the relay"),
            (500, "log"),
            (302, "log"),
        ] {
            let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 5\r\n\r\nhello");
            let (_, result) = meet(&proxy(), "relay.example", answer, 4096).await;
            let error = result.unwrap_err();
            assert!(matches!(&error, ProxyError::Refused(found) if found.as_u16() == status));
            assert!(
                error.advice().contains(words),
                "{status}: {}",
                error.advice()
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused_and_never_read_without_end() {
        // Beyond the bound, and within what the pipe takes when nobody reads any more.
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(40_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(65));
        for answer in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/1.1 200 OK\r\n\r\nearly",
            "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
            "",
            "HTTP/1.1 200 OK\r\n",
            &long,
            &many,
        ] {
            let (_, result) = meet(&proxy(), "relay.example", answer, 4096).await;
            let error = result.unwrap_err();
            assert!(
                !matches!(error, ProxyError::Refused(_)),
                "{answer:.40}: {error}"
            );
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let proxy = proxy().with_credential("me", "hunter2");
        let secret = proxy.authorization.clone().unwrap();
        for shown in [format!("{proxy:?}"), proxy.to_string()] {
            assert!(
                !shown.contains(&secret) && !shown.contains("hunter2"),
                "{shown}"
            );
        }
    }
}
