//! A server on a loopback port, whose answers the test chooses and whose requests it sees.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use url::Url;

pub(crate) type Answer = Response<Full<Bytes>>;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The value of a form field.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let mut fields = url::form_urlencoded::parse(self.body.as_bytes());
        fields
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.into_owned())
    }
}

type Answering = Box<dyn Fn(&Seen) -> Answer + Send>;

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Seen>>>,
    answering: Arc<Mutex<Answering>>,
}

/// The server; it ends when dropped.
pub(crate) struct Server {
    base: String,
    shared: Shared,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Plain HTTP on a free port.
    pub(crate) async fn start(answering: impl Fn(&Seen) -> Answer + Send + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), answering).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        answering: impl Fn(&Seen) -> Answer + Send + 'static,
    ) -> Self {
        Self::serve(address, None, answering).await
    }

    /// HTTPS for `localhost` on a free port, with a certificate made now; its PEM goes to `ca`.
    pub(crate) async fn start_tls(
        ca: &Path,
        answering: impl Fn(&Seen) -> Answer + Send + 'static,
    ) -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        std::fs::write(ca, cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(KeyPair::serialize_der(&signing_key)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::serve("127.0.0.1:0".parse().unwrap(), Some(acceptor), answering).await
    }

    async fn serve(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        answering: impl Fn(&Seen) -> Answer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let base = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let shared = Shared {
            seen: Arc::default(),
            answering: Arc::new(Mutex::new(Box::new(answering))),
        };
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        return;
                    };
                    let (shared, tls) = (shared.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => shared.serve_connection(stream).await,
                            Some(tls) => {
                                let Ok(stream) = tls.accept(stream).await else {
                                    return;
                                };
                                shared.serve_connection(stream).await;
                            }
                        }
                    });
                }
            }
        });
        Self { base, shared, task }
    }

    /// The server's address, without a slash at the end.
    pub(crate) fn base(&self) -> String {
        self.base.clone()
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        Url::parse(&format!("{}{path}", self.base)).unwrap()
    }

    /// From now on answers like this.
    pub(crate) fn answer(&self, answering: impl Fn(&Seen) -> Answer + Send + 'static) {
        *self.shared.answering.lock().unwrap() = Box::new(answering);
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Shared {
    async fn serve_connection<IO>(&self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(async |request: http::Request<Incoming>| {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let seen = Seen {
                method: head.method,
                path: head.uri.path().to_owned(),
                headers: head.headers,
                body: String::from_utf8(body.to_vec()).unwrap(),
            };
            let answer = (self.answering.lock().unwrap())(&seen);
            self.seen.lock().unwrap().push(seen);
            Ok::<_, Infallible>(answer)
        });
        let connection = hyper::server::conn::http1::Builder::new();
        let _ = connection.serve_connection(TokioIo::new(io), service).await;
    }
}

/// An answer of JSON.
pub(crate) fn json_answer(status: u16, body: &Value) -> Answer {
    let mut answer = text_answer(status, "application/json", body.to_string());
    answer
        .headers_mut()
        .insert("cache-control", "no-store".parse().unwrap());
    answer
}

/// An answer of any type.
pub(crate) fn text_answer(status: u16, kind: &str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
        .headers_mut()
        .insert("content-type", kind.parse().unwrap());
    answer
}

/// An address at which nobody listens, and at which no other test will.
pub(crate) fn deserted() -> SocketAddr {
    static HOSTS: AtomicU8 = AtomicU8::new(2);
    let host = [127, 0, 0, HOSTS.fetch_add(1, Ordering::Relaxed)];
    std::net::TcpListener::bind((IpAddr::from(host), 0))
        .unwrap()
        .local_addr()
        .unwrap()
}
