//! What a tool asks, and what it gets where it is refused here.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use culvert_proto::connect_name::ConnectName;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// A CONNECT, as HTTP/1.1 or as HTTP/1.0 without Host.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: ConnectName,
    /// The minor version of HTTP/1.
    pub(crate) version: u8,
    /// What came behind the head.
    pub(crate) early: Bytes,
}

/// Longest reason in a status line, in bytes.
const MAX_REASON: usize = 400;

/// Why a tool gets no way, in words of this program.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) title: &'static str,
    pub(crate) detail: String,
    /// The kind of failure, as `Proxy-Status` has it (RFC 9209, 2.3).
    pub(crate) kind: &'static str,
    /// The relay's id of the call, where it got there.
    pub(crate) call: Option<String>,
}

impl Request {
    /// Reads a request's head. `None`: the tool has hung up without one.
    pub(crate) async fn read(
        tool: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Result<Self, Refusal>>> {
        let mut bytes = BytesMut::with_capacity(1024);
        loop {
            if tool.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
            match parse(&mut bytes) {
                Ok(Some(request)) => return Ok(Some(Ok(request))),
                Ok(None) if bytes.len() < MAX_HEAD => {}
                Ok(None) => return Ok(Some(Err(bad("the request's head is too long")))),
                Err(refusal) => return Ok(Some(Err(refusal))),
            }
        }
    }
}

/// The request, once its head is whole.
fn parse(bytes: &mut BytesMut) -> Result<Option<Request>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    let parsed = head.parse(bytes).map_err(|error| bad(error.to_string()))?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let (method, target) = (
        head.method.unwrap_or_default(),
        head.path.unwrap_or_default(),
    );
    if method != "CONNECT" {
        let detail = if target.starts_with("http://") {
            "this proxy carries https:// only: the tool would have to send its request in plain \
             text, for everybody on the way to read and change; use an https:// URL"
        } else {
            "this address is a proxy and takes CONNECT only; point the tool's proxy setting here, \
             and its URL at the local API"
        };
        return Err(Refusal {
            status: 405,
            title: "Method Not Allowed",
            ..bad(detail)
        });
    }
    let body = ["content-length", "transfer-encoding"];
    let has_body = head.headers.iter().any(|field| {
        body.iter()
            .any(|name| field.name.eq_ignore_ascii_case(name))
    });
    if has_body {
        return Err(bad("a CONNECT has no body"));
    }
    let name = ConnectName::parse(target)
        .map_err(|error| bad(format!("the target of CONNECT is not accepted: {error}")))?;
    let version = head.version.unwrap_or(1);
    bytes.advance(length);
    Ok(Some(Request {
        name,
        version,
        early: bytes.split().freeze(),
    }))
}

fn bad(detail: impl Into<String>) -> Refusal {
    Refusal {
        status: 400,
        title: "Bad Request",
        detail: detail.into(),
        kind: "http_request_error",
        call: None,
    }
}

impl Refusal {
    /// This program, or the way to the relay, does not work.
    pub(crate) fn no_gateway(kind: &'static str, detail: String) -> Self {
        Self {
            status: 502,
            title: "Bad Gateway",
            detail,
            kind,
            call: None,
        }
    }

    /// As an HTTP answer that ends the connection (RFC 9457).
    pub(crate) fn to_http(&self) -> String {
        let Self {
            status,
            title,
            detail,
            kind,
            call,
        } = self;
        let field = match call {
            Some(call) => format!("Culvert-Call: {call}\r\n"),
            None => String::new(),
        };
        // Many tools show the status line alone.
        let shown = detail.chars().filter(|c| matches!(c, ' '..='~'));
        let reason: String = shown.take(MAX_REASON).collect();
        let problem = Problem {
            r#type: "about:blank",
            title,
            status: *status,
            detail,
            call: call.as_deref(),
            layer: "connect",
        };
        let body = serde_json::to_string(&problem).unwrap_or_default();
        let allow = if *status == 405 {
            "Allow: CONNECT\r\n"
        } else {
            ""
        };
        format!(
            "HTTP/1.1 {status} {title} ({reason})\r\nContent-Type: application/problem+json\r\n\
             Content-Length: {}\r\n{allow}{field}Proxy-Status: culvert-connect; error={kind}; \
             details=\"{title}\"\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

/// A problem document (RFC 9457), with the members of the relay's.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a str>,
    layer: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str) -> Option<Result<Request, Refusal>> {
        Request::read(&mut text.as_bytes()).await.unwrap()
    }

    #[tokio::test]
    async fn a_connect_is_taken_with_what_follows_it() {
        for (text, version, early) in [
            (
                "CONNECT VC.sddc.local:443 HTTP/1.1\r\nHost: x\r\n\r\nearly",
                1,
                "early",
            ),
            ("CONNECT vc.sddc.local:443 HTTP/1.0\r\n\r\n", 0, ""),
        ] {
            let request = read(text).await.unwrap().unwrap();
            assert_eq!(request.name.as_str(), "vc.sddc.local:443");
            assert_eq!(
                (request.version, &*request.early),
                (version, early.as_bytes())
            );
        }
    }

    #[tokio::test]
    async fn whatever_is_no_connect_is_refused_with_a_reason() {
        for (text, status, reason) in [
            (
                "GET http://vc.sddc.local/ HTTP/1.1\r\nHost: vc\r\n\r\n",
                405,
                "https:// only",
            ),
            ("GET / HTTP/1.1\r\nHost: vc\r\n\r\n", 405, "CONNECT only"),
            ("CONNECT vc HTTP/1.1\r\n\r\n", 400, "NAME:PORT"),
            (
                "CONNECT vc:443 HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi",
                400,
                "no body",
            ),
            ("\u{16}\u{3}\u{1}\u{2}", 400, ""),
            (
                &format!("CONNECT vc:443 HTTP/1.1\r\nX: {}\r\n", "x".repeat(MAX_HEAD)),
                400,
                "too long",
            ),
        ] {
            let refusal = read(text).await.unwrap().unwrap_err();
            assert_eq!(refusal.status, status, "{text:?}");
            assert!(refusal.detail.contains(reason), "{}", refusal.detail);
            let http = refusal.to_http();
            assert_eq!(http.contains("Allow: CONNECT"), status == 405);
            let (head, body) = http.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())));
            assert!(head.contains("Proxy-Status: culvert-connect; error=http_request_error;"));
            assert!(!http.contains("Culvert-Call") && !body.contains("\"call\""));
        }
        assert!(read("CONNECT vc:443 HTT").await.is_none(), "it hung up");
    }

    #[test]
    fn the_relays_id_of_a_call_stands_in_a_refusal_of_this_program_too() {
        let detail = "the token is not accepted".to_owned();
        let refusal = Refusal {
            call: Some("0f3b".to_owned()),
            ..Refusal::no_gateway("http_request_denied", detail)
        };
        let http = refusal.to_http();
        let (head, body) = http.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nCulvert-Call: 0f3b\r\n"), "{head}");
        assert!(head.contains("Proxy-Status: culvert-connect; error=http_request_denied;"));
        assert!(body.contains("\"call\":\"0f3b\""), "{body}");
    }
}
