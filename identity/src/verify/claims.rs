//! The claims of a token whose signature is good, and the one function that makes its principal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_proto::names::TenantName;
use culvert_proto::principal::{Principal, PrincipalKind, Proof};

use super::dpop::THUMBPRINT;
use super::members::{Members, WrongType};
use super::{
    EndpointPatterns, IssuerRules, MAX_LEEWAY, MAX_SCOPE, MAX_SCOPES, MAX_SUBJECT, TokenError,
    VerifiedToken,
};

/// The end of the year 9999. Later times are no dates, and would overflow clocks.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// Checks every claim and makes the principal: the only place that does so from a token.
pub(super) fn judge(
    claims: &Members<'_>,
    typed: bool,
    rules: &IssuerRules,
    now: SystemTime,
    proof: Proof,
) -> Result<VerifiedToken, TokenError> {
    let expires = check_times(claims, rules.leeway, now)?;
    check_audience(claims, &rules.audience)?;
    if !typed {
        check_is_access_token(claims)?;
    }
    let tenant = required(claims, &rules.tenant_claim)?;
    let tenant = TenantName::new(&tenant).map_err(TokenError::Tenant)?;
    if let Some(tenants) = &rules.tenants
        && !tenants.contains(&tenant)
    {
        return Err(TokenError::OtherTenant);
    }
    let subject = subject(claims)?;
    let scopes = scopes(claims)?;
    let patterns = patterns(claims, &rules.endpoints_claim)?;
    let bound_to = bound_to(claims)?;

    let has = |scope: &str| scopes.iter().any(|granted| granted == scope);
    let (may_register, may_call) = (has(&rules.register_scope), has(&rules.call_scope));
    // A token with both scopes calls as well as registers; for the agent's policy, which reads
    // this, it is a caller.
    let kind = if may_register && !may_call {
        PrincipalKind::Agent
    } else {
        PrincipalKind::Caller
    };
    Ok(VerifiedToken {
        principal: Principal {
            tenant,
            subject,
            scopes,
            kind,
            expires,
            proof,
        },
        endpoints: patterns.clone().unwrap_or_default(),
        may_register,
        may_call,
        call_endpoints: patterns,
        bound_to,
    })
}

fn wrong_type(name: &str) -> impl Fn(WrongType) -> TokenError {
    move |_| TokenError::WrongType(name.into())
}

fn missing(name: &str) -> impl Fn() -> TokenError {
    move || TokenError::Missing(name.into())
}

/// A string that must be there and not be empty.
fn required(claims: &Members<'_>, name: &str) -> Result<String, TokenError> {
    let text = claims.text(name).map_err(wrong_type(name))?;
    text.filter(|text| !text.is_empty())
        .ok_or_else(missing(name))
}

/// A NumericDate (RFC 7519, 2): seconds since the epoch, possibly with a fraction.
fn date(claims: &Members<'_>, name: &str) -> Result<Option<f64>, TokenError> {
    let date = claims.number(name).map_err(wrong_type(name))?;
    match date {
        Some(date) if !(0.0..=LAST_SECOND).contains(&date) => Err(wrong_type(name)(WrongType)),
        date => Ok(date),
    }
}

/// Checks `exp`, `nbf` and `iat`; returns the second at which the token is void.
///
/// A token that was made in the future is no worse for it, but this clock is wrong then, and would take
/// expired ones for good.
fn check_times(claims: &Members<'_>, leeway: Duration, now: SystemTime) -> Result<u64, TokenError> {
    let now = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let leeway = leeway.min(MAX_LEEWAY).as_secs_f64();
    let expires = date(claims, "exp")?.ok_or_else(missing("exp"))?;
    if now >= expires + leeway {
        return Err(TokenError::Expired);
    }
    if date(claims, "nbf")?.is_some_and(|not_before| now + leeway < not_before) {
        return Err(TokenError::NotYetValid);
    }
    let most = MAX_LEEWAY.as_secs_f64();
    if date(claims, "iat")?.is_some_and(|made| now + most < made) {
        return Err(TokenError::NotYetValid);
    }
    Ok(expires as u64)
}

fn check_audience(claims: &Members<'_>, expected: &str) -> Result<(), TokenError> {
    let audiences = claims.texts("aud").map_err(wrong_type("aud"))?;
    let (audiences, _) = audiences.ok_or_else(missing("aud"))?;
    if audiences.iter().any(|audience| audience == expected) {
        Ok(())
    } else {
        Err(TokenError::Audience {
            expected: expected.into(),
        })
    }
}

/// Refuses tokens that are something else, where `typ` in the header leaves that open.
fn check_is_access_token(claims: &Members<'_>) -> Result<(), TokenError> {
    const MARKS: [&str; 5] = ["nonce", "at_hash", "c_hash", "s_hash", "events"];
    if MARKS.iter().any(|mark| claims.has(mark)) {
        return Err(TokenError::NotAccessToken);
    }
    let kind = claims.text("typ").map_err(wrong_type("typ"))?;
    let access = ["bearer", "dpop", "at+jwt", "jwt"];
    match kind {
        Some(kind) if !access.contains(&kind.to_ascii_lowercase().as_str()) => {
            Err(TokenError::NotAccessToken)
        }
        _ => Ok(()),
    }
}

/// `sub`; where a token of the client-credentials grant has none, its `client_id`, which is what
/// `sub` should be then (RFC 9068, 2.2).
fn subject(claims: &Members<'_>) -> Result<String, TokenError> {
    let stands_in = !claims.has("sub") && claims.has("client_id");
    let subject = required(claims, if stands_in { "client_id" } else { "sub" })?;
    if subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
        return Err(TokenError::Subject);
    }
    Ok(subject)
}

/// `scope`: words with single spaces between them (RFC 6749, 3.3), or an array of such words. A token
/// without any is one that may do nothing.
fn scopes(claims: &Members<'_>) -> Result<Vec<String>, TokenError> {
    let found = claims.texts("scope").map_err(wrong_type("scope"))?;
    let Some((texts, listed)) = found else {
        return Ok(Vec::new());
    };
    let scopes: Vec<String> = if listed {
        texts
    } else {
        let words = texts.iter().flat_map(|text| text.split(' '));
        words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    if scopes.len() > MAX_SCOPES {
        return Err(TokenError::TooManyScopes);
    }
    let legal = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
    let word = |scope: &String| (1..=MAX_SCOPE).contains(&scope.len()) && scope.bytes().all(legal);
    if scopes.iter().all(word) {
        Ok(scopes)
    } else {
        Err(TokenError::Scope)
    }
}

/// The thumbprint of the key that the token is bound to (RFC 9449, 6.1). A token that is bound in
/// another way (to a certificate, RFC 8705) must not be taken for one that is not bound.
fn bound_to(claims: &Members<'_>) -> Result<Option<String>, TokenError> {
    let Some(confirmation) = claims.object("cnf").map_err(wrong_type("cnf"))? else {
        return Ok(None);
    };
    match confirmation.text("jkt") {
        Ok(Some(key)) if key.len() == THUMBPRINT => Ok(Some(key)),
        _ => Err(TokenError::Binding),
    }
}

fn patterns(claims: &Members<'_>, name: &str) -> Result<Option<EndpointPatterns>, TokenError> {
    let Some((patterns, _)) = claims.texts(name).map_err(wrong_type(name))? else {
        return Ok(None);
    };
    EndpointPatterns::new(patterns)
        .map(Some)
        .map_err(TokenError::Patterns)
}
