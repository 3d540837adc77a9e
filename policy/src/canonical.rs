//! The canonical request target: one spelling for everybody who looks at it.
//!
//! Relay, policy, log and upstream must see the same path. Targets that lenient servers read in
//! more than one way (dot segments, doubled slashes, double escapes, path parameters,
//! backslashes, NUL and fragment cuts) are refused, not repaired. What remains has exactly one
//! spelling: escapes of unreserved characters are decoded, the others have upper-case digits
//! (RFC 3986, 6.2.2), and the few characters that tools leave as they are become escapes.

use std::fmt;

use crate::decode::{self, hex_pair};
use crate::query;

/// Longest path, in bytes.
pub const MAX_PATH: usize = 8 * 1024;
/// Longest target (path, `?` and query), in bytes.
pub const MAX_TARGET: usize = 16 * 1024;

/// What an endpoint accepts beyond the strict form. The canonical form is the same for every
/// choice; these only say what is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathOptions {
    /// Accept `;` in the path: the upstream reads path parameters, as Tomcat does.
    pub allow_semicolon: bool,
    /// Accept `%2F` in the path. It stays as it is and never counts as a `/`.
    pub allow_encoded_slash: bool,
    /// Accept `%25` in the path, as vSphere has it for names: the `/` of a name is `%2f` there, and
    /// `%252f` in a path. What a second decoding would make of it is refused, but for `%`, `/` and `\`,
    /// which never count as such.
    pub allow_encoded_percent: bool,
}

impl PathOptions {
    /// Everything that some endpoint may accept, for whoever does not know the endpoint.
    pub const ALL: Self = Self {
        allow_semicolon: true,
        allow_encoded_slash: true,
        allow_encoded_percent: true,
    };
}

/// Why a target was refused. Offsets count bytes from the start of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not origin-form (RFC 9112, 3.2.1).
    #[error("the target must begin with '/'")]
    NotOriginForm,
    /// The path is longer than [`MAX_PATH`].
    #[error("the path has more than {MAX_PATH} bytes")]
    PathTooLong,
    /// The target is longer than [`MAX_TARGET`].
    #[error("the target has more than {MAX_TARGET} bytes")]
    TargetTooLong,
    /// `#`: fragments are never sent.
    #[error("the target has a '#'")]
    Fragment,
    /// A byte that a path must escape or must not have.
    #[error("the path has an illegal byte 0x{byte:02X} at {at}")]
    PathByte {
        /// The byte.
        byte: u8,
        /// Where.
        at: usize,
    },
    /// A byte that a query must escape.
    #[error("the query has an illegal byte 0x{byte:02X} at {at}")]
    QueryByte {
        /// The byte.
        byte: u8,
        /// Where.
        at: usize,
    },
    /// `%` without two hex digits.
    #[error("'%' at {at} is not followed by two hex digits")]
    BrokenEscape {
        /// Where the `%` is.
        at: usize,
    },
    /// The escape of a character whose decoding changes what the path means.
    #[error("the path has the escape %{byte:02X} at {at}, which is not accepted")]
    ForbiddenEscape {
        /// What it decodes to.
        byte: u8,
        /// Where the `%` is.
        at: usize,
    },
    /// An escape within an escape, of a character that a second decoding must not bring about.
    #[error("the path has the double escape %25{byte:02X}, which is not accepted")]
    DoubleEscape {
        /// What it decodes to in the end.
        byte: u8,
    },
    /// The decoded path is not shortest-form UTF-8.
    #[error("the decoded path is not UTF-8")]
    NotUtf8,
    /// The decoded path has a control character beyond ASCII.
    #[error("the decoded path has a control character")]
    Control,
    /// `;` where the endpoint did not opt in.
    #[error("the path has a ';' at {at}, which this endpoint does not accept")]
    Semicolon {
        /// Where.
        at: usize,
    },
    /// Two slashes in a row, or a segment with nothing before its path parameters.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// A segment that is, or ends like, `.` or `..`.
    #[error("the path has a segment that ends in '.'")]
    DotSegment,
    /// A query parameter that some servers take for the method.
    #[error("the query has a parameter that overrides the method")]
    MethodOverride,
    /// A target that should have been canonical already was not.
    #[error("the target is not in canonical form")]
    NotCanonical,
}

impl TargetError {
    /// A bounded word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotOriginForm => "not-origin-form",
            Self::PathTooLong | Self::TargetTooLong => "too-long",
            Self::Fragment => "fragment",
            Self::PathByte { .. } | Self::QueryByte { .. } => "illegal-byte",
            Self::BrokenEscape { .. } => "broken-escape",
            Self::ForbiddenEscape { .. } => "forbidden-escape",
            Self::DoubleEscape { .. } => "double-escape",
            Self::NotUtf8 => "not-utf8",
            Self::Control => "control",
            Self::Semicolon { .. } => "semicolon",
            Self::EmptySegment => "empty-segment",
            Self::DotSegment => "dot-segment",
            Self::MethodOverride => "method-override",
            Self::NotCanonical => "not-canonical",
        }
    }

    /// The one of [`PathOptions`] that accepts it, where there is one.
    pub fn accepted_by(&self) -> Option<&'static str> {
        match self {
            Self::Semicolon { .. } => Some("allow_semicolon"),
            Self::ForbiddenEscape { byte: b'/', .. } => Some("allow_encoded_slash"),
            Self::ForbiddenEscape { byte: b'%', .. } => Some("allow_encoded_percent"),
            _ => None,
        }
    }
}

/// A request target with exactly one reading: a path, and perhaps a query.
///
/// Always printable ASCII, at most [`MAX_TARGET`] bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CanonicalTarget {
    text: String,
    path: usize,
    /// What deny rules see of the path, where that differs from the path itself.
    folded: Option<String>,
}

impl CanonicalTarget {
    /// Checks `target` and brings it into canonical form.
    pub fn parse(target: &str, options: PathOptions) -> Result<Self, TargetError> {
        if !target.starts_with('/') {
            return Err(TargetError::NotOriginForm);
        }
        if target.len() > MAX_TARGET {
            return Err(TargetError::TargetTooLong);
        }
        if target.contains('#') {
            return Err(TargetError::Fragment);
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let mut text = canonical_path(path, options, target.len())?;
        let length = text.len();
        if let Some(query) = query {
            text.push('?');
            push_query(&mut text, query, path.len() + 1)?;
            if query::overrides_method(&text[length + 1..]) {
                return Err(TargetError::MethodOverride);
            }
            // Its escapes may have made it longer.
            if text.len() > MAX_TARGET {
                return Err(TargetError::TargetTooLong);
            }
        }
        let folded = decode::folded(&text[..length]);
        Ok(Self {
            text,
            path: length,
            folded,
        })
    }

    /// Takes a target that a peer claims to be canonical, and refuses it if it is not.
    ///
    /// For what comes out of the tunnel: the relay canonicalises first, so
    /// [`TargetError::NotCanonical`] is the mark of a broken or hostile relay.
    pub fn parse_canonical(target: &str, options: PathOptions) -> Result<Self, TargetError> {
        let parsed = Self::parse(target, options)?;
        if parsed.text == target {
            Ok(parsed)
        } else {
            Err(TargetError::NotCanonical)
        }
    }

    /// Path and query: what is decided on, logged and forwarded.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path, from its `/` on.
    pub fn path(&self) -> &str {
        &self.text[..self.path]
    }

    /// What follows the first `?`, with its escapes as they were sent; `None` without a `?`.
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path + 1..)
    }

    /// The path as deny rules see it: letter case and escapes do not count.
    pub(crate) fn folded_path(&self) -> &str {
        self.folded.as_deref().unwrap_or(self.path())
    }
}

impl AsRef<str> for CanonicalTarget {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for CanonicalTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CanonicalTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// Checks a path and returns its canonical form, with room for `capacity` bytes.
pub(crate) fn canonical_path(
    path: &str,
    options: PathOptions,
    capacity: usize,
) -> Result<String, TargetError> {
    if path.len() > MAX_PATH {
        return Err(TargetError::PathTooLong);
    }
    let canonical = canonical_spelling(path.as_bytes(), options, capacity)?;
    // Its escapes may have made it longer.
    if canonical.len() > MAX_PATH {
        return Err(TargetError::PathTooLong);
    }
    if canonical.contains('%') {
        check_text(&canonical)?;
    }
    check_segments(&canonical, options)?;
    Ok(canonical)
}

/// Checks every byte and escape; decodes what is unreserved, upper-cases the other escapes, escapes
/// what tools leave raw.
fn canonical_spelling(
    path: &[u8],
    options: PathOptions,
    capacity: usize,
) -> Result<String, TargetError> {
    let mut canonical = String::with_capacity(capacity.max(path.len()));
    let mut at = 0;
    while at < path.len() {
        match path[at] {
            b'%' => {
                let byte = hex_pair(path, at).ok_or(TargetError::BrokenEscape { at })?;
                if is_unreserved(byte) {
                    canonical.push(char::from(byte));
                } else if is_forbidden_escape(byte, options) {
                    return Err(TargetError::ForbiddenEscape { byte, at });
                } else {
                    push_escape(&mut canonical, byte);
                }
                at += 3;
                continue;
            }
            b';' if !options.allow_semicolon => return Err(TargetError::Semicolon { at }),
            byte if byte == b'/' || is_pchar(byte) => canonical.push(char::from(byte)),
            byte if is_left_raw(byte) => push_escape(&mut canonical, byte),
            byte => return Err(TargetError::PathByte { byte, at }),
        }
        at += 1;
    }
    Ok(canonical)
}

/// The decoded path must be text: shortest-form UTF-8 without controls.
fn check_text(canonical: &str) -> Result<(), TargetError> {
    let decoded = decode::once(canonical);
    let text = std::str::from_utf8(&decoded).map_err(|_| TargetError::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(TargetError::Control);
    }
    Ok(())
}

/// No empty segments but one after a trailing slash, and none that ends in a dot.
fn check_segments(canonical: &str, options: PathOptions) -> Result<(), TargetError> {
    let inside = canonical.strip_prefix('/').unwrap_or(canonical);
    let inside = inside.strip_suffix('/').unwrap_or(inside);
    if inside.is_empty() {
        return if canonical.len() <= 1 {
            Ok(())
        } else {
            Err(TargetError::EmptySegment)
        };
    }
    let lenient = options.allow_encoded_slash || options.allow_encoded_percent;
    for segment in inside.split('/') {
        check_segment(segment)?;
        // An upstream that does decode `%2F`, or decodes twice, must not find dot segments behind it.
        if lenient && segment.contains('%') {
            segment.split("%2F").try_for_each(check_decoded_twice)?;
        }
    }
    Ok(())
}

/// What an upstream finds that decodes twice, or more often: of all that an escaped `%` may begin, only
/// the escapes of `%`, `/` and `\`, and between these no segments that are refused elsewhere.
fn check_decoded_twice(segment: &str) -> Result<(), TargetError> {
    let mut begin = 0;
    for (at, escape) in segment.match_indices("%25") {
        // `%2525` is `%25` once more escaped, and so on.
        let digits = segment[at + escape.len()..].trim_start_matches("25");
        match decode::digit_pair(digits.as_bytes()) {
            None => {}
            Some(b'/' | b'\\') => {
                check_segment(&segment[begin..at])?;
                begin = segment.len() - digits.len() + 2;
            }
            Some(byte) => return Err(TargetError::DoubleEscape { byte }),
        }
    }
    check_segment(&segment[begin..])
}

fn check_segment(segment: &str) -> Result<(), TargetError> {
    // What a server sees that cuts path parameters off.
    let name = segment.split(';').next().unwrap_or_default();
    if name.is_empty() {
        return Err(TargetError::EmptySegment);
    }
    if name.ends_with('.') || segment.ends_with('.') {
        return Err(TargetError::DotSegment);
    }
    Ok(())
}

/// Checks every byte and escape of a query (RFC 3986, 3.4) and appends it. Escapes stay as they are: what
/// they mean is for each server to say.
fn push_query(text: &mut String, query: &str, offset: usize) -> Result<(), TargetError> {
    let bytes = query.as_bytes();
    let mut kept = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        let at = offset + index;
        if byte == b'%' {
            hex_pair(bytes, index).ok_or(TargetError::BrokenEscape { at })?;
        } else if is_left_raw(byte) {
            text.push_str(&query[kept..index]);
            push_escape(text, byte);
            kept = index + 1;
        } else if !is_query_byte(byte) {
            return Err(TargetError::QueryByte { byte, at });
        }
    }
    text.push_str(&query[kept..]);
    Ok(())
}

/// Appends the one spelling of an escape.
fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// What a URI must escape and browsers, HTTP libraries and curl do not. No server gives any of it a
/// meaning of its own in a target, so that its escape has the same one.
pub(crate) fn is_left_raw(byte: u8) -> bool {
    matches!(byte, b'[' | b']' | b'{' | b'}' | b'|' | b'^' | b'`')
}

pub(crate) fn is_query_byte(byte: u8) -> bool {
    is_pchar(byte) || matches!(byte, b'/' | b'?')
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 without escapes: unreserved, sub-delims, `:`, `@`.
fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
        )
}

fn is_forbidden_escape(byte: u8, options: PathOptions) -> bool {
    match byte {
        b'/' => !options.allow_encoded_slash,
        b'%' => !options.allow_encoded_percent,
        b'\\' | b';' | b'#' | b'?' => true,
        _ => byte.is_ascii_control(),
    }
}

#[cfg(any(test, feature = "model"))]
mod lenient;
#[cfg(any(test, feature = "model"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
