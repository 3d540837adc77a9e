//! Which operation a SOAP body calls: the first, and only, child of the envelope's `Body`.

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
    /// Local name of the element.
    pub name: String,
}

/// How far [`operation`] came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoapOutcome {
    /// The operation.
    Operation(Operation),
    /// Undecided: call again with more of the body.
    NeedMore,
}

/// Why a body has no operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SoapError {
    /// The body ends, or [`MAX_PREFIX`] is reached, before the operation is found.
    #[error("the SOAP body ends before its operation is found")]
    Incomplete,
}

/// Reads the operation from the beginning of a body.
pub fn operation(_prefix: &[u8], _complete: bool) -> Result<SoapOutcome, SoapError> {
    Err(SoapError::Incomplete)
}
