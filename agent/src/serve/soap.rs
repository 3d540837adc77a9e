//! The SOAP operation of a call, read from the beginning of its body.

use bytes::{Bytes, BytesMut};
use culvert_policy::Soap;
use culvert_policy::soap::{MAX_PREFIX, Operation, SoapOutcome, operation};
use culvert_proto::head::BodyLength;
use culvert_proto::mux::{Item, StreamError};
use culvert_session::RecvStream;

/// What the body of a SOAP call says, and the bytes that were read to know it: these go first
/// to the upstream, unchanged.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) bytes: Bytes,
    /// What is still to come, after `bytes`.
    pub(crate) rest: BodyLength,
    operation: Option<Operation>,
}

impl Inspection {
    /// Of a call that is not looked into.
    pub(crate) fn none(length: BodyLength) -> Self {
        Self {
            bytes: Bytes::new(),
            rest: length,
            operation: None,
        }
    }

    /// Reads as much of a body as its operation takes, at most [`MAX_PREFIX`] bytes and what
    /// came with the last of them.
    pub(crate) async fn read(
        stream: &mut RecvStream,
        length: BodyLength,
    ) -> Result<Self, InspectError> {
        let mut bytes = BytesMut::new();
        let mut complete = length == BodyLength::Empty;
        // Bytes at which it is worth to look again: a body in many small pieces is not read
        // from its start for each of them.
        let mut look_at = 0;
        loop {
            if complete || bytes.len() >= look_at {
                let prefix = &bytes[..bytes.len().min(MAX_PREFIX)];
                match operation(prefix, complete) {
                    Ok(SoapOutcome::NeedMore) if !complete && bytes.len() < MAX_PREFIX => {
                        look_at = (bytes.len() + bytes.len() / 4 + 64).min(MAX_PREFIX);
                    }
                    outcome => {
                        let operation = match outcome {
                            Ok(SoapOutcome::Operation(operation)) => Some(operation),
                            Ok(SoapOutcome::NeedMore) | Err(_) => None,
                        };
                        let rest = rest(length, bytes.len() as u64, complete)?;
                        return Ok(Self {
                            bytes: bytes.freeze(),
                            rest,
                            operation,
                        });
                    }
                }
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
            Some(operation) => Soap::Operation {
                ns: &operation.ns,
                name: &operation.name,
            },
            None => Soap::Undetermined,
        }
    }
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
