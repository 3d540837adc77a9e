//! What operators ask: health, metrics, status, drain. Plain HTTP on a loopback address.
//!
//! Loopback keeps other machines out, not the browser on this one: a request that a foreign web
//! page could have made (another `Host`; an `Origin`, or a body that is not JSON, where something
//! is changed) is refused.

pub(crate) mod client;
mod page;
pub(crate) mod revocations;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use self::status::{State, Status};
use crate::node::Node;

/// Connections at once; more wait in the kernel.
const CONNECTIONS: usize = 64;

/// How long a request's head may take, or an idle connection stay.
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may last: nobody needs one for longer, and none stays stuck.
const CONNECTION: Duration = Duration::from_secs(120);

/// Rest after an error of accept(2).
const REST: Duration = Duration::from_millis(100);

/// Longest body of a request.
const MAX_BODY: usize = 16 * 1024;

/// The description of what is here.
const OPENAPI: &str = include_str!("admin/openapi.json");

/// The admin listener.
pub(crate) struct Admin {
    socket: TcpListener,
    node: Arc<Node>,
}

impl Admin {
    /// Binds the address.
    pub(crate) async fn bind(address: SocketAddr, node: Arc<Node>) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::bind(address).await?,
            node,
        })
    }

    /// Answers until it is dropped.
    pub(crate) async fn run(self) {
        let seats = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let seat = seats.clone().acquire_owned().await;
            match self.socket.accept().await {
                Ok((tcp, _)) => {
                    let node = self.node.clone();
                    tokio::spawn(async move {
                        let _seat = seat;
                        let _ = timeout(CONNECTION, serve(tcp, node)).await;
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "the admin listener cannot take a connection");
                    sleep(REST).await;
                }
            }
        }
    }
}

async fn serve(tcp: TcpStream, node: Arc<Node>) {
    let service = service_fn(|request: Request<Incoming>| async {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY).collect();
        Ok::<_, Infallible>(match timeout(HEAD, body).await {
            Ok(Ok(body)) => answer(&node, &Request::from_parts(head, body.to_bytes())).await,
            Ok(Err(_)) | Err(_) => Refused::Body.response(),
        })
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(tcp), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the admin listener ended");
    }
}

/// Answers one request.
pub(crate) async fn answer(node: &Node, request: &Request<Bytes>) -> Response<Full<Bytes>> {
    let mut response = match route(node, request).await {
        Ok((status, kind, body)) => content(status, kind, body),
        Err(refused) => refused.response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Status, kind and text of an answer.
type Found = (StatusCode, &'static str, String);

async fn route(node: &Node, request: &Request<Bytes>) -> Result<Found, Refused> {
    is_local(request.headers())?;
    let (path, method) = (request.uri().path(), request.method());
    let allowed = match path {
        "/api/v1/drain" => "POST",
        revocations::PATH => "GET, HEAD, POST",
        _ if revocations::id(path).is_some() => "DELETE",
        _ => "GET, HEAD",
    };
    if !allowed.split(", ").any(|word| word == method.as_str()) {
        return Err(Refused::Method(allowed));
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        same_origin(request.headers())?;
    }
    let found = |kind, text| Ok((StatusCode::OK, kind, text));
    match path {
        "/" => found(HTML, page::render(&Status::of(node))),
        "/healthz" => found(TEXT, "ok\n".into()),
        "/readyz" => match node.state() {
            (State::Ready, _) => found(TEXT, "ready\n".into()),
            (_, why) => Err(Refused::NotReady(why)),
        },
        "/metrics" => found(
            OPENMETRICS,
            node.render_metrics().map_err(|_| Refused::Failed)?,
        ),
        "/api/v1/status" => found(JSON, json(&Status::of(node))?),
        "/api/v1/drain" => {
            node.ask_to_drain();
            let draining = status::Draining {
                state: State::Draining,
            };
            Ok((StatusCode::ACCEPTED, JSON, json(&draining)?))
        }
        "/api/v1/openapi.json" => found(JSON, OPENAPI.into()),
        revocations::PATH if method == Method::POST => {
            let added = revocations::add(node, request.headers(), request.body()).await?;
            let status = added.status(StatusCode::CREATED);
            Ok((status, JSON, json(&added)?))
        }
        revocations::PATH => found(JSON, json(&revocations::list(node))?),
        _ => match revocations::id(path) {
            Some(id) => {
                let lifted = revocations::lift(node, id).await?;
                Ok((lifted.status(StatusCode::OK), JSON, json(&lifted)?))
            }
            None => Err(Refused::NotFound),
        },
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, Refused> {
    serde_json::to_string(value).map_err(|_| Refused::Failed)
}

/// A name could be anybody's and point here all the same (DNS rebinding): only addresses and
/// `localhost` are this machine for certain.
fn is_local(headers: &HeaderMap) -> Result<(), Refused> {
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if host.parse::<SocketAddr>().is_ok()
        || host.parse::<std::net::IpAddr>().is_ok()
        || (host.starts_with('[') && host.ends_with(']'))
        || name.eq_ignore_ascii_case("localhost")
    {
        return Ok(());
    }
    Err(Refused::Host)
}

/// Browsers name the page that posts; tools have none.
fn same_origin(headers: &HeaderMap) -> Result<(), Refused> {
    if headers.contains_key(ORIGIN) {
        Err(Refused::Origin)
    } else {
        Ok(())
    }
}

/// Why there is no answer.
enum Refused {
    Host,
    Origin,
    /// The body is too long, or did not come.
    Body,
    /// The body is not JSON, or does not say so.
    NotJson,
    /// What the body asks for makes no sense.
    Unclear(String),
    /// There is no room for more.
    Full(String),
    Method(&'static str),
    NotFound,
    NotReady(Vec<String>),
    Failed,
}

impl Refused {
    fn response(self) -> Response<Full<Bytes>> {
        let (status, detail) = match &self {
            Self::Host => (
                StatusCode::FORBIDDEN,
                "address the admin listener by its IP address or as localhost".to_owned(),
            ),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "web pages may not do this".to_owned(),
            ),
            Self::Body => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("send a body of at most {MAX_BODY} bytes, at once"),
            ),
            Self::NotJson => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send the body as Content-Type: application/json".to_owned(),
            ),
            Self::Unclear(why) => (StatusCode::BAD_REQUEST, why.clone()),
            Self::Full(why) => (StatusCode::CONFLICT, why.clone()),
            Self::Method(allowed) => (
                StatusCode::METHOD_NOT_ALLOWED,
                format!("this address takes {allowed}"),
            ),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "there is nothing here; /api/v1/openapi.json lists what there is".to_owned(),
            ),
            Self::NotReady(why) => {
                let why: String = why.iter().map(|why| format!("{why}\n")).collect();
                return content(StatusCode::SERVICE_UNAVAILABLE, TEXT, why);
            }
            Self::Failed => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer could not be written down".to_owned(),
            ),
        };
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": detail,
        });
        let mut response = content(status, "application/problem+json", problem.to_string());
        if let Self::Method(allowed) = self {
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(allowed));
        }
        response
    }
}

fn content(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if kind == HTML {
        let policy = "default-src 'none'; style-src 'unsafe-inline'";
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    }
    response
}
