//! What there is at an upstream, for an administrator who asks (`culvert-agent diagnose`).

use std::net::SocketAddr;
use std::time::Duration;

use culvert_config::endpoint::UpstreamProtocol;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use rustls::ProtocolVersion;
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use super::Upstream;
use super::connection::Connection;
use super::dial::Protocol;
use super::error::{Phase, UpstreamError, rustls_error};
use super::http2::{self, Exchange};
use super::request_body::RequestBody;
use super::transport::Transport;
use crate::connect::SOFTWARE;

/// How long an upstream may take to answer. Calls wait longer: some are long polls.
const ANSWER: Duration = Duration::from_secs(10);

/// What there is at the other end of a connection to an upstream.
#[derive(Debug)]
pub(crate) struct Probed {
    pub(crate) address: SocketAddr,
    /// The version and the verified server's certificates.
    pub(crate) tls: Option<(Option<ProtocolVersion>, Vec<CertificateDer<'static>>)>,
    pub(crate) heard: Heard,
}

/// What it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing was asked.
    Nothing,
    /// This, to `HEAD /`.
    Answer(StatusCode),
    /// HTTP/2, but no answer, which servers of gRPC owe nobody who sends anything else.
    Http2,
    /// The same, where calls other than gRPC are spoken in HTTP/1.1, which it does not take.
    OnlyGrpc,
}

/// Why calls to an upstream would fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// There is no connection, or no HTTP on it.
    #[error(transparent)]
    Upstream(UpstreamError),
    /// It has TLS where none is spoken to it.
    #[error("the server speaks TLS, and the endpoint's upstream is http:// ({0})")]
    WantsTls(String),
    /// It asked for a certificate where the endpoint has none.
    #[error("the server asked for a client certificate, and the endpoint has none ({0})")]
    WantsCertificate(String),
}

impl Upstream {
    /// Opens a connection as a call would, and says what is there. Where it `is_http`, it is asked for
    /// the head of `/`: every HTTP server answers that, and it changes nothing (RFC 9110, 9.2.1).
    /// A server that minds the missing certificate says so only then, and one that is spoken to without
    /// TLS may have taken the connection in silence.
    pub(crate) async fn probe(&self, is_http: bool) -> Result<Probed, ProbeError> {
        let probed = self.probe_http(is_http).await;
        // Some servers refuse everything with a 400 in place of breaking off. So is `/` by others.
        let refusal = match &probed {
            Ok(Probed {
                heard: Heard::Answer(StatusCode::BAD_REQUEST),
                ..
            }) => "it answers 400 Bad Request".to_owned(),
            Err(error) if is_refusal(error) => error.to_string(),
            _ => return probed.map_err(ProbeError::Upstream),
        };
        if self.dialer.lacks_identity() {
            return Err(ProbeError::WantsCertificate(refusal));
        }
        if !self.dialer.is_tls() {
            let shown = timeout(self.timeouts.tls.0, self.shown()).await;
            if shown.is_ok_and(|shown| shown.is_ok_and(|chain| !chain.is_empty())) {
                return Err(ProbeError::WantsTls(refusal));
            }
        }
        probed.map_err(ProbeError::Upstream)
    }

    /// The certificates that the upstream shows, none of them verified; none where its name is not one
    /// that a certificate could have.
    pub(crate) async fn shown(&self) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
        self.dialer.shown().await
    }

    async fn probe_http(&self, is_http: bool) -> Result<Probed, UpstreamError> {
        let error = match self.protocol {
            UpstreamProtocol::H2 => return self.probe_http2(is_http).await,
            UpstreamProtocol::Http1 => return self.probe_http1(is_http).await,
            UpstreamProtocol::Auto => match self.probe_http1(is_http).await {
                Err(error) if is_refusal(&error) => error,
                probed => return probed,
            },
        };
        match self.probe_http2(is_http).await {
            // Calls go that way too.
            probed if error.is_alpn_refusal() => probed,
            Ok(mut probed) => {
                if is_http {
                    probed.heard = Heard::OnlyGrpc;
                }
                Ok(probed)
            }
            Err(_) => Err(error),
        }
    }

    async fn probe_http1(&self, is_http: bool) -> Result<Probed, UpstreamError> {
        let transport = self.dialer.dial(Protocol::Http1).await?;
        let mut probed = self.probed(&transport)?;
        if is_http {
            let mut connection = Connection::open(transport).await?;
            let answer = self.in_time(connection.send(self.question())).await?;
            let answer = answer.map_err(|failure| failure.error)?;
            probed.heard = Heard::Answer(answer.status());
        }
        Ok(probed)
    }

    async fn probe_http2(&self, is_http: bool) -> Result<Probed, UpstreamError> {
        let transport = self.dialer.dial(Protocol::Http2).await?;
        let mut probed = self.probed(&transport)?;
        if is_http {
            let connection = http2::Connection::open(transport, self.timeouts.tls.0).await?;
            let asked = Exchange::send(connection.enter(), self.scheme(), self.question());
            probed.heard = match self.in_time(asked).await {
                Ok(Ok((answer, _))) => Heard::Answer(answer.status()),
                Ok(Err(_)) | Err(_) => Heard::Http2,
            };
        }
        Ok(probed)
    }

    fn question(&self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = Method::HEAD;
        let headers = request.headers_mut();
        headers.insert(HOST, self.upstream_host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(SOFTWARE));
        request
    }

    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, UpstreamError> {
        let (phase, limit) = (Phase::Head, self.timeouts.head.0.min(ANSWER));
        let answered = timeout(limit, answer).await;
        answered.map_err(|_| UpstreamError::Timeout { phase, limit })
    }

    fn probed(&self, transport: &Transport) -> Result<Probed, UpstreamError> {
        transport.probed().map_err(|source| UpstreamError::Connect {
            host: self.dialer.host().to_owned(),
            port: self.dialer.port(),
            source,
        })
    }
}

/// Whether something was there, and did not like what it was sent.
fn is_refusal(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Tls { source, .. } => matches!(
            rustls_error(source),
            None | Some(rustls::Error::AlertReceived(_))
        ),
        UpstreamError::Timeout { phase, .. } => matches!(phase, Phase::Head | Phase::Http2),
        UpstreamError::Http(_) | UpstreamError::Http2 { .. } => true,
        _ => false,
    }
}
