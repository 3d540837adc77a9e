//! A connection as the edge gets it, with TLS or without: whose it is, and what it is beside its bytes.

use std::net::SocketAddr;

use culvert_http::Breaker;
use culvert_session::socket::ReadAhead;
use rustls_pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;

use super::admitted::Admitted;
use crate::strangers::Standing;

/// What a connection came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `listen.public`: TLS, everything.
    Public,
    /// `listen.proxy`: plain text, CONNECT and the PAC file.
    Proxy,
}

/// The other side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether the connection is TLS 1.3.
    pub tls13: bool,
    /// What it came in by.
    pub door: Door,
}

/// A connection as the edge gets it.
pub type Connection = TlsStream<ReadAhead<Admitted>>;

/// A connection without TLS.
pub type PlainConnection = ReadAhead<Admitted>;

/// What a connection is beside its bytes.
pub trait Transport {
    /// What makes it end by a reset.
    fn breaker(&self) -> Breaker;

    /// What is known of who is on it.
    fn standing(&self) -> Standing {
        Standing::default()
    }

    /// The certificates that the client has shown, its own first. TLS has verified them.
    fn client_certificates(&self) -> &[CertificateDer<'static>] {
        &[]
    }
}

impl Transport for Connection {
    fn breaker(&self) -> Breaker {
        self.get_ref().0.io().breaker.clone()
    }

    fn standing(&self) -> Standing {
        self.get_ref().0.io().standing.clone()
    }

    fn client_certificates(&self) -> &[CertificateDer<'static>] {
        self.get_ref().1.peer_certificates().unwrap_or_default()
    }
}

impl Transport for PlainConnection {
    fn breaker(&self) -> Breaker {
        self.io().breaker.clone()
    }

    fn standing(&self) -> Standing {
        self.io().standing.clone()
    }
}
