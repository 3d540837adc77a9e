//! A local API that does what a test says, byte by byte if need be.
//!
//! Each connection is a thread, and each request a call of the test's handler, which has the
//! connection in its hands: it can answer, stop halfway, answer nonsense, or watch the peer go.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::issuer::world;

/// The largest head that it reads.
const MAX_HEAD: usize = 64 * 1024;

/// Most requests that are remembered.
const MAX_KEPT: usize = 10_000;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// The request line, without its line end.
    pub line: String,
    /// Header names, in lower case, and values.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// Every value of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(have, _)| have == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The target: path and query.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// What becomes of a connection after a request was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next request may come.
    KeepAlive,
    /// Closed with TLS's close_notify, as by a server that has said all.
    End,
    /// Closed without TLS's close_notify, as by a crash.
    Close,
}

/// The local API; its threads end with the test's process.
#[derive(Debug)]
pub struct Upstream {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    /// Starts one; `handle` is called for each request, on the connection's thread. An error
    /// that it returns closes the connection.
    pub fn start(
        handle: impl Fn(&Request, &mut Connection) -> io::Result<Then> + Send + Sync + 'static,
    ) -> Self {
        Self::start_named(&["localhost"], handle)
    }

    /// Starts one whose certificate has these names.
    pub fn start_named(
        names: &[&str],
        handle: impl Fn(&Request, &mut Connection) -> io::Result<Then> + Send + Sync + 'static,
    ) -> Self {
        let leaf = world().authority.issue(names).expect("a certificate");
        let tls = Arc::new(
            leaf.server_config(&["http/1.1"])
                .expect("a TLS configuration"),
        );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let upstream = Self {
            port: listener.local_addr().expect("it listens").port(),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        let (requests, connections) = (upstream.requests.clone(), upstream.connections.clone());
        let handle = Arc::new(handle);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (tls, handle, requests) = (tls.clone(), handle.clone(), requests.clone());
                // A connection that breaks is an outcome that the test looks at elsewhere.
                std::thread::spawn(move || serve(stream, tls, &*handle, &requests));
            }
        });
        upstream
    }

    /// One that answers every request with 200 and a short text, and reads bodies to their end.
    pub fn plain() -> Self {
        Self::start(|request, connection| {
            connection.read_body(request, |_| ())?;
            connection.answer("200 OK", b"hello from upstream\n")
        })
    }

    /// One that promises more than it sends: it breaks off after `came` bytes of each answer.
    pub fn breaking_off(came: usize) -> Self {
        Self::start(move |_, connection| {
            let promised = came + 1_000_000;
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {promised}\r\n\r\n"
            ))?;
            connection.send(vec![b'x'; came])?;
            Ok(Then::Close)
        })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The requests that have arrived so far; of very many, the first ones.
    pub fn requests(&self) -> Vec<Request> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn serve(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    handle: &impl Fn(&Request, &mut Connection) -> io::Result<Then>,
    requests: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let tls = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut connection = Connection {
        tls: StreamOwned::new(tls, stream),
        read: Vec::new(),
    };
    while let Some(request) = connection.read_request()? {
        let mut seen = requests.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MAX_KEPT {
            seen.push(request.clone());
        }
        drop(seen);
        match handle(&request, &mut connection)? {
            Then::KeepAlive => (),
            Then::End => {
                connection.tls.conn.send_close_notify();
                return connection.tls.flush();
            }
            Then::Close => break,
        }
    }
    Ok(())
}

/// A connection of the agent.
#[derive(Debug)]
pub struct Connection {
    tls: StreamOwned<ServerConnection, TcpStream>,
    /// Read, but not yet taken.
    read: Vec<u8>,
}

impl Connection {
    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.tls.write_all(bytes.as_ref())?;
        self.tls.flush()
    }

    /// Sends a whole answer with a length.
    pub fn answer(&mut self, status: &str, body: &[u8]) -> io::Result<Then> {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send([head.as_bytes(), body].concat())?;
        Ok(Then::KeepAlive)
    }

    /// Sends a chunk of a chunked body.
    pub fn send_chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let head = format!("{:x}\r\n", bytes.len());
        self.send([head.as_bytes(), bytes, b"\r\n"].concat())
    }

    /// Reads the request's body to its end, handing it over as it comes.
    pub fn read_body(&mut self, request: &Request, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        if request.all("transfer-encoding") == ["chunked"] {
            loop {
                let line = self.read_line()?;
                let size = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
                self.read_exactly(size, &mut take)?;
                // After the last chunk this takes the end of the trailers, of which none come.
                self.read_line()?;
                if size == 0 {
                    return Ok(());
                }
            }
        }
        let length = request
            .all("content-length")
            .first()
            .map_or(Ok(0), |length| length.parse());
        self.read_exactly(length.map_err(io::Error::other)?, &mut take)
    }

    /// Waits until the peer closes the connection or resets it, for `limit` at most; says
    /// whether it did. What it sends meanwhile is thrown away.
    pub fn closed_within(&mut self, limit: Duration) -> bool {
        if self.tls.sock.set_read_timeout(Some(limit)).is_err() {
            return true;
        }
        let mut ignored = [0; 4096];
        loop {
            match self.tls.read(&mut ignored) {
                Ok(1..) => (),
                Err(error) if is_timeout(&error) => return false,
                Ok(0) | Err(_) => return true,
            }
        }
    }

    /// Sends `bytes` again and again until the peer has taken none for `patience`, or `limit`
    /// bytes are sent. Says how many were.
    pub fn send_until_stuck(&mut self, bytes: &[u8], patience: Duration, limit: u64) -> u64 {
        let socket = &self.tls.sock;
        // When rustls cannot write it tries to read: both must give up.
        let set = socket.set_write_timeout(Some(patience));
        let set = set.and_then(|()| socket.set_read_timeout(Some(patience)));
        let mut sent = 0;
        while set.is_ok() && sent < limit && self.send(bytes).is_ok() {
            sent += bytes.len() as u64;
        }
        sent
    }

    fn read_request(&mut self) -> io::Result<Option<Request>> {
        let end = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end;
            }
            if self.read.len() > MAX_HEAD {
                return Err(io::Error::other("the head is too long"));
            }
            if !self.fill()? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
        self.read.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Ok(Some(Request {
            line,
            headers: lines.filter_map(header).collect(),
        }))
    }

    fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.read, b"\r\n") {
                let line = String::from_utf8_lossy(&self.read[..end]).into_owned();
                self.read.drain(..end + 2);
                return Ok(line);
            }
            if !self.fill()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn read_exactly(&mut self, mut left: usize, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while left > 0 {
            if self.read.is_empty() && !self.fill()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let now = left.min(self.read.len());
            take(&self.read[..now]);
            self.read.drain(..now);
            left -= now;
        }
        Ok(())
    }

    /// Reads more; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let start = self.read.len();
        self.read.resize(start + 16 * 1024, 0);
        let read = self.tls.read(&mut self.read[start..]);
        self.read
            .truncate(start + read.as_ref().map_or(0, |read| *read));
        Ok(read? > 0)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
