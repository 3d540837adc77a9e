//! Callers of the proxy that look at each byte, and at how a connection ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use culvert_demo::certs;
use rustls::{ClientConnection, StreamOwned};

use crate::issuer::world;
use crate::stack::DOMAIN;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A TLS connection to the relay on which a CONNECT was answered.
#[derive(Debug)]
pub struct Way {
    tls: StreamOwned<ClientConnection, TcpStream>,
    /// The answer's head.
    pub head: String,
}

/// The first message of a TLS client that means `server` and offers these protocols.
pub fn client_hello(server: &str, alpn: &[&str]) -> Vec<u8> {
    let config = certs::client_config(world().authority.pem(), alpn).expect("a configuration");
    let name = server.to_owned().try_into().expect("a DNS name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a configuration");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("memory takes it");
    hello
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// In good order: with TLS's close_notify.
    Clean,
    /// With a TCP reset.
    Reset,
    /// Otherwise.
    Cut,
}

impl Way {
    /// Asks the relay at `port` for a way to `target`, with these further fields (each with its
    /// line end), and reads the answer's head.
    pub fn open(port: u16, target: &str, fields: &str) -> Self {
        Self::send(
            port,
            &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n"),
        )
    }

    /// Sends a request and reads the answer's head.
    pub fn send(port: u16, request: &str) -> Self {
        Self::send_with(port, &["http/1.1"], request)
    }

    /// The same, by a client that offers these protocols and does not look at what it gets.
    pub fn send_with(port: u16, alpn: &[&str], request: &str) -> Self {
        let authority = world().authority.pem();
        let config = certs::client_config(authority, alpn).expect("a configuration");
        let name = DOMAIN.to_owned().try_into().expect("a DNS name");
        let tls = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the relay listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut way = Self {
            tls: StreamOwned::new(tls, stream),
            head: String::new(),
        };
        way.write(request.as_bytes());
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            way.tls.read_exact(&mut byte).expect("an answer's head");
            head.push(byte[0]);
        }
        way.head = String::from_utf8(head).expect("text");
        way
    }

    /// The answer's status.
    pub fn status(&self) -> u16 {
        let status = self.head.split(' ').nth(1);
        status.and_then(|s| s.parse().ok()).expect("a status line")
    }

    /// A field of the answer's head; its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The body of an answer that refuses.
    pub fn refusal(&mut self) -> serde_json::Value {
        let length = self.field("content-length").and_then(|l| l.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        self.tls.read_exact(&mut body).expect("a body");
        serde_json::from_slice(&body).expect("JSON")
    }

    /// Sends bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        self.tls.write_all(bytes).expect("the relay takes it");
        self.tls.flush().expect("the relay takes it");
    }

    /// Reads exactly so many bytes.
    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.tls.read_exact(&mut bytes).expect("so many bytes");
        bytes
    }

    /// Ends this direction in good order; the other one goes on.
    pub fn finish(&mut self) {
        self.tls.conn.send_close_notify();
        self.tls.flush().expect("the relay takes it");
        let shut = self.tls.sock.shutdown(Shutdown::Write);
        shut.expect("the connection is there");
    }

    /// Reads to the end; what came, and how it ended.
    pub fn read_to_end(&mut self) -> (Vec<u8>, Ending) {
        let mut bytes = Vec::new();
        let ending = match self.tls.read_to_end(&mut bytes) {
            Ok(_) => Ending::Clean,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ending::Reset,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ending::Cut,
            Err(error) => panic!("neither an end nor a break: {error}"),
        };
        (bytes, ending)
    }

    /// TLS with whoever is at the other end, whose name is `server`, within this way.
    pub fn handshake(&mut self, server: &str) -> Result<(), String> {
        self.handshake_saying(server, true)
    }

    /// The same without a word of which server is meant.
    pub fn handshake_without_name(&mut self, server: &str) -> Result<(), String> {
        self.handshake_saying(server, false)
    }

    fn handshake_saying(&mut self, server: &str, name_it: bool) -> Result<(), String> {
        let authority = world().authority.pem();
        let mut config = certs::client_config(authority, &["http/1.1"]).expect("a configuration");
        config.enable_sni = name_it;
        let name = server.to_owned().try_into().expect("a DNS name");
        let mut inner = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        while inner.is_handshaking() {
            inner
                .complete_io(&mut self.tls)
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
