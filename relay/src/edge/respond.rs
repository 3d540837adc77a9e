//! What a caller gets in place of an upstream's answer.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::{ErrorCode, Layer};
use culvert_proto::head::{CallId, Refusal};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

/// The id of the call, on every answer.
pub(crate) const CULVERT_CALL: HeaderName = HeaderName::from_static("culvert-call");
/// Who in the chain failed, and how (RFC 9209).
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// When to come back after a failure that passes by itself: about as long as an agent needs to
/// reconnect.
const OFFLINE_RETRY: Duration = Duration::from_secs(5);
const OVERLOAD_RETRY: Duration = Duration::from_secs(1);

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
    /// The address takes WebSocket handshakes only: 426 (RFC 9110, 15.5.22).
    pub(crate) upgrade: bool,
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
            upgrade: false,
            log: None,
        }
    }

    /// Says what only the relay's own log may say.
    pub fn with_log(mut self, log: impl Into<String>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// A failure that the relay concluded from what the agent did.
    pub(crate) fn of_agent(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            layer: Layer::Agent,
            ..Self::new(code, detail)
        }
    }

    /// The request is malformed.
    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadRequest, detail)
    }

    /// This address takes WebSocket handshakes of ours only.
    pub(crate) fn upgrade_required(detail: &'static str) -> Self {
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

    /// The credential is valid and not good for this.
    pub fn forbidden(detail: &'static str) -> Self {
        let challenge = Some("Bearer realm=\"culvert\", error=\"insufficient_scope\"".into());
        Self {
            challenge,
            ..Self::new(ErrorCode::Forbidden, detail)
        }
    }

    /// What the status of the answer will be.
    pub(crate) fn status(&self) -> StatusCode {
        if self.soap {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        if self.upgrade {
            return StatusCode::UPGRADE_REQUIRED;
        }
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The answer of a relay of this domain, and its body. The answer to HEAD says how long the
    /// body would be and has none.
    pub(crate) fn answer(
        &self,
        domain: &str,
        call: CallId,
        method: &Method,
    ) -> (Response<()>, Bytes) {
        let (kind, body) = if self.soap {
            ("text/xml; charset=utf-8", self.soap_fault(call))
        } else {
            ("application/problem+json", self.json(domain, call))
        };
        let mut response = Response::new(());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.reserve(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if self.status() == StatusCode::NOT_FOUND {
            // The only one that caches may keep unasked (RFC 9110, 15.1).
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        insert_call(headers, call);
        headers.insert(PROXY_STATUS, self.proxy_status());
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some(Ok(challenge)) = self.challenge.as_deref().map(HeaderValue::from_str) {
            headers.insert(WWW_AUTHENTICATE, challenge);
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

    /// What vSphere's clients show to their users: they hide the text of a plain 403.
    fn soap_fault(&self, call: CallId) -> String {
        let mut text = String::with_capacity(128);
        let _ = write!(text, "{}: {}", self.code.title(), self.detail);
        if let Some(rule) = &self.rule {
            let _ = write!(text, " (rule {rule})");
        }
        let _ = write!(text, " [{}, call {call}]", self.code);
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body><soapenv:Fault>\
             <faultcode>ServerFaultCode</faultcode><faultstring>{}</faultstring><detail>\
             <NoPermissionFault xmlns=\"urn:vim25\" xsi:type=\"NoPermission\"><privilegeId>culvert.{}\
             </privilegeId></NoPermissionFault></detail></soapenv:Fault></soapenv:Body>\
             </soapenv:Envelope>\n",
            escape_xml(&text),
            self.code,
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
        Self {
            rule,
            soap,
            ..Self::of_agent(code, detail)
        }
    }
}

/// Puts the call's id on an answer.
pub(crate) fn insert_call(headers: &mut HeaderMap, call: CallId) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(call.0) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    if let Ok(value) = HeaderValue::from_bytes(&text) {
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
        | ErrorCode::QuotaExceeded => "http_request_denied",
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

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: CallId = CallId([0xAB; 16]);

    fn header<'a>(response: &'a Response<()>, name: &str) -> Option<&'a str> {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap())
    }

    #[test]
    fn a_problem_says_what_happened_where_and_what_to_do() {
        let problem = Problem::new(ErrorCode::EndpointOffline, "wait for \"vcenter\"");
        let (response, body) = problem.answer("relay.example.com", CALL, &Method::GET);
        assert_eq!(response.status(), 503);
        assert_eq!(
            header(&response, "content-type"),
            Some("application/problem+json")
        );
        assert_eq!(
            header(&response, "culvert-call"),
            Some("abababababababababababababababab")
        );
        assert_eq!(header(&response, "retry-after"), Some("5"));
        assert_eq!(
            header(&response, "proxy-status"),
            Some("culvert-relay; error=destination_unavailable; details=\"endpoint-offline\"")
        );
        assert_eq!(
            body,
            "{\"type\":\"https://relay.example.com/.culvert/errors#endpoint-offline\",\
             \"title\":\"The endpoint's agent is not connected\",\"status\":503,\
             \"detail\":\"wait for \\\"vcenter\\\"\",\"call\":\"abababababababababababababababab\",\
             \"layer\":\"relay\"}"
        );
    }

    #[test]
    fn every_code_has_its_status_and_a_body_that_is_json() {
        for code in ErrorCode::ALL {
            let problem = Problem {
                rule: Some("a\u{1}b".into()),
                ..Problem::new(*code, "x\\y")
            };
            let (response, body) = problem.answer("d", CALL, &Method::POST);
            assert_eq!(response.status().as_u16(), code.status());
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["type"], format!("https://d/.culvert/errors#{code}"));
            assert_eq!(body["status"], code.status());
            assert_eq!(body["detail"], "x\\y");
            assert_eq!(body["rule"], "a\u{1}b");
            let status = header(&response, "proxy-status").unwrap();
            assert!(status.ends_with(&format!("details=\"{code}\"")), "{status}");
            assert!(!status.contains("internal"), "{status}");
        }
    }

    #[test]
    fn an_answer_to_head_has_no_body_and_says_its_length() {
        let problem = Problem::bad_request("x");
        let (_, body) = problem.answer("d", CALL, &Method::GET);
        let (response, none) = problem.answer("d", CALL, &Method::HEAD);
        assert_eq!(none, "");
        assert_eq!(
            header(&response, "content-length"),
            Some(&*body.len().to_string())
        );
    }

    #[test]
    fn a_missing_and_a_bad_credential_are_challenged() {
        let (response, _) =
            Problem::unauthenticated("send a token", None).answer("d", CALL, &Method::GET);
        assert_eq!(
            header(&response, "www-authenticate"),
            Some("Bearer realm=\"culvert\"")
        );
        let (response, _) = Problem::unauthenticated("the token expired", Some("invalid_token"))
            .answer("d", CALL, &Method::GET);
        assert_eq!(
            header(&response, "www-authenticate"),
            Some(
                "Bearer realm=\"culvert\", error=\"invalid_token\", \
                 error_description=\"the token expired\""
            )
        );
        let (response, _) = Problem::forbidden("x").answer("d", CALL, &Method::GET);
        let challenge = header(&response, "www-authenticate").unwrap();
        assert!(challenge.ends_with("error=\"insufficient_scope\""));
    }

    #[test]
    fn the_answer_to_who_has_not_proven_anything_is_small() {
        // The least that asks for an endpoint: 10 times that is what it may get. Each comes in a
        // TLS record: header, content type, tag.
        const RECORD: usize = 5 + 1 + 16;
        let request = "GET / HTTP/1.1\r\nHost: vc--acme.relay.example.com\r\n\r\n";
        let problem = crate::edge::authenticate::no_credential();
        let (response, body) = problem.answer("relay.example.com", CALL, &Method::GET);
        let fields = response.headers().iter();
        let head: usize = fields
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        // Status line, Date, Content-Length.
        let head = head + 27 + 37 + 21;
        assert!(
            head + body.len() + RECORD <= 10 * (request.len() + RECORD),
            "{head} + {}",
            body.len()
        );
    }

    #[test]
    fn a_refused_soap_call_gets_a_fault_with_the_same_text() {
        let refusal = Refusal {
            code: ErrorCode::PolicyDenied,
            detail: "ask <admin> & co\r\n".into(),
            rule: Some("no-destroy".into()),
            soap: true,
        };
        let (response, body) = Problem::from(refusal).answer("d", CALL, &Method::POST);
        assert_eq!(response.status(), 500);
        assert_eq!(
            header(&response, "content-type"),
            Some("text/xml; charset=utf-8")
        );
        assert_eq!(
            header(&response, "proxy-status"),
            Some("culvert-agent; error=http_request_denied; details=\"policy-denied\"")
        );
        let body = std::str::from_utf8(&body).unwrap();
        let text = "<faultstring>The policy of the data centre denied the call: ask &lt;admin&gt; \
                    &amp; co (rule no-destroy) [policy-denied, call ab";
        assert!(body.contains(text), "{body}");
        assert!(body.contains("xsi:type=\"NoPermission\""));
    }
}
