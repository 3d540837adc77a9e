//! What a request carries to say who sends it.
//!
//! The token for the relay stands in `Proxy-Authorization` (Bearer, or Basic with the token as
//! password: what `https://x:TOKEN@relay` becomes) or, where there is none, in
//! `Culvert-Authorization` (Bearer). One that is bound to a key has the scheme DPoP in either, and its
//! proof in `Culvert-DPoP`, or, beside a CONNECT, in `DPoP`. `Authorization` belongs to the upstream and
//! is not looked at; neither is the query.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use culvert_http::Problem;
use culvert_identity::verify::{Algorithm, MAX_TOKEN, ProofError, ProvedRequest, ProvedTarget};
use culvert_proto::code::ErrorCode;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderName};

const CULVERT_AUTHORIZATION: HeaderName = HeaderName::from_static("culvert-authorization");
const CULVERT_DPOP: HeaderName = HeaderName::from_static("culvert-dpop");
const DPOP: HeaderName = HeaderName::from_static("dpop");

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a request carries to say who sends it.
#[derive(Debug)]
pub(super) struct Credential<'h> {
    /// Its letters are not looked at yet: those of a token that is known have been.
    pub(super) token: Cow<'h, str>,
    /// The proof that comes with a token of the scheme DPoP.
    pub(super) proof: Option<&'h str>,
}

impl<'h> Credential<'h> {
    /// That of a request, with these headers.
    pub(super) fn find(
        headers: &'h HeaderMap,
        request: &ProvedRequest<'_>,
    ) -> Result<Self, Problem> {
        let basic = headers.contains_key(PROXY_AUTHORIZATION);
        let field = if basic {
            PROXY_AUTHORIZATION
        } else {
            CULVERT_AUTHORIZATION
        };
        let mut credentials = headers.get_all(&field).iter();
        let value = credentials.next().ok_or_else(no_credential)?;
        if credentials.next().is_some() {
            return Err(malformed("the field of the credential was sent twice"));
        }
        let text = std::str::from_utf8(value.as_bytes())
            .map_err(|_| malformed("the credential is malformed"))?;
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = rest.trim_start_matches(' ');
        let mut proof = None;
        let token = if scheme.eq_ignore_ascii_case("bearer") {
            Cow::Borrowed(rest)
        } else if scheme.eq_ignore_ascii_case("dpop") {
            proof = Some(self::proof(headers, request)?);
            Cow::Borrowed(rest)
        } else if basic && scheme.eq_ignore_ascii_case("basic") {
            let decoded = BASE64
                .decode(rest)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let password = decoded.as_deref().and_then(|text| text.split_once(':'));
            let (_, token) =
                password.ok_or_else(|| malformed("the Basic credential is malformed"))?;
            Cow::Owned(token.to_owned())
        } else {
            return Err(malformed("the credential's scheme is not accepted here"));
        };
        if token.len() > MAX_TOKEN {
            return Err(malformed("the token is too long"));
        }
        Ok(Self { token, proof })
    }
}

/// Whether a request has anything where a token may stand.
pub(super) fn has_token(headers: &HeaderMap) -> bool {
    headers.contains_key(PROXY_AUTHORIZATION) || headers.contains_key(CULVERT_AUTHORIZATION)
}

/// The proof beside a token. `DPoP` is the upstream's own field, as `Authorization` is; only a
/// CONNECT has no upstream that could read it.
fn proof<'h>(headers: &'h HeaderMap, request: &ProvedRequest<'_>) -> Result<&'h str, Problem> {
    let ours = headers.get_all(CULVERT_DPOP).iter();
    let is_connect = matches!(request.to, ProvedTarget::Connect(_));
    let plain = is_connect.then(|| headers.get_all(DPOP).iter());
    let mut proofs = ours.chain(plain.into_iter().flatten());
    match (proofs.next(), proofs.next()) {
        (None, _) => Err(unproved(ProofError::Missing)),
        (Some(_), Some(_)) => Err(malformed("more than one DPoP proof was sent")),
        (Some(proof), None) => {
            let proof = proof.to_str().ok().filter(|text| is_token(text));
            proof.ok_or_else(|| unproved(ProofError::Malformed))
        }
    }
}

/// There is no credential at all.
pub(super) fn no_credential() -> Problem {
    let detail = "send an access token in Culvert-Authorization or Proxy-Authorization";
    Problem::unauthenticated(detail, None)
}

/// Whether it has the letters of `token68` (RFC 9110, 11.2).
pub(super) fn is_token(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    !text.is_empty() && text.bytes().all(letter)
}

/// There is one that cannot be read.
pub(super) fn malformed(detail: &'static str) -> Problem {
    Problem::unauthenticated(detail, Some("invalid_request"))
}

/// The proof that the caller has its token's key is missing or not good.
pub(super) fn unproved(error: ProofError) -> Problem {
    let reason = error.public_reason();
    let problem = if error == ProofError::Crowded {
        Problem::new(ErrorCode::Overloaded, reason)
    } else {
        Problem::unproved(reason, &Algorithm::ALL.map(Algorithm::as_str).join(" "))
    };
    problem.with_log(error.to_string())
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
        let request = ProvedRequest {
            method: "GET",
            to: ProvedTarget::Https {
                authority: "a.b",
                path: "/",
            },
        };
        let token = |found: Credential<'_>| found.token.into_owned();
        let found = Credential::find(&headers, &request).map(token);
        found
            .and_then(|token| match is_token(&token) {
                true => Ok(token),
                false => Err(malformed("the credential is malformed")),
            })
            .map_err(|problem| {
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
        let dpop = ("culvert-authorization", "DPoP a.b.c");
        let bound = found(&[dpop, ("culvert-dpop", "d.e.f")]);
        assert_eq!(bound.as_deref(), Ok("a.b.c"));
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
    fn the_first_credential_counts_and_one_that_is_there_twice_none() {
        let first = ("proxy-authorization", "Bearer a.b.c");
        let second = ("culvert-authorization", "Bearer d.e.f");
        for both in [[first, second], [second, first]] {
            assert_eq!(found(&both).as_deref(), Ok("a.b.c"));
        }
        // Not even if it is of no use: who calls does not depend on which of them is good.
        let other = ("proxy-authorization", "Basic eDp5 eDp5");
        assert!(found(&[other, second]).is_err());
        for twice in [[first, first], [second, second]] {
            let (detail, _) = found(&twice).unwrap_err();
            assert_eq!(detail, "the field of the credential was sent twice");
        }
    }

    #[test]
    fn a_token_that_says_it_is_bound_comes_with_one_proof() {
        let dpop = ("culvert-authorization", "DPoP a.b.c");
        let proof = ("culvert-dpop", "d.e.f");
        // The upstream's own.
        let other = ("dpop", "d.e.f");
        for fields in [
            &[dpop][..],
            &[dpop, other],
            &[dpop, proof, proof],
            &[dpop, ("culvert-dpop", "d e f")],
            &[dpop, ("culvert-dpop", "d.e.f, d.e.f")],
        ] {
            assert!(found(fields).is_err(), "{fields:?}");
        }
        assert!(found(&[dpop, proof, other]).is_ok());
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
