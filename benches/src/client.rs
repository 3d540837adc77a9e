//! Callers as the scenarios need them: HTTP/1.1 and HTTP/2, small calls, transfers, polls.

mod discarding;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Collected, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use self::discarding::Discarding;
use crate::drive::Caller;
use crate::load::{Body, Failure, Proxy, Refused, Target};
use crate::record::Recorder;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1: a connection carries one call at a time.
    Http1,
    /// HTTP/2: a connection carries many.
    Http2,
}

/// A connection of a caller.
#[derive(Debug)]
pub enum Connection {
    /// HTTP/1.1.
    Http1(http1::SendRequest<Body>),
    /// HTTP/2; a clone shares it.
    Http2(http2::SendRequest<Body>),
}

/// What TLS with the target is spoken on: TCP, or what a proxy has connected.
pub type Wire = Either<TcpStream, TlsStream<TcpStream>>;

/// Opens a TLS connection that offers `version` and no other.
pub async fn secure(target: &Target, version: Version) -> Result<TlsStream<Wire>, Failure> {
    let tcp = TcpStream::connect(target.address).await?;
    tcp.set_nodelay(true)?;
    let wire = match &target.proxy {
        None => Either::Left(tcp),
        Some(proxy) => Either::Right(through(proxy, target, tcp).await?),
    };
    let mut tls = (*target.tls).clone();
    tls.alpn_protocols = match version {
        Version::Http1 => vec![b"http/1.1".to_vec()],
        Version::Http2 => vec![b"h2".to_vec()],
    };
    let connector = TlsConnector::from(Arc::new(tls));
    Ok(connector.connect(target.name()?, wire).await?)
}

/// Longest answer of a proxy.
const MAX_ANSWER: usize = 8 * 1024;

/// Asks a proxy for a way to the target (RFC 9110, 9.3.6).
async fn through(
    proxy: &Proxy,
    target: &Target,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, Failure> {
    let connector = TlsConnector::from(target.tls.clone());
    let name = ServerName::try_from(proxy.name.clone())?;
    let mut io = connector.connect(name, tcp).await?;
    let host = target.authority()?;
    let mut request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    request.extend_from_slice(b"Proxy-Authorization: ");
    request.extend_from_slice(proxy.credential.as_bytes());
    request.extend_from_slice(b"\r\n\r\n");
    io.write_all(&request).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == MAX_ANSWER {
            return Err("the proxy's answer does not end".into());
        }
        // What follows is not for us.
        answer.push(io.read_u8().await?);
    }
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(io);
    }
    let line = answer.split(|byte| *byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    Err(format!("the proxy answers {line}").into())
}

impl Connection {
    /// Opens one, TLS and all.
    pub async fn open(target: &Target, version: Version) -> Result<Self, Failure> {
        let io = secure(target, version).await?;
        Ok(match version {
            Version::Http1 => {
                let io = TokioIo::new(Discarding::new(io));
                let (send, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Self::Http1(send)
            }
            Version::Http2 => {
                let (send, connection) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(4 << 20)
                    .initial_connection_window_size(16 << 20)
                    .handshake(TokioIo::new(io))
                    .await?;
                tokio::spawn(connection);
                Self::Http2(send)
            }
        })
    }

    /// Sends a request and takes the answer's head, whose status must be 200; to a PUT it may be any of
    /// success.
    pub async fn send(
        &mut self,
        target: &Target,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        let own = std::mem::replace(request.headers_mut(), target.headers.clone());
        request.headers_mut().extend(own);
        let sends = request.method() == Method::PUT;
        let response = match self {
            Self::Http1(send) => {
                let host = target.host.parse()?;
                request.headers_mut().insert(header::HOST, host);
                send.ready().await?;
                send.send_request(request).await?
            }
            Self::Http2(send) => {
                let mut uri = std::mem::take(request.uri_mut()).into_parts();
                uri.scheme = Some(http::uri::Scheme::HTTPS);
                uri.authority = Some(target.host.parse()?);
                *request.uri_mut() = Uri::from_parts(uri)?;
                send.ready().await?;
                send.send_request(request).await?
            }
        };
        let status = response.status();
        // What takes a body may say that it has made something of it.
        if status == 200 || (sends && status.is_success()) {
            return Ok(response);
        }
        // An answer that breaks off has a status at least.
        let body = response.into_body().collect().await;
        let body = body.map(Collected::to_bytes).unwrap_or_default();
        Err(Refused { status, body }.into())
    }

    /// Another handle of an HTTP/2 connection; of HTTP/1.1 there is none.
    pub fn share(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(send) => Some(Self::Http2(send.clone())),
        }
    }
}

/// What a [`Worker`] does in a call.
#[derive(Debug, Clone)]
pub enum Task {
    /// GET; the answer's body is read to its end, at most so many bytes per second.
    Get {
        /// The path.
        path: Uri,
        /// Bytes per second; `None`: as fast as they come.
        pace: Option<u64>,
    },
    /// PUT so many bytes.
    Put {
        /// The path.
        path: Uri,
        /// The body's length, in whole chunks of 64 KiB.
        bytes: u64,
    },
}

impl Task {
    /// GET as fast as it comes.
    pub fn get(path: &str) -> Result<Self, Failure> {
        let path = path.parse()?;
        Ok(Self::Get { path, pace: None })
    }
}

/// A caller that does the same call again and again.
#[derive(Debug)]
pub struct Worker {
    target: Target,
    version: Version,
    task: Task,
    /// Whether each call opens a connection of its own.
    fresh: bool,
    connection: Option<Connection>,
}

impl Worker {
    /// One that keeps its connection.
    pub fn new(target: &Target, version: Version, task: Task) -> Self {
        Self {
            target: target.clone(),
            version,
            task,
            fresh: false,
            connection: None,
        }
    }

    /// One that opens a connection for each call, with a whole handshake: what comes without
    /// keep-alive is mostly a process of its own, which remembers no session.
    pub fn fresh(target: &Target, version: Version, task: Task) -> Self {
        let mut tls = (*target.tls).clone();
        tls.resumption = Resumption::disabled();
        let target = Target {
            tls: Arc::new(tls),
            ..target.clone()
        };
        Self {
            fresh: true,
            ..Self::new(&target, version, task)
        }
    }

    /// `count` of them. Of HTTP/2, so many share a connection as its server allows at least.
    pub async fn several(
        target: &Target,
        version: Version,
        task: &Task,
        count: usize,
    ) -> Result<Vec<Self>, Failure> {
        let mut workers: Vec<Self> = Vec::with_capacity(count);
        for number in 0..count {
            let mut worker = Self::new(target, version, task.clone());
            let shared = match workers.last() {
                Some(last) if number % STREAMS != 0 => {
                    last.connection.as_ref().and_then(Connection::share)
                }
                _ => None,
            };
            worker.connection = match shared {
                Some(shared) => Some(shared),
                None => Some(Connection::open(target, version).await?),
            };
            workers.push(worker);
        }
        Ok(workers)
    }

    async fn once(
        &self,
        connection: &mut Connection,
        recorder: &Arc<Recorder>,
    ) -> Result<(), Failure> {
        match &self.task {
            Task::Get { path, pace } => {
                let request = Request::get(path.clone()).body(Body::new(Empty::new()))?;
                let start = Instant::now();
                let answer = connection.send(&self.target, request).await?;
                let mut body = answer.into_body();
                let mut read = 0;
                while let Some(frame) = body.frame().await {
                    let bytes = frame?.data_ref().map_or(0, |data| data.len() as u64);
                    recorder.carried(bytes);
                    read += bytes;
                    if let Some(pace) = pace {
                        let due = Duration::from_secs_f64(read as f64 / *pace as f64);
                        sleep_until(start + due).await;
                    }
                }
                Ok(())
            }
            Task::Put { path, bytes } => {
                let sent = Arc::new(Mutex::new(Some(0)));
                let body = zeros(*bytes, recorder.clone(), sent.clone());
                let request = Request::put(path.clone()).body(body)?;
                let answered = connection.send(&self.target, request).await;
                if answered.is_err()
                    && let Some(sent) = sent.lock().unwrap_or_else(PoisonError::into_inner).take()
                {
                    recorder.not_carried(sent);
                }
                answered?.into_body().collect().await?;
                Ok(())
            }
        }
    }
}

/// Streams on one connection: below the least that servers allow (nginx: 128).
const STREAMS: usize = 100;

/// A body of zeros, counted as it is taken, as long as there is a count of `sent`.
fn zeros(bytes: u64, recorder: Arc<Recorder>, sent: Arc<Mutex<Option<u64>>>) -> Body {
    let chunk = Bytes::from_static(&[0; 64 << 10]);
    let chunks = (bytes / chunk.len() as u64) as usize;
    let frames = std::iter::repeat_n(chunk, chunks).map(move |chunk| {
        if let Some(sent) = &mut *sent.lock().unwrap_or_else(PoisonError::into_inner) {
            recorder.carried(chunk.len() as u64);
            *sent += chunk.len() as u64;
        }
        Ok(Frame::data(chunk))
    });
    Body::new(StreamBody::new(stream::iter(frames)))
}

impl Caller for Worker {
    async fn call(&mut self, recorder: &Arc<Recorder>) -> Result<(), Failure> {
        // A call that fails, or is given up, takes its connection with it.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.target, self.version).await?,
        };
        self.once(&mut connection, recorder).await?;
        if !self.fresh {
            self.connection = Some(connection);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
