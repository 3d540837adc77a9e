//! From a request to the one who calls.
//!
//! A client certificate that is a caller's comes first, and then nothing else is looked at. One
//! that is nobody's (or no longer anybody's) counts as none: whoever has a token as well could
//! have come without it.
//!
//! The token for the relay stands in `Proxy-Authorization` (Bearer, or Basic with the token as
//! password: what `https://x:TOKEN@relay` becomes) or in `Culvert-Authorization` (Bearer).
//! `Authorization` belongs to the upstream and is not looked at; neither is the query.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use culvert_http::Problem;
use culvert_identity::verify::{MAX_TOKEN, VerifiedToken};
use culvert_identity::{CertificateError, Verifier};
use culvert_proto::code::ErrorCode;
use culvert_proto::principal::Proof;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::Edge;
use super::connection::Connection;

const CULVERT_AUTHORIZATION: HeaderName = HeaderName::from_static("culvert-authorization");

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How long the outcome for a connection's last token is remembered: as long as an introspection
/// may be (`iss` may withdraw a key), so that not every call pays for a signature.
const MEMORY: Duration = Duration::from_secs(30);

/// The last good token of one connection.
#[derive(Default)]
pub(crate) struct LastToken(Mutex<Option<Known>>);

struct Known {
    token: SecretString,
    verified: Arc<VerifiedToken>,
    since: Instant,
}

impl LastToken {
    fn recall(&self, token: &str) -> Option<Arc<VerifiedToken>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref()?;
        let good = known.since.elapsed() < MEMORY
            && known.verified.principal.expires_at() > SystemTime::now()
            && is_same(known.token.expose_secret(), token);
        good.then(|| known.verified.clone())
    }

    fn remember(&self, token: &str, verified: &Arc<VerifiedToken>) {
        let known = Known {
            token: token.into(),
            verified: verified.clone(),
            since: Instant::now(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }
}

impl fmt::Debug for LastToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastToken").finish_non_exhaustive()
    }
}

/// Compares without telling by its time where two secrets differ.
fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

impl Edge {
    /// Who sends a request with these headers on a connection.
    pub(super) async fn authenticate(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
    ) -> Result<Arc<VerifiedToken>, Problem> {
        if let (Some(callers), Some(shown)) = (&self.certificates, &connection.certificate) {
            match callers.judge(shown, SystemTime::now()) {
                Ok(caller) => return Ok(caller),
                Err(error) if !has_token(headers) => return Err(nobodys(error)),
                Err(_) => {}
            }
        }
        by_token(headers, &connection.last_token, &self.verifier).await
    }
}

/// Whether a request has anything where a token may stand.
fn has_token(headers: &HeaderMap) -> bool {
    headers.contains_key(PROXY_AUTHORIZATION) || headers.contains_key(CULVERT_AUTHORIZATION)
}

/// There is a client certificate that is no caller's, and nothing else.
fn nobodys(error: CertificateError) -> Problem {
    let detail = match error {
        CertificateError::Time => "the client certificate is not valid at this time",
        CertificateError::Unreadable
        | CertificateError::Authority
        | CertificateError::Nobody
        | CertificateError::Several => {
            "the client certificate is no caller's here; show another one, or send an access token"
        }
    };
    Problem::unauthenticated(detail, None).with_log(error.to_string())
}

/// Who sends a request with a token in these headers.
async fn by_token(
    headers: &HeaderMap,
    last: &LastToken,
    verifier: &Verifier,
) -> Result<Arc<VerifiedToken>, Problem> {
    let token = token(headers)?;
    if let Some(verified) = last.recall(&token) {
        return Ok(verified);
    }
    match verifier.verify_refreshing(&token).await {
        Ok(verified) => {
            let verified = Arc::new(verified);
            // What the issuer said is remembered where it was asked, and not once more.
            if verified.principal.proof != Proof::Introspection {
                last.remember(&token, &verified);
            }
            Ok(verified)
        }
        Err(error) => {
            let reason = error.public_reason();
            let problem = if error.is_unavailable() {
                Problem::new(ErrorCode::Overloaded, reason)
            } else {
                Problem::unauthenticated(reason, Some("invalid_token"))
            };
            Err(problem.with_log(error.to_string()))
        }
    }
}

/// The token that a request carries.
fn token(headers: &HeaderMap) -> Result<Cow<'_, str>, Problem> {
    let proxy = headers
        .get_all(PROXY_AUTHORIZATION)
        .iter()
        .map(|value| (value, true));
    let ours = headers
        .get_all(CULVERT_AUTHORIZATION)
        .iter()
        .map(|value| (value, false));
    let mut credentials = proxy.chain(ours);
    let Some((value, basic)) = credentials.next() else {
        return Err(no_credential());
    };
    if credentials.next().is_some() {
        return Err(malformed("more than one credential was sent"));
    }
    let text = value
        .to_str()
        .map_err(|_| malformed("the credential is malformed"))?;
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim_start_matches(' ');
    let token = if scheme.eq_ignore_ascii_case("bearer") {
        Cow::Borrowed(rest)
    } else if basic && scheme.eq_ignore_ascii_case("basic") {
        let decoded = BASE64
            .decode(rest)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let password = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (_, token) = password.ok_or_else(|| malformed("the Basic credential is malformed"))?;
        Cow::Owned(token.to_owned())
    } else {
        return Err(malformed("the credential's scheme is not accepted here"));
    };
    if token.len() > MAX_TOKEN {
        return Err(malformed("the token is too long"));
    }
    if token.is_empty() || !token.bytes().all(is_token_byte) {
        return Err(malformed("the credential is malformed"));
    }
    Ok(token)
}

pub(crate) fn no_credential() -> Problem {
    let detail = "send an access token in Culvert-Authorization or Proxy-Authorization";
    Problem::unauthenticated(detail, None)
}

/// `token68` of RFC 9110, 11.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

fn malformed(detail: &'static str) -> Problem {
    Problem::unauthenticated(detail, Some("invalid_request"))
}

#[cfg(test)]
mod tests {
    use culvert_proto::head::CallId;
    use http::Method;

    use super::*;

    fn found(fields: &[(&str, &str)]) -> Result<String, (String, bool)> {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    http::HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect();
        token(&headers).map(Cow::into_owned).map_err(|problem| {
            assert_eq!(problem.code, ErrorCode::Unauthenticated);
            let error = problem.challenge.unwrap().contains("error=");
            (problem.detail.into_owned(), error)
        })
    }

    #[test]
    fn a_token_is_found_wherever_it_may_stand() {
        let basic = format!("Basic {}", BASE64.encode("any:a.b.c"));
        let unpadded = basic.trim_end_matches('=').to_owned();
        let good = [
            ("proxy-authorization", "Bearer a.b.c"),
            ("Proxy-Authorization", "bearer  a.b.c"),
            ("culvert-authorization", "BEARER a.b.c"),
            ("proxy-authorization", &basic),
            ("proxy-authorization", &unpadded),
        ];
        for field in good {
            assert_eq!(found(&[field]).as_deref(), Ok("a.b.c"), "{field:?}");
        }
        let upstream = ("authorization", "Basic eDp5");
        assert_eq!(found(&[upstream, good[0]]).as_deref(), Ok("a.b.c"));
    }

    #[test]
    fn no_credential_is_told_how_to_send_one_and_a_bad_one_what_is_wrong() {
        let (_, error) = found(&[("authorization", "Bearer a.b.c")]).unwrap_err();
        assert!(!error);
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN + 1));
        let no_colon = format!("Basic {}", BASE64.encode("abc"));
        let binary = format!("Basic {}", BASE64.encode(b"x:\xff"));
        let spaced = format!("Basic {}", BASE64.encode("x:a b"));
        let basic = format!("Basic {}", BASE64.encode("x:a.b.c"));
        let bad = [
            ("proxy-authorization", ""),
            ("proxy-authorization", "Bearer"),
            ("proxy-authorization", "Bearer "),
            ("proxy-authorization", "Bearer a b"),
            ("proxy-authorization", "Bearer a,b"),
            ("proxy-authorization", "Bearer \u{e9}"),
            ("proxy-authorization", "a.b.c"),
            ("proxy-authorization", "Digest a"),
            ("proxy-authorization", "Basic !"),
            ("proxy-authorization", "Basic "),
            ("proxy-authorization", &long),
            ("proxy-authorization", &no_colon),
            ("proxy-authorization", &binary),
            ("proxy-authorization", &spaced),
            ("culvert-authorization", &basic),
        ];
        for field in bad {
            let (_, error) = found(&[field]).unwrap_err();
            assert!(error, "{field:?}");
        }
    }

    #[test]
    fn two_credentials_are_none() {
        let one = ("proxy-authorization", "Bearer a.b.c");
        let two = ("culvert-authorization", "Bearer a.b.c");
        for pair in [[one, two], [one, one], [two, two]] {
            let (detail, _) = found(&pair).unwrap_err();
            assert_eq!(detail, "more than one credential was sent");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let last = LastToken::default();
        assert_eq!(format!("{last:?}"), "LastToken { .. }");
    }

    #[test]
    fn the_answer_to_who_has_not_proven_anything_is_small() {
        // The least that asks for an endpoint: 10 times that is what it may get. Each comes in a
        // TLS record: header, content type, tag.
        const RECORD: usize = 5 + 1 + 16;
        let request = "GET / HTTP/1.1\r\nHost: vc--acme.relay.example.com\r\n\r\n";
        let problem = no_credential();
        let (response, body) =
            problem.answer("relay.example.com", CallId([0xAB; 16]), &Method::GET);
        let fields = response.headers().iter();
        let head: usize = fields
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        // Status line, Date, Content-Length.
        let head = head + 27 + 37 + 21;
        assert!(
            head + body.len() + RECORD <= 10 * (request.len() + RECORD),
            "{head} + {}",
            body.len()
        );
    }
}
