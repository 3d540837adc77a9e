//! Callers that send bytes which no HTTP client would.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use culvert_demo::certs;
use rustls::{ClientConnection, StreamOwned};

use crate::issuer::world;

/// A TLS connection to the relay that has agreed on HTTP/1.1.
#[derive(Debug)]
pub struct Raw {
    tls: StreamOwned<ClientConnection, TcpStream>,
}

/// What came back.
#[derive(Debug)]
pub struct Received {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Whether the relay closed the connection, rather than leaving it open.
    pub closed: bool,
}

impl Received {
    /// As text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Raw {
    /// Connects to `port` as if it were `host`.
    pub fn connect(host: &str, port: u16) -> Self {
        Self::connect_with(host, port, &["http/1.1"])
    }

    /// Connects and offers `alpn`.
    pub fn connect_with(host: &str, port: u16, alpn: &[&str]) -> Self {
        let config = certs::client_config(world().authority.pem(), alpn).expect("a configuration");
        let name = host.to_owned().try_into().expect("a DNS name");
        let tls = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the relay listens");
        stream.set_nodelay(true).expect("a socket");
        Self {
            tls: StreamOwned::new(tls, stream),
        }
    }

    /// Sends bytes. The relay may refuse and close before it has read them all.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self
            .tls
            .write_all(bytes.as_ref())
            .and_then(|()| self.tls.flush());
    }

    /// Reads until the relay closes, or sends nothing for `patience`.
    pub fn receive(&mut self, patience: Duration) -> Received {
        self.tls
            .sock
            .set_read_timeout(Some(patience))
            .expect("a socket");
        let (mut bytes, mut block) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match self.tls.read(&mut block) {
                Ok(0) => {
                    return Received {
                        bytes,
                        closed: true,
                    };
                }
                Ok(read) => bytes.extend_from_slice(&block[..read]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Received {
                        bytes,
                        closed: false,
                    };
                }
                // A close without close_notify or a reset is a close too.
                Err(_) => {
                    return Received {
                        bytes,
                        closed: true,
                    };
                }
            }
        }
    }
}
