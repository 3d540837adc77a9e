//! Where a COPY or MOVE of WebDAV leads (RFC 4918, 10.3).
//!
//! Its `Destination` is a second target: what is written there may be what no rule lets be written. So the
//! policy is asked about its path as if that were called itself, with the same method.

use culvert_policy::{CallFacts, CanonicalTarget, Decision, PathOptions};
use http::{HeaderMap, HeaderValue};

use super::audit::Record;
use super::decide::refused;
use super::failure::Failure;
use super::translate::{Authority, DESTINATION};
use crate::policy::ActivePolicy;

/// Asks the policy about the second target of a call, if it has one, and leaves it in its canonical spelling
/// in `headers`: what is decided on is what is forwarded. Whose host it is at is the upstream's affair.
pub(super) fn judge(
    policy: &ActivePolicy,
    facts: &CallFacts<'_>,
    paths: PathOptions,
    headers: &mut HeaderMap,
    record: &mut Record<'_>,
) -> Result<(), Failure> {
    if !matches!(facts.method, "COPY" | "MOVE") || !headers.contains_key(DESTINATION) {
        return Ok(());
    }
    let (target, value) = read(headers, paths)
        .map_err(|what| Failure::bad_request(format!("The call's Destination {what}.")))?;
    headers.insert(DESTINATION, value);
    let facts = CallFacts {
        target: Some(&target),
        ..*facts
    };
    let Decision::Deny(denial) = policy.policy.decide(&facts) else {
        return Ok(());
    };
    let mut failure = refused(&denial, policy, &facts, record);
    if let Failure::Refused(_, refusal) = &mut failure {
        refusal.detail += " It is about the path in Destination.";
    }
    Err(failure)
}

/// The path in the one Destination, and the field with that in its canonical spelling. The error says what
/// is wrong with it.
fn read(headers: &HeaderMap, paths: PathOptions) -> Result<(CanonicalTarget, HeaderValue), String> {
    const NO_URL: &str = "is neither a URL nor a path";
    let mut values = headers.get_all(DESTINATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err("is there more than once".to_owned());
    };
    let text = value.to_str().map_err(|_| NO_URL)?;
    let path = match text.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => text,
        _ => Authority::of(text).ok_or(NO_URL)?.rest,
    };
    let target =
        CanonicalTarget::parse(path, paths).map_err(|error| format!("is not accepted: {error}"))?;
    let before = text.strip_suffix(path).unwrap_or_default();
    let value = HeaderValue::try_from(format!("{before}{target}")).map_err(|_| NO_URL)?;
    Ok((target, value))
}
