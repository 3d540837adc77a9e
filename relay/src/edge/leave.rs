//! For how long a call may go on: its caller's token, and what operators withdraw.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use culvert_http::Problem;
use culvert_http::pace::Deadline;
use culvert_proto::code::ErrorCode;
use culvert_proto::limits::EXPIRY_GRACE;
use culvert_proto::names::EndpointName;
use tokio::time::Instant;

use super::Edge;
use super::record::CallRecord;
use crate::revocations::{self, Revocation};
use crate::tenants::{Exceeded, LiveCall};

/// The right of one call to go on, held and watched while it does.
#[derive(Debug)]
pub(crate) struct Leave {
    expiry: Deadline,
    call: Arc<LiveCall>,
}

/// Why a call may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Withdrawn {
    /// The token is void.
    #[error("the caller's token expired while the call was in flight")]
    Expired,
    /// An operator has withdrawn subject, tenant or endpoint.
    #[error("the call was revoked while it was in flight")]
    Revoked,
    /// The node stops, and its time is over.
    #[error("the relay stopped while the call was in flight")]
    GivenUp,
}

impl Leave {
    fn new(call: Arc<LiveCall>) -> Self {
        let mut expiry = Deadline::default();
        // A token that outlives what the clock can count never expires.
        let end = call.caller.principal.expires_at().checked_add(EXPIRY_GRACE);
        let left = end.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        if let Some(at) = left.and_then(|left| Instant::now().checked_add(left)) {
            expiry.set(at);
        }
        Self { expiry, call }
    }

    /// Whether the call may go on. The task is woken when it is revoked.
    pub(crate) fn watch(&self, cx: &Context<'_>) -> Result<(), Withdrawn> {
        let _ = self.call.poll_revoked(cx);
        self.check()
    }

    /// Whether the call may go on, without waiting.
    pub(crate) fn check(&self) -> Result<(), Withdrawn> {
        if self.call.is_revoked() {
            Err(self.why())
        } else if self.expiry.is_past() {
            Err(Withdrawn::Expired)
        } else {
            Ok(())
        }
    }

    /// Why the call was ended.
    fn why(&self) -> Withdrawn {
        if self.call.is_given_up() {
            Withdrawn::GivenUp
        } else {
            Withdrawn::Revoked
        }
    }

    /// Ready once the call may not go on; else the task is woken when that is so.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Withdrawn> {
        if self.call.poll_revoked(cx).is_ready() {
            return Poll::Ready(self.why());
        }
        self.expiry.poll(cx).map(|()| Withdrawn::Expired)
    }
}

impl From<Withdrawn> for Problem {
    fn from(withdrawn: Withdrawn) -> Self {
        match withdrawn {
            Withdrawn::Expired => Self::unauthenticated(
                "the token expired while the call was in flight; whether the local API has seen it is \
                 not known",
                Some("invalid_token"),
            ),
            Withdrawn::Revoked => {
                Self::new(ErrorCode::Forbidden, revocations::ENDED).with_log(withdrawn.to_string())
            }
            Withdrawn::GivenUp => Self::new(
                ErrorCode::SessionLost,
                "this relay node stopped before the answer; whether the local API has seen the call is \
                 not known",
            ),
        }
    }
}

impl From<Exceeded> for Problem {
    fn from(exceeded: Exceeded) -> Self {
        let problem = Self::new(ErrorCode::QuotaExceeded, exceeded.told());
        Self {
            retry_after: exceeded.retry_after.or(problem.retry_after),
            ..problem
        }
    }
}

impl Edge {
    /// Lets a call begin, to this endpoint of the caller's own tenant if there is one: takes its
    /// places, and asks whether it is withdrawn when it is among those that can be.
    pub(super) fn begin(
        &self,
        record: &mut CallRecord,
        endpoint: Option<&EndpointName>,
    ) -> Result<Leave, Problem> {
        let caller = record
            .caller
            .clone()
            .ok_or_else(super::credential::no_credential)?;
        let (id, progress) = (record.call, &record.progress);
        let seat = self.seat()?;
        let live = self.tenants.enter(id, &caller, endpoint, progress)?;
        record.seat = Some(seat);
        let leave = Leave::new(live.call.clone());
        record.live = Some(live);
        match self.revocations.of_call(&caller.principal, endpoint) {
            None => Ok(leave),
            Some(revocation) => Err(self.refuse_revoked(&revocation)),
        }
    }

    /// What a caller is told that is withdrawn, or asks for what is.
    fn refuse_revoked(&self, revocation: &Revocation) -> Problem {
        self.metrics.revocations.refused_calls.inc();
        let reason = revocation.reason.as_deref().unwrap_or("no reason given");
        Problem::new(ErrorCode::Forbidden, revocations::REFUSED)
            .with_log(format!("revocation {}: {reason}", revocation.id))
    }
}
