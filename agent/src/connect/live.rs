//! The sessions that are open, and what an operator may know of each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_session::Session;
use tokio::time::Instant;

/// A relay node's process.
pub(super) type NodeInstance = [u8; 16];

use crate::register::Registered;

/// The sessions that are open.
#[derive(Debug, Default)]
pub(crate) struct LiveSessions {
    sessions: Mutex<Vec<Arc<LiveSession>>>,
    trouble: Mutex<Option<String>>,
    /// The nodes that slots have chosen for their sessions, once for each.
    chosen: Mutex<Vec<NodeInstance>>,
}

/// A slot's choice of a node, until it is dropped.
#[derive(Debug)]
pub(super) struct Choice {
    sessions: Arc<LiveSessions>,
    node: NodeInstance,
    /// Whether another slot has a session with the node too.
    pub(super) shared: bool,
}

impl Drop for Choice {
    fn drop(&mut self) {
        let mut chosen = lock(&self.sessions.chosen);
        if let Some(at) = chosen.iter().position(|node| *node == self.node) {
            chosen.swap_remove(at);
        }
    }
}

/// One session.
#[derive(Debug)]
pub(crate) struct LiveSession {
    pub(crate) session: Session,
    /// The relay node's name, fit for a log.
    pub(crate) node: Arc<str>,
    pub(crate) since: Instant,
    registered: Mutex<Vec<Registered>>,
    notice: Mutex<Option<Notice>>,
}

/// What a relay said, fit for a log.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    pub(crate) text: String,
    pub(crate) at: Instant,
}

impl LiveSession {
    /// What the relay said to the last registration.
    pub(crate) fn registered(&self) -> Vec<Registered> {
        lock(&self.registered).clone()
    }

    /// What the relay said last.
    pub(crate) fn notice(&self) -> Option<Notice> {
        lock(&self.notice).clone()
    }

    pub(super) fn on_notice(&self, text: String) {
        let at = Instant::now();
        *lock(&self.notice) = Some(Notice { text, at });
    }

    pub(super) fn on_registered(&self, results: &[Registered]) {
        *lock(&self.registered) = results.to_vec();
    }
}

impl LiveSessions {
    /// Chooses a node for a session; `None` if another slot has one there and that is not to be.
    pub(super) fn choose(self: &Arc<Self>, node: NodeInstance, may_share: bool) -> Option<Choice> {
        let mut chosen = lock(&self.chosen);
        let shared = chosen.contains(&node);
        if shared && !may_share {
            return None;
        }
        chosen.push(node);
        drop(chosen);
        Some(Choice {
            sessions: self.clone(),
            node,
            shared,
        })
    }

    /// How many relay nodes the slots' sessions are with.
    pub(crate) fn nodes(&self) -> usize {
        let mut chosen = lock(&self.chosen).clone();
        chosen.sort_unstable();
        chosen.dedup();
        chosen.len()
    }

    pub(super) fn add(&self, session: &Session, node: Arc<str>) -> Arc<LiveSession> {
        let live = Arc::new(LiveSession {
            session: session.clone(),
            node,
            since: Instant::now(),
            registered: Mutex::default(),
            notice: Mutex::default(),
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
