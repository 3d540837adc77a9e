//! What a node counts of agents' sessions, and of their further connections.

use culvert_proto::code::GoawayCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::OutcomeLabel;

/// Why an agent got no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Not a handshake of ours.
    Handshake,
    /// No valid token, or not verified because of what else came from there.
    Unauthenticated,
    /// A token that may not register, or is revoked.
    Forbidden,
    /// Its tenant has as many sessions as it may.
    QuotaExceeded,
    /// The limit of sessions is reached, or the node drains.
    Overloaded,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) open: Gauge,
    pub(crate) opened: Counter,
    pub(crate) endpoints: Gauge,
    pub(crate) renewals: Counter,
    pub(crate) refused_renewals: Counter,
    handshake: Counter,
    unauthenticated: Counter,
    forbidden: Counter,
    quota_exceeded: Counter,
    overloaded: Counter,
    ended: Family<ReasonLabel, Counter>,
}

impl Sessions {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let refusals = Family::<ReasonLabel, Counter>::default();
        let refusal = |reason| refusals.get_or_create_owned(&ReasonLabel { reason });
        let renewals = Family::<OutcomeLabel, Counter>::default();
        let renewal = |outcome| renewals.get_or_create_owned(&OutcomeLabel { outcome });
        let new = Self {
            open: Gauge::default(),
            opened: Counter::default(),
            endpoints: Gauge::default(),
            renewals: renewal("renewed"),
            refused_renewals: renewal("refused"),
            handshake: refusal("handshake"),
            unauthenticated: refusal("unauthenticated"),
            forbidden: refusal("forbidden"),
            quota_exceeded: refusal("quota-exceeded"),
            overloaded: refusal("overloaded"),
            ended: Family::default(),
        };
        registry.register("sessions", "Sessions of agents", new.open.clone());
        registry.register(
            "session_opens",
            "Sessions that agents opened",
            new.opened.clone(),
        );
        registry.register(
            "session_refusals",
            "Sessions that agents were refused",
            refusals,
        );
        registry.register("session_ends", "Sessions that ended", new.ended.clone());
        registry.register(
            "session_renewals",
            "Tokens renewed within a session",
            renewals,
        );
        registry.register(
            "endpoints",
            "Endpoints for which a session takes calls",
            new.endpoints.clone(),
        );
        new
    }

    pub(crate) fn on_refused(&self, refused: Refused) {
        match refused {
            Refused::Handshake => &self.handshake,
            Refused::Unauthenticated => &self.unauthenticated,
            Refused::Forbidden => &self.forbidden,
            Refused::QuotaExceeded => &self.quota_exceeded,
            Refused::Overloaded => &self.overloaded,
        }
        .inc();
    }

    /// A session ended, with a GOAWAY where there was one.
    pub(crate) fn on_end(&self, code: Option<GoawayCode>) {
        let reason = code.map_or("disconnected", GoawayCode::as_str);
        self.ended.get_or_create(&ReasonLabel { reason }).inc();
    }
}

/// Further connections of sessions.
#[derive(Debug)]
pub(crate) struct Lanes {
    open: Gauge,
    taken: Counter,
    pub(crate) refused: Counter,
}

/// Held while a lane is open.
#[derive(Debug)]
pub(crate) struct OpenLane<'a>(&'a Gauge);

impl Drop for OpenLane<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Lanes {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let joins = Family::<OutcomeLabel, Counter>::default();
        let join = |outcome| joins.get_or_create_owned(&OutcomeLabel { outcome });
        let new = Self {
            open: Gauge::default(),
            taken: join("joined"),
            refused: join("refused"),
        };
        registry.register(
            "lanes",
            "Connections of sessions beyond each one's first",
            new.open.clone(),
        );
        registry.register(
            "lane_joins",
            "Connections that asked to join a session",
            joins,
        );
        new
    }

    /// A lane joined a session; it is open until what this gives is dropped.
    pub(crate) fn joined(&self) -> OpenLane<'_> {
        self.taken.inc();
        self.open.inc();
        OpenLane(&self.open)
    }
}
