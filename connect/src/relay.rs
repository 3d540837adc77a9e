//! The relay: how to reach it, and what it says to a CONNECT.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use culvert_proto::connect_name::ConnectName;
use culvert_session::tls::{ServerTrust, TlsConfigError, TlsMin, client_tls};
use culvert_session::{race, socket};
use rustls_pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

use crate::request::Refusal;

/// How long TCP and TLS with the relay may take together.
const REACH: Duration = Duration::from_secs(20);

/// How long the relay may take to answer: it waits for the agent, and that for the local API.
const ANSWER: Duration = Duration::from_secs(120);

/// Longest head and longest body of an answer that refuses.
const MAX_HEAD: usize = 64 * 1024;
const MAX_BODY: usize = 64 * 1024;

/// Fields of an answer that are about its own connection.
const OF_CONNECTION: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "content-length",
];

/// A relay, and the token for it.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Host and port, for people.
    shown: String,
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsSettings,
    token_file: PathBuf,
}

struct TlsSettings(TlsConnector);

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSettings").finish_non_exhaustive()
    }
}

/// The command line names a relay or a token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadSettings {
    #[error("--relay: expected https://HOST[:PORT] without path, query or credentials")]
    Url,
    #[error("--ca: {0}")]
    Ca(#[from] TlsConfigError),
    #[error("--token-file: {0}")]
    Token(String),
}

/// What the relay says to a CONNECT.
pub(crate) enum Answer {
    /// The way is open: fields for the tool, what came behind the head, and the way.
    Open {
        fields: String,
        early: BytesMut,
        way: Box<TlsStream<TcpStream>>,
    },
    /// A refusal, as it goes to the tool, and what its status line says.
    Refused {
        status: u16,
        reason: String,
        /// The relay's id of the call.
        call: Option<String>,
        answer: Vec<u8>,
    },
}

impl Relay {
    /// Checks the settings, and that there is a token.
    pub(crate) fn new(
        url: &str,
        token_file: PathBuf,
        ca: Option<PathBuf>,
    ) -> Result<Self, BadSettings> {
        // What was given may hold a password, so it is not shown.
        let bad = || BadSettings::Url;
        let parsed = Url::parse(url).map_err(|_| bad())?;
        let plain = parsed.scheme() == "https"
            && parsed.path() == "/"
            && parsed.query().is_none()
            && parsed.fragment().is_none()
            && parsed.username().is_empty()
            && parsed.password().is_none();
        let host = parsed.host_str().filter(|_| plain).ok_or_else(bad)?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
        let port = parsed.port_or_known_default().unwrap_or(443);
        let shown = format!("{}:{port}", parsed.host_str().unwrap_or_default());
        let trust = ca.map_or(ServerTrust::SystemRoots, ServerTrust::CaFile);
        let relay = Self {
            shown,
            port,
            name,
            tls: TlsSettings(TlsConnector::from(client_tls(&trust, TlsMin::V12)?)),
            token_file,
            host,
        };
        token(&relay.token_file).map_err(BadSettings::Token)?;
        Ok(relay)
    }

    /// For the log.
    pub(crate) fn name(&self) -> &str {
        &self.shown
    }

    /// The token as the file has it now: a renewed one must count at once.
    async fn token(&self) -> Result<SecretString, String> {
        let file = self.token_file.clone();
        // File systems may take their time.
        let read = tokio::task::spawn_blocking(move || token(&file));
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Asks for a way. Cancel safe: dropped, it hangs up.
    pub(crate) async fn connect(&self, target: &ConnectName) -> Result<Answer, Refusal> {
        let token = self.token().await.map_err(|error| {
            tracing::error!("no token: {error}");
            let detail = format!("culvert-connect has no token: {error}");
            Refusal::no_gateway("proxy_configuration_error", detail)
        })?;
        let failed = |kind: &'static str, what: &str, error: &dyn std::fmt::Display| {
            let detail = format!("{what} {}: {error}", self.shown);
            tracing::warn!("{detail}");
            Refusal::no_gateway(kind, detail)
        };
        let reached = timeout(REACH, self.reach()).await;
        let late = "the relay does not answer at";
        let unreachable = "culvert-connect cannot reach the relay";
        let mut way = reached
            .map_err(|_| failed("connection_timeout", late, &"no connection in 20 s"))?
            .map_err(|error| failed("destination_unavailable", unreachable, &error))?;
        let request = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: culvert-connect/{}\r\n\
             Proxy-Authorization: Bearer {}\r\n\r\n",
            env!("CARGO_PKG_VERSION"),
            token.expose_secret(),
        );
        let broke = |error: std::io::Error| {
            let what = "the connection broke to the relay";
            failed("connection_terminated", what, &error)
        };
        way.write_all(request.as_bytes()).await.map_err(broke)?;
        way.flush().await.map_err(broke)?;
        let answer = timeout(ANSWER, read_answer(way)).await;
        let silent = "there is no answer from the relay";
        let answer = answer
            .map_err(|_| failed("http_response_timeout", silent, &"none in 120 s"))?
            .map_err(broke)?;
        match answer {
            // It is this program's token, and nothing that the tool could send would help.
            Answer::Refused {
                status: 407,
                reason,
                call,
                ..
            } => {
                let file = self.token_file.display();
                let what = format!("the token in {file} is not accepted by");
                let refusal = failed("http_request_denied", &what, &reason);
                Err(Refusal { call, ..refusal })
            }
            answer => Ok(answer),
        }
    }

    async fn reach(&self) -> std::io::Result<Box<TlsStream<TcpStream>>> {
        let addresses = lookup_host((self.host.as_str(), self.port)).await?;
        let tcp = race::connect(addresses.collect()).await?;
        socket::tune(&tcp);
        Ok(Box::new(self.tls.0.connect(self.name.clone(), tcp).await?))
    }
}

/// Reads a token. Blocks.
fn token(file: &Path) -> Result<SecretString, String> {
    let token = culvert_config::secret::read(file, file)?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    if token.expose_secret().bytes().all(legal) {
        Ok(token)
    } else {
        let file = file.display();
        Err(format!(
            "{file} holds no token; expected one line with an access token"
        ))
    }
}

fn invalid(what: &'static str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what)
}

async fn read_answer(mut way: Box<TlsStream<TcpStream>>) -> std::io::Result<Answer> {
    let mut bytes = BytesMut::with_capacity(2048);
    let head = loop {
        if way.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((length, head)) = parse_head(&bytes)? {
            bytes.advance(length);
            break head;
        }
        if bytes.len() >= MAX_HEAD {
            return Err(invalid("its answer has too long a head"));
        }
    };
    let Head {
        status,
        reason,
        fields,
        call,
        body,
    } = head;
    if (200..300).contains(&status) {
        return Ok(Answer::Open {
            fields,
            early: bytes,
            way,
        });
    }
    let body = body.min(MAX_BODY);
    while bytes.len() < body {
        if way.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut answer = format!(
        "HTTP/1.1 {status} {reason}\r\n{fields}Content-Length: {body}\r\nConnection: close\r\n\r\n"
    )
    .into_bytes();
    answer.extend_from_slice(&bytes[..body]);
    Ok(Answer::Refused {
        status,
        reason,
        call,
        answer,
    })
}

/// The head of an answer.
struct Head {
    status: u16,
    reason: String,
    /// Those that go on to the tool.
    fields: String,
    /// The relay's id of the call.
    call: Option<String>,
    /// The length of the body.
    body: usize,
}

/// The head of an answer, once it is whole, and its length.
fn parse_head(bytes: &[u8]) -> std::io::Result<Option<(usize, Head)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let parsed = head
        .parse(bytes)
        .map_err(|_| invalid("its answer is not HTTP"))?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let (mut kept, mut call, mut body) = (String::new(), None, 0);
    for field in head.headers.iter() {
        let value =
            std::str::from_utf8(field.value).map_err(|_| invalid("its answer is not text"))?;
        if field.name.eq_ignore_ascii_case("content-length") {
            body = value
                .parse()
                .map_err(|_| invalid("its answer has no length"))?;
        }
        if field.name.eq_ignore_ascii_case("culvert-call") {
            call = Some(value.to_owned());
        }
        if !OF_CONNECTION
            .iter()
            .any(|name| field.name.eq_ignore_ascii_case(name))
        {
            kept.push_str(&format!("{}: {value}\r\n", field.name));
        }
    }
    let head = Head {
        status: head.code.unwrap_or_default(),
        reason: head.reason.unwrap_or_default().to_owned(),
        fields: kept,
        call,
        body,
    };
    Ok(Some((length, head)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn who_cannot_reach_the_relay_is_told_which_host_and_port_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "a.b.c").unwrap();
        std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
        // Where nobody listens.
        let url = "https://127.0.0.1:1";
        let relay = Relay::new(url, token, None).unwrap();
        let target = ConnectName::parse("vc.sddc.local:443").unwrap();
        let refusal = relay.connect(&target).await.err().unwrap();
        let detail = refusal.detail;
        assert!(detail.contains("127.0.0.1:1: "), "{detail}");
    }
}
