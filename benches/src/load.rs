//! The load generator: keep-alive connections, each with one call at a time.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use hdrhistogram::Histogram;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Any failure of a call, with its cause in words.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What a call sends.
pub type Body = BoxBody<Bytes, Infallible>;

/// An answer whose status was not the one that was expected.
#[derive(Debug)]
pub struct Refused {
    /// The status.
    pub status: StatusCode,
    /// The answer's body, which may be a problem (RFC 9457).
    pub body: Bytes,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}",
            self.status,
            String::from_utf8_lossy(&self.body)
        )
    }
}

impl Error for Refused {}

/// Whom to call.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// What `Host` says: the name that TLS asks for too, and the port unless it is 443.
    pub host: String,
    /// Headers of every call: the caller's credential.
    pub headers: HeaderMap,
    /// TLS as a caller speaks it.
    pub tls: Arc<rustls::ClientConfig>,
    /// Whom to ask by CONNECT for a way to it; `address` is theirs then.
    pub proxy: Option<Proxy>,
}

/// An HTTPS proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its name in its own certificate.
    pub name: String,
    /// The caller's credential (`Proxy-Authorization`).
    pub credential: HeaderValue,
}

/// The field of a caller's token.
pub const CULVERT_AUTHORIZATION: HeaderName = HeaderName::from_static("culvert-authorization");

impl Target {
    /// The name that the certificate must have.
    pub fn name(&self) -> Result<ServerName<'static>, Failure> {
        let authority: Authority = self.host.parse()?;
        let name = authority.host().trim_matches(['[', ']']);
        Ok(ServerName::try_from(name.to_owned())?)
    }

    /// The name with the port, always: what a CONNECT asks for.
    pub fn authority(&self) -> Result<String, Failure> {
        let authority: Authority = self.host.parse()?;
        let port = authority.port_u16().unwrap_or(443);
        Ok(format!("{}:{port}", authority.host()))
    }
}

/// TLS of a caller that trusts these authorities.
pub fn tls_trusting(roots: rustls::RootCertStore) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What a run saw.
#[derive(Debug)]
pub struct Report {
    /// Calls that ended with status 200 and a complete body.
    pub calls: u64,
    /// All others.
    pub errors: u64,
    /// The first failure, in words.
    pub first_error: Option<String>,
    /// Bytes of bodies.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Microseconds from a call's start to its body's end.
    pub latency: Histogram<u64>,
}

impl Report {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            calls: 0,
            errors: 0,
            first_error: None,
            bytes: 0,
            elapsed: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, 600_000_000, 3)?,
        })
    }

    fn add(&mut self, other: &Self) -> Result<(), Failure> {
        self.calls += other.calls;
        self.errors += other.errors;
        self.bytes += other.bytes;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        self.latency.add(&other.latency)?;
        Ok(())
    }

    /// Calls per second.
    pub fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }
}

/// Opens one connection to `target`, TLS and all.
pub async fn connect(target: &Target) -> Result<SendRequest<Body>, Failure> {
    let tcp = TcpStream::connect(target.address).await?;
    tcp.set_nodelay(true)?;
    let tls = TlsConnector::from(target.tls.clone())
        .connect(target.name()?, tcp)
        .await?;
    let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
    tokio::spawn(connection);
    Ok(send)
}

/// One call: its status must be 200; the body is read to its end and counted.
pub async fn call(
    send: &mut SendRequest<Body>,
    target: &Target,
    path: &Uri,
) -> Result<u64, Failure> {
    let request = Request::get(path.clone()).body(Body::new(Empty::new()))?;
    let mut body = answer(send, target, request).await?;
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}

/// One small call on a connection of its own.
pub async fn once(target: &Target) -> Result<u64, Failure> {
    let mut send = connect(target).await?;
    call(&mut send, target, &"/small".parse()?).await
}

/// Sends `bytes` zeros to `path`, whose answer must be their number.
pub async fn upload(
    send: &mut SendRequest<Body>,
    target: &Target,
    path: &Uri,
    bytes: u64,
) -> Result<(), Failure> {
    let chunk = Bytes::from(vec![0; 64 << 10]);
    let chunks = (bytes / chunk.len() as u64) as usize;
    let frames = std::iter::repeat_n(chunk, chunks).map(|chunk| Ok(Frame::data(chunk)));
    let body = Body::new(StreamBody::new(stream::iter(frames)));
    let counted = put(send, target, path, body).await?;
    if counted == bytes.to_string().as_bytes() {
        Ok(())
    } else {
        Err(format!("{bytes} bytes were sent, {counted:?} arrived").into())
    }
}

/// Sends a body to `path`; gives the answer's.
pub async fn put(
    send: &mut SendRequest<Body>,
    target: &Target,
    path: &Uri,
    body: Body,
) -> Result<Bytes, Failure> {
    let request = Request::put(path.clone()).body(body)?;
    let answer = answer(send, target, request).await?;
    Ok(answer.collect().await?.to_bytes())
}

/// Starts to download `path` and leaves the body to whoever gets it.
pub async fn start_download(
    target: &Target,
    path: &str,
) -> Result<(SendRequest<Body>, Incoming), Failure> {
    let mut send = connect(target).await?;
    let request = Request::get(path).body(Body::new(Empty::new()))?;
    let body = answer(&mut send, target, request).await?;
    Ok((send, body))
}

/// Sends a request and takes an answer, whose status must be 200.
async fn answer(
    send: &mut SendRequest<Body>,
    target: &Target,
    mut request: Request<Body>,
) -> Result<Incoming, Failure> {
    *request.headers_mut() = target.headers.clone();
    request
        .headers_mut()
        .insert(http::header::HOST, target.host.parse()?);
    send.ready().await?;
    let response = send.send_request(request).await?;
    if response.status() != 200 {
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        return Err(Refused { status, body }.into());
    }
    Ok(response.into_body())
}

/// `connections` callers at once, each calling again as soon as it has its answer, for `time`.
pub async fn run(
    target: &Target,
    path: &str,
    connections: usize,
    time: Duration,
) -> Result<Report, Failure> {
    let path: Uri = path.parse()?;
    let start = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (target, path) = (target.clone(), path.clone());
        callers.spawn(async move { caller(&target, &path, start + time).await });
    }
    let mut sum = Report::new()?;
    while let Some(report) = callers.join_next().await {
        sum.add(&report??)?;
    }
    sum.elapsed = start.elapsed();
    Ok(sum)
}

async fn caller(target: &Target, path: &Uri, end: Instant) -> Result<Report, Failure> {
    let mut report = Report::new()?;
    let mut send = connect(target).await?;
    while Instant::now() < end {
        let start = Instant::now();
        match call(&mut send, target, path).await {
            Ok(bytes) => {
                report.calls += 1;
                report.bytes += bytes;
                report.latency.record(start.elapsed().as_micros() as u64)?;
            }
            Err(error) => {
                report.errors += 1;
                report.first_error.get_or_insert_with(|| error.to_string());
                send = connect(target).await?;
            }
        }
    }
    Ok(report)
}

/// Calls at a steady rate, whatever their answers take: `rate` a second over `connections`, for
/// `time`. Latency counts from when a call was due.
pub async fn steady(
    target: &Target,
    path: &str,
    connections: usize,
    rate: f64,
    time: Duration,
) -> Result<Report, Failure> {
    let path: Uri = path.parse()?;
    let start = Instant::now();
    let every = Duration::from_secs_f64(connections as f64 / rate);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..connections {
        let (target, path) = (target.clone(), path.clone());
        let first = start + every.mul_f64(number as f64 / connections as f64);
        let due = (first, every, start + time);
        callers.spawn(async move { paced(&target, &path, due).await });
    }
    let mut sum = Report::new()?;
    while let Some(report) = callers.join_next().await {
        sum.add(&report??)?;
    }
    sum.elapsed = start.elapsed();
    Ok(sum)
}

/// Calls that are due from one moment on, every so often, until another.
async fn paced(
    target: &Target,
    path: &Uri,
    (mut due, every, end): (Instant, Duration, Instant),
) -> Result<Report, Failure> {
    let mut report = Report::new()?;
    let mut send = connect(target).await?;
    while due < end {
        tokio::time::sleep_until(due.into()).await;
        match call(&mut send, target, path).await {
            Ok(bytes) => {
                report.calls += 1;
                report.bytes += bytes;
                report.latency.record(due.elapsed().as_micros() as u64)?;
            }
            Err(error) => {
                report.errors += 1;
                report.first_error.get_or_insert_with(|| error.to_string());
                send = connect(target).await?;
            }
        }
        due += every;
    }
    Ok(report)
}
