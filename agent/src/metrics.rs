//! What the agent counts: OpenMetrics, read from the admin listener.
//!
//! Handles of what every call counts are made once, here. Labels come from closed sets: the
//! configured endpoints, words of ours.

use std::collections::HashMap;
use std::fmt;

use culvert_config::endpoint::Endpoint;
use culvert_proto::names::EndpointName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::serve::Outcome;

/// In place of an endpoint's name, for those that the agent does not have: no endpoint can be named so.
const OTHERS: &str = "*";

/// Every count of one agent.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) calls_in_flight: Gauge,
    endpoints: HashMap<EndpointName, Decisions>,
    /// Endpoints that the agent does not have.
    others: Decisions,
    ends: [Counter; Outcome::ALL.len()],
    unverified: Family<ReasonLabel, Counter>,
    shadows: Family<RuleLabel, Counter>,
    /// Set whenever the metrics are read.
    pub(crate) read: Readings,
}

/// Calls of one endpoint, by what the policy decided.
#[derive(Debug)]
struct Decisions {
    allow: Counter,
    deny: Counter,
    none: Counter,
}

/// What is not counted but looked up when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    pub(crate) sessions: Gauge,
    pub(crate) registrations: Gauge,
    pub(crate) token_expiry: Gauge,
    pub(crate) audit_alarm: Gauge,
    pub(crate) audit_waiting: Gauge,
    pub(crate) audit_lines: Reading,
    pub(crate) audit_lost: Reading,
    pub(crate) policy_rules: Gauge,
    pub(crate) policy_reloads: Reading,
    pub(crate) policy_failures: Reading,
}

/// A count that is kept elsewhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading(Counter);

impl Reading {
    /// Takes over the count, which never goes down.
    pub(crate) fn set(&self, count: u64) {
        self.0
            .inner()
            .store(count, std::sync::atomic::Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    endpoint: String,
    decision: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// A rule of the policy's file, which its administrator has named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: String,
}

impl Metrics {
    /// The counts of an agent with these endpoints, all zero.
    pub(crate) fn new(endpoints: &[Endpoint]) -> Self {
        let mut registry = Registry::with_prefix("culvert_agent");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", version);
        let calls = Family::<CallLabels, Counter>::default();
        let decisions = |endpoint: &str| {
            let count = |decision| {
                let endpoint = endpoint.to_owned();
                calls.get_or_create_owned(&CallLabels { endpoint, decision })
            };
            Decisions {
                allow: count("allow"),
                deny: count("deny"),
                none: count("none"),
            }
        };
        let by_endpoint = |e: &Endpoint| (e.name.clone(), decisions(e.name.as_str()));
        let ends = Family::<OutcomeLabel, Counter>::default();
        let end = |outcome: Outcome| {
            let outcome = outcome.as_str();
            ends.get_or_create_owned(&OutcomeLabel { outcome })
        };
        let metrics = Self {
            calls_in_flight: Gauge::default(),
            endpoints: endpoints.iter().map(by_endpoint).collect(),
            others: decisions(OTHERS),
            ends: Outcome::ALL.map(end),
            unverified: Family::default(),
            shadows: Family::default(),
            read: Readings::default(),
            registry: Registry::default(),
        };
        registry.register(
            "calls_in_flight",
            "Calls that are not over",
            metrics.calls_in_flight.clone(),
        );
        registry.register(
            "calls",
            "Calls, by endpoint and what the policy decided",
            calls,
        );
        registry.register("call_ends", "Calls that are over, by how they ended", ends);
        registry.register(
            "callers_unverified",
            "Calls whose caller the agent could not verify, by why not",
            metrics.unverified.clone(),
        );
        registry.register(
            "shadow_hits",
            "Calls that a rule matched which is not enforced, by rule",
            metrics.shadows.clone(),
        );
        metrics.read.register(&mut registry);
        Self {
            registry,
            ..metrics
        }
    }

    /// A call is over.
    pub(crate) fn call_finished(
        &self,
        endpoint: &EndpointName,
        decision: &'static str,
        outcome: Outcome,
    ) {
        let decisions = self.endpoints.get(endpoint).unwrap_or(&self.others);
        match decision {
            "allow" => &decisions.allow,
            "deny" => &decisions.deny,
            _ => &decisions.none,
        }
        .inc();
        self.ends[outcome as usize].inc();
    }

    /// A caller could not be verified, for a reason out of a closed set.
    pub(crate) fn caller_unverified(&self, reason: &'static str) {
        self.unverified.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A rule that is not enforced matched a call.
    pub(crate) fn shadow_hit(&self, rule: &str) {
        let rule = rule.to_owned();
        self.shadows.get_or_create(&RuleLabel { rule }).inc();
    }

    /// Everything as OpenMetrics text.
    pub(crate) fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Readings {
    fn register(&self, registry: &mut Registry) {
        let gauges = [
            ("sessions", "Open sessions with relays", &self.sessions),
            (
                "registrations",
                "Endpoints that are registered, over all sessions",
                &self.registrations,
            ),
            (
                "token_expiry_seconds",
                "Seconds until the agent's own token expires; 0 without one",
                &self.token_expiry,
            ),
            (
                "audit_alarm",
                "Whether the audit log cannot be written",
                &self.audit_alarm,
            ),
            (
                "audit_waiting_lines",
                "Audit lines that wait to be written",
                &self.audit_waiting,
            ),
            ("policy_rules", "Rules in force", &self.policy_rules),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let counters = [
            ("audit_lines", "Audit lines written", &self.audit_lines),
            (
                "audit_lost_lines",
                "Audit lines that could not be written",
                &self.audit_lost,
            ),
            (
                "policy_reloads",
                "Policies that came into force after the first",
                &self.policy_reloads,
            ),
            (
                "policy_reload_failures",
                "Policies that were refused at reload",
                &self.policy_failures,
            ),
        ];
        for (name, help, Reading(counter)) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use culvert_config::endpoint::Trust;

    use super::*;
    use crate::testing::endpoint;

    #[test]
    fn what_is_no_endpoint_is_not_counted_as_one() {
        for name in ["other", "none", "unknown"] {
            let mut endpoint = endpoint("https://vc.example", Trust::SystemRoots);
            endpoint.name = EndpointName::new(name).unwrap();
            let metrics = Metrics::new(&[endpoint]);
            let stranger = EndpointName::new("stranger").unwrap();
            metrics.call_finished(&stranger, "none", Outcome::Refused);
            let text = metrics.render().unwrap();
            let own = format!("endpoint=\"{name}\",decision=\"none\"}} 0");
            assert!(text.contains(&own), "{text}");
        }
    }
}
