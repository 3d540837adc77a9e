//! The SOAP operation of a call, read from the beginning of its body.

use bytes::{Bytes, BytesMut};
use culvert_policy::soap::{
    ContentTypeError, MAX_PREFIX, Operation, SoapError, SoapOutcome, check_content_type, is_json,
    operation,
};
use culvert_policy::{Look, Soap};
use http::{HeaderMap, HeaderValue};
use http_body::Body;
use http_body_util::BodyExt;

use crate::upstream::{CallerBody, RequestBodyError};

/// What the body of a SOAP call says, and the bytes that were read to know it: these go first
/// to the upstream, unchanged.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) bytes: Bytes,
    found: Result<Found, NoOperation>,
}

/// What a body calls.
#[derive(Debug)]
enum Found {
    Operation(Operation),
    /// What the path says, in JSON.
    Json,
}

/// Why a SOAP call has no operation that a rule could name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoOperation {
    /// The call is not looked into.
    #[error("the call is not SOAP")]
    NotLookedInto,
    /// The body does not have one.
    #[error(transparent)]
    Body(#[from] SoapError),
    /// The body is declared to be something else: somebody else might read other words.
    #[error(transparent)]
    ContentType(#[from] ContentTypeError),
    /// The path is one of the JSON twin and names an operation; the body might name another.
    #[error("under /sdk/vim25/ a body is JSON, and begins with '{{'")]
    NotJson,
    /// The body is declared to be compressed: what was read is not what the upstream reads.
    #[error("the Content-Encoding says that the body is compressed")]
    Compressed,
    /// A header claims another operation.
    #[error("the SOAPAction header disagrees with the body")]
    Action,
}

impl Inspection {
    /// Of a call that is not looked into.
    pub(crate) fn none() -> Self {
        Self {
            bytes: Bytes::new(),
            found: Err(NoOperation::NotLookedInto),
        }
    }

    /// Reads as much of a body as its operation takes, at most [`MAX_PREFIX`] bytes and what
    /// came with the last of them. The body goes on behind them.
    pub(crate) async fn read(
        look: Look,
        body: &mut CallerBody,
        headers: &HeaderMap,
    ) -> Result<Self, RequestBodyError> {
        let mut bytes = BytesMut::new();
        let mut complete = body.is_end_stream();
        // Bytes at which it is worth to look again: a body in many small pieces is not read
        // from its start for each of them.
        let mut look_at = 0;
        loop {
            if complete || bytes.len() >= look_at {
                if let Some(found) = find(look, &bytes, complete) {
                    return Ok(Self {
                        bytes: bytes.freeze(),
                        found: found.and_then(|found| agreed(found, headers)),
                    });
                }
                look_at = (bytes.len() + bytes.len() / 4 + 64).min(MAX_PREFIX);
            }
            match body.frame().await.transpose()? {
                // Trailers are none of its business.
                Some(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |d| d)),
                None => complete = true,
            }
        }
    }

    /// The fact for the policy.
    pub(crate) fn fact(&self) -> Soap<'_> {
        match &self.found {
            Ok(Found::Operation(operation)) => Soap::Operation {
                ns: &operation.ns,
                name: &operation.name,
            },
            Ok(Found::Json) => Soap::Json,
            Err(NoOperation::NotLookedInto) => Soap::No,
            Err(_) => Soap::Undetermined,
        }
    }

    /// Why there is no operation, if the call was looked into and has none.
    pub(crate) fn problem(&self) -> Option<NoOperation> {
        self.found
            .as_ref()
            .err()
            .copied()
            .filter(|p| *p != NoOperation::NotLookedInto)
    }
}

/// What the beginning of a body calls; `None` where more of it is needed to tell.
fn find(look: Look, bytes: &[u8], complete: bool) -> Option<Result<Found, NoOperation>> {
    if look == Look::Json {
        // Whoever answers there may know SOAP too, and whether it goes by path or by body then
        // nobody knows.
        let is_json = is_json(bytes, complete)?;
        return Some(is_json.then_some(Found::Json).ok_or(NoOperation::NotJson));
    }
    match operation(bytes, complete) {
        Ok(SoapOutcome::NeedMore) => None,
        Ok(SoapOutcome::Operation(operation)) => Some(Ok(Found::Operation(operation))),
        Err(error) => Some(Err(error.into())),
    }
}

/// What a body calls, unless a header says something else about it: the upstream might believe
/// the header.
fn agreed(found: Found, headers: &HeaderMap) -> Result<Found, NoOperation> {
    // A header that is no text agrees with nothing: this is no coding, no type and no action.
    let values = |name| {
        let values = headers.get_all(name).iter();
        values.map(|value: &HeaderValue| value.to_str().unwrap_or("\u{fffd}"))
    };
    let plain = |coding: &str| coding.trim().eq_ignore_ascii_case("identity");
    if !values("content-encoding").all(plain) {
        return Err(NoOperation::Compressed);
    }
    if let Found::Operation(operation) = &found {
        for value in values("content-type") {
            check_content_type(value, operation)?;
        }
        if !values("soapaction").all(|action| operation.agrees_with(action)) {
            return Err(NoOperation::Action);
        }
    }
    Ok(found)
}
