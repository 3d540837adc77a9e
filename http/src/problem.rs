//! What a caller gets in place of an upstream's answer.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::{ErrorCode, Layer};
use culvert_proto::head::{CallId, Refusal};
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, PROXY_AUTHENTICATE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::headers::{is_grpc, is_soap12};

/// The id of the call, on every answer.
pub const CULVERT_CALL: HeaderName = HeaderName::from_static("culvert-call");
/// Who in the chain failed, and how (RFC 9209).
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// When to come back after a failure that passes by itself: about as long as an agent needs to
/// reconnect.
const OFFLINE_RETRY: Duration = Duration::from_secs(5);
const OVERLOAD_RETRY: Duration = Duration::from_secs(1);

/// What a caller speaks, by the media type of its request: what it shows of a problem is told in that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// gRPC, over whatever HTTP.
    Grpc,
    /// SOAP 1.2.
    Soap12,
    /// Anything else.
    Other,
}

impl Dialect {
    /// That of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        if is_grpc(headers) {
            Self::Grpc
        } else if is_soap12(headers) {
            Self::Soap12
        } else {
            Self::Other
        }
    }
}

/// Why a call gets no answer from its upstream, ready to be told to its caller.
#[derive(Debug, Clone)]
pub struct Problem {
    /// What happened.
    pub code: ErrorCode,
    /// Which part of the path says so.
    pub layer: Layer,
    /// What the caller can do.
    pub detail: Cow<'static, str>,
    /// When it may come back, where that is of use.
    pub retry_after: Option<Duration>,
    /// The WWW-Authenticate of a refused credential (RFC 6750, 3).
    pub challenge: Option<Cow<'static, str>>,
    /// The rule that denied the call, where the policy reveals it.
    pub rule: Option<String>,
    /// Answer as a SOAP fault.
    pub soap: bool,
    /// The caller speaks SOAP 1.2, whose faults look otherwise.
    pub soap12: bool,
    /// The caller speaks gRPC over HTTP/2: the answer is trailers alone, which is what its clients show.
    pub grpc: bool,
    /// The address takes WebSocket handshakes only: 426 (RFC 9110, 15.5.22).
    pub upgrade: bool,
    /// The answer to a CONNECT: it is the proxy that asks for a credential (RFC 9110, 15.5.8).
    pub proxy: bool,
    /// Ask for Basic beside Bearer: what most tools know alone, with the token as password.
    pub basic: bool,
    /// What only the relay's own log may say.
    pub log: Option<String>,
}

impl Problem {
    /// A failure that the relay reports, with the Retry-After that its code calls for.
    pub fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = match code {
            ErrorCode::EndpointOffline => Some(OFFLINE_RETRY),
            ErrorCode::Overloaded | ErrorCode::QuotaExceeded => Some(OVERLOAD_RETRY),
            _ => None,
        };
        Self {
            code,
            layer: Layer::Relay,
            detail: detail.into(),
            retry_after,
            challenge: None,
            rule: None,
            soap: false,
            soap12: false,
            grpc: false,
            upgrade: false,
            proxy: false,
            basic: false,
            log: None,
        }
    }

    /// Is told to a caller who speaks so, over this version of HTTP.
    pub fn told_in(&mut self, dialect: Dialect, version: Version) {
        self.grpc = dialect == Dialect::Grpc && version == Version::HTTP_2;
        self.soap12 = dialect == Dialect::Soap12;
    }

    /// Says what only the relay's own log may say.
    pub fn with_log(mut self, log: impl Into<String>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// A failure that the relay concluded from what the agent did.
    pub fn of_agent(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            layer: Layer::Agent,
            ..Self::new(code, detail)
        }
    }

    /// The request is malformed.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadRequest, detail)
    }

    /// This address takes WebSocket handshakes of ours only.
    pub fn upgrade_required(detail: &'static str) -> Self {
        Self {
            upgrade: true,
            ..Self::bad_request(detail)
        }
    }

    /// There is no valid credential. `error` is one of RFC 6750, 3.1, with a short reason;
    /// neither where no credential was given.
    pub fn unauthenticated(detail: &'static str, error: Option<&'static str>) -> Self {
        let challenge = match error {
            None => Cow::Borrowed("Bearer realm=\"culvert\""),
            Some(error) => {
                let challenge = format!(
                    "Bearer realm=\"culvert\", error=\"{error}\", error_description=\"{detail}\""
                );
                Cow::Owned(challenge)
            }
        };
        let challenge = Some(challenge);
        Self {
            challenge,
            ..Self::new(ErrorCode::Unauthenticated, detail)
        }
    }

    /// The token is bound to a key, and there is no good proof that the caller has it (RFC 9449,
    /// 7.1). `algorithms` are those that proofs may use, with spaces between them.
    pub fn unproved(detail: &'static str, algorithms: &str) -> Self {
        let challenge = format!(
            "DPoP realm=\"culvert\", error=\"invalid_dpop_proof\", \
             error_description=\"{detail}\", algs=\"{algorithms}\""
        );
        Self {
            challenge: Some(challenge.into()),
            ..Self::new(ErrorCode::Unauthenticated, detail)
        }
    }

    /// The credential is valid and not good for this.
    pub fn forbidden(detail: &'static str) -> Self {
        let challenge = Some("Bearer realm=\"culvert\", error=\"insufficient_scope\"".into());
        Self {
            challenge,
            ..Self::new(ErrorCode::Forbidden, detail)
        }
    }

    /// What the status of the answer will be.
    pub fn status(&self) -> StatusCode {
        if self.grpc {
            // The status of gRPC's stands in a field, and counts with no other status of HTTP.
            return StatusCode::OK;
        }
        if self.soap {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        if self.upgrade {
            return StatusCode::UPGRADE_REQUIRED;
        }
        if self.proxy && self.code == ErrorCode::Unauthenticated {
            return StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        }
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The answer of a relay of this domain, and its body. The answer to HEAD says how long the
    /// body would be and has none.
    pub fn answer(&self, domain: &str, call: CallId, method: &Method) -> (Response<()>, Bytes) {
        let (kind, body) = if self.grpc {
            ("application/grpc", String::new())
        } else if self.soap {
            match self.soap12 {
                true => (
                    "application/soap+xml; charset=utf-8",
                    self.soap12_fault(call),
                ),
                false => ("text/xml; charset=utf-8", self.soap_fault(call)),
            }
        } else {
            ("application/problem+json", self.json(domain, call))
        };
        let mut response = Response::new(());
        *response.status_mut() = self.status();
        if self.proxy
            && let Ok(reason) = ReasonPhrase::try_from(self.reason(call))
        {
            response.extensions_mut().insert(reason);
        }
        let headers = response.headers_mut();
        headers.reserve(10);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if self.status() == StatusCode::NOT_FOUND {
            // The only one that caches may keep unasked (RFC 9110, 15.1).
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        insert_call(headers, call);
        if self.grpc {
            headers.insert(GRPC_STATUS, HeaderValue::from(self.grpc_status()));
            let message = utf8_percent_encode(&self.text(call), NOT_IN_GRPC).to_string();
            if let Ok(message) = HeaderValue::try_from(message) {
                headers.insert(GRPC_MESSAGE, message);
            }
        }
        headers.insert(PROXY_STATUS, self.proxy_status());
        if let Some(after) = self.retry_after {
            // Who comes a little early comes in vain.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(Ok(challenge)) = self.challenge.as_deref().map(HeaderValue::from_str) {
            let field = if self.proxy {
                PROXY_AUTHENTICATE
            } else {
                WWW_AUTHENTICATE
            };
            headers.insert(&field, challenge);
            if self.basic {
                headers.append(&field, HeaderValue::from_static("Basic realm=\"culvert\""));
            }
        }
        if *method == Method::HEAD {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            return (response, Bytes::new());
        }
        (response, body.into())
    }

    fn json(&self, domain: &str, call: CallId) -> String {
        let Self {
            code,
            layer,
            detail,
            rule,
            ..
        } = self;
        let (title, status, layer) = (code.title(), self.status().as_u16(), layer.as_str());
        let mut json = String::with_capacity(384);
        let _ = write!(
            json,
            "{{\"type\":\"https://{domain}/.culvert/errors#{code}\",\"title\":\"{title}\",\
             \"status\":{status},\"detail\":"
        );
        push_json(&mut json, detail);
        let _ = write!(json, ",\"call\":\"{call}\",\"layer\":\"{layer}\"");
        if let Some(rule) = rule {
            json.push_str(",\"rule\":");
            push_json(&mut json, rule);
        }
        json.push('}');
        json
    }

    /// What stands behind the status of a refused CONNECT over HTTP/1: all that Go, Python and Java show of
    /// it.
    fn reason(&self, call: CallId) -> String {
        let (code, layer) = (self.code, self.layer.as_str());
        let detail = self.detail.chars();
        let detail: String = detail
            .filter(|c| matches!(c, ' '..='~'))
            .take(MAX_REASON)
            .collect();
        format!(
            "{} ({code} of the {layer}: {detail}; call {call})",
            code.title()
        )
    }

    /// All of it in one line, for those that show no more.
    fn text(&self, call: CallId) -> String {
        let mut text = String::with_capacity(128);
        let _ = write!(text, "{}: {}", self.code.title(), self.detail);
        if let Some(rule) = &self.rule {
            let _ = write!(text, " (rule {rule})");
        }
        let _ = write!(text, " [{}, call {call}]", self.code);
        text
    }

    /// What gRPC's clients take the status of HTTP for, where there is no other (gRPC's
    /// `doc/http-grpc-status-mapping.md`): so they retry what they would without us.
    fn grpc_status(&self) -> u16 {
        match self.code.status() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        }
    }

    /// What vSphere's clients show to their users: they hide the text of a plain 403.
    fn soap_fault(&self, call: CallId) -> String {
        let fault = format!(
            "<faultcode>ServerFaultCode</faultcode><faultstring>{}</faultstring><detail>{}</detail>",
            escape_xml(&self.text(call)),
            self.no_permission(),
        );
        envelope("http://schemas.xmlsoap.org/soap/envelope/", &fault)
    }

    /// The same of SOAP 1.2 (Part 1, 5.4), as clients of WS-Management read it.
    fn soap12_fault(&self, call: CallId) -> String {
        let fault = format!(
            "<soapenv:Code><soapenv:Value>soapenv:Sender</soapenv:Value></soapenv:Code>\
             <soapenv:Reason><soapenv:Text xml:lang=\"en\">{}</soapenv:Text></soapenv:Reason>\
             <soapenv:Detail>{}</soapenv:Detail>",
            escape_xml(&self.text(call)),
            self.no_permission(),
        );
        envelope("http://www.w3.org/2003/05/soap-envelope", &fault)
    }

    fn no_permission(&self) -> String {
        let code = self.code;
        format!(
            "<NoPermissionFault xmlns=\"urn:vim25\" xsi:type=\"NoPermission\">\
             <privilegeId>culvert.{code}</privilegeId></NoPermissionFault>"
        )
    }

    fn proxy_status(&self) -> HeaderValue {
        let proxy = match self.layer {
            Layer::Relay => "culvert-relay",
            Layer::Agent | Layer::Upstream => "culvert-agent",
        };
        let status = format!(
            "{proxy}; error={}; details=\"{}\"",
            proxy_error(self.code),
            self.code
        );
        HeaderValue::try_from(status).unwrap_or(HeaderValue::from_static("culvert-relay"))
    }
}

/// A fault in the envelope of its version of SOAP.
fn envelope(namespace: &str, fault: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <soapenv:Envelope xmlns:soapenv=\"{namespace}\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body><soapenv:Fault>{fault}\
         </soapenv:Fault></soapenv:Body></soapenv:Envelope>\n"
    )
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let Refusal {
            code,
            detail,
            rule,
            soap,
        } = refusal;
        // It comes from the other end of the tunnel: no control characters, no novels.
        let detail = detail
            .chars()
            .filter(|c| !c.is_control())
            .take(1024)
            .collect::<String>();
        let layer = match code {
            // An agent has its policy for that: this is the word of another relay node.
            ErrorCode::Forbidden => Layer::Relay,
            _ => Layer::Agent,
        };
        Self {
            layer,
            rule,
            soap,
            ..Self::new(code, detail)
        }
    }
}

/// The fields of an answer of gRPC, and what is escaped in a message (gRPC's `doc/PROTOCOL-HTTP2.md`).
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const NOT_IN_GRPC: &AsciiSet = &CONTROLS.add(b'%');

/// Longest detail in a status line, in bytes.
const MAX_REASON: usize = 200;

/// Puts the call's id on an answer.
pub fn insert_call(headers: &mut HeaderMap, call: CallId) {
    if let Ok(value) = HeaderValue::from_bytes(&call.digits()) {
        headers.insert(CULVERT_CALL, value);
    }
}

/// The registered proxy error type that comes nearest (RFC 9209, 2.3).
fn proxy_error(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => "http_request_error",
        ErrorCode::Unauthenticated
        | ErrorCode::Forbidden
        | ErrorCode::PolicyDenied
        | ErrorCode::CallerUnverified
        | ErrorCode::QuotaExceeded
        | ErrorCode::RateLimited => "http_request_denied",
        ErrorCode::UnknownEndpoint => "destination_not_found",
        ErrorCode::EndpointOffline | ErrorCode::UpstreamUnreachable => "destination_unavailable",
        ErrorCode::Overloaded => "connection_limit_reached",
        ErrorCode::SessionLost => "connection_terminated",
        ErrorCode::UpstreamTls => "tls_certificate_error",
        ErrorCode::UpstreamProtocol => "http_protocol_error",
        ErrorCode::UpstreamTimeout => "http_response_timeout",
        _ => "proxy_internal_error",
    }
}

fn push_json(json: &mut String, text: &str) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if c < ' ' => _ = write!(json, "\\u{:04x}", u32::from(c)),
            c => json.push(c),
        }
    }
    json.push('"');
}

fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
