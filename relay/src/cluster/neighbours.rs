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
    troubles: [Option<String>; RegistryWork::ALL.len()],
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
    pub(super) fn note_trouble(&self, work: RegistryWork, why: Option<String>) {
        let what = trouble(work).what;
        self.lock().troubles[work as usize] = why.map(|why| format!("{what}: {why}"));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What it means that a kind of work with the registry fails.
pub(super) struct Trouble {
    pub(super) what: &'static str,
    /// What holds until it is over.
    pub(super) meanwhile: &'static str,
    /// That it is.
    pub(super) over: &'static str,
}

pub(super) fn trouble(work: RegistryWork) -> Trouble {
    match work {
        RegistryWork::Tell => Trouble {
            what: "what this node serves cannot be said",
            meanwhile: "other nodes go by what they know of it",
            over: "what this node serves is said",
        },
        RegistryWork::Learn => Trouble {
            what: "what others serve cannot be read",
            meanwhile: "what is known goes on, what changes on other nodes is not seen",
            over: "what others serve is read",
        },
        RegistryWork::Revoke => Trouble {
            what: "revocations cannot be shared",
            meanwhile: "what is revoked on one node may not be so on others",
            over: "revocations are shared",
        },
        RegistryWork::Hear => Trouble {
            what: "hints cannot be heard",
            meanwhile: "what changes on other nodes is seen some seconds later",
            over: "hints are heard",
        },
    }
}
