//! A running node, as its operators see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use culvert_identity::Verifier;
use tokio::time::Instant;

use crate::admin::status::State;
use crate::cluster::Neighbours;
use crate::directory::Directory;
use crate::drain::Ending;
use crate::metrics::Metrics;
use crate::revocations::Revocations;
use crate::sessions::Agents;
use crate::tenants::Tenants;

/// What there is to ask of a node, or to ask it to do.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) started: Instant,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) metrics: Arc<Metrics>,
    /// The other nodes; `None`: the node is alone.
    pub(crate) neighbours: Option<Arc<Neighbours>>,
    pub(crate) ending: Ending,
    /// Whether the public address is bound.
    pub(crate) listening: AtomicBool,
}

impl Node {
    /// What the node is up to, and what it waits for unless it is ready.
    pub(crate) fn state(&self) -> (State, Vec<String>) {
        if self.ending.drain.is_cancelled() {
            return (
                State::Draining,
                vec!["calls in flight: the node drains".into()],
            );
        }
        let mut waiting_for = Vec::new();
        if !self.listening.load(Ordering::Acquire) {
            waiting_for.push("the public listener".to_owned());
        }
        if !self.verifier.is_ready() {
            for issuer in self
                .verifier
                .status()
                .into_iter()
                .filter(|issuer| issuer.keys == 0)
            {
                let why = issuer
                    .error
                    .map(|error| format!(" ({error})"))
                    .unwrap_or_default();
                waiting_for.push(format!("the keys of issuer {}{why}", issuer.issuer));
            }
        }
        if waiting_for.is_empty() {
            (State::Ready, waiting_for)
        } else {
            (State::Starting, waiting_for)
        }
    }

    /// Whether the node takes calls.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state(), (State::Ready, _))
    }

    /// Every count, as OpenMetrics text.
    pub(crate) fn render_metrics(&self) -> Result<String, std::fmt::Error> {
        self.count_revocations();
        self.metrics.issuers.note(&self.verifier.status());
        // Counted now: sessions drain without a word to the directory.
        let served = i64::try_from(self.directory.served_here()).unwrap_or(i64::MAX);
        self.metrics.sessions.endpoints.set(served);
        // So are links: they come and go by themselves.
        if let Some(neighbours) = &self.neighbours {
            let links = neighbours.nodes();
            let reached = links.iter().filter(|node| node.link.answers()).count();
            let reached = i64::try_from(reached).unwrap_or(i64::MAX);
            self.metrics.peers.reached.set(reached);
        }
        self.metrics.render()
    }

    /// Counts what is withdrawn.
    pub(crate) fn count_revocations(&self) {
        let held = i64::try_from(self.revocations.len()).unwrap_or(i64::MAX);
        self.metrics.revocations.held.set(held);
    }

    /// Asks the node to stop in good order.
    pub(crate) fn ask_to_drain(&self) {
        self.ending.drain.cancel();
    }
}
