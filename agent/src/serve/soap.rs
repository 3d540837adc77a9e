//! The SOAP operation of a call, read from the beginning of its body.

use bytes::{Bytes, BytesMut};
use culvert_policy::Soap;
use culvert_policy::soap::{
    MAX_PREFIX, Operation, SoapError, SoapOutcome, is_utf8_content_type, operation,
};
use culvert_proto::head::BodyLength;
use culvert_proto::mux::{Item, StreamError};
use culvert_session::RecvStream;
use http::{HeaderMap, HeaderValue};

/// What the body of a SOAP call says, and the bytes that were read to know it: these go first
/// to the upstream, unchanged.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) bytes: Bytes,
    /// What is still to come, after `bytes`.
    pub(crate) rest: BodyLength,
    operation: Result<Operation, NoOperation>,
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
    /// The body is not declared to be UTF-8: somebody else might read other words.
    #[error("the Content-Type names another charset than UTF-8")]
    Charset,
    /// A header claims another operation.
    #[error("the SOAPAction header disagrees with the body")]
    Action,
}

impl Inspection {
    /// Of a call that is not looked into.
    pub(crate) fn none(length: BodyLength) -> Self {
        Self {
            bytes: Bytes::new(),
            rest: length,
            operation: Err(NoOperation::NotLookedInto),
        }
    }

    /// Reads as much of a body as its operation takes, at most [`MAX_PREFIX`] bytes and what
    /// came with the last of them.
    pub(crate) async fn read(
        stream: &mut RecvStream,
        length: BodyLength,
        headers: &HeaderMap,
    ) -> Result<Self, InspectError> {
        let mut bytes = BytesMut::new();
        let mut complete = length == BodyLength::Empty;
        // Bytes at which it is worth to look again: a body in many small pieces is not read
        // from its start for each of them.
        let mut look_at = 0;
        loop {
            if complete || bytes.len() >= look_at {
                let outcome = operation(&bytes, complete);
                let operation = match outcome {
                    Ok(SoapOutcome::NeedMore) => None,
                    Ok(SoapOutcome::Operation(operation)) => Some(agreed(operation, headers)),
                    Err(error) => Some(Err(error.into())),
                };
                if let Some(operation) = operation {
                    let rest = rest(length, bytes.len() as u64, complete)?;
                    let bytes = bytes.freeze();
                    return Ok(Self {
                        bytes,
                        rest,
                        operation,
                    });
                }
                look_at = (bytes.len() + bytes.len() / 4 + 64).min(MAX_PREFIX);
            }
            match stream.item().await? {
                Item::Data(data) => bytes.extend_from_slice(&data),
                Item::Head(_) => {}
                Item::Finished => complete = true,
            }
        }
    }

    /// The fact for the policy, of a call that is SOAP.
    pub(crate) fn fact(&self) -> Soap<'_> {
        match &self.operation {
            Ok(operation) => Soap::Operation {
                ns: &operation.ns,
                name: &operation.name,
            },
            Err(_) => Soap::Undetermined,
        }
    }

    /// Why there is no operation, if the call was looked into and has none.
    pub(crate) fn problem(&self) -> Option<NoOperation> {
        self.operation
            .as_ref()
            .err()
            .copied()
            .filter(|p| *p != NoOperation::NotLookedInto)
    }
}

/// The operation of a body, unless a header says something else about it: the upstream might
/// believe the header.
fn agreed(operation: Operation, headers: &HeaderMap) -> Result<Operation, NoOperation> {
    let every = |name, holds: &dyn Fn(&str) -> bool| {
        headers
            .get_all(name)
            .iter()
            .all(|value: &HeaderValue| value.to_str().is_ok_and(holds))
    };
    if !every("content-type", &is_utf8_content_type) {
        return Err(NoOperation::Charset);
    }
    if !every("soapaction", &|action| operation.agrees_with(action)) {
        return Err(NoOperation::Action);
    }
    Ok(operation)
}

/// Why the beginning of a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InspectError {
    /// The stream was broken off.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// More bytes than the head announced.
    #[error("the body is longer than announced")]
    Long,
}

/// The length of what follows `read` bytes of a body of `length`.
fn rest(length: BodyLength, read: u64, complete: bool) -> Result<BodyLength, InspectError> {
    match length {
        BodyLength::Exact(length) => length
            .checked_sub(read)
            .map(BodyLength::Exact)
            .ok_or(InspectError::Long),
        BodyLength::Unknown if complete => Ok(BodyLength::Empty),
        other => Ok(other),
    }
}
