//! The end of an agent: no new calls, time for those in progress, then the end.

use std::time::Duration;

use culvert_proto::code::GoawayCode;
use culvert_session::Session;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// How long a closed session may take to tell its relay so.
const FAREWELL: Duration = Duration::from_secs(1);

/// Drains every session: the relays are asked to open no more calls here; those in progress have
/// `limit` to finish, and are broken off after it.
pub(crate) async fn drain(sessions: &[Session], calls: &TaskTracker, limit: Duration) {
    let in_progress = calls.len();
    tracing::info!(sessions = sessions.len(), calls = in_progress, "draining");
    sessions
        .iter()
        .for_each(|session| session.drain(Duration::ZERO));
    calls.close();
    match timeout(limit, calls.wait()).await {
        Ok(()) => tracing::info!("every call has finished"),
        Err(_) => tracing::warn!(calls = calls.len(), "calls are broken off: the time is up"),
    }
    for session in sessions {
        session.close(GoawayCode::Drain, "the agent has ended");
    }
    let farewell = async {
        for session in sessions {
            session.closed().await;
        }
    };
    if timeout(FAREWELL, farewell).await.is_err() {
        tracing::debug!("a relay took no notice of the end");
    }
    // Calls that were broken off write their audit lines now.
    let _ = timeout(FAREWELL, calls.wait()).await;
}
