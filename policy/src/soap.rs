//! Which operation a SOAP body calls: the only child of the only `Body` of a strict envelope.
//!
//! Nothing else says so reliably: the SOAPAction header of vSphere carries the version of the
//! API, and servers ignore it. The body is read as strictly as XML and SOAP allow, and a little
//! more: what two parsers could read differently (document types, processing instructions,
//! comments, other encodings, unusual names) is refused.

mod envelope;

/// How much of a body is looked at, in bytes.
pub const MAX_PREFIX: usize = 64 * 1024;

/// Whether a `POST` to `path` is a SOAP call: `/sdk` and everything under it, in any letter case.
pub fn is_soap_target(path: &str) -> bool {
    let first = crate::path::inside(path)
        .split('/')
        .next()
        .unwrap_or_default();
    first
        .split(';')
        .next()
        .unwrap_or_default()
        .eq_ignore_ascii_case("sdk")
}

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

/// Whether a Content-Type leaves the body what [`operation`] took it for: UTF-8.
pub fn is_utf8_content_type(value: &str) -> bool {
    let mut charsets = value.split(';').skip(1).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("charset")
            .then(|| value.trim().trim_matches('"'))
    });
    match (charsets.next(), charsets.next()) {
        (None, _) => true,
        (Some(charset), None) => charset.eq_ignore_ascii_case("utf-8"),
        _ => false,
    }
}

impl Operation {
    /// Whether a SOAPAction header does not contradict the body: it is empty, or the operation's
    /// namespace, alone or followed by a version or by the operation.
    pub fn agrees_with(&self, soap_action: &str) -> bool {
        let action = soap_action.trim();
        let action = action
            .strip_prefix('"')
            .and_then(|a| a.strip_suffix('"'))
            .unwrap_or(action);
        if action.is_empty() || action == self.ns {
            return true;
        }
        let Some(rest) = action.strip_prefix(&*self.ns) else {
            return false;
        };
        let Some(what) = rest.strip_prefix(['/', '#']) else {
            return false;
        };
        what == self.name
            || what.is_empty()
            || (what.starts_with(|first: char| first.is_ascii_digit())
                && what
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'))
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
