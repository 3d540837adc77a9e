//! Why an upstream gave no answer: in the agent's log with everything, to the caller without
//! names and addresses of the data centre.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_process::words::plain;
use culvert_proto::code::ErrorCode;
use culvert_session::StreamError;
use rustix::io::Errno;
use rustls::{AlertDescription, CertificateError};

use super::address::Forbidden;
use super::request_body::RequestBodyError;
use super::transport::Seen;

/// Why an upstream gave no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The name does not resolve.
    #[error("cannot resolve {name}: {}", with_cure(.source))]
    Resolve { name: String, source: io::Error },
    /// The name resolves, but only to addresses that a name may not lead to.
    #[error(
        "{name} resolves to {address}, {kind}: refused; allow_networks says where it may lead, or \
         write the address itself as upstream"
    )]
    Forbidden {
        name: String,
        address: IpAddr,
        kind: Forbidden,
    },
    /// No address takes connections.
    #[error("cannot connect to {host} port {port}: {}", with_cure(.source))]
    Connect {
        host: String,
        port: u16,
        source: io::Error,
    },
    /// TLS failed; what the certificate's pin is where it was seen.
    #[error("TLS with {host} failed: {}", with_pin(.source, .pin))]
    Tls {
        host: String,
        source: io::Error,
        pin: Option<String>,
    },
    /// A phase took longer than its limit.
    #[error("{phase} took longer than {}", humantime(*.limit))]
    Timeout { phase: Phase, limit: Duration },
    /// The answer is not valid HTTP, or one that is never passed on.
    #[error("{0}")]
    Answer(BadAnswer),
    /// The connection ended, or HTTP on it broke, before the answer was complete.
    #[error("{}", chain(.0))]
    Http(hyper::Error),
    /// The same of HTTP/2; how TLS below it broke, where it was that.
    #[error("{}", .tls.as_ref().map_or_else(|| chain(.error), ToString::to_string))]
    Http2 {
        error: h2::Error,
        tls: Option<rustls::Error>,
    },
    /// The call, or the endpoint's configuration, needs HTTP/2, and the upstream has none.
    #[error("{host} does not speak HTTP/2 (it did not choose h2 by ALPN)")]
    NoHttp2 { host: String },
    /// The public host name cannot be sent over HTTP/2.
    #[error("the host name is not one that HTTP/2 carries")]
    Authority,
    /// What another call has found out a moment ago.
    #[error("{0}")]
    Shared(Arc<UpstreamError>),
    /// The call's own body cannot be forwarded.
    #[error("{0}")]
    RequestBody(RequestBodyError),
}

/// A phase of a call that has a limit (`timeouts` of an endpoint).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Connect,
    Tls,
    Http2,
    Head,
    RequestIdle,
    AnswerIdle,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting to the upstream",
            Self::Tls => "the TLS handshake with the upstream",
            Self::Http2 => "the start of HTTP/2 with the upstream",
            Self::Head => "the wait for the upstream's answer",
            Self::RequestIdle => "the wait for the next byte of the request's body",
            Self::AnswerIdle => "the wait for the next byte of the answer's body",
        })
    }
}

/// An answer that is parsed but never passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAnswer {
    /// 101 to a request that asked for nothing of the kind.
    #[error("the upstream switched protocols without having been asked")]
    Switched,
    /// A 101 that is not the one that was asked for.
    #[error("the upstream's 101 is not valid: {0}")]
    Handshake(&'static str),
    /// A status of no class.
    #[error("the upstream's answer has a status above 599")]
    Status,
    /// Content-Length beside Transfer-Encoding, or more than one of either.
    #[error("the upstream's answer has more than one framing")]
    DoublyFramed,
    /// Another transfer coding than exactly `chunked`.
    #[error("the upstream's answer has a transfer coding other than chunked")]
    Coding,
    /// A head that the tunnel does not carry.
    #[error("the upstream's answer has a larger head than the tunnel carries")]
    Head,
    /// Content where the status or the method says that there is none.
    #[error("the upstream's answer has a body where there is none")]
    Bodiless,
    /// HTTP/2 SETTINGS that allow no call.
    #[error("the upstream's HTTP/2 settings allow no call")]
    NoStreams,
    /// More interim answers than anybody needs.
    #[error(
        "the upstream sent more than {} interim answers",
        super::connection::MAX_INTERIM
    )]
    Interim,
}

impl UpstreamError {
    /// An error of HTTP/2 on a transport.
    pub(crate) fn http2(error: h2::Error, seen: &Seen) -> Self {
        let tls = seen.tls().cloned().filter(|_| error.is_io());
        Self::Http2 { error, tls }
    }

    /// The code that the caller gets.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Shared(error) => error.code(),
            _ if self.is_own_shortage() => ErrorCode::Overloaded,
            Self::Resolve { .. } | Self::Forbidden { .. } | Self::Connect { .. } => {
                ErrorCode::UpstreamUnreachable
            }
            Self::Tls { .. } => ErrorCode::UpstreamTls,
            Self::Timeout { .. } => ErrorCode::UpstreamTimeout,
            Self::Answer(_) => ErrorCode::UpstreamProtocol,
            Self::Http(error) if tls_error(error).is_some() => ErrorCode::UpstreamTls,
            Self::Http2 { tls: Some(_), .. } => ErrorCode::UpstreamTls,
            Self::Http(_) | Self::Http2 { .. } | Self::NoHttp2 { .. } => {
                ErrorCode::UpstreamProtocol
            }
            Self::Authority => ErrorCode::BadRequest,
            Self::RequestBody(RequestBodyError::TooLong { .. }) => ErrorCode::PolicyDenied,
            Self::RequestBody(
                RequestBodyError::Tunnel(_)
                | RequestBodyError::Stalled
                | RequestBodyError::Broken(_),
            ) => ErrorCode::BadRequest,
        }
    }

    /// Whether it is the agent that has no file descriptor for a connection: says nothing about the
    /// upstream.
    pub(crate) fn is_own_shortage(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_own_shortage(),
            Self::Resolve { source, .. } | Self::Connect { source, .. } => is_out_of_files(source),
            _ => false,
        }
    }

    /// Whether the upstream turned the offered protocol down, and has another.
    pub(crate) fn is_alpn_refusal(&self) -> bool {
        let refusal = AlertDescription::NoApplicationProtocol;
        match self {
            Self::Shared(error) => error.is_alpn_refusal(),
            Self::Tls { source, .. } => {
                rustls_error(source) == Some(&rustls::Error::AlertReceived(refusal))
            }
            _ => false,
        }
    }

    /// Whether the upstream is there, and turned down the HTTP that it was to speak.
    pub(crate) fn is_about_protocol(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_about_protocol(),
            Self::NoHttp2 { .. } => true,
            other => other.is_alpn_refusal(),
        }
    }

    /// Whether it is the server's TLS, or its certificate, that is not taken.
    pub(crate) fn is_about_tls(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_about_tls(),
            other => matches!(other, Self::Tls { .. }),
        }
    }

    /// The stream's own error, where it was the tunnel or the caller that broke and nobody is left to answer.
    pub(crate) fn stream_error(&self) -> Option<StreamError> {
        match self {
            Self::RequestBody(error) => error.stream_error(),
            _ => None,
        }
    }

    /// What the caller reads: what happened and what to do, without inner names or addresses.
    pub(crate) fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::Shared(error) => error.detail(),
            _ if self.is_own_shortage() => {
                "The agent has no file descriptors left for a connection to the local API; try \
                 again later, and tell its operator."
                    .into()
            }
            Self::Resolve { .. } => {
                "The local API's name does not resolve at the agent; its operator should check \
                 the endpoint's upstream and the resolver."
                    .into()
            }
            Self::Forbidden { kind, .. } => format!(
                "The local API's name resolves to {kind}, which the agent refuses; its operator \
                 should check the name, or allow the network."
            )
            .into(),
            Self::Connect { source, .. } => format!(
                "The agent cannot connect to the local API ({}); its operator should check that \
                 the API runs and listens.",
                io_words(source.kind())
            )
            .into(),
            Self::Tls { source, .. } => tls_detail(rustls_error(source)),
            Self::Timeout { phase, limit } => {
                let limit = humantime(*limit);
                format!("The call was given up: {phase} took longer than {limit}.").into()
            }
            Self::Answer(bad) => format!("The call failed: {bad}.").into(),
            Self::Http(error) => http_detail(error),
            Self::Http2 { tls: Some(tls), .. } => tls_detail(Some(tls)),
            Self::Http2 { error, .. } => http2_detail(error),
            Self::NoHttp2 { .. } => {
                "The call needs HTTP/2, which the local API does not speak.".into()
            }
            Self::Authority => "The host name is not one that HTTP/2 carries.".into(),
            Self::RequestBody(error) => format!("The request cannot be forwarded: {error}.").into(),
        }
    }
}

fn http_detail(error: &hyper::Error) -> Cow<'static, str> {
    if let Some(tls) = tls_error(error) {
        tls_detail(Some(tls))
    } else if error.is_parse_too_large() {
        "The local API's answer has a larger head than the agent takes.".into()
    } else if error.is_parse() {
        "The local API's answer is not valid HTTP.".into()
    } else {
        "The local API closed the connection before its answer was complete; whether the call \
         took effect there is not known."
            .into()
    }
}

fn http2_detail(error: &h2::Error) -> Cow<'static, str> {
    match error.reason() {
        Some(reason) if error.is_remote() => {
            format!("The local API refused the call (HTTP/2: {reason}).").into()
        }
        Some(_) => "The local API's answer is not valid HTTP/2.".into(),
        None => "The local API closed the connection before its answer was complete; whether the \
                 call took effect there is not known."
            .into(),
    }
}

fn tls_detail(error: Option<&rustls::Error>) -> Cow<'static, str> {
    let problem = match error {
        None => "the connection ended during the TLS handshake",
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not signed by an authority that is trusted"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            CertificateError::Revoked => "its certificate is revoked",
            CertificateError::Other(_) => "its certificate is not the pinned one",
            _ => "its certificate is not usable",
        },
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::BadCertificate,
        )) => "it wants a client certificate",
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            "it does not speak the version of HTTP that the endpoint's upstream_protocol asks for"
        }
        Some(rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(_)) => {
            "it speaks no TLS version or cipher in common with the agent (TLS 1.2 at least)"
        }
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS on this port",
        Some(_) => "the TLS handshake failed",
    };
    format!(
        "TLS with the local API failed: {problem}; the agent's log has the certificate's SHA-256 \
         where one was shown, and its operator should compare it and set ca or pin_sha256."
    )
    .into()
}

/// The TLS error inside an I/O error, where there is one.
pub(crate) fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The TLS error behind an HTTP error: TLS 1.3 servers complain after the handshake.
fn tls_error(error: &hyper::Error) -> Option<&rustls::Error> {
    let io = error.source()?.downcast_ref::<io::Error>()?;
    rustls_error(io)
}

/// An error with its causes, as one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = plain(&error.to_string()).to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(plain(&error.to_string()));
        cause = error.source();
    }
    text
}

/// Whether the process, or the whole system, has no file descriptor left.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// What the system said; where the agent is short of files, that and what to do.
fn with_cure(error: &io::Error) -> String {
    match is_out_of_files(error) {
        true => format!(
            "the agent has no file descriptors left ({error}): raise its limit of open files, or \
             lower max_streams of its endpoints"
        ),
        false => error.to_string(),
    }
}

fn with_pin(source: &io::Error, pin: &Option<String>) -> String {
    match pin {
        Some(pin) => format!("{source} (the certificate that was shown has SHA-256 {pin})"),
        None => source.to_string(),
    }
}

fn io_words(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "no route",
        io::ErrorKind::TimedOut => "no answer",
        io::ErrorKind::NotFound => "no address",
        _ => "network error",
    }
}

/// A limit in words: whole seconds where it has them.
fn humantime(limit: Duration) -> String {
    match limit.subsec_millis() {
        0 => format!("{} s", limit.as_secs()),
        _ => format!("{} ms", limit.as_millis()),
    }
}
