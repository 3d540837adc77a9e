//! What a node counts of the others of its cluster.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::OutcomeLabel;
use crate::peer::Carried;

/// What a node does with the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegistryWork {
    /// It says what it serves.
    Tell,
    /// It reads what others serve.
    Learn,
    /// It says and reads what is revoked.
    Revoke,
    /// It hears that something has changed.
    Hear,
}

impl RegistryWork {
    /// Each of them, in their order.
    pub(crate) const ALL: [Self; 4] = [Self::Tell, Self::Learn, Self::Revoke, Self::Hear];

    /// A word for metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Tell => "tell",
            Self::Learn => "learn",
            Self::Revoke => "revoke",
            Self::Hear => "hear",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Peers {
    /// Other nodes that are known.
    pub(crate) nodes: Gauge,
    /// Those among them that this node has a connection with.
    pub(crate) reached: Gauge,
    certificate_expiry: Family<NameLabel, Gauge>,
    carried: [Counter; Carried::ALL.len()],
    registry: [Work; RegistryWork::ALL.len()],
}

#[derive(Debug)]
struct Work {
    done: Counter,
    failed: Counter,
    well: AtomicBool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkLabels {
    work: &'static str,
    outcome: &'static str,
}

/// The name that the certificates of a cluster's nodes are for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabel {
    name: String,
}

impl Peers {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let carried = Family::<OutcomeLabel, Counter>::default();
        let works = Family::<WorkLabels, Counter>::default();
        let work = |work| {
            let counter = |outcome| works.get_or_create_owned(&WorkLabels { work, outcome });
            Work {
                done: counter("done"),
                failed: counter("failed"),
                well: AtomicBool::new(true),
            }
        };
        let new = Self {
            nodes: Gauge::default(),
            reached: Gauge::default(),
            certificate_expiry: Family::default(),
            carried: Carried::ALL.map(|outcome| {
                carried.get_or_create_owned(&OutcomeLabel {
                    outcome: outcome.as_str(),
                })
            }),
            registry: RegistryWork::ALL.map(|kind| work(kind.as_str())),
        };
        registry.register(
            "cluster_nodes",
            "Other nodes of the cluster",
            new.nodes.clone(),
        );
        registry.register(
            "cluster_nodes_reached",
            "Other nodes of the cluster that this one has a connection with",
            new.reached.clone(),
        );
        registry.register_with_unit(
            "peer_certificate_expiry_timestamp",
            "When the certificate that this node shows other nodes expires, in Unix time",
            Unit::Seconds,
            new.certificate_expiry.clone(),
        );
        registry.register("peer_calls", "Calls that other nodes passed on", carried);
        registry.register("registry_work", "Uses of the cluster's registry", works);
        new
    }

    /// When the certificate for a cluster's name expires. A node alone has none, and shows nothing.
    pub(crate) fn certificate_expiry(&self, name: &str) -> Gauge {
        let name = name.to_owned();
        self.certificate_expiry
            .get_or_create_owned(&NameLabel { name })
    }

    pub(crate) fn on_call(&self, outcome: Carried) {
        self.carried[outcome as usize].inc();
    }

    /// Counts a use of the registry; says whether the one before went well.
    pub(crate) fn on_registry(&self, work: RegistryWork, well: bool) -> bool {
        let work = &self.registry[work as usize];
        if well { &work.done } else { &work.failed }.inc();
        work.well.swap(well, Ordering::Relaxed)
    }
}
