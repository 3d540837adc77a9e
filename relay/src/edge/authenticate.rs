//! From a request to the one who calls.
//!
//! A client certificate that is a caller's comes first, and then nothing else is looked at. One
//! that is nobody's (or no longer anybody's) counts as none: whoever has a token as well could
//! have come without it. Where a token may stand, [`credential`] knows.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_http::Problem;
use culvert_identity::CertificateError;
use culvert_identity::verify::{ProofError, ProvedRequest, VerifiedToken};
use culvert_proto::code::ErrorCode;
use culvert_proto::head::CallerToken;
use culvert_proto::principal::Proof;
use http::HeaderMap;
use tokio::time::Instant;

use super::Edge;
use super::connection::Connection;
use super::credential::{Credential, has_token, is_token, malformed, unproved};

/// How long the outcome for a connection's last token is remembered: as long as an introspection
/// may be (`iss` may withdraw a key), so that not every call pays for a signature.
const MEMORY: Duration = Duration::from_secs(30);

/// Who calls, and what for an agent that wants to see for itself.
pub(crate) struct Caller {
    pub(crate) verified: Arc<VerifiedToken>,
    pub(crate) token: Option<CallerToken>,
}

/// Refuses a caller whose token is not for calls.
pub(super) fn must_call(caller: &VerifiedToken) -> Result<(), Problem> {
    match caller.may_call {
        true => Ok(()),
        false => Err(Problem::forbidden(
            "the token lacks the scope that calling takes",
        )),
    }
}

/// The last good token of one connection.
#[derive(Default)]
pub(crate) struct LastToken(Mutex<Option<Known>>);

#[derive(Clone)]
struct Known {
    token: Bytes,
    verified: Arc<VerifiedToken>,
    since: Instant,
}

impl LastToken {
    fn recall(&self, token: &str) -> Option<Known> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref()?;
        let good = known.since.elapsed() < MEMORY
            && known.verified.principal.expires_at() > SystemTime::now()
            && is_same(&known.token, token.as_bytes());
        good.then(|| known.clone())
    }

    fn remember(&self, known: &Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
    }
}

impl fmt::Debug for LastToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastToken").finish_non_exhaustive()
    }
}

/// Compares without telling by its time where two secrets differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

impl Edge {
    /// Who sends `request`, with these headers, on a connection.
    pub(super) async fn authenticate(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
        request: &ProvedRequest<'_>,
    ) -> Result<Caller, Problem> {
        if let (Some(callers), Some(shown)) = (&self.certificates, &connection.certificate) {
            match callers.judge(shown, SystemTime::now()) {
                Ok(verified) => {
                    connection.prove();
                    return Ok(Caller {
                        verified,
                        token: None,
                    });
                }
                Err(error) if !has_token(headers) => return Err(nobodys(error)),
                Err(_) => {}
            }
        }
        let Credential { token, proof } = Credential::find(headers, request)?;
        let (known, is_new) = self.verified(connection, headers, &token).await?;
        let proved = self
            .proofs
            .check(&known.verified, &token, proof, request, SystemTime::now());
        if let Err(error) = proved {
            if error != ProofError::Crowded {
                // A token that somebody else has the key of is a wrong one here.
                self.strangers
                    .on_wrong(connection.peer.address.ip(), &token);
            }
            return Err(unproved(error));
        }
        if is_new {
            self.strangers.on_good(&token);
            // What the issuer said is remembered where it was asked, and not once more.
            if known.verified.principal.proof != Proof::Introspection {
                connection.last_token.remember(&known);
            }
        }
        connection.prove();
        Ok(Caller {
            verified: known.verified,
            token: Some(CallerToken {
                token: known.token,
                proof: proof.map(|proof| Bytes::copy_from_slice(proof.as_bytes())),
            }),
        })
    }

    /// Who a token speaks for, and whether that is news on the connection.
    async fn verified(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
        token: &str,
    ) -> Result<(Known, bool), Problem> {
        if let Some(known) = connection.last_token.recall(token) {
            return Ok((known, false));
        }
        if !is_token(token) {
            return Err(malformed("the credential is malformed"));
        }
        // What a stranger makes us hold while its token is verified.
        let _room = connection.stranger_room(headers)?;
        let from = connection.peer.address.ip();
        let _trying = self.strangers.try_one(from, token).await?;
        match self.verifier.verify_refreshing(token).await {
            Ok(verified) => {
                let known = Known {
                    token: Bytes::copy_from_slice(token.as_bytes()),
                    verified: Arc::new(verified),
                    since: Instant::now(),
                };
                Ok((known, true))
            }
            Err(error) => {
                let reason = error.public_reason();
                let problem = if error.is_unavailable() {
                    Problem::new(ErrorCode::Overloaded, reason)
                } else {
                    self.strangers.on_wrong(from, token);
                    Problem::unauthenticated(reason, Some("invalid_token"))
                };
                Err(problem.with_log(error.to_string()))
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let last = LastToken::default();
        assert_eq!(format!("{last:?}"), "LastToken { .. }");
    }
}
