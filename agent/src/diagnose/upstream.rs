//! The step of an upstream: what there is, and what an operator can do about it.

use std::io::{self, Write};

use culvert_config::endpoint::Endpoint;
use culvert_proto::code::ErrorCode;
use culvert_proto::head::Mode;
use culvert_session::tls::TlsTrouble;
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use super::{FAREWELL, Report, version_word};
use crate::certificate::pin_hex;
use crate::upstream::{Heard, Phase, ProbeError, Probed, Upstream, UpstreamError};

/// Opens a connection to an upstream as a call would, and asks something harmless where calls to it are
/// HTTP. The others are bytes, of whatever protocol.
pub(super) async fn probe(
    endpoint: &Endpoint,
    upstream: &Upstream,
    report: &mut Report<'_, impl Write>,
) {
    let step = format!("upstream {}", endpoint.name);
    let mut modes = endpoint.modes.iter();
    let is_http = modes.any(|mode| matches!(mode, Mode::Http | Mode::Terminate));
    let error = match upstream.probe(is_http).await {
        Ok(probed) => {
            report.passed(&step, &found(&probed));
            if let Some((_, chain)) = &probed.tls {
                show(chain, report);
            }
            return;
        }
        Err(error) => error,
    };
    let advice = match &error {
        ProbeError::Upstream(error) => advice(error),
        ProbeError::WantsTls(_) => "write https:// in place of http:// as the endpoint's upstream",
        ProbeError::WantsCertificate(_) => {
            "set client_certificate and client_private_key of the endpoint"
        }
    };
    report.failed(&step, &error.to_string(), advice);
    if let ProbeError::Upstream(error) = error
        && error.is_about_tls()
        && let Ok(Ok(chain)) = timeout(FAREWELL, upstream.shown()).await
    {
        show(&chain, report);
    }
}

/// The certificates that an upstream shows, and the line of its `[[endpoint]]` that pins it.
fn show(chain: &[CertificateDer<'_>], report: &mut Report<'_, impl Write>) {
    report.certificates(chain);
    if let Some(first) = chain.first() {
        report.say(format_args!("      pin_sha256 = [\"{}\"]", pin_hex(first)));
    }
}

/// What there is at an upstream, in words.
fn found(probed: &Probed) -> String {
    let address = probed.address;
    let tls = match &probed.tls {
        None => ", without TLS",
        Some((version, _)) => &format!(" with {}", version_word(*version)),
    };
    match probed.heard {
        Heard::Nothing => format!("{address} is connected to{tls}; nothing was asked"),
        Heard::Answer(status) => format!("{address} answers{tls}: HEAD / gets {status}"),
        Heard::Http2 => format!("{address} answers{tls}: HTTP/2"),
        Heard::OnlyGrpc => format!(
            "{address} answers{tls}: HTTP/2 alone, so that only gRPC calls work (upstream_protocol = \"h2\" \
             is for others)"
        ),
    }
}

/// What an operator can do about an upstream that a call could not use.
fn advice(error: &UpstreamError) -> &'static str {
    match error {
        UpstreamError::Shared(error) => advice(error),
        UpstreamError::Resolve { .. } => {
            "check the endpoint's upstream and this machine's resolver"
        }
        UpstreamError::Forbidden { .. } => {
            "check what the name resolves to; allow_networks of the endpoint says where it may lead"
        }
        UpstreamError::Connect { .. } => {
            "check that the API runs and listens there, and that no firewall is in between"
        }
        UpstreamError::Timeout {
            phase: Phase::Head | Phase::Http2,
            ..
        } => {
            "something takes the connection and does not answer: check that it is the API's port, and \
             whether the API works"
        }
        UpstreamError::Timeout { .. } => {
            "nothing answers: check the address, and for a firewall that drops packets"
        }
        UpstreamError::Tls { source, .. } => tls_advice(source),
        UpstreamError::Http(_) | UpstreamError::Http2 { .. } => match error.code() {
            ErrorCode::UpstreamTls => {
                "the server ended TLS behind the handshake: mostly, client_certificate is not one that it \
                 takes"
            }
            _ => {
                "what answers there speaks another protocol, or another version of HTTP: check the port, \
                 whether TLS is spoken there (https://), and upstream_protocol"
            }
        },
        UpstreamError::NoHttp2 { .. } => "set upstream_protocol to \"auto\" or \"http1\"",
        _ => "see the message",
    }
}

fn tls_advice(error: &io::Error) -> &'static str {
    match TlsTrouble::of(error) {
        TlsTrouble::Untrusted => {
            "set ca to the CA that signed the certificate below; or compare its SHA-256 with what \
             the server's own console shows and paste the pin_sha256 line into the [[endpoint]]"
        }
        TlsTrouble::Expired => {
            "the certificate below has expired: renew it at the server, or check this machine's \
             clock; pinned by the pin_sha256 line, it is good for as long as it is the same"
        }
        TlsTrouble::NotYetValid => {
            "the certificate below is not valid yet: check this machine's clock and the server's"
        }
        TlsTrouble::OtherName => {
            "the certificate below is for other names: write one of them as upstream, or compare \
             its SHA-256 with what the server's own console shows and paste the pin_sha256 line \
             into the [[endpoint]]"
        }
        TlsTrouble::NotPinned => {
            "the server has another certificate than the pinned one: if it was renewed, compare \
             its SHA-256 with what the server's own console shows and paste the pin_sha256 line"
        }
        TlsTrouble::NotTls => {
            "what answers there speaks no TLS: check the port, or write http:// if it is meant so"
        }
        TlsTrouble::Version => "the server speaks neither TLS 1.2 nor 1.3",
        TlsTrouble::Cut => {
            "the server ended the connection during the handshake: it may want a client \
             certificate, speak no TLS, or not know the name"
        }
        TlsTrouble::Certificate | TlsTrouble::Other => "see the message",
    }
}
