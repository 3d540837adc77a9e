//! The other side of the admin listener: how `status` and `drain` ask a running node.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer that is taken: the status of many thousand sessions.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The address is none of an admin listener.
    #[error("{0} is not the URL of an admin listener; expected one like http://127.0.0.1:9901")]
    Url(String),
    /// Nobody listens there.
    #[error("no relay answers at {url} ({error}): is it running, and is this its listen.admin?")]
    Connect {
        /// The address.
        url: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The connection broke, or what answers is no relay.
    #[error("{url} did not answer: {error}")]
    Answer {
        /// The address.
        url: String,
        /// What went wrong.
        error: String,
    },
    /// The relay answered with an error.
    #[error("{url} answered with status {status}: {text}")]
    Refused {
        /// The address.
        url: String,
        /// Its status.
        status: StatusCode,
        /// Its body.
        text: String,
    },
}

impl AskError {
    /// Whether nobody listens (any more).
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Connect { error, .. }
            if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }
}

/// Asks the admin listener at `base` and gives its answer's body.
pub(crate) async fn ask(base: &str, method: Method, path: &str) -> Result<Bytes, AskError> {
    send(base, method, path, Bytes::new()).await
}

/// Asks the admin listener at `base` with JSON, if there is any, and gives its answer's body.
pub(crate) async fn send(
    base: &str,
    method: Method,
    path: &str,
    json: Bytes,
) -> Result<Bytes, AskError> {
    let wrong = || AskError::Url(base.to_owned());
    let uri: Uri = base.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?.clone();
    if uri.scheme_str() != Some("http") || !["", "/"].contains(&uri.path()) {
        return Err(wrong());
    }
    let failed = |error: String| AskError::Answer {
        url: base.to_owned(),
        error,
    };
    match timeout(
        PATIENCE,
        exchange(base, authority.as_str(), method, path, json),
    )
    .await
    {
        Ok(answered) => answered,
        Err(_) => Err(failed(format!(
            "nothing came within {} s",
            PATIENCE.as_secs()
        ))),
    }
}

async fn exchange(
    base: &str,
    authority: &str,
    method: Method,
    path: &str,
    json: Bytes,
) -> Result<Bytes, AskError> {
    let url = || format!("{}{path}", base.trim_end_matches('/'));
    let failed = |error: &dyn std::error::Error| AskError::Answer {
        url: url(),
        error: error.to_string(),
    };
    let port_less = authority
        .rsplit_once(':')
        .is_none_or(|(_, port)| port.ends_with(']'));
    let address = if port_less {
        format!("{authority}:80")
    } else {
        authority.to_owned()
    };
    let tcp = TcpStream::connect(&address).await;
    let tcp = tcp.map_err(|error| AskError::Connect {
        url: base.to_owned(),
        error,
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(json))
        .map_err(|error| failed(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| failed(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    connection.abort();
    let body = body.map_err(|error| failed(&*error))?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(1024)])
        .escape_debug()
        .to_string();
    Err(AskError::Refused {
        url: url(),
        status,
        text,
    })
}
