//! The other nodes of the cluster, as operators see them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::registry::Load;
use crate::metrics::RegistryWork;
use crate::peer::Link;

/// The other nodes as this one knows them.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    nodes: Vec<Neighbour>,
    /// What is wrong with each [`RegistryWork`]. An engine may let itself be read and not written.
    troubles: [Option<String>; 3],
}

/// Another node. What it says of itself is as old as the last time that it renewed its entry.
#[derive(Debug, Clone)]
pub(crate) struct Neighbour {
    pub(crate) link: Arc<Link>,
    /// Endpoints that its sessions serve.
    pub(crate) endpoints: usize,
    /// `None` of a node that does not say.
    pub(crate) load: Option<Load>,
}

impl Neighbours {
    /// Every other node, by name.
    pub(crate) fn nodes(&self) -> Vec<Neighbour> {
        let mut nodes = self.lock().nodes.clone();
        nodes.sort_by(|a, b| {
            let key = |node: &Neighbour| (node.link.target().name.clone(), node.link.id());
            key(a).cmp(&key(b))
        });
        nodes
    }

    /// What could not be done with the registry when it was last tried, and why: what is known here,
    /// or of this node elsewhere, may be old.
    pub(crate) fn trouble(&self) -> Option<String> {
        let known = self.lock();
        let troubles: Vec<&str> = known
            .troubles
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }

    pub(super) fn note(&self, nodes: Vec<Neighbour>) {
        self.lock().nodes = nodes;
    }

    /// Notes what is wrong with one kind of work; says nothing about the others.
    pub(super) fn note_trouble(&self, work: RegistryWork, trouble: Option<String>) {
        let what = match work {
            RegistryWork::Tell => "what this node serves cannot be said",
            RegistryWork::Learn => "what others serve cannot be read",
            RegistryWork::Revoke => "revocations cannot be shared",
        };
        let trouble = trouble.map(|why| format!("{what}: {why}"));
        self.lock().troubles[work as usize] = trouble;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
