//! How long a call may go on: as long as the policy in force allows it, and its caller's
//! credential is valid.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_policy::{CallFacts, Decision, Denial};
use culvert_proto::code::ErrorCode;
use culvert_proto::head::Refusal;
use culvert_proto::limits::EXPIRY_GRACE;
use culvert_proto::principal::Principal;
use tokio::sync::watch;
use tokio::time::sleep;

use super::decide::{denied, is_soap};
use crate::policy::ActivePolicy;

/// How long a call may go on after its caller's credential expired. The relay, which ends it too and
/// takes new calls until then, comes first: its 401 says that it is time for a new token, where this
/// agent could only say 403. What is left for here is a relay that does not, or whose clock is behind.
const GRACE: Duration = EXPIRY_GRACE.saturating_add(Duration::from_secs(10));

/// How often the wall clock is looked at, which may be set meanwhile.
const LOOK: Duration = Duration::from_secs(10);

/// A call was allowed and is no longer.
#[derive(Debug)]
pub(super) struct Withdrawn {
    /// What the caller is told where no answer has begun.
    pub(super) refusal: Refusal,
    /// A bounded word for the audit log.
    pub(super) reason: &'static str,
}

/// Completes once a new policy forbids the call, or its caller's credential has expired.
///
/// `policies` is a receiver that has seen the policy which allowed the call: every later one is
/// asked about it. In all modes a call is raced against this for as long as it lasts.
pub(super) async fn withdrawn(
    policies: watch::Receiver<Arc<ActivePolicy>>,
    facts: CallFacts<'_>,
    caller: &Principal,
) -> Withdrawn {
    tokio::select! {
        refusal = forbidden(policies, facts) => Withdrawn { refusal, reason: "policy" },
        () = expired(caller) => Withdrawn {
            refusal: expired_refusal(is_soap(&facts)),
            reason: EXPIRED,
        },
    }
}

async fn forbidden(
    mut policies: watch::Receiver<Arc<ActivePolicy>>,
    facts: CallFacts<'_>,
) -> Refusal {
    while policies.changed().await.is_ok() {
        let policy = policies.borrow_and_update().clone();
        if let Some(denial) = denial(&policy, &facts) {
            return denied(&denial, &policy, &facts);
        }
    }
    // The agent ends, and nothing will change any more.
    std::future::pending().await
}

/// Why a call, or a connection whose calls are decided on one by one, is not allowed any more.
fn denial<'p>(policy: &'p ActivePolicy, facts: &CallFacts<'_>) -> Option<Denial<'p>> {
    if facts.is_connection() {
        return policy.policy.decide_connection(facts).err();
    }
    match policy.policy.decide(facts) {
        Decision::Deny(denial) => Some(denial),
        Decision::Allow(_) => None,
    }
}

/// What the audit log calls it when a call ends because its caller's credential has expired.
pub(super) const EXPIRED: &str = "credential-expired";

/// Whether a call that the relay gives up now is one that it ends because the credential has expired.
pub(super) fn is_ended_by_relay(caller: &Principal) -> bool {
    // A second less: two programs may read one clock at different times.
    let grace = EXPIRY_GRACE.saturating_sub(Duration::from_secs(1));
    end(caller, grace).is_some_and(|end| end <= SystemTime::now())
}

/// When the credential has been void for so long; `None`: the clock does not count that far.
fn end(caller: &Principal, grace: Duration) -> Option<SystemTime> {
    let end = Duration::from_secs(caller.expires).checked_add(grace)?;
    UNIX_EPOCH.checked_add(end)
}

/// Completes when the credential has been void for [`GRACE`].
async fn expired(caller: &Principal) {
    let Some(end) = end(caller, GRACE) else {
        return std::future::pending().await;
    };
    while let Ok(left) = end.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        sleep(left.min(LOOK)).await;
    }
}

fn expired_refusal(soap: bool) -> Refusal {
    let detail = "The caller's credential expired while the call was in progress; \
                  call again with a new one. If it is new, the agent's clock is ahead.";
    Refusal {
        code: ErrorCode::CallerUnverified,
        detail: detail.to_owned(),
        rule: None,
        soap,
    }
}
