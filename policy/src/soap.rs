//! Which operation a SOAP body calls: the only child of the only `Body` of a strict envelope.
//!
//! Nothing else says so reliably: the SOAPAction header of vSphere carries the version of the
//! API, and servers ignore it. The body is read as strictly as XML and SOAP allow, and a little
//! more: what two parsers could read differently (document types, processing instructions,
//! comments, other encodings, unusual names) is refused.

mod action;
mod envelope;

pub use action::{ContentTypeError, check_content_type};

/// How much of a body is looked at, in bytes.
pub const MAX_PREFIX: usize = 64 * 1024;

/// The operation that a SOAP body calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Namespace of the element, empty without one.
    pub ns: String,
    /// Local name of the element: ASCII letters, digits, `_`, `-` and `.`.
    pub name: String,
}

/// How far [`operation`] came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoapOutcome {
    /// The operation. The whole body was read, unless it is longer than [`MAX_PREFIX`]: then
    /// the operation's element was still open where the reading ended.
    Operation(Operation),
    /// Nothing is wrong so far, but the end is not there: call again with more of the body.
    NeedMore,
}

/// Why a body has no operation. Such a body is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SoapError {
    /// Not UTF-8, or declared to be something else.
    #[error("the SOAP body is not UTF-8")]
    Encoding,
    /// A document type declaration.
    #[error("the SOAP body has a document type declaration")]
    Doctype,
    /// A comment or a processing instruction.
    #[error("the SOAP body has a comment or a processing instruction")]
    Markup,
    /// Not well-formed XML, or XML with unusual names.
    #[error("the SOAP body is not well-formed XML")]
    Malformed,
    /// The root is no SOAP 1.1 or 1.2 envelope.
    #[error("the body is not a SOAP envelope")]
    NotSoap,
    /// The envelope has something else than one `Header` and then one `Body`.
    #[error("the SOAP envelope has more than a Header and a Body")]
    Envelope,
    /// The `Body` is empty, or missing.
    #[error("the SOAP Body has no operation")]
    NoOperation,
    /// The `Body` has text or a second element beside the operation.
    #[error("the SOAP Body has more than one operation")]
    SecondOperation,
    /// The body ends before the envelope does.
    #[error("the SOAP body ends before its envelope")]
    Truncated,
    /// The operation does not begin, or something follows it, within [`MAX_PREFIX`].
    #[error("the SOAP operation was not found within the first {MAX_PREFIX} bytes")]
    TooLong,
}

/// Reads the operation from the beginning of a body. `complete` says that `prefix` is all of it.
///
/// Call it with what has arrived, and again with more while it answers
/// [`SoapOutcome::NeedMore`]; it does so only for incomplete prefixes shorter than
/// [`MAX_PREFIX`]. Each call reads from the start: time grows with the length of the prefix.
pub fn operation(prefix: &[u8], complete: bool) -> Result<SoapOutcome, SoapError> {
    let seen = &prefix[..prefix.len().min(MAX_PREFIX)];
    let whole = complete && seen.len() == prefix.len();
    let found = envelope::read(text(seen, whole)?, whole)?;
    if whole {
        let operation = found.operation.ok_or(SoapError::NoOperation)?;
        return Ok(SoapOutcome::Operation(operation));
    }
    if seen.len() < MAX_PREFIX {
        return Ok(SoapOutcome::NeedMore);
    }
    match found.operation {
        Some(operation) if found.inside_operation => Ok(SoapOutcome::Operation(operation)),
        _ => Err(SoapError::TooLong),
    }
}

/// Whether a body is no SOAP envelope but a call of the JSON twin: empty, or an object of JSON,
/// whose `{` begins XML in no encoding. `None`: more of the body is needed to tell.
pub fn is_json(prefix: &[u8], complete: bool) -> Option<bool> {
    let blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    match prefix.iter().take(MAX_PREFIX).find(|byte| !blank(byte)) {
        Some(first) => Some(*first == b'{'),
        None if complete => Some(prefix.is_empty()),
        None => (prefix.len() >= MAX_PREFIX).then_some(false),
    }
}

/// The bytes as text of legal XML characters. Of a cut text only what ends with a tag counts.
fn text(bytes: &[u8], whole: bool) -> Result<&str, SoapError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() && !whole => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return Err(SoapError::Encoding),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.chars().all(is_xml_char) {
        return Err(SoapError::Malformed);
    }
    let end = if whole {
        text.len()
    } else {
        text.rfind('>').map_or(0, |at| at + 1)
    };
    Ok(&text[..end])
}

/// `Char` of XML 1.0, 2.2.
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests;
