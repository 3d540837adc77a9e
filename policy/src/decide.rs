//! The decision.

use std::fmt;
use std::sync::Arc;

use crate::canonical::CanonicalTarget;
use crate::compile::{self, RuleError};
use crate::explain::Explanation;
use crate::facts::{CallFacts, Soap};
use crate::index::{Index, Rules};
use crate::look::{Look, SoapPaths};
use crate::matching::Rule;
use crate::rule::{Action, Rate, RuleSpec};

/// Compiled rules. Immutable; a reload makes a new one.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Box<[Rule]>,
    index: Index,
    soap_paths: SoapPaths,
}

/// What happens to a call.
#[derive(Debug)]
#[must_use]
pub enum Decision<'p> {
    /// The call may happen; the permit proves it.
    Allow(Permit),
    /// The call must not happen.
    Deny(Denial<'p>),
}

/// Proof that a call was decided on and allowed. Made by [`Policy::decide`] and by nothing else,
/// and not cloneable: one permit, one call.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    rule: Arc<str>,
    max_body: Option<u64>,
    rate: Option<Rate>,
    /// What allows a call at its destination, where it has one.
    there: Option<Box<Permit>>,
    shadow: Vec<ShadowHit>,
}

/// Why a call is denied.
#[derive(Debug)]
pub struct Denial<'p> {
    rule: Option<&'p str>,
    reason: DenyReason,
    at_destination: bool,
    shadow: Vec<ShadowHit>,
}

/// The kinds of denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// A deny rule matches.
    Rule,
    /// No rule matches.
    NoRule,
    /// The call is SOAP, and its operation could not be read.
    SoapUndetermined,
    /// The call has no target although its mode has one.
    NoTarget,
}

impl DenyReason {
    /// A bounded word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::NoRule => "no-rule",
            Self::SoapUndetermined => "soap-undetermined",
            Self::NoTarget => "no-target",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule => "a rule denies the call",
            Self::NoRule => "no rule allows the call",
            Self::SoapUndetermined => "the SOAP operation could not be read from the body",
            Self::NoTarget => "the call has no target to decide on",
        })
    }
}

/// A rule with `enforce = false` that matched: to be logged and counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowHit {
    /// The rule's id.
    pub rule: Arc<str>,
    /// What the rule would have done.
    pub action: Action,
}

impl Decision<'_> {
    /// Whether the call may happen.
    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The rule that decided; `None` where no rule did.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Allow(permit) => Some(&permit.rule),
            Self::Deny(denial) => denial.rule,
        }
    }

    /// The rule that allows a call at its destination.
    pub fn destination_rule(&self) -> Option<&str> {
        match self {
            Self::Allow(permit) => permit.destination_rule().map(|rule| &**rule),
            Self::Deny(_) => None,
        }
    }

    /// The shadow rules that matched, deny rules first, each kind in the order of the file.
    pub fn shadow(&self) -> &[ShadowHit] {
        match self {
            Self::Allow(permit) => &permit.shadow,
            Self::Deny(denial) => &denial.shadow,
        }
    }
}

impl Permit {
    /// The allow rule: the first, in the order of the file, that matches.
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }

    /// The rule that allows the call at its destination, where it has one.
    pub fn destination_rule(&self) -> Option<&Arc<str>> {
        self.there.as_deref().map(Self::rule)
    }

    /// Longest body that may be forwarded, in bytes: of two rules' limits the lower one.
    pub fn max_body(&self) -> Option<u64> {
        let there = self.there.as_ref().and_then(|there| there.max_body);
        [self.max_body, there].into_iter().flatten().min()
    }

    /// How many calls each of its rules allows, under the rule's id. The policy has no clock: whoever
    /// holds the permit counts the call, once for each of these.
    pub fn rates(&self) -> impl Iterator<Item = (&Arc<str>, Rate)> {
        let there = self.there.as_deref();
        let there = there.filter(|there| there.rule != self.rule);
        let rules = [Some(self), there].into_iter().flatten();
        rules.filter_map(|permit| Some((&permit.rule, permit.rate?)))
    }

    /// The shadow rules that matched.
    pub fn shadow(&self) -> &[ShadowHit] {
        &self.shadow
    }
}

impl<'p> Denial<'p> {
    /// The deny rule: the first, in the order of the file, that matches. `None` where the call
    /// is denied without one.
    pub fn rule(&self) -> Option<&'p str> {
        self.rule
    }

    /// What kind of denial it is.
    pub fn reason(&self) -> DenyReason {
        self.reason
    }

    /// Whether it is about the call's destination; its target is allowed then.
    pub fn is_at_destination(&self) -> bool {
        self.at_destination
    }

    /// The shadow rules that matched.
    pub fn shadow(&self) -> &[ShadowHit] {
        &self.shadow
    }
}

impl Policy {
    /// Compiles the rules of a policy, or returns everything that is wrong with them.
    pub fn compile(rules: Vec<RuleSpec>) -> Result<Self, Vec<RuleError>> {
        let rules: Box<[Rule]> = compile::compile(rules)?.into();
        let index = Index::new(&rules);
        let soap_paths = SoapPaths::of(&rules);
        Ok(Self {
            rules,
            index,
            soap_paths,
        })
    }

    /// A policy without rules: it denies every call.
    pub fn deny_all() -> Self {
        Self::default()
    }

    /// The rules as they were written, in the order of the file.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &RuleSpec> {
        self.rules.iter().map(|rule| &rule.spec)
    }

    /// How a call must be looked into before it is decided on: what goes to `/sdk`, or to a path
    /// that an enforced rule with `soap_op` names, by any method that brings a body. A call that has a body
    /// although its method is known for having none is to be asked about as a `POST`.
    pub fn look(&self, endpoint: &str, method: &str, target: &CanonicalTarget) -> Look {
        self.soap_paths.look(endpoint, method, target)
    }

    pub(crate) fn compiled(&self) -> &[Rule] {
        &self.rules
    }

    /// Decides on a call. Does not allocate, unless a shadow rule matches or the call has a destination.
    ///
    /// What is written to a destination may be what no rule lets be written: the same call must be allowed
    /// there, too, within the limits of the rule that allows it there.
    ///
    /// A call that [`look`](Self::look) would look into, and that nobody did look into, is
    /// undetermined, never "no SOAP": so a policy that came after the look is safe too. So is an
    /// operation on a path of the JSON twin, which names one itself.
    pub fn decide<'p>(&'p self, call: &CallFacts<'_>) -> Decision<'p> {
        let decision = self.decide_at_target(call);
        let Some(there) = call.at_destination() else {
            return decision;
        };
        match (decision, self.decide_at_target(&there)) {
            (denied @ Decision::Deny(_), _) => denied,
            (Decision::Allow(permit), Decision::Allow(mut second)) => Decision::Allow(Permit {
                shadow: both(permit.shadow, std::mem::take(&mut second.shadow)),
                there: Some(Box::new(second)),
                ..permit
            }),
            (Decision::Allow(permit), Decision::Deny(denial)) => Decision::Deny(Denial {
                at_destination: true,
                shadow: both(permit.shadow, denial.shadow),
                ..denial
            }),
        }
    }

    fn decide_at_target<'p>(&'p self, call: &CallFacts<'_>) -> Decision<'p> {
        let call = &self.looked_into(call);
        let index = &self.index;
        let path = call.target.map(|target| target.path());
        let folded = call.target.map(|target| target.folded_path());
        let mut shadow = Vec::new();
        self.note_hits(&index.shadow_deny, folded, call, &mut shadow);
        self.note_hits(&index.shadow_allow, path, call, &mut shadow);

        let (rule, reason) = if call.mode.has_target() && call.target.is_none() {
            (None, DenyReason::NoTarget)
        } else if let Some(at) = index.deny.first(&self.rules, folded, call) {
            (Some(&*self.rules[at].id), DenyReason::Rule)
        } else if call.soap == Soap::Undetermined {
            (None, DenyReason::SoapUndetermined)
        } else if let Some(at) = index.allow.first(&self.rules, path, call) {
            let Rule { id, spec, .. } = &self.rules[at];
            let (rule, max_body, rate) = (Arc::clone(id), spec.max_body, spec.rate);
            return Decision::Allow(Permit {
                rule,
                max_body,
                rate,
                there: None,
                shadow,
            });
        } else {
            (None, DenyReason::NoRule)
        };
        Decision::Deny(Denial {
            rule,
            reason,
            at_destination: false,
            shadow,
        })
    }

    /// Decides whether a connection may begin whose calls are decided on one by one (mode
    /// `terminate`): whether there is any call on it that could be allowed. Gives the first rule that
    /// allows some; there is no permit, for nothing of the connection itself is forwarded.
    ///
    /// A rule that denies every call of the connection denies it; one that denies some does not.
    pub fn decide_connection<'p>(
        &'p self,
        connection: &CallFacts<'_>,
    ) -> Result<&'p Arc<str>, Denial<'p>> {
        let found = |action| {
            self.rules.iter().find(|rule| {
                rule.spec.enforce
                    && rule.spec.action == action
                    && (action == Action::Allow || rule.is_about_connections())
                    && rule.may_match_on(connection)
            })
        };
        let denial = |rule, reason| Denial {
            rule,
            reason,
            at_destination: false,
            shadow: Vec::new(),
        };
        match (found(Action::Deny), found(Action::Allow)) {
            (Some(rule), _) => Err(denial(Some(&*rule.id), DenyReason::Rule)),
            (None, Some(rule)) => Ok(&rule.id),
            (None, None) => Err(denial(None, DenyReason::NoRule)),
        }
    }

    /// Decides on a call and says, for every rule, which keys did not match: at the target, and at the
    /// destination where there is one.
    pub fn explain(&self, call: &CallFacts<'_>) -> Explanation {
        let there = call.at_destination();
        Explanation::new(
            &self.rules,
            &self.decide(call),
            &self.looked_into(call),
            there.map(|there| self.looked_into(&there)).as_ref(),
        )
    }

    fn looked_into<'c>(&self, call: &CallFacts<'c>) -> CallFacts<'c> {
        let uncertain = call.target.is_some_and(|target| match call.soap {
            Soap::No => self.look(call.endpoint, call.method, target) != Look::No,
            // The path names an operation already, and nobody knows which one a server would take.
            Soap::Operation { .. } => target.twin_operation().is_some(),
            Soap::Json | Soap::Undetermined => false,
        });
        CallFacts {
            soap: if uncertain {
                Soap::Undetermined
            } else {
                call.soap
            },
            ..*call
        }
    }

    fn note_hits(
        &self,
        candidates: &Rules,
        path: Option<&str>,
        call: &CallFacts<'_>,
        hits: &mut Vec<ShadowHit>,
    ) {
        let mut found: Vec<usize> = Vec::new();
        candidates.visit(path, call, &mut |positions| {
            found.extend(positions.iter().filter(|&&at| self.rules[at].matches(call)));
        });
        found.sort_unstable();
        found.dedup();
        hits.extend(found.into_iter().map(|at| {
            let Rule { id, spec, .. } = &self.rules[at];
            ShadowHit {
                rule: Arc::clone(id),
                action: spec.action,
            }
        }));
    }
}

/// The shadow rules that matched at a target or at a destination, each once.
fn both(mut shadow: Vec<ShadowHit>, there: Vec<ShadowHit>) -> Vec<ShadowHit> {
    for hit in there {
        if !shadow.contains(&hit) {
            shadow.push(hit);
        }
    }
    shadow
}

#[cfg(test)]
mod tests;
