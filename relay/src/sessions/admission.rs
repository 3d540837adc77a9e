//! Who may open a session: a handshake of ours, with a token that may register, where there is room.

use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_http::Problem;
use culvert_identity::{TokenError, VerifiedToken};
use culvert_proto::code::ErrorCode;
use http::Request;
use tokio::sync::OwnedSemaphorePermit;

use super::Agents;
use super::handshake::{self, Handshake};
use crate::listener::Peer;
use crate::revocations::Revocation;
use crate::tenants::SessionSeat;

/// Why an agent's token is refused though it is good: who dials proves nothing but the token.
pub(super) const BOUND: &str = "the token is bound to a key; agents take tokens that are not";

/// When an agent that found no room should come back.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// When an agent whose access is revoked should look whether it still is.
const REVOKED_RETRY: Duration = Duration::from_secs(30);

/// The places of a session. They go where its connection goes.
pub(super) struct Seats {
    _of_node: OwnedSemaphorePermit,
    pub(super) of_tenant: SessionSeat,
}

impl Agents {
    /// What must hold before a session may begin.
    pub(super) async fn admit<B>(
        &self,
        request: &Request<B>,
        peer: Peer,
    ) -> Result<(Handshake, VerifiedToken, Seats), Problem> {
        let handshake = Handshake::check(request, peer)?;
        let bearer = handshake::bearer(request.headers())?;
        // Who finds no place is told so before it costs anything. But a place is only for a token that
        // is good: anybody can come with another one and wait.
        drop(self.seat()?);
        let token = self.verify(bearer, peer).await?;
        if token.bound_to.is_some() {
            return Err(Problem::unauthenticated(BOUND, Some("invalid_token")));
        }
        if !token.may_register {
            return Err(may_not(
                &token,
                "the token lacks the scope to register endpoints",
            ));
        }
        if token.endpoints.is_empty() {
            return Err(may_not(&token, "the token names no endpoints to register"));
        }
        let (tenant, subject) = (&token.principal.tenant, &token.principal.subject);
        if let Some(revocation) = self.revocations.of_agent(tenant, subject, None) {
            self.metrics.revocations.refused_sessions.inc();
            return Err(revoked(&revocation));
        }
        let seat = self.seat()?;
        let of_tenant = self.tenants.enter_session(tenant)?;
        let seats = Seats {
            _of_node: seat,
            of_tenant,
        };
        Ok((handshake, token, seats))
    }

    /// What a token says, if there is not too much wrong where it comes from to look at it.
    async fn verify(&self, bearer: &str, peer: Peer) -> Result<VerifiedToken, Problem> {
        let from = peer.address.ip();
        let _trying = self.strangers.try_one(from, bearer).await?;
        let verified = self
            .handshakes
            .take(self.verifier.verify_refreshing(bearer))
            .await
            .map_err(|_| {
                overloaded("too many agents come to this relay node at once; try again")
            })?;
        match verified {
            Ok(token) => {
                self.strangers.on_good(bearer);
                Ok(token)
            }
            Err(error) => {
                if !error.is_unavailable() {
                    self.strangers.on_wrong(from, bearer);
                }
                Err(not_verified(error))
            }
        }
    }

    fn seat(&self) -> Result<OwnedSemaphorePermit, Problem> {
        if self.refusing.load(Ordering::Acquire) {
            return Err(overloaded(
                "this relay node is stopping; open the session elsewhere",
            ));
        }
        let full = |_| overloaded("this relay node has as many sessions as it may; try again");
        self.seats.clone().try_acquire_owned().map_err(full)
    }
}

fn overloaded(detail: &'static str) -> Problem {
    Problem {
        retry_after: Some(RETRY_AFTER),
        ..Problem::new(ErrorCode::Overloaded, detail)
    }
}

/// Why a good token opens no session. The log says whose it is too.
fn may_not(token: &VerifiedToken, why: &'static str) -> Problem {
    let (tenant, subject) = (&token.principal.tenant, &token.principal.subject);
    Problem::forbidden(why).with_log(format!("{why} (tenant {tenant}, subject {subject:?})"))
}

/// What an agent is told that is revoked. Nothing changes by coming back at once.
fn revoked(revocation: &Revocation) -> Problem {
    let left = revocation.left().unwrap_or(REVOKED_RETRY);
    Problem {
        retry_after: Some(left.min(REVOKED_RETRY)),
        ..Problem::new(ErrorCode::Forbidden, revocation.told())
    }
    .with_log(format!("revocation {}", revocation.id))
}

/// What the agent is told of a token that did not pass, and what the log is.
fn not_verified(error: TokenError) -> Problem {
    let reason = error.public_reason();
    let problem = if error.is_unavailable() {
        overloaded(reason)
    } else {
        Problem::unauthenticated(reason, Some("invalid_token"))
    };
    problem.with_log(error.to_string())
}
