//! The audit log: one line per call, however the call ends.

use std::fmt;
use std::sync::Arc;

use culvert_policy::ShadowHit;
use tokio::time::Instant;

use super::call::Call;
use crate::upstream::Progress;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole answer was passed on.
    Answered,
    /// The agent refused the call; the upstream saw nothing of it.
    Refused,
    /// The upstream gave no answer.
    Failed,
    /// The upstream's answer broke off; the caller sees that it did.
    Truncated,
    /// A new policy forbids the call.
    Withdrawn,
    /// The caller went away, or its relay gave the call up.
    CallerGone,
    /// The tunnel to the relay was lost.
    SessionLost,
    /// The agent itself ended.
    Aborted,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Truncated => "truncated",
            Self::Withdrawn => "withdrawn",
            Self::CallerGone => "caller-gone",
            Self::SessionLost => "session-lost",
            Self::Aborted => "aborted",
        }
    }
}

/// What becomes of a call; dropped, it writes the call's one line.
#[derive(Debug)]
pub(crate) struct Record<'c> {
    call: &'c Call,
    started: Instant,
    /// `allow` or `deny`; `none` where the policy was not asked.
    pub(crate) decision: &'static str,
    pub(crate) rule: Option<Arc<str>>,
    /// A bounded word or the error: why the call was refused or failed.
    pub(crate) reason: Option<String>,
    /// What the caller saw; 0 where it saw nothing.
    pub(crate) status: u16,
    pub(crate) request: Option<Arc<Progress>>,
    /// Bytes of the answer's body that were passed on.
    pub(crate) answered: u64,
    pub(crate) outcome: Outcome,
}

impl<'c> Record<'c> {
    pub(crate) fn open(call: &'c Call) -> Self {
        Self {
            call,
            started: Instant::now(),
            decision: "none",
            rule: None,
            reason: None,
            status: 0,
            request: None,
            answered: 0,
            outcome: Outcome::Aborted,
        }
    }

    /// Notes shadow rules: what they would have done.
    pub(crate) fn note_shadow(&self, hits: &[ShadowHit]) {
        for hit in hits {
            tracing::info!(
                target: "culvert::audit",
                call = %self.call.id,
                rule = &*hit.rule,
                "a rule that is not enforced would {} the call",
                hit.action.as_str()
            );
        }
    }
}

/// Bytes of a peer as one line of printable ASCII.
pub(crate) struct Printable<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.escape_ascii(), f)
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let call = self.call;
        tracing::info!(
            target: "culvert::audit",
            call = %call.id,
            tenant = call.caller.tenant.as_str(),
            caller = %Printable(call.caller.subject.as_bytes()),
            endpoint = call.endpoint.as_str(),
            mode = call.mode.as_str(),
            method = call.method.as_str(),
            target = %Printable(&call.target),
            decision = self.decision,
            rule = self.rule.as_deref(),
            reason = self.reason.as_deref(),
            status = self.status,
            bytes_in = self.request.as_ref().map_or(0, |progress| progress.bytes()),
            bytes_out = self.answered,
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            outcome = self.outcome.as_str(),
            "call"
        );
    }
}
