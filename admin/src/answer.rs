//! Who may ask, and how answers look.
//!
//! Loopback keeps other machines out, not the browser on this one: a request that a foreign web page
//! could have made (another `Host`, unless it shows a token; an `Origin` where something is changed) is
//! refused.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub(crate) const PROBLEM: &str = "application/problem+json";

/// Longest body of a request, in bytes.
pub(crate) const MAX_BODY: usize = 16 * 1024;

/// What was asked for.
#[derive(Debug)]
pub struct Found {
    status: StatusCode,
    kind: &'static str,
    body: String,
}

impl Found {
    fn new(kind: &'static str, body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            kind,
            body: body.into(),
        }
    }

    /// Plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(TEXT, text)
    }

    /// A page; it may have styles of its own, and loads nothing.
    pub fn html(page: impl Into<String>) -> Self {
        Self::new(HTML, page)
    }

    /// Text of metrics as OpenMetrics 1.0 has it.
    pub fn metrics(text: impl Into<String>) -> Self {
        Self::new(OPENMETRICS, text)
    }

    /// Text that is JSON already.
    pub fn json_text(text: impl Into<String>) -> Self {
        Self::new(JSON, text)
    }

    /// A value as JSON.
    ///
    /// # Errors
    /// It has no such form.
    pub fn json(value: &impl Serialize) -> Result<Self, Refused> {
        let text = serde_json::to_string(value).map_err(|_| Refused::Failed)?;
        Ok(Self::json_text(text))
    }

    /// The same under another status than 200.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

/// The mark of a request that has shown the listener's token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authorized;

/// Why there is no answer.
#[derive(Debug)]
pub enum Refused {
    /// The request does not show the token.
    Credential,
    /// The request names neither an address nor `localhost`.
    Host,
    /// A web page asks for a change.
    Origin,
    /// The body is too long, or did not come.
    Body,
    /// The body is not JSON, or does not say so.
    NotJson,
    /// What the body asks for makes no sense.
    Unclear(String),
    /// There is no room for more.
    Full(String),
    /// The address takes these methods alone.
    Method(&'static str),
    /// There is nothing at the address.
    NotFound,
    /// What is named is not there.
    Missing(String),
    /// What the program waits for until it can work.
    NotReady(Vec<String>),
    /// The answer could not be written down.
    Failed,
}

/// Lets in a request of this machine, or one that has shown the token, with one of the methods in
/// `allowed`, which is written as the field `Allow` is: `GET, HEAD`.
///
/// # Errors
/// A foreign web page may have made it, or the method is another one.
pub fn admit<B>(request: &Request<B>, allowed: &'static str) -> Result<(), Refused> {
    if request.extensions().get::<Authorized>().is_none() {
        is_local(request.headers())?;
    }
    let method = request.method();
    if !allowed.split(", ").any(|word| word == method.as_str()) {
        return Err(Refused::Method(allowed));
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    // Browsers name the page that posts; tools have none.
    if changes && request.headers().contains_key(ORIGIN) {
        return Err(Refused::Origin);
    }
    Ok(())
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
        || host.parse::<IpAddr>().is_ok()
        || (host.starts_with('[') && host.ends_with(']'))
        || name.eq_ignore_ascii_case("localhost")
    {
        return Ok(());
    }
    Err(Refused::Host)
}

/// The answer as it is sent: never stored, never taken for what it is not.
pub fn answered(found: Result<Found, Refused>) -> Response<Full<Bytes>> {
    let mut response = match found {
        Ok(found) => found.response(),
        Err(refused) => refused.response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl Found {
    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        if self.kind == HTML {
            let policy = "default-src 'none'; style-src 'unsafe-inline'";
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        }
        response
    }
}

impl Refused {
    /// A problem (RFC 9457); what is not ready says why in lines of text, as probes show it.
    fn response(self) -> Response<Full<Bytes>> {
        let (status, detail) = match &self {
            Self::Credential => (
                StatusCode::UNAUTHORIZED,
                "show the token of the admin listener: Authorization: Bearer TOKEN, or as the password \
                 of any user"
                    .to_owned(),
            ),
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
            Self::Missing(what) => (StatusCode::NOT_FOUND, what.clone()),
            Self::NotReady(why) => {
                let why: String = why.iter().map(|why| format!("{why}\n")).collect();
                let not_ready = Found::text(why).with_status(StatusCode::SERVICE_UNAVAILABLE);
                return not_ready.response();
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
        let problem = Found::new(PROBLEM, problem.to_string()).with_status(status);
        let mut response = problem.response();
        let headers = response.headers_mut();
        match self {
            Self::Method(allowed) => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Self::Credential => {
                for scheme in ["Bearer", "Basic realm=\"culvert admin\""] {
                    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
                }
            }
            _ => {}
        }
        response
    }
}

/// A program's status as a page that reloads itself: one look, no scripts, nothing from elsewhere.
pub fn status_page(title: &str, heading: &str, status: &str) -> String {
    let (title, heading, status) = (escape(title), escape(heading), escape(status));
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"5\"><title>{title}</title>\
         <style>:root{{font:15px/1.5 ui-monospace,monospace;color-scheme:light dark}}\
         body{{margin:min(2rem,4vw)}}pre{{font:inherit;white-space:pre-wrap;overflow-wrap:anywhere}}\
         a{{margin-right:1rem}}</style><main><h1>{heading}</h1><pre>{status}</pre></main>\
         <nav><a href=\"/readyz\">readiness</a><a href=\"/metrics\">metrics</a>\
         <a href=\"/api/v1/status\">status</a><a href=\"/api/v1/openapi.json\">API</a></nav></html>\n"
    )
}

/// What is text stays text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status that a request with these fields gets.
    fn status(method: Method, allowed: &'static str, fields: &[(&'static str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let admitted = admit(&request.body(()).unwrap(), allowed);
        let answer = answered(admitted.map(|()| Found::text("ok")));
        assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(answer.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        answer.status().as_u16()
    }

    #[test]
    fn only_addresses_and_localhost_are_this_machine() {
        for (host, expected) in [
            ("127.0.0.1:9901", 200),
            ("127.0.0.1", 200),
            ("[::1]:9901", 200),
            ("[::1]", 200),
            ("localhost", 200),
            ("LocalHost:9901", 200),
            ("evil.example", 403),
            ("evil.example:9901", 403),
            ("localhost.evil.example", 403),
            ("", 403),
        ] {
            let found = status(Method::GET, "GET, HEAD", &[("host", host)]);
            assert_eq!(found, expected, "{host}");
        }
        assert_eq!(status(Method::GET, "GET, HEAD", &[]), 403);
    }

    #[test]
    fn a_web_page_changes_nothing() {
        let (local, page) = (("host", "localhost"), ("origin", "http://localhost:9901"));
        assert_eq!(status(Method::POST, "POST", &[local]), 200);
        assert_eq!(status(Method::POST, "POST", &[local, page]), 403);
        assert_eq!(status(Method::GET, "GET, HEAD", &[local, page]), 200);
    }

    #[test]
    fn an_address_says_which_methods_it_takes() {
        let request = Request::put("/").header(HOST, "localhost");
        let refused = admit(&request.body(()).unwrap(), "GET, HEAD").unwrap_err();
        let answer = answered(Err(refused));
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
        assert_eq!(answer.headers()[CONTENT_TYPE], PROBLEM);
    }

    #[test]
    fn a_page_shows_text_and_loads_nothing() {
        let page = status_page("a & b", "<b>", "sub \"<script>\"");
        // The page behind the text is the root's.
        assert!(page.contains(":root{") && page.contains("color-scheme:light dark}body{"));
        assert!(page.contains("<title>a &amp; b</title>"), "{page}");
        assert!(page.contains("<h1>&lt;b&gt;</h1>"), "{page}");
        assert!(page.contains("<pre>sub &quot;&lt;script&gt;&quot;</pre></main>"));
        let answer = answered(Ok(Found::html(page)));
        let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
    }
}
