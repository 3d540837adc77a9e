//! The end of a node: no new work, what is in flight finishes, then everything closes.

#[cfg(test)]
mod tests;

use std::time::Duration;

use culvert_proto::code::GoawayCode;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::metrics::Metrics;
use crate::sessions::Agents;

/// How long callers' connections may wind down before agents are told to go elsewhere. A session
/// that was told so takes no further calls, and one or two may still be on their way to us.
const CALLERS_FIRST: Duration = Duration::from_secs(1);

/// How long closed connections may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// The way in which a node ends. Clones speak of the same node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// The node takes no new work: the listener closes, connections end after their calls.
    pub(crate) drain: CancellationToken,
    /// Whatever is left is broken off.
    pub(crate) force: CancellationToken,
    /// Callers' connections, until they are over or have become sessions.
    connections: TaskTracker,
    /// Sockets that are open, those of sessions too.
    sockets: TaskTracker,
}

impl Ending {
    /// Serves a connection in a task of its own, to its end or until it is broken off.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let force = self.force.clone();
        self.connections.spawn(async move {
            tokio::select! {
                biased;
                () = force.cancelled() => {}
                () = connection => {}
            }
        });
    }

    /// To be held by an open socket.
    pub(crate) fn socket(&self) -> TaskTrackerToken {
        self.sockets.token()
    }
}

/// Drains: returns once nothing is left, at the latest a few seconds after `limit`.
///
/// Callers go first, while sessions still take their calls; then agents are told to open sessions
/// elsewhere; at the limit, or when [`Ending::force`] says so, what is left is broken off.
pub(crate) async fn drain(ending: &Ending, agents: &Agents, metrics: &Metrics, limit: Duration) {
    let deadline = Instant::now() + limit;
    tracing::info!(
        calls = metrics.calls_in_flight(),
        sessions = agents.len(),
        limit_s = limit.as_secs(),
        "draining"
    );
    ending.drain.cancel();
    agents.refuse_new();
    ending.connections.close();
    ending.sockets.close();
    let patient = CALLERS_FIRST.min(limit);
    let callers_gone = timeout(patient, ending.connections.wait()).await.is_ok();
    agents.drain();
    if !callers_gone {
        tokio::select! {
            () = ending.force.cancelled() => {}
            _ = timeout_at(deadline, ending.connections.wait()) => {}
        }
    }
    let broken_off = metrics.calls_in_flight();
    if broken_off > 0 {
        tracing::warn!(calls = broken_off, "calls are broken off");
    }
    ending.force.cancel();
    agents.close(GoawayCode::Drain, "the relay stops");
    if timeout(GOODBYE, ending.sockets.wait()).await.is_err() {
        tracing::debug!("some connections did not say goodbye");
    }
    tracing::info!("drained");
}
