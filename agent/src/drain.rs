//! The end of an agent: no new calls, time for those in progress, then the end.

use std::time::Duration;

use culvert_proto::code::GoawayCode;
use culvert_session::Session;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// How long a relay may take to hear of a drain; and to end a session on which everything is done: it
/// may still be reading the last bytes of an answer, which a session that ends under it would cut off.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// How long a closed session may take to tell its relay so.
const FAREWELL: Duration = Duration::from_secs(1);

/// How often the streams of a session are counted while the last bytes go out.
const TICK: Duration = Duration::from_millis(50);

/// Drains every session: the relays are asked to open no more calls here; those in progress, and those
/// that come before a relay has heard so, have `limit` to finish, and are broken off after it, or once
/// there is a `hurry`.
pub(crate) async fn drain(
    sessions: &[Session],
    calls: &TaskTracker,
    limit: Duration,
    hurry: impl Future<Output = ()>,
) {
    let in_progress = sessions.iter().map(Session::stream_count).sum::<usize>();
    let accepted = || {
        let accepted = sessions.iter().map(|session| session.stats().accepted);
        accepted.sum::<u64>()
    };
    let before = accepted();
    tracing::info!(sessions = sessions.len(), calls = in_progress, "draining");
    sessions
        .iter()
        .for_each(|session| session.drain(Duration::ZERO));
    calls.close();
    let done = async {
        calls.wait().await;
        for session in sessions {
            emptied(session).await;
        }
    };
    let broken_off = tokio::select! {
        biased;
        () = done => None,
        () = sleep(limit) => Some("the time is up"),
        () = hurry => Some("asked again"),
    };
    match broken_off {
        None => {
            if in_progress > 0 || accepted() > before {
                ended(sessions, LINGER).await;
            }
            tracing::info!("every call has finished");
        }
        Some(why) => tracing::warn!(calls = calls.len(), "calls are broken off: {why}"),
    }
    for session in sessions {
        session.close(GoawayCode::Drain, "the agent has ended");
    }
    ended(sessions, FAREWELL).await;
    // Calls that were broken off write their audit lines now.
    let _ = timeout(FAREWELL, calls.wait()).await;
}

/// Completes when a session that drains has no stream any more: its relay opens none, and the last
/// bytes of every answer are out.
pub(crate) async fn emptied(session: &Session) {
    let heard = async {
        while !session.is_drained() {
            sleep(TICK).await;
        }
    };
    // One that does not answer is hardly there.
    let _ = timeout(LINGER, heard).await;
    while session.is_open() && session.stream_count() > 0 {
        sleep(TICK).await;
    }
}

/// Waits until every session has ended, but not longer than `limit`.
async fn ended(sessions: &[Session], limit: Duration) {
    let all = async {
        for session in sessions {
            session.closed().await;
        }
    };
    let _ = timeout(limit, all).await;
}
