//! What a node counts of handshakes.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug)]
pub(crate) struct HandshakeCounts {
    /// Worked on now.
    pub(crate) working: Gauge,
    /// Waiting for their turn.
    pub(crate) waiting: Gauge,
    /// Turned away: it was not their turn in time.
    pub(crate) late: Counter,
}

/// Counts one that waits, as long as it lives.
pub(crate) struct Waiting(Gauge);

impl HandshakeCounts {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self {
            working: Gauge::default(),
            waiting: Gauge::default(),
            late: Counter::default(),
        };
        registry.register(
            "handshakes",
            "Handshakes that are worked on",
            new.working.clone(),
        );
        registry.register(
            "handshakes_waiting",
            "Handshakes that wait for their turn",
            new.waiting.clone(),
        );
        registry.register(
            "handshakes_late",
            "Handshakes that were turned away because their turn did not come in time",
            new.late.clone(),
        );
        new
    }

    /// One waits from now on.
    pub(crate) fn wait(&self) -> Waiting {
        self.waiting.inc();
        Waiting(self.waiting.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}
