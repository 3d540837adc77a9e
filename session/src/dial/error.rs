//! Why a dial failed, phase by phase, and what an operator can do about it.

use std::io;
use std::time::Duration;

use super::PHASE_TIMEOUT;
use crate::proxy::ProxyError;
use crate::tls::TlsTrouble;
use crate::upgrade::{Refusal, UpgradeError};

/// The steps of a dial, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialPhase {
    /// The name is resolved.
    Dns,
    /// A TCP connection is made.
    Tcp,
    /// A proxy opens a tunnel.
    Proxy,
    /// TLS shakes hands.
    Tls,
    /// The WebSocket shakes hands; the relay checks the token here.
    WebSocket,
}

impl DialPhase {
    /// A word for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::WebSocket => "websocket",
        }
    }
}

/// Why a dial failed, phase by phase.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve.
    #[error("cannot resolve {host}: {source}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address of the name takes connections.
    #[error("cannot connect to {host} port {port}: {source}")]
    Tcp {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// The last attempt's error.
        source: io::Error,
    },
    /// The proxy opened no tunnel.
    #[error("the corporate proxy {proxy} opened no tunnel to {host}: {source}")]
    Proxy {
        /// The relay's name.
        host: String,
        /// The proxy's host and port.
        proxy: String,
        /// What happened.
        source: ProxyError,
    },
    /// The proxy itself cannot be reached.
    #[error("the corporate proxy {proxy} cannot be reached: {source}")]
    ProxyUnreachable {
        /// The proxy's host and port.
        proxy: String,
        /// Why: [`DialError::Dns`], [`DialError::Tcp`] or [`DialError::Timeout`].
        source: Box<DialError>,
    },
    /// TLS failed, mostly because the server's certificate is not trusted.
    #[error("TLS with {host} failed: {source}")]
    Tls {
        /// The name.
        host: String,
        /// What happened; holds a [`rustls::Error`] where TLS itself failed.
        source: io::Error,
    },
    /// The relay refused, or whatever answered is no relay.
    #[error("{host}: {source}")]
    WebSocket {
        /// The name.
        host: String,
        /// What happened.
        source: UpgradeError,
    },
    /// A phase took too long.
    #[error("{host}: no {} within {} s", .phase.as_str(), PHASE_TIMEOUT.as_secs())]
    Timeout {
        /// The name.
        host: String,
        /// The phase.
        phase: DialPhase,
    },
}

impl DialError {
    /// The phase that failed.
    pub fn phase(&self) -> DialPhase {
        match self {
            Self::Dns { .. } => DialPhase::Dns,
            Self::Tcp { .. } => DialPhase::Tcp,
            Self::Proxy { .. } | Self::ProxyUnreachable { .. } => DialPhase::Proxy,
            Self::Tls { .. } => DialPhase::Tls,
            Self::WebSocket { .. } => DialPhase::WebSocket,
            Self::Timeout { phase, .. } => *phase,
        }
    }

    /// The relay's refusal, if it was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::WebSocket {
                source: UpgradeError::Refused(refusal),
                ..
            } => Some(refusal),
            _ => None,
        }
    }

    /// How long the relay asked to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal()?.retry_after
    }

    /// What an operator can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "check the relay's name and this machine's resolver",
            Self::Tcp { .. }
            | Self::Timeout {
                phase: DialPhase::Dns | DialPhase::Tcp,
                ..
            } => {
                "check that outbound connections to this port are allowed; behind a corporate \
                 proxy, configure the proxy"
            }
            Self::Timeout {
                phase: DialPhase::Proxy,
                ..
            } => {
                "the corporate proxy does not answer: check that host and port are those of an HTTP proxy"
            }
            Self::Proxy { source, .. } => source.advice(),
            Self::ProxyUnreachable { .. } => {
                "check the corporate proxy's name and port (relay.proxy, or HTTPS_PROXY), and that \
                 this machine may connect to it"
            }
            Self::Tls { source, .. } => tls_advice(source),
            Self::Timeout {
                phase: DialPhase::Tls,
                ..
            } => CUT,
            Self::WebSocket {
                source: UpgradeError::Refused(refusal),
                ..
            } => match refusal.status.as_u16() {
                401 => "the relay did not accept the token: check issuer, audience and clock",
                403 => {
                    "the token may not register (check its scope and tenant), or was revoked at the relay"
                }
                404 | 200..=399 => "the server is no relay: check the URL",
                407 => "a proxy in between wants a credential",
                429 | 503 => "the relay is busy or draining; it will be tried again",
                _ => "see the relay's log; or the server is no relay: check the URL",
            },
            Self::WebSocket {
                source: UpgradeError::Header(_),
                ..
            } => "the token file or the token endpoint holds something that is not a token",
            Self::WebSocket { .. } | Self::Timeout { .. } => {
                "something between here and the relay does not pass WebSockets: check proxies \
                 and load balancers"
            }
        }
    }
}

fn tls_advice(error: &io::Error) -> &'static str {
    match TlsTrouble::of(error) {
        TlsTrouble::Untrusted => {
            "the certificate's authority is not trusted here: set relay.ca to the file of the CA that \
             signed it, or, if a proxy intercepts TLS, of the proxy's CA"
        }
        TlsTrouble::Expired => {
            "the certificate has expired: renew it, or check this machine's clock"
        }
        TlsTrouble::NotYetValid => "the certificate is not valid yet: check this machine's clock",
        TlsTrouble::OtherName => "the certificate is for another name: check the URL",
        // Relays are trusted by their authority alone.
        TlsTrouble::Certificate | TlsTrouble::NotPinned => {
            "the certificate is not usable: see the message"
        }
        TlsTrouble::Version => "the server does not speak TLS 1.3",
        TlsTrouble::NotTls => {
            "what answers there speaks no TLS: check host and port; a relay's are those of its \
             listen.public"
        }
        TlsTrouble::Other => "the server's TLS is not usable: see the message",
        TlsTrouble::Cut => CUT,
    }
}

/// What to do about a TLS handshake that comes to no end.
const CUT: &str = "the connection ended during the TLS handshake, or nothing more came: a firewall or proxy may \
                   cut it, or what answers there speaks no TLS";
