//! The sessions that are open, and what an operator may know of each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_session::Session;
use tokio::time::Instant;

use crate::register::Registered;

/// The sessions that are open.
#[derive(Debug, Default)]
pub(crate) struct LiveSessions {
    sessions: Mutex<Vec<Arc<LiveSession>>>,
    trouble: Mutex<Option<String>>,
}

/// One session.
#[derive(Debug)]
pub(crate) struct LiveSession {
    pub(crate) session: Session,
    /// The relay node's name, fit for a log.
    pub(crate) node: Arc<str>,
    pub(crate) since: Instant,
    registered: Mutex<Vec<Registered>>,
}

impl LiveSession {
    /// What the relay said to the last registration.
    pub(crate) fn registered(&self) -> Vec<Registered> {
        lock(&self.registered).clone()
    }

    pub(super) fn on_registered(&self, results: &[Registered]) {
        *lock(&self.registered) = results.to_vec();
    }
}

impl LiveSessions {
    pub(super) fn add(&self, session: &Session, node: Arc<str>) -> Arc<LiveSession> {
        let live = Arc::new(LiveSession {
            session: session.clone(),
            node,
            since: Instant::now(),
            registered: Mutex::default(),
        });
        let mut sessions = lock(&self.sessions);
        sessions.retain(|live| live.session.is_open());
        sessions.push(live.clone());
        live
    }

    /// Every session that is open, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<LiveSession>> {
        let mut sessions = lock(&self.sessions);
        sessions.retain(|live| live.session.is_open());
        sessions.clone()
    }

    /// Handles of the sessions that are open.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        self.all().iter().map(|live| live.session.clone()).collect()
    }

    /// Why the last attempt at a session failed; `None` once one was established.
    pub(crate) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    pub(super) fn note_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
