//! What is kept of calls when they are over: audit lines, counts, the last refusals.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use culvert_config::endpoint::Endpoint;
use serde::{Deserialize, Serialize};

use super::alarms::Alarms;
use crate::audit::Audit;
use crate::metrics::Metrics;

/// Refusals that are remembered for `status`.
const REMEMBERED: usize = 20;

/// Where calls are accounted for.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) audit: Audit,
    pub(crate) metrics: Metrics,
    pub(super) alarms: Alarms,
    refusals: Mutex<VecDeque<RefusedCall>>,
}

/// A call that got no answer, as far as an operator may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedCall {
    /// When, as RFC 3339.
    pub(crate) time: String,
    /// The call's id.
    pub(crate) call: String,
    /// The caller's subject.
    pub(crate) caller: String,
    /// The endpoint that was called.
    pub(crate) endpoint: String,
    /// The method.
    pub(crate) method: String,
    /// The target, secrets masked.
    pub(crate) target: String,
    /// The operation of a SOAP call.
    pub(crate) soap_op: Option<String>,
    /// The code that the caller was told.
    pub(crate) code: String,
    /// The rule that decided.
    pub(crate) rule: Option<String>,
    /// Why.
    pub(crate) reason: Option<String>,
}

impl Accounts {
    /// Over an audit log.
    pub(crate) fn new(audit: Audit, endpoints: &[Endpoint]) -> Self {
        Self {
            audit,
            metrics: Metrics::new(endpoints),
            alarms: Alarms::new(),
            refusals: Mutex::default(),
        }
    }

    /// Of a test: nobody writes the lines.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        let config = culvert_config::audit::AuditConfig::default();
        Self::new(Audit::new(&config), &[])
    }

    /// Remembers a refusal, in place of the oldest one.
    pub(super) fn remember(&self, refused: RefusedCall) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() == REMEMBERED {
            refusals.pop_front();
        }
        refusals.push_back(refused);
    }

    /// The last refusals, latest first.
    pub(crate) fn refusals(&self) -> Vec<RefusedCall> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.iter().rev().cloned().collect()
    }
}
