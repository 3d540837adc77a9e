//! What the policy says of a call, and what its caller is told of it.

use culvert_policy::{CallFacts, Decision, Denial, DenyReason, Permit, Soap};
use culvert_proto::code::ErrorCode;
use culvert_proto::head::{BodyLength, Refusal};

use super::audit::{Outcome, Record};
use super::failure::Failure;
use super::soap::Inspection;
use crate::policy::ActivePolicy;

/// What the audit log calls it when a body is longer than the rule allows.
pub(super) const MAX_BODY: &str = "max-body";

/// Asks the policy, and notes what it says.
pub(super) fn decide(
    policy: &ActivePolicy,
    facts: &CallFacts<'_>,
    length: BodyLength,
    record: &mut Record<'_>,
) -> Result<Permit, Failure> {
    let decision = policy.policy.decide(facts);
    record.note_shadow(decision.shadow());
    match decision {
        Decision::Deny(denial) => Err(refused(&denial, policy, facts, record)),
        Decision::Allow(permit) => {
            record.decision = "allow";
            record.rule = Some(permit.rule().clone());
            record.destination_rule = permit.destination_rule().cloned();
            let too_long = match (length, permit.max_body()) {
                (BodyLength::Exact(length), Some(limit)) => length > limit,
                _ => false,
            };
            let (reason, code, detail) = if too_long {
                (
                    MAX_BODY,
                    ErrorCode::PolicyDenied,
                    "The request's body is longer than the policy allows.".to_owned(),
                )
            } else if let Err(wait) = policy.count(&permit) {
                // Who comes a little early comes in vain.
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                (
                    "rate",
                    ErrorCode::QuotaExceeded,
                    format!(
                        "The rate that the policy allows is used up; try again in {seconds} s."
                    ),
                )
            } else {
                return Ok(permit);
            };
            record.reason = Some(reason.to_owned());
            let refusal = Refusal {
                code,
                detail,
                rule: None,
                soap: is_soap(facts),
            };
            Err(Failure::Refused(Outcome::Refused, refusal))
        }
    }
}

/// Asks the policy whether a connection may begin whose calls are decided on one by one.
pub(super) fn decide_connection(
    policy: &ActivePolicy,
    facts: &CallFacts<'_>,
    record: &mut Record<'_>,
) -> Result<(), Failure> {
    match policy.policy.decide_connection(facts) {
        Ok(rule) => {
            record.decision = "allow";
            record.rule = Some(rule.clone());
            Ok(())
        }
        Err(denial) => Err(refused(&denial, policy, facts, record)),
    }
}

/// Notes a denial, and what its caller is told.
fn refused(
    denial: &Denial<'_>,
    policy: &ActivePolicy,
    facts: &CallFacts<'_>,
    record: &mut Record<'_>,
) -> Failure {
    record.decision = "deny";
    record.rule = denial.rule().map(Into::into);
    let reason = denial.reason().as_str();
    record.reason = Some(if denial.is_at_destination() {
        format!("destination: {reason}")
    } else {
        reason.to_owned()
    });
    Failure::Refused(Outcome::Refused, denied(denial, policy, facts))
}

/// Adds to a refusal why no operation was found, where that is so.
pub(super) fn soap_problem(
    mut failure: Failure,
    inspection: &Inspection,
    record: &mut Record<'_>,
) -> Failure {
    if let (Failure::Refused(_, refusal), Some(problem)) = (&mut failure, inspection.problem()) {
        refusal.detail = format!("{} ({problem})", refusal.detail);
        record.reason = Some(format!("soap-undetermined: {problem}"));
    }
    failure
}

/// What the caller is told of a denial.
pub(super) fn denied(denial: &Denial<'_>, policy: &ActivePolicy, facts: &CallFacts<'_>) -> Refusal {
    let detail = match denial.reason() {
        DenyReason::Rule => "A rule of the data centre's policy denies this call.",
        DenyReason::NoRule => {
            "No rule of the data centre's policy allows this call; ask its operator for one."
        }
        DenyReason::SoapUndetermined => {
            "The SOAP operation could not be read from the beginning of the body, so that no rule \
             can allow this call."
        }
        DenyReason::NoTarget => "The call has no target to decide on.",
    };
    let place = if denial.is_at_destination() {
        " It is about the path in Destination."
    } else {
        ""
    };
    Refusal {
        code: ErrorCode::PolicyDenied,
        detail: format!("{detail}{place}"),
        rule: denial
            .rule()
            .filter(|_| policy.reveal_rule)
            .map(ToOwned::to_owned),
        soap: is_soap(facts),
    }
}

pub(super) fn is_soap(facts: &CallFacts<'_>) -> bool {
    matches!(facts.soap, Soap::Operation { .. } | Soap::Undetermined)
}
