//! What a node counts of who may do what: strangers, issuers of tokens, quotas, revocations.

use culvert_identity::IssuerStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::OutcomeLabel;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabel {
    issuer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuotaLabel {
    quota: &'static str,
}

/// What was refused to those who had not proved who they are.
#[derive(Debug)]
pub(crate) struct StrangerCounts {
    /// Closed: no valid credential in time.
    pub(crate) overdue: Counter,
    /// Credentials that were not verified: too many wrong ones came from there, or were being verified
    /// for it.
    pub(crate) rate_limited: Counter,
}

impl StrangerCounts {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self {
            overdue: Counter::default(),
            rate_limited: Counter::default(),
        };
        registry.register(
            "unauthenticated_closes",
            "Connections that were closed for want of a valid credential in time",
            new.overdue.clone(),
        );
        registry.register(
            "rate_limited",
            "Credentials that were not verified because too many wrong ones came from their source, or \
             too many were being verified for it",
            new.rate_limited.clone(),
        );
        new
    }
}

/// How the issuers of tokens are doing, as of the last look.
#[derive(Debug)]
pub(crate) struct Issuers {
    keys: Family<IssuerLabel, Gauge>,
    failing: Family<IssuerLabel, Gauge>,
}

impl Issuers {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self {
            keys: Family::default(),
            failing: Family::default(),
        };
        registry.register("issuer_keys", "Keys that are known", new.keys.clone());
        let help = "Whether the last attempt to fetch keys failed";
        registry.register("issuer_failing", help, new.failing.clone());
        new
    }

    /// Notes how they are doing. Who they are is the configuration's to say.
    pub(crate) fn note(&self, issuers: &[IssuerStatus]) {
        for issuer in issuers {
            let label = IssuerLabel {
                issuer: issuer.issuer.clone(),
            };
            let keys = i64::try_from(issuer.keys).unwrap_or(i64::MAX);
            self.keys.get_or_create(&label).set(keys);
            let failing = i64::from(issuer.error.is_some());
            self.failing.get_or_create(&label).set(failing);
        }
    }
}

/// What a tenant may have so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuotaKind {
    Calls,
    CallRate,
    Sessions,
    Endpoints,
    Names,
}

/// Refusals because a tenant's quota was used up.
#[derive(Debug)]
pub(crate) struct Quotas {
    calls: Counter,
    call_rate: Counter,
    sessions: Counter,
    endpoints: Counter,
    names: Counter,
}

impl Quotas {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let refusals = Family::<QuotaLabel, Counter>::default();
        let counter = |quota| refusals.get_or_create_owned(&QuotaLabel { quota });
        let new = Self {
            calls: counter("calls"),
            call_rate: counter("call-rate"),
            sessions: counter("sessions"),
            endpoints: counter("endpoints"),
            names: counter("names"),
        };
        let help = "Refusals because a tenant's quota was used up";
        registry.register("quota_refusals", help, refusals);
        new
    }

    pub(crate) fn on_refused(&self, quota: QuotaKind) {
        match quota {
            QuotaKind::Calls => &self.calls,
            QuotaKind::CallRate => &self.call_rate,
            QuotaKind::Sessions => &self.sessions,
            QuotaKind::Endpoints => &self.endpoints,
            QuotaKind::Names => &self.names,
        }
        .inc();
    }
}

/// What operators have withdrawn, and what became of it.
#[derive(Debug)]
pub(crate) struct Revoked {
    /// Revocations that hold.
    pub(crate) held: Gauge,
    pub(crate) ended_sessions: Counter,
    pub(crate) ended_calls: Counter,
    pub(crate) refused_sessions: Counter,
    pub(crate) refused_calls: Counter,
}

impl Revoked {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let outcomes = Family::<OutcomeLabel, Counter>::default();
        let counter = |outcome| outcomes.get_or_create_owned(&OutcomeLabel { outcome });
        let new = Self {
            held: Gauge::default(),
            ended_sessions: counter("session-ended"),
            ended_calls: counter("call-ended"),
            refused_sessions: counter("session-refused"),
            refused_calls: counter("call-refused"),
        };
        registry.register("revocations", "Revocations that hold", new.held.clone());
        registry.register(
            "revoked",
            "Sessions and calls that a revocation ended or refused",
            outcomes,
        );
        new
    }
}
