//! What a node knows of a live session.

use std::sync::{Mutex, MutexGuard, PoisonError};

use culvert_proto::control::{Control, Hello};
use culvert_proto::limits::MAX_REASON;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_session::Session;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::directory::SessionId;
use crate::listener::Peer;

/// What there is to know of a live session.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: SessionId,
    pub(crate) tenant: TenantName,
    /// `sub` of the agent's token.
    pub(crate) subject: String,
    pub(crate) peer: Peer,
    pub(crate) since: Instant,
    pub(crate) session: Session,
    /// A newer session has its place: it ends with its last call.
    pub(crate) replaced: CancellationToken,
    pub(crate) state: Mutex<RecordState>,
}

/// The part of a [`Record`] that changes.
#[derive(Debug, Clone)]
pub(crate) struct RecordState {
    /// The agent's greeting, once it came.
    pub(crate) hello: Option<Hello>,
    /// Endpoints that are registered now.
    pub(crate) endpoints: Vec<EndpointName>,
    /// When the token expires, in seconds since the Unix epoch.
    pub(crate) token_expires: u64,
    /// The session whose place it took.
    pub(crate) replaces: Option<SessionId>,
    /// The session that took its place.
    pub(crate) replaced_by: Option<SessionId>,
    /// When it was last told that others share its calls.
    pub(crate) told_of_sharing: Option<Instant>,
}

impl Record {
    pub(crate) fn state(&self) -> MutexGuard<'_, RecordState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the agent something that asks nothing of it. What it does not read now, it misses.
    pub(super) fn inform(&self, mut text: String) {
        text.truncate(text.floor_char_boundary(MAX_REASON));
        let _ = self
            .session
            .send_control(&Control::Notice { code: None, text });
    }
}
