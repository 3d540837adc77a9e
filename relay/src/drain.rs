//! The end of a node: no new work, what is in flight finishes, then everything closes.

#[cfg(test)]
mod tests;

use std::time::Duration;

use culvert_http::LAST_CALL;
use culvert_proto::code::GoawayCode;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::metrics::Metrics;
use crate::sessions::{Agents, SPREAD};

/// How long callers' connections may wind down before agents are told to go elsewhere. A session
/// that was told so takes no further calls, and some may still come on connections that are open.
const CALLERS_FIRST: Duration = LAST_CALL;

/// How long agents that have another node to go to may take to open their sessions there, before those here
/// end: the time over which they are spread, and some for the handshake.
const MOVING: Duration = SPREAD.saturating_add(Duration::from_secs(1));

/// How long callers whose calls were given up may take to hear why.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long closed connections may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// The way in which a node ends. Clones speak of the same node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// The node takes no new work: the listener closes, connections end after their calls.
    pub(crate) drain: CancellationToken,
    /// Agents and other nodes are told to go elsewhere: sessions take no further calls.
    pub(crate) moving: CancellationToken,
    /// Nothing is waited for any more.
    pub(crate) hurry: CancellationToken,
    /// Whatever is left is broken off.
    force: CancellationToken,
    /// Callers' connections, until they are over or have become sessions.
    connections: TaskTracker,
    /// Sockets that are open, those of sessions too.
    sockets: TaskTracker,
}

impl Ending {
    /// Carries a call in a task of its own, to its end or until it is broken off.
    pub(crate) fn spawn(&self, call: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(&Handle::current(), call);
    }

    /// Serves a connection in a task of its own on `worker`, to its end or until it is broken off.
    pub(crate) fn spawn_on(
        &self,
        worker: &Handle,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let force = self.force.clone();
        // What is moved into an async block and polled there has room twice.
        let connection = Box::pin(connection);
        let served = async move {
            tokio::select! {
                biased;
                () = force.cancelled() => {}
                () = connection => {}
            }
        };
        self.connections.spawn_on(served, worker);
    }

    /// Waits until no caller is left; says whether that was so in time.
    async fn callers_gone_by(&self, deadline: Instant) -> bool {
        tokio::select! {
            biased;
            () = self.connections.wait() => true,
            () = self.hurry.cancelled() => false,
            () = sleep_until(deadline) => false,
        }
    }

    /// Waits until then, unless nothing is to be waited for.
    async fn rest_until(&self, then: Instant) {
        tokio::select! {
            biased;
            () = self.hurry.cancelled() => {}
            () = sleep_until(then) => {}
        }
    }

    /// To be held by whoever may still bring connections: a drain waits for them.
    pub(crate) fn more_to_come(&self) -> TaskTrackerToken {
        self.connections.token()
    }

    /// To be held by an open socket.
    pub(crate) fn socket(&self) -> TaskTrackerToken {
        self.sockets.token()
    }
}

/// Drains: returns once nothing is left, at the latest a few seconds after `limit`.
///
/// Callers go first, those of other nodes too, while sessions still take their calls; then agents and nodes are
/// told to go elsewhere, and where there is an `elsewhere`, agents have the time for it. At the limit, or when [`Ending::hurry`] says so, calls that are left fail with a reason,
/// sessions end, and then everything is broken off.
pub(crate) async fn drain(
    ending: &Ending,
    agents: &Agents,
    metrics: &Metrics,
    limit: Duration,
    elsewhere: bool,
) {
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
    let callers_gone = ending.callers_gone_by(Instant::now() + patient).await;
    let moved = deadline.min(Instant::now() + MOVING);
    ending.moving.cancel();
    agents.drain();
    if !callers_gone && !ending.callers_gone_by(deadline).await {
        tracing::warn!(calls = metrics.calls_in_flight(), "calls are given up");
        // Before their sessions: none is to be tried again through another node.
        agents.give_up_calls();
    } else if elsewhere && !agents.is_empty() {
        ending.rest_until(moved).await;
    }
    agents.close(GoawayCode::Drain, "the relay stops");
    let _ = timeout(LAST_ANSWERS, ending.connections.wait()).await;
    ending.force.cancel();
    if timeout(GOODBYE, ending.sockets.wait()).await.is_err() {
        tracing::debug!("some connections did not say goodbye");
    }
    tracing::info!("drained");
}
