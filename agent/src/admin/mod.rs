//! What operators ask: health, metrics, status. Plain HTTP on a loopback address or on a socket
//! in the file system; nothing here changes anything.
//!
//! Loopback keeps other machines out, not the browser on this one: a request that a foreign web
//! page could have made (another `Host`) is refused.

pub(crate) mod client;
mod listener;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

pub(crate) use self::listener::{Admin, AdminError};
pub(crate) use self::status::Desk;

/// The description of what is here.
const OPENAPI: &str = include_str!("openapi.json");

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers one request; what its body says is never read.
pub(crate) fn answer<B>(desk: &Desk, request: &Request<B>) -> Response<Full<Bytes>> {
    let mut response = match route(desk, request) {
        Ok((kind, body)) => content(StatusCode::OK, kind, body),
        Err(refused) => refused.response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Kind and text of an answer.
type Found = (&'static str, String);

fn route<B>(desk: &Desk, request: &Request<B>) -> Result<Found, Refused> {
    is_local(request.headers())?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Refused::Method);
    }
    match request.uri().path() {
        "/" => Ok((HTML, page(&desk.status().to_string()))),
        "/healthz" => Ok((TEXT, "ok\n".into())),
        "/readyz" => match desk.status().waiting_for {
            why if why.is_empty() => Ok((TEXT, "ready\n".into())),
            why => Err(Refused::NotReady(why)),
        },
        "/metrics" => {
            let text = desk.metrics().map_err(|_| Refused::Failed)?;
            Ok((OPENMETRICS, text))
        }
        "/api/v1/status" => {
            let text = serde_json::to_string(&desk.status()).map_err(|_| Refused::Failed)?;
            Ok((JSON, text))
        }
        "/api/v1/openapi.json" => Ok((JSON, OPENAPI.into())),
        _ => Err(Refused::NotFound),
    }
}

/// A name could be anybody's and point here all the same (DNS rebinding): only addresses and
/// `localhost` are this machine for certain.
fn is_local(headers: &HeaderMap) -> Result<(), Refused> {
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if host.parse::<std::net::SocketAddr>().is_ok()
        || host.parse::<std::net::IpAddr>().is_ok()
        || (host.starts_with('[') && host.ends_with(']'))
        || name.eq_ignore_ascii_case("localhost")
    {
        return Ok(());
    }
    Err(Refused::Host)
}

/// Why there is no answer.
enum Refused {
    Host,
    Method,
    NotFound,
    NotReady(Vec<String>),
    Failed,
}

impl Refused {
    fn response(self) -> Response<Full<Bytes>> {
        let (status, detail) = match &self {
            Self::Host => (
                StatusCode::FORBIDDEN,
                "address the admin listener by its IP address or as localhost",
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "this address takes GET and HEAD",
            ),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "there is nothing here; /api/v1/openapi.json lists what there is",
            ),
            Self::NotReady(why) => {
                let why: String = why.iter().map(|why| format!("{why}\n")).collect();
                return content(StatusCode::SERVICE_UNAVAILABLE, TEXT, why);
            }
            Self::Failed => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer could not be written down",
            ),
        };
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": detail,
        });
        let mut response = content(status, "application/problem+json", problem.to_string());
        if matches!(self, Self::Method) {
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
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

/// The status as HTML that reloads itself: one look, no scripts, nothing from elsewhere.
fn page(status: &str) -> String {
    let text = status
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta http-equiv=\"refresh\" content=\"5\"><title>culvert-agent</title>\
         <style>body{{font:15px/1.5 ui-monospace,monospace;margin:2rem;color-scheme:light dark}}\
         a{{margin-right:1rem}}</style><h1>culvert-agent</h1><pre>{text}</pre>\
         <p><a href=\"/readyz\">readiness</a><a href=\"/metrics\">metrics</a>\
         <a href=\"/api/v1/status\">status</a><a href=\"/api/v1/openapi.json\">API</a></p></html>\n"
    )
}
