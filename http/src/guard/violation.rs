//! The ways in which a request is refused before anything looks at its meaning.

use culvert_proto::code::ErrorCode;
use culvert_proto::limits::MAX_METHOD;

use super::head::{MAX_FIELDS, MAX_HEAD, MAX_TARGET};
use crate::long_heads::LONG;
use crate::problem::Problem;

/// What is wrong with a request. `Display` is the `detail` of the caller's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[expect(missing_docs, reason = "each says in its own words what it is")]
pub enum Violation {
    #[error("the request's head is longer than {MAX_HEAD} bytes")]
    HeadTooLong,
    #[error(
        "too many callers that nobody knows yet send heads of more than {LONG} bytes; send a shorter \
         one first, or try again"
    )]
    NoRoomForHead,
    #[error("the request has more than {MAX_FIELDS} header fields")]
    TooManyFields,
    #[error("a line ends in a bare line feed; it must end in CR LF")]
    BareLineFeed,
    #[error("a line has a bare carriage return; it must end in CR LF")]
    BareCarriageReturn,
    #[error("a header field has a control character")]
    ControlCharacter,
    #[error("the request line must be 'METHOD TARGET HTTP/1.1'")]
    RequestLine,
    #[error("the method must be an upper-case word: at most {MAX_METHOD} of A to Z and '-'")]
    Method,
    #[error("the method TRACE is not accepted")]
    Trace,
    #[error("the target of CONNECT must be NAME:PORT")]
    ConnectTarget,
    #[error("a CONNECT has no body: neither Content-Length nor Transfer-Encoding")]
    ConnectBody,
    #[error("the protocol version must be HTTP/1.1 or HTTP/1.0")]
    Version,
    #[error("the target must be in origin form: a path that begins with '/'")]
    TargetForm,
    #[error(
        "this address carries https:// only, by CONNECT: a tool that uses it as a proxy would send this \
         request in plain text; use an https:// URL"
    )]
    PlainProxying,
    #[error("the target has {}, which a URI must escape (%{:02X})", shown(*.0), .0)]
    TargetCharacter(u8),
    #[error("the target is longer than {MAX_TARGET} bytes")]
    TargetTooLong,
    #[error("a header field is folded over several lines")]
    Folded,
    #[error("a header field has white space before its colon")]
    SpaceBeforeColon,
    #[error("a header field has no colon")]
    NoColon,
    #[error("a header field's name is empty, too long, or not a token")]
    FieldName,
    #[error("the request has no Host")]
    NoHost,
    #[error("the request has more than one Host")]
    SeveralHosts,
    #[error("the Host is not a host name with an optional port")]
    Host,
    #[error("the Content-Length is not a single decimal number")]
    ContentLength,
    #[error("the request has more than one Content-Length")]
    SeveralContentLengths,
    #[error("the request has both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    #[error("the request has more than one Expect")]
    SeveralExpects,
    #[error("the request has more than one Transfer-Encoding")]
    SeveralCodings,
    #[error("the Transfer-Encoding must be exactly 'chunked'")]
    Coding,
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    CodingInHttp10,
    #[error("a chunk's size is not a hexadecimal number of at most 15 digits")]
    ChunkSize,
    #[error("a chunk extension is malformed or too long")]
    ChunkExtension,
    #[error("a chunk does not end in CR LF")]
    ChunkEnd,
    #[error("the trailers are malformed or too long")]
    Trailers,
}

/// A byte as people know it.
fn shown(byte: u8) -> String {
    match byte {
        b'!'..=b'~' => format!("the character {}", char::from(byte)),
        _ => format!("the byte 0x{byte:02X}"),
    }
}

impl From<Violation> for Problem {
    fn from(violation: Violation) -> Self {
        let code = match violation {
            // Nothing is wrong with it.
            Violation::NoRoomForHead => ErrorCode::Overloaded,
            _ => ErrorCode::BadRequest,
        };
        Self::new(code, violation.to_string())
    }
}
