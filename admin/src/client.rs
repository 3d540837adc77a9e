//! The other side of the listener: how a command asks a program that runs.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer that is taken, in bytes: the status of many thousand sessions.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Most of an error's body that is shown, in bytes.
const MAX_SHOWN: usize = 1024;

/// Asks programs of one kind, and says what to look at when there is no answer.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// What is asked: `relay`.
    pub program: &'static str,
    /// The setting that has its address: `listen.admin`.
    pub setting: &'static str,
    /// What an address looks like: `http://127.0.0.1:9901`.
    pub example: &'static str,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The address is none of an admin listener.
    #[error("{address} is not the address of an admin listener; expected one like {example}")]
    Address {
        /// What was given.
        address: String,
        /// What one looks like.
        example: &'static str,
    },
    /// Nobody listens there.
    #[error(
        "no {program} answers at {address} ({error}): is it running, and is this its {setting}?"
    )]
    Connect {
        /// What should listen.
        program: &'static str,
        /// Where that would be configured.
        setting: &'static str,
        /// The address.
        address: String,
        /// What the system says.
        error: io::Error,
    },
    /// The connection broke, or what answers is no admin listener.
    #[error("{address} did not answer: {error}")]
    Answer {
        /// The address.
        address: String,
        /// What went wrong.
        error: String,
    },
    /// The program answered with an error.
    #[error("{address}{path} answered with status {status}: {text}")]
    Refused {
        /// The address.
        address: String,
        /// What it was asked for.
        path: String,
        /// Its status.
        status: StatusCode,
        /// Its body, or the beginning of it.
        text: String,
    },
}

impl AskError {
    /// Whether nobody listens (any more).
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Connect { error, .. }
            if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

impl Client {
    /// Asks the listener at `address` (`http://HOST:PORT` or `unix:PATH`) for what is at `path`.
    ///
    /// # Errors
    /// See [`AskError`]; after 10 s at the latest.
    pub async fn get(&self, address: &str, path: &str) -> Result<Bytes, AskError> {
        self.send(address, Method::GET, path, Bytes::new()).await
    }

    /// Asks the listener at `address` with JSON, if there is any, and gives its answer's body.
    ///
    /// # Errors
    /// See [`AskError`]; after 10 s at the latest.
    pub async fn send(
        &self,
        address: &str,
        method: Method,
        path: &str,
        json: Bytes,
    ) -> Result<Bytes, AskError> {
        let address = address.trim_end_matches('/');
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(json))
            .map_err(|error| failed(address, error))?;
        timeout(PATIENCE, self.asked(address, request))
            .await
            .unwrap_or_else(|_| {
                let late = format!("nothing came within {} s", PATIENCE.as_secs());
                Err(failed(address, late))
            })
    }

    async fn asked(&self, address: &str, request: Request<Full<Bytes>>) -> Result<Bytes, AskError> {
        if let Some(path) = address.strip_prefix("unix:") {
            let io = self.connected(address, UnixStream::connect(path).await)?;
            return exchange(io, address, "localhost", request).await;
        }
        let host = self.host(address)?;
        let without_port = host
            .rsplit_once(':')
            .is_none_or(|(_, port)| port.ends_with(']'));
        let io = if without_port {
            TcpStream::connect(format!("{host}:80")).await
        } else {
            TcpStream::connect(&host).await
        };
        let io = self.connected(address, io)?;
        exchange(io, address, &host, request).await
    }

    /// Host and port of a URL that has nothing else.
    fn host(&self, address: &str) -> Result<String, AskError> {
        let wrong = || AskError::Address {
            address: address.to_owned(),
            example: self.example,
        };
        let url: Uri = address.parse().map_err(|_| wrong())?;
        if url.scheme_str() != Some("http") || !["", "/"].contains(&url.path()) {
            return Err(wrong());
        }
        Ok(url.authority().ok_or_else(wrong)?.to_string())
    }

    fn connected<IO>(&self, address: &str, io: io::Result<IO>) -> Result<IO, AskError> {
        io.map_err(|error| AskError::Connect {
            program: self.program,
            setting: self.setting,
            address: address.to_owned(),
            error,
        })
    }
}

fn failed(address: &str, error: impl Display) -> AskError {
    AskError::Answer {
        address: address.to_owned(),
        error: error.to_string(),
    }
}

async fn exchange<IO>(
    io: IO,
    address: &str,
    host: &str,
    mut request: Request<Full<Bytes>>,
) -> Result<Bytes, AskError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &dyn Display| failed(address, error);
    let host = HeaderValue::from_str(host).map_err(|error| failed(&error))?;
    request.headers_mut().insert(HOST, host);
    let path = request.uri().to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| failed(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    connection.abort();
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_SHOWN)]);
    Err(AskError::Refused {
        address: address.to_owned(),
        path,
        status,
        text: text.escape_debug().to_string(),
    })
}
