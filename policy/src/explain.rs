//! The decision in words: for people who write rules.

use std::fmt;

use crate::decide::{Decision, DenyReason};
use crate::facts::{CallFacts, Soap};
use crate::matching::{Key, Rule};
use crate::rule::{Action, RuleSpec, SoapOps};

/// What was decided and why, rule by rule. Its `Display` is what `policy explain` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub outcome: Outcome,
    /// Every rule, in the order of the file.
    pub rules: Vec<RuleExplanation>,
    /// Every rule again, about the call's destination, where it has one.
    pub at_destination: Option<Vec<RuleExplanation>>,
}

/// A decision without its permit: it explains, it does not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The call would be allowed.
    Allow {
        /// By this rule.
        rule: String,
        /// And by this one at the destination, where it has one.
        destination_rule: Option<String>,
    },
    /// The call would be denied.
    Deny {
        /// By this rule, where there is one.
        rule: Option<String>,
        /// Why.
        reason: DenyReason,
        /// Whether it is about the destination.
        at_destination: bool,
    },
}

/// What one rule said to the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleExplanation {
    /// The rule's id.
    pub id: String,
    /// What the rule does.
    pub action: Action,
    /// Whether the rule is applied, or a shadow rule.
    pub enforce: bool,
    /// The keys that did not match; the rule matches where there are none.
    pub mismatches: Vec<Mismatch>,
}

/// A key of a rule that did not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The key.
    pub key: Key,
    /// What the call has.
    pub found: String,
    /// What the rule wants.
    pub expected: String,
}

impl Explanation {
    pub(crate) fn new(
        rules: &[Rule],
        decision: &Decision<'_>,
        call: &CallFacts<'_>,
        there: Option<&CallFacts<'_>>,
    ) -> Self {
        let outcome = match decision {
            Decision::Allow(permit) => Outcome::Allow {
                rule: permit.rule().to_string(),
                destination_rule: permit.destination_rule().map(|rule| rule.to_string()),
            },
            Decision::Deny(denial) => Outcome::Deny {
                rule: denial.rule().map(|rule| rule.to_string()),
                reason: denial.reason(),
                at_destination: denial.is_at_destination(),
            },
        };
        let explained = |call: &CallFacts<'_>| {
            let rules = rules.iter();
            rules.map(|rule| RuleExplanation::new(rule, call)).collect()
        };
        Self {
            outcome,
            rules: explained(call),
            at_destination: there.map(explained),
        }
    }

    /// What is left of it for somebody who expected another decision: the rules that match, the one that was to
    /// decide (`wanted`), and where none decides the allow rules that lack least.
    pub fn telling(mut self, wanted: Option<&str>) -> Self {
        keep_telling(&mut self.rules, wanted);
        if let Some(there) = &mut self.at_destination {
            keep_telling(there, wanted);
        }
        self
    }

    /// What the rules say, one after the other.
    pub fn rules_in_words(&self) -> String {
        let mut words: String = self.rules.iter().map(ToString::to_string).collect();
        if let Some(there) = &self.at_destination {
            words.push_str("at the destination:\n");
            words.extend(there.iter().map(ToString::to_string));
        }
        words
    }
}

/// Most rules that are shown because they lack least.
const NEAREST: usize = 3;

fn keep_telling(rules: &mut Vec<RuleExplanation>, wanted: Option<&str>) {
    let decides = |rule: &RuleExplanation| rule.enforce && rule.matches();
    // Who writes a rule begins with its path: one for another path is further away than any for this one.
    let lacks = |rule: &RuleExplanation| {
        let of_path = |lack: &Mismatch| lack.key == Key::Path;
        let elsewhere = rule.mismatches.iter().any(of_path);
        (rule.action == Action::Allow).then_some((elsewhere, rule.mismatches.len()))
    };
    let least = match rules.iter().any(decides) {
        true => None,
        false => rules.iter().filter_map(lacks).min(),
    };
    let mut left = NEAREST;
    rules.retain(|rule| {
        let is_near = left > 0 && least.is_some() && lacks(rule) == least;
        left -= usize::from(is_near);
        is_near || rule.matches() || wanted == Some(&rule.id)
    });
}

impl RuleExplanation {
    fn new(rule: &Rule, call: &CallFacts<'_>) -> Self {
        let missed = Key::ALL
            .into_iter()
            .filter(|key| !rule.key_matches(*key, call));
        Self {
            id: rule.spec.id.clone(),
            action: rule.spec.action,
            enforce: rule.spec.enforce,
            mismatches: missed
                .map(|key| Mismatch {
                    key,
                    found: found(key, call),
                    expected: expected(key, &rule.spec),
                })
                .collect(),
        }
    }

    /// Whether the rule matches the call.
    pub fn matches(&self) -> bool {
        self.mismatches.is_empty()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Allow {
                rule,
                destination_rule,
            } => {
                write!(f, "allow, by rule {rule:?}")?;
                if let Some(rule) = destination_rule {
                    write!(f, ", and by {rule:?} at the destination")?;
                }
                writeln!(f)?;
            }
            Outcome::Deny {
                rule,
                reason,
                at_destination,
            } => {
                match rule {
                    Some(rule) => write!(f, "deny, by rule {rule:?}")?,
                    None => write!(f, "deny: {reason}")?,
                }
                f.write_str(if *at_destination {
                    " (at the destination)\n"
                } else {
                    "\n"
                })?;
            }
        }
        f.write_str(&self.rules_in_words())
    }
}

impl fmt::Display for RuleExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shadow = if self.enforce { "" } else { ", not enforced" };
        let verdict = if self.matches() {
            "matches"
        } else {
            "does not match"
        };
        writeln!(
            f,
            "  {:?} ({}{shadow}) {verdict}",
            self.id,
            self.action.as_str()
        )?;
        for Mismatch {
            key,
            found,
            expected,
        } in &self.mismatches
        {
            writeln!(
                f,
                "    {}: the call has {found}, the rule wants {expected}",
                key.as_str()
            )?;
        }
        Ok(())
    }
}

/// What the call has under a key.
fn found(key: Key, call: &CallFacts<'_>) -> String {
    match key {
        Key::Endpoint => quoted(call.endpoint),
        Key::Mode => quoted(call.mode.as_str()),
        Key::Method => quoted(call.method),
        Key::Path => match call.target {
            Some(target) if call.soap == Soap::Json => format!(
                "{} (SOAP's JSON twin: a rule must name /sdk/vim25/ outright)",
                quoted(target.path())
            ),
            Some(target) => quoted(target.path()),
            None => format!("none in mode {}", call.mode.as_str()),
        },
        Key::Caller => quoted(call.caller),
        Key::Scope => list(call.scopes),
        Key::Query => match call.target.and_then(|target| target.query()) {
            Some(query) => quoted(query),
            None => "none".to_owned(),
        },
        Key::SoapOp => match call.soap {
            Soap::No => "no SOAP".to_owned(),
            Soap::Json => "a call of SOAP's JSON twin".to_owned(),
            Soap::Undetermined => "SOAP whose operation is not known".to_owned(),
            Soap::Operation { name, .. } if call.method != "POST" => format!(
                "{} by {} (SOAP is called by POST)",
                quoted(name),
                call.method
            ),
            Soap::Operation { name, .. } => quoted(name),
        },
        Key::SoapNs => match call.soap {
            Soap::No | Soap::Undetermined => "none".to_owned(),
            Soap::Json => quoted("urn:vim25"),
            Soap::Operation { ns, .. } => quoted(ns),
        },
        Key::Upgrade => call.upgrade.map_or_else(|| "no upgrade".to_owned(), quoted),
        Key::Source => match call.source {
            Some(address) => address.to_string(),
            None => "no known address".to_owned(),
        },
        Key::Host => call.host.map_or_else(|| "none".to_owned(), quoted),
        Key::Port => call
            .port
            .map_or_else(|| "none".to_owned(), |port| port.to_string()),
    }
}

/// What the rule wants under a key.
fn expected(key: Key, rule: &RuleSpec) -> String {
    match key {
        Key::Endpoint => list(&rule.endpoint),
        Key::Mode => list(rule.mode.iter().map(|mode| mode.as_str())),
        Key::Method => list(&rule.method),
        Key::Path => list(&rule.path),
        Key::Caller => list(&rule.caller),
        Key::Scope => list(&rule.scope),
        Key::Query => {
            let wanted = rule
                .query
                .iter()
                .map(|(name, values)| format!("{name} in {}", list(values)));
            format!(
                "{}, each exactly once",
                wanted.collect::<Vec<_>>().join(" and ")
            )
        }
        Key::SoapOp => match &rule.soap_op {
            None => "no SOAP (it has no soap_op)".to_owned(),
            Some(SoapOps::All) => "a SOAP call".to_owned(),
            Some(SoapOps::Names(names)) => list(names),
        },
        Key::SoapNs => rule.soap_ns.as_deref().map_or_else(String::new, quoted),
        Key::Upgrade if rule.upgrade.is_empty() => "no upgrade (it has no upgrade)".to_owned(),
        Key::Upgrade => list(&rule.upgrade),
        Key::Source => {
            let networks: Vec<_> = rule
                .source
                .iter()
                .map(|network| network.to_string())
                .collect();
            format!("[{}]", networks.join(", "))
        }
        Key::Host => list(&rule.host),
        Key::Port => format!("{:?}", rule.port),
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn list(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let items: Vec<_> = items
        .into_iter()
        .map(|item| quoted(item.as_ref()))
        .collect();
    format!("[{}]", items.join(", "))
}
