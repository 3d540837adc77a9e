//! Sessions over several connections: which session a further connection may join, and what
//! becomes of it there.
//!
//! A connection is authenticated before anybody knows what it is. Only its greeting says that it
//! joins a session, and then everything must fit at once: tenant and subject of the connection's
//! own token, the agent's process and the session's id are one key, so whatever does not fit is
//! simply not found.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use culvert_process::words::sentence;
use culvert_proto::code::{ErrorCode, GoawayCode};
use culvert_proto::control::{Control, Hello, Lane, LaneId};
use culvert_proto::mux::LANES;
use culvert_proto::names::TenantName;
use culvert_session::{Controls, JoinError, Session, SessionError, SessionEvent};

use super::Record;
use super::keeper::every_call_done;
use crate::directory::SessionId;

/// What a connection is told whose session is not here, whatever the reason.
const NOT_HERE: &str = "this relay node has no such session of this agent";

/// The sessions that further connections may join.
pub(crate) struct Joinable {
    /// How many connections a session may have.
    most: usize,
    sessions: Mutex<HashMap<Key, (SessionId, Session)>>,
}

/// Everything that must be the same for a connection to belong to a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    tenant: TenantName,
    subject: String,
    instance: [u8; 16],
    id: LaneId,
}

impl Key {
    fn new(record: &Record, hello: &Hello, id: LaneId) -> Self {
        Self {
            tenant: record.tenant.clone(),
            subject: record.subject.clone(),
            instance: hello.instance,
            id,
        }
    }
}

/// What a greeting makes of a connection.
pub(crate) enum Place {
    /// A session of its own; others may join it if there is a key.
    Session(Option<Key>),
    /// One more connection of the session with this key.
    Lane(Key),
}

impl Place {
    /// What `hello` says. Where not both sides have the feature, it says nothing.
    pub(crate) fn of(record: &Record, hello: &Hello) -> Self {
        let lane = hello
            .lane
            .filter(|_| record.session.features() & LANES != 0);
        match lane {
            None => Self::Session(None),
            Some(Lane::First(id)) => Self::Session(Some(Key::new(record, hello, id))),
            Some(Lane::Joins(id)) => Self::Lane(Key::new(record, hello, id)),
        }
    }
}

impl Joinable {
    /// No sessions yet; each may have so many connections, itself included.
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most: most as usize,
            sessions: Mutex::default(),
        }
    }

    /// The optional features that agents are told of.
    pub(crate) fn features(&self) -> u64 {
        if self.most > 1 { LANES } else { 0 }
    }

    /// Lets others join a session. Of two with the same key, which only an agent that mixes up
    /// its own sessions has, the older one stays.
    pub(crate) fn offer(&self, key: &Key, record: &Record) {
        self.lock()
            .entry(key.clone())
            .or_insert_with(|| (record.id, record.session.clone()));
    }

    /// Takes back what [`offer`](Self::offer) did.
    pub(crate) fn withdraw(&self, key: &Key, id: SessionId) {
        let mut sessions = self.lock();
        if sessions.get(key).is_some_and(|(known, _)| *known == id) {
            sessions.remove(key);
        }
    }

    /// Makes a connection one of the session with this key; says which that is, or what the
    /// agent is to be told.
    pub(crate) fn join(&self, key: &Key, lane: &Session) -> Result<SessionId, &'static str> {
        let found = self.lock().get(key).cloned();
        let (id, session) = found.ok_or(NOT_HERE)?;
        match session.join(lane, self.most) {
            Ok(()) => Ok(id),
            Err(JoinError::Ending) => Err("the session is ending"),
            Err(JoinError::Full) => Err("the session has as many connections as it may"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (SessionId, Session)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after a connection that has joined `session`, until it ends.
pub(crate) async fn keep(
    session: SessionId,
    lane: &Session,
    controls: &mut Controls,
) -> SessionError {
    let mut leaving = false;
    loop {
        tokio::select! {
            event = controls.recv() => match event {
                None => break,
                Some(SessionEvent::Draining { .. }) => leaving = true,
                Some(SessionEvent::Control(Control::Notice { code, text })) => tracing::debug!(
                    %session,
                    code = code.map(ErrorCode::as_str),
                    text = %sentence(&text),
                    "the agent says on a lane"
                ),
                Some(SessionEvent::Control(_)) => {
                    let reason = "registration and tokens belong on the first connection";
                    lane.close(GoawayCode::Protocol, reason);
                    break;
                }
            },
            () = every_call_done(lane), if leaving => {
                lane.close(GoawayCode::Drain, "every call is done");
                break;
            }
        }
    }
    lane.closed().await
}
