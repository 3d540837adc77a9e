//! The other side of the admin listener: how `status` asks a running agent.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer that is taken.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The address is none of an admin listener.
    #[error(
        "{0} is no admin listener; expected one like http://127.0.0.1:9902 or unix:/run/culvert-agent/admin.sock"
    )]
    Address(String),
    /// Nobody listens there.
    #[error("no agent answers at {address} ({error}): is it running, and is this its [admin]?")]
    Connect {
        address: String,
        error: std::io::Error,
    },
    /// The connection broke, or what answers is no agent.
    #[error("{address} did not answer: {error}")]
    Answer { address: String, error: String },
}

/// Asks the admin listener at `address` (`http://IP:PORT` or `unix:PATH`).
pub(crate) async fn ask(address: &str, path: &str) -> Result<Bytes, AskError> {
    let asked = async {
        if let Some(socket) = address.strip_prefix("unix:") {
            let io = UnixStream::connect(socket).await;
            return exchange(io, address, "localhost", path).await;
        }
        let host = address.trim_end_matches('/').strip_prefix("http://");
        let host = host.filter(|host| !host.is_empty() && !host.contains('/'));
        let host = host.ok_or_else(|| AskError::Address(address.to_owned()))?;
        exchange(TcpStream::connect(host).await, address, host, path).await
    };
    let late = || AskError::Answer {
        address: address.to_owned(),
        error: format!("nothing came within {} s", PATIENCE.as_secs()),
    };
    timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(late()))
}

async fn exchange<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: std::io::Result<IO>,
    address: &str,
    host: &str,
    path: &str,
) -> Result<Bytes, AskError> {
    let failed = |error: &dyn std::fmt::Display| AskError::Answer {
        address: address.to_owned(),
        error: error.to_string(),
    };
    let io = io.map_err(|error| AskError::Connect {
        address: address.to_owned(),
        error,
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| failed(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    connection.abort();
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(&body[..body.len().min(1024)]);
        let answer = format!("status {status}: {}", text.escape_debug());
        return Err(failed(&answer));
    }
    Ok(body)
}
