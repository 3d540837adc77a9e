//! Where a COPY or MOVE of WebDAV leads (RFC 4918, 10.3).
//!
//! Its `Destination` is a second target: what is written there may be what no rule lets be written. So the
//! policy is asked about its path as if that were called itself, with the same method.

use culvert_policy::{CanonicalTarget, PathOptions, has_destination};
use http::{HeaderMap, HeaderValue};

use super::audit::Record;
use super::failure::Failure;
use super::translate::{Authority, DESTINATION};

/// The second target of a call, if it has one; leaves it in its canonical spelling in `headers`: what is
/// decided on is what is forwarded. Whose host it is at is the upstream's affair.
pub(super) fn take(
    method: &str,
    paths: PathOptions,
    headers: &mut HeaderMap,
    record: &mut Record<'_>,
) -> Result<Option<CanonicalTarget>, Failure> {
    if !has_destination(method) || !headers.contains_key(DESTINATION) {
        return Ok(None);
    }
    let (target, value) = read(headers, paths)
        .map_err(|what| Failure::bad_request(format!("The call's Destination {what}.")))?;
    record.note_destination(&value);
    headers.insert(DESTINATION, value);
    Ok(Some(target))
}

/// The path in the one Destination, and the field with that in its canonical spelling. The error says what
/// is wrong with it.
fn read(headers: &HeaderMap, paths: PathOptions) -> Result<(CanonicalTarget, HeaderValue), String> {
    // What else there is in use, OpenStack Swift's `container/object`, each server reads in its own way.
    const NO_URL: &str = "is neither a URL nor a path that begins with '/' (RFC 4918, 10.3)";
    let mut values = headers.get_all(DESTINATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err("is there more than once".to_owned());
    };
    let text = value.to_str().map_err(|_| NO_URL)?;
    let path = destination_path(text).ok_or(NO_URL)?;
    let target =
        CanonicalTarget::parse(path, paths).map_err(|error| format!("is not accepted: {error}"))?;
    let before = text.strip_suffix(path).unwrap_or_default();
    let value = HeaderValue::try_from(format!("{before}{target}")).map_err(|_| NO_URL)?;
    Ok((target, value))
}

/// The path and query of a Destination, which is a URL or begins with them (RFC 4918, 10.3).
pub(crate) fn destination_path(destination: &str) -> Option<&str> {
    match destination.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => Some(destination),
        _ => Some(Authority::of(destination)?.rest),
    }
}
