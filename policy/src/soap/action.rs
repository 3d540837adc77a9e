//! What headers say about a SOAP body. They are never believed, and may not disagree: an
//! upstream that believes them would see another call than the policy saw.

use super::Operation;

/// What is wrong with the Content-Type of a SOAP call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ContentTypeError {
    /// Not plain ASCII, or a list: what is behind the odd byte or the comma, some servers see and
    /// others do not.
    #[error("the Content-Type is not one plain value")]
    Unclear,
    /// Another charset than UTF-8, or several.
    #[error("the Content-Type names another charset than UTF-8")]
    Charset,
    /// A body of parts, each with a head of its own, may hold a second envelope.
    #[error("the Content-Type says that the body has several parts")]
    Multipart,
    /// The `action` of SOAP 1.2 names another operation.
    #[error("the action of the Content-Type disagrees with the body")]
    Action,
}

/// Whether a Content-Type leaves the body what [`super::operation`] took it for. The type itself
/// does not count: an envelope is an envelope, whatever it is called.
pub fn check_content_type(value: &str, operation: &Operation) -> Result<(), ContentTypeError> {
    if !value.is_ascii() || value.contains(',') {
        return Err(ContentTypeError::Unclear);
    }
    let kind = value.trim_start().get(..10).unwrap_or_default();
    if kind.eq_ignore_ascii_case("multipart/") {
        return Err(ContentTypeError::Multipart);
    }
    // Some servers take the word wherever it stands, without a `;` before it or in another name.
    let named = value.to_ascii_lowercase().matches("charset").count();
    match (parameters(value, "charset").next(), named) {
        (None, 0) => {}
        (Some(charset), 1) if charset.eq_ignore_ascii_case("utf-8") => {}
        _ => return Err(ContentTypeError::Charset),
    }
    // RFC 3902: what the SOAPAction header was in SOAP 1.1.
    if parameters(value, "action").all(|action| operation.agrees_with(action)) {
        Ok(())
    } else {
        Err(ContentTypeError::Action)
    }
}

/// Every parameter of this name, found wherever a `;` stands: rather one too many than one
/// that only the upstream sees. `name*` and `name*0` are spellings of it (RFC 2231, 3 and 4).
fn parameters<'v>(value: &'v str, wanted: &'static str) -> impl Iterator<Item = &'v str> {
    value.split(';').skip(1).filter_map(move |parameter| {
        let (name, value) = parameter.split_once('=')?;
        let name = name.split('*').next().unwrap_or_default();
        name.trim()
            .eq_ignore_ascii_case(wanted)
            .then(|| value.trim().trim_matches('"'))
    })
}

impl Operation {
    /// Whether a SOAPAction does not contradict the body. It may be empty; be the operation's
    /// namespace, alone or with a version behind it, as vSphere's clients send it
    /// (`urn:vim25/8.0.2.0`); or end with the operation's name. Everything else names something
    /// that the body does not call.
    pub fn agrees_with(&self, soap_action: &str) -> bool {
        let action = soap_action.trim();
        let action = action
            .strip_prefix('"')
            .and_then(|a| a.strip_suffix('"'))
            .unwrap_or(action);
        if action.is_empty() || action.rsplit(['/', '#', ':']).next() == Some(&self.name) {
            return true;
        }
        let Some(rest) = action.strip_prefix(&*self.ns) else {
            return false;
        };
        let version = rest.strip_prefix(['/', '#']).unwrap_or(rest);
        let separated = version.len() < rest.len() || self.ns.ends_with('/');
        rest.is_empty()
            || (separated
                && (version.is_empty() || version.starts_with(|c: char| c.is_ascii_digit()))
                && version
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'))
    }
}
