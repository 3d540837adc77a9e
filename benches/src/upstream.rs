//! The upstream of `culvert-bench local`, a process of its own (`culvert-bench upstream`): files,
//! a place for uploads, a WebSocket echo, answers that wait.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::load::Failure;

/// HTTP/2 in ALPN.
const H2: &[u8] = b"h2";

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Where to listen, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// HOST:PORT.
    #[arg(long)]
    pub listen: std::net::SocketAddr,
    /// Certificate chain, PEM.
    #[arg(long)]
    pub certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    pub private_key: PathBuf,
}

/// Serves until it is ended.
pub async fn serve(options: &Options) -> Result<(), Failure> {
    let chain = CertificateDer::pem_file_iter(&options.certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&options.private_key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // HTTP/2 is for callers that come by CONNECT: the agent and nginx ask for HTTP/1.1.
    tls.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(options.listen).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            tcp.set_nodelay(true)?;
            let tls = acceptor.accept(tcp).await?;
            let service =
                service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
            if tls.get_ref().1.alpn_protocol() == Some(H2) {
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tls), service)
                    .await?;
            } else {
                http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service)
                    .with_upgrades()
                    .await?;
            }
            Ok::<_, Failure>(())
        });
    }
}

async fn answer(request: Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/small") => full(Bytes::from_static(&[0; 200])),
        (&Method::GET, "/medium") => full(Bytes::from_static(&[0; 16 << 10])),
        (&Method::GET, "/bulk") => zeros(16 << 20),
        (&Method::GET, "/large") => zeros(1 << 30),
        (&Method::PUT, "/sink") => sink(request).await,
        (&Method::GET, "/poll") => {
            tokio::time::sleep(wait(request.uri().query())).await;
            full(Bytes::from_static(b"nothing new"))
        }
        (&Method::GET, "/echo") => echo(request),
        _ => status(StatusCode::NOT_FOUND),
    }
}

/// `ms=N`, at most ten minutes; without it a second.
fn wait(query: Option<&str>) -> Duration {
    let asked = query.and_then(|query| query.strip_prefix("ms=")?.parse().ok());
    Duration::from_millis(asked.unwrap_or(1000).min(600_000))
}

async fn sink(request: Request<Incoming>) -> Answer {
    let mut body = request.into_body();
    let mut bytes: u64 = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    full(bytes.to_string().into())
}

/// Accepts a WebSocket (RFC 6455) and returns its messages.
fn echo(mut request: Request<Incoming>) -> Answer {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let Some(accept) = key.map(|key| derive_accept_key(key.as_bytes())) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let Ok(accept) = HeaderValue::try_from(accept) else {
        return status(StatusCode::BAD_REQUEST);
    };
    tokio::spawn(async move {
        let io = TokioIo::new(hyper::upgrade::on(&mut request).await?);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(message) = socket.next().await {
            let message = message?;
            if message.is_text() || message.is_binary() {
                socket.send(message).await?;
            }
        }
        Ok::<_, Failure>(())
    });
    let mut answer = status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

fn full(body: Bytes) -> Answer {
    Response::new(BoxBody::new(Full::new(body)))
}

fn status(status: StatusCode) -> Answer {
    let mut answer = full(Bytes::new());
    *answer.status_mut() = status;
    answer
}

fn zeros(bytes: u64) -> Answer {
    let chunk = Bytes::from_static(&[0; 64 << 10]);
    let chunks = (bytes / chunk.len() as u64) as usize;
    let frames = std::iter::repeat_n(chunk, chunks).map(|chunk| Ok(Frame::data(chunk)));
    let mut answer = Response::new(BoxBody::new(StreamBody::new(stream::iter(frames))));
    let length = HeaderValue::from(bytes);
    answer.headers_mut().insert(header::CONTENT_LENGTH, length);
    answer
}
