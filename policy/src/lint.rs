//! What is probably wrong with a policy although it can be used: for whoever writes it.
//!
//! Decisions know nothing of this. Each finding has a code that stays the same from version to
//! version, so that scripts can wait for it.

use std::fmt;

use crate::canonical::PathOptions;
use crate::decide::Policy;
use crate::facts::Mode;
use crate::matching::Rule;
use crate::rule::Action;

mod cover;
mod rules;

/// Something that whoever wrote the policy probably did not mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub code: FindingCode,
    /// The rule that it is about, or the endpoint where it is about none.
    pub subject: String,
    /// What is so, and what to do about it.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            subject,
            message,
        } = self;
        write!(f, "{}: {subject:?}: {message}", code.as_str())
    }
}

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingCode {
    /// No call can match the rule.
    NeverMatches,
    /// Another rule matches everything that the rule matches, and decides before it.
    Shadowed,
    /// The rule allows every call to an endpoint.
    AllowAll,
    /// The rule allows every SOAP operation.
    AllOperations,
    /// An operation that vSphere does not have.
    UnknownOperation,
    /// A method that HTTP does not have.
    UnknownMethod,
    /// A glob of operations that stands for reads and changes at once.
    BroadGlob,
    /// A pattern of endpoints that the agent has none of, or a test's endpoint that it does not have.
    UnknownEndpoint,
    /// An endpoint that no rule allows a call to.
    EndpointWithoutRules,
    /// The rule opens every operation of SOAP's JSON twin.
    JsonTwin,
    /// The rule makes every path a SOAP path, so that no other body passes.
    SoapEverywhere,
}

impl FindingCode {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::NeverMatches,
        Self::Shadowed,
        Self::AllowAll,
        Self::AllOperations,
        Self::UnknownOperation,
        Self::UnknownMethod,
        Self::BroadGlob,
        Self::UnknownEndpoint,
        Self::EndpointWithoutRules,
        Self::JsonTwin,
        Self::SoapEverywhere,
    ];

    /// The word for scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverMatches => "never-matches",
            Self::Shadowed => "shadowed",
            Self::AllowAll => "allow-all",
            Self::AllOperations => "all-operations",
            Self::UnknownOperation => "unknown-operation",
            Self::UnknownMethod => "unknown-method",
            Self::BroadGlob => "broad-glob",
            Self::UnknownEndpoint => "unknown-endpoint",
            Self::EndpointWithoutRules => "endpoint-without-rules",
            Self::JsonTwin => "json-twin",
            Self::SoapEverywhere => "soap-everywhere",
        }
    }
}

/// An endpoint as the agent has it.
#[derive(Debug, Clone)]
pub struct LintEndpoint {
    /// Its name.
    pub name: String,
    /// How it can be called.
    pub modes: Vec<Mode>,
    /// What its paths may hold.
    pub paths: PathOptions,
}

impl Policy {
    /// What is probably wrong with the policy of an agent that has these endpoints. The first
    /// `own` rules are looked at; of the others, which come from presets, only what the policy
    /// has given them.
    pub fn lint(&self, own: usize, endpoints: &[LintEndpoint]) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        let all = self.compiled();
        for (at, rule) in all.iter().enumerate() {
            if at >= own {
                // One finding for all rules of a preset.
                let prefix = rule.id.split(':').next().unwrap_or_default();
                let mut about = Vec::new();
                rules::endpoints(rule, endpoints, &mut about);
                for mut finding in about {
                    finding.subject = prefix.to_owned();
                    if !findings.contains(&finding) {
                        findings.push(finding);
                    }
                }
                continue;
            }
            let before = findings.len();
            rules::check(rule, endpoints, &mut findings);
            let never = |finding: &Finding| finding.code == FindingCode::NeverMatches;
            if findings[before..].iter().any(never) {
                continue;
            }
            if let Some(other) = shadow(all, at) {
                let what = match (other.spec.action, rule.spec.action) {
                    (Action::Deny, Action::Allow) => "denies everything that this rule allows",
                    (_, _) => "decides every call that this rule matches",
                };
                findings.push(Finding {
                    code: FindingCode::Shadowed,
                    subject: rule.id.to_string(),
                    message: format!("rule {:?} {what}; remove one of them", other.id),
                });
            }
        }
        for endpoint in endpoints {
            let opened = all.iter().any(|rule| {
                rule.spec.action == Action::Allow
                    && rule.spec.enforce
                    && rules::is_for(rule, endpoint)
            });
            if !opened {
                findings.push(Finding {
                    code: FindingCode::EndpointWithoutRules,
                    subject: endpoint.name.clone(),
                    message: "no rule allows any call to this endpoint; every call is denied"
                        .to_owned(),
                });
            }
        }
        findings
    }
}

/// The rule that leaves nothing for the one at `at` to decide.
fn shadow(all: &[Rule], at: usize) -> Option<&Rule> {
    let rule = &all[at];
    if !rule.spec.enforce {
        return None;
    }
    all.iter().enumerate().find_map(|(other_at, other)| {
        let first = match (other.spec.action, rule.spec.action) {
            // A deny rule wins wherever it stands.
            (Action::Deny, Action::Allow) => true,
            (Action::Allow, Action::Deny) => false,
            (_, _) => other_at < at,
        };
        (first && other.spec.enforce && cover::covers(&other.spec, &rule.spec)).then_some(other)
    })
}

#[cfg(test)]
mod tests;
