//! The other side of the listener: how a command asks a program that runs.

use std::fmt::{self, Display};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_session::tls::{ServerTrust, TlsConfigError, TlsMin, TlsTrouble, client_tls};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::answer::PROBLEM;

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer that is taken, in bytes: the status of many thousand sessions.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// What every answer has that a relay gives to callers, and none of an admin listener.
const CULVERT_CALL: HeaderName = HeaderName::from_static("culvert-call");

/// Most of an error's words that are shown, in bytes.
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

/// How a listener is reached.
#[derive(Debug, Clone)]
pub struct Access {
    address: String,
    token: Option<SecretString>,
    tls: Option<Arc<ClientConfig>>,
}

impl Access {
    /// The listener at `address`: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`. It is shown
    /// the token, but never in plain text to another machine. Its certificate is one of the authorities
    /// in the PEM file `ca`, or of the system's.
    ///
    /// # Errors
    /// The authorities cannot be read.
    pub fn new(
        address: &str,
        token: Option<SecretString>,
        ca: Option<&Path>,
    ) -> Result<Self, TlsConfigError> {
        let trust = match ca {
            Some(file) => ServerTrust::CaFile(file.to_owned()),
            None => ServerTrust::SystemRoots,
        };
        // A system without authorities may ask its own listeners all the same.
        let tls = match address.starts_with("https:") {
            true => Some(client_tls(&trust, TlsMin::V12)?),
            false => None,
        };
        Ok(Self {
            address: address.trim_end_matches('/').to_owned(),
            token,
            tls,
        })
    }
}

impl Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
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
    /// A relay answers there, at the address for its callers.
    #[error(
        "{address} is a relay's address for callers and agents; expected that of the {program}'s admin \
         listener ({setting}), like {example}"
    )]
    NotAdmin {
        /// What was given.
        address: String,
        /// What was to be asked.
        program: &'static str,
        /// Where its listener is configured.
        setting: &'static str,
        /// What its address looks like.
        example: &'static str,
    },
    /// The token would pass in plain text.
    #[error("{0} is another machine's address without TLS: a token is only shown to https://")]
    Plain(String),
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
        /// What it says of it: the detail of a problem, or else the beginning of its body.
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
    /// Asks a listener for what is at `path`.
    ///
    /// # Errors
    /// See [`AskError`]; after 10 s at the latest.
    pub async fn get(&self, listener: &Access, path: &str) -> Result<Bytes, AskError> {
        self.send(listener, Method::GET, path, Bytes::new()).await
    }

    /// Asks a listener with JSON, if there is any, and gives its answer's body.
    ///
    /// # Errors
    /// See [`AskError`]; after 10 s at the latest.
    pub async fn send(
        &self,
        listener: &Access,
        method: Method,
        path: &str,
        json: Bytes,
    ) -> Result<Bytes, AskError> {
        let failed = |error: &dyn Display| failed(&listener.address, error);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(json))
            .map_err(|error| failed(&error))?;
        if let Some(token) = &listener.token {
            let shown = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()));
            let mut shown = shown.map_err(|_| failed(&"the token is none that can be sent"))?;
            shown.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, shown);
        }
        timeout(PATIENCE, self.asked(listener, request))
            .await
            .unwrap_or_else(|_| {
                let late = format!("nothing came within {} s", PATIENCE.as_secs());
                Err(failed(&late))
            })
    }

    async fn asked(
        &self,
        listener: &Access,
        request: Request<Full<Bytes>>,
    ) -> Result<Bytes, AskError> {
        let address = &listener.address;
        if let Some(path) = address.strip_prefix("unix:") {
            let io = self.connected(address, UnixStream::connect(path).await)?;
            return self.exchange(io, address, "localhost", request).await;
        }
        let url = self.url(address)?;
        let host = url.host().unwrap_or_default();
        let default = if listener.tls.is_some() { 443 } else { 80 };
        let port = url.port_u16().unwrap_or(default);
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let io = self.connected(address, TcpStream::connect((name, port)).await)?;
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let Some(tls) = &listener.tls else {
            let peer = io.peer_addr().map_err(|error| failed(address, error))?;
            if listener.token.is_some() && !is_this_machine(peer.ip()) {
                return Err(AskError::Plain(address.clone()));
            }
            return self.exchange(io, address, authority, request).await;
        };
        let name = ServerName::try_from(name.to_owned()).map_err(|error| failed(address, error))?;
        let io = TlsConnector::from(tls.clone()).connect(name, io).await;
        let io = io.map_err(|error| failed(address, no_tls(&error)))?;
        self.exchange(io, address, authority, request).await
    }

    /// A URL that has nothing but a host and a port.
    fn url(&self, address: &str) -> Result<Uri, AskError> {
        let url = address.parse::<Uri>().ok();
        let scheme = if address.starts_with("https:") {
            "https"
        } else {
            "http"
        };
        let plain = |url: &Uri| {
            url.scheme_str() == Some(scheme)
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
                && url.authority().is_some_and(|a| !a.as_str().contains('@'))
        };
        url.filter(plain).ok_or_else(|| AskError::Address {
            address: address.to_owned(),
            example: self.example,
        })
    }

    fn connected<IO>(&self, address: &str, io: io::Result<IO>) -> Result<IO, AskError> {
        io.map_err(|error| AskError::Connect {
            program: self.program,
            setting: self.setting,
            address: address.to_owned(),
            error,
        })
    }

    async fn exchange<IO>(
        &self,
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
        let response = response.map_err(|error| match error.is_parse() {
            true => failed(&format_args!(
                "it speaks no HTTP ({error}); is it https://?"
            )),
            false => failed(&error),
        })?;
        let is_for_callers = response.headers().contains_key(CULVERT_CALL);
        let status = response.status();
        let kind = response.headers().get(CONTENT_TYPE);
        let is_problem = kind.is_some_and(|kind| kind == PROBLEM);
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        connection.abort();
        if is_for_callers {
            return Err(AskError::NotAdmin {
                address: address.to_owned(),
                program: self.program,
                setting: self.setting,
                example: self.example,
            });
        }
        let body = body.map_err(|error| failed(&error))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let problem = is_problem.then(|| serde_json::from_slice::<Problem>(&body));
        let words: &[u8] = match &problem {
            Some(Ok(problem)) => problem.detail.as_bytes(),
            _ => &body,
        };
        Err(AskError::Refused {
            address: address.to_owned(),
            path,
            status,
            text: shown(words),
        })
    }
}

fn is_this_machine(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

fn failed(address: &str, error: impl Display) -> AskError {
    AskError::Answer {
        address: address.to_owned(),
        error: error.to_string(),
    }
}

/// Why there is no TLS with a listener, and what to do about it.
fn no_tls(error: &io::Error) -> String {
    let advice = match TlsTrouble::of(error) {
        TlsTrouble::NotTls => return "what answers there speaks no TLS; is it http://?".to_owned(),
        TlsTrouble::Untrusted => "name the authority of its certificate with --ca",
        TlsTrouble::OtherName => "ask it by a name that its certificate is for",
        TlsTrouble::Expired => "renew its certificate, or check this machine's clock",
        _ => return error.to_string(),
    };
    format!("{error}; {advice}")
}

/// What is read of a problem (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// Words of another program's as they may go to a terminal: not too many, no control characters.
fn shown(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(&words[..words.len().min(MAX_SHOWN)]);
    let mut text = String::with_capacity(words.len());
    for c in words.chars() {
        match c.is_control() {
            true => text.extend(c.escape_debug()),
            false => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_another_program_are_shown_as_they_are_but_for_control_characters() {
        let words = "tenant: \"é\"\u{1b}[2J\nover";
        assert_eq!(shown(words.as_bytes()), "tenant: \"é\"\\u{1b}[2J\\nover");
        assert_eq!(shown(&[b'x'; 2 * MAX_SHOWN]).len(), MAX_SHOWN);
    }

    #[test]
    fn only_loopback_addresses_are_this_machine() {
        for (peer, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_this_machine(peer.parse().unwrap()), expected, "{peer}");
        }
    }
}
