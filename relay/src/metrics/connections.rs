//! What a node counts of connections, callers' and agents'.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::OutcomeLabel;

/// What happened to a TCP connection of a caller or an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It may speak HTTP: where there is TLS, that was established.
    Established,
    /// Closed at once: the limit of connections is reached.
    Shed,
    /// Closed at once: too many of its source's are unproven.
    SourceShed,
    /// A balancer did not say whose connection it is.
    NotIntroduced,
    /// Closed: it was not its turn in time.
    Late,
    /// No TLS in time, or a failed handshake.
    NoTls,
    /// The system had no file descriptor, or another error of `accept`.
    AcceptError,
}

#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) open: Gauge,
    established: Counter,
    shed: Counter,
    source_shed: Counter,
    not_introduced: Counter,
    late: Counter,
    no_tls: Counter,
    accept_error: Counter,
}

impl Connections {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let arrivals = Family::<OutcomeLabel, Counter>::default();
        let counter = |outcome| arrivals.get_or_create_owned(&OutcomeLabel { outcome });
        let open = Gauge::default();
        registry.register(
            "connections",
            "Callers' and agents' connections, those to listen.proxy included",
            open.clone(),
        );
        let new = Self {
            open,
            established: counter("established"),
            shed: counter("shed"),
            source_shed: counter("source-shed"),
            not_introduced: counter("not-introduced"),
            late: counter("late"),
            no_tls: counter("no-tls"),
            accept_error: counter("accept-error"),
        };
        registry.register(
            "arrivals",
            "What became of callers' and agents' connections as they came",
            arrivals,
        );
        new
    }

    pub(crate) fn on_arrival(&self, arrival: Arrival) {
        match arrival {
            Arrival::Established => &self.established,
            Arrival::Shed => &self.shed,
            Arrival::SourceShed => &self.source_shed,
            Arrival::NotIntroduced => &self.not_introduced,
            Arrival::Late => &self.late,
            Arrival::NoTls => &self.no_tls,
            Arrival::AcceptError => &self.accept_error,
        }
        .inc();
    }
}
