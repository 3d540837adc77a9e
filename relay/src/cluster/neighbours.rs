//! The other nodes of the cluster, as operators see them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::registry::Load;
use crate::peer::Link;

/// The other nodes as this one knows them.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    nodes: Vec<Neighbour>,
    trouble: Option<String>,
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

    /// Why the registry could not be reached when it was last tried, so that all this may be old.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    pub(super) fn note(&self, nodes: Vec<Neighbour>) {
        self.lock().nodes = nodes;
    }

    pub(super) fn note_trouble(&self, trouble: Option<String>) {
        self.lock().trouble = trouble;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
