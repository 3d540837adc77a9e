//! What nodes of a cluster tell each other of their lists.
//!
//! A revocation never changes: it holds, until it is over or lifted. What is lifted stays lifted,
//! whoever says otherwise and in whatever order the words arrive: so nodes that have heard the same
//! words have the same list, and no clock decides anything. For that, it is remembered for a while
//! that something was lifted.
//!
//! Revocations of a session stay here: its number means something on this node only.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{MAX_REVOCATIONS, Revocation, RevocationId, Revocations, Scope};

/// How long it is remembered that a revocation without an end was lifted: a node that was cut off
/// from all others for longer could bring it back.
pub(crate) const LIFTED_MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a node says of one revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) id: RevocationId,
    pub(crate) says: Says,
    /// For how long; `None`: a revocation that holds until it is lifted.
    pub(crate) left: Option<Duration>,
}

/// What there is to say of a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Says {
    /// It holds.
    Holds {
        scope: Scope,
        reason: Option<String>,
        since: SystemTime,
        ttl: Option<Duration>,
    },
    /// It was lifted.
    Lifted,
}

/// Whether the other nodes can know of a revocation, or that it was lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// There are no others, or it is about a session of this node.
    Nobody,
    /// It lies where they look for it.
    Everybody,
    /// Not yet: this node keeps trying.
    NotYet,
}

/// What this node knows of the others' knowledge.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Whether there are other nodes.
    is_on: bool,
    /// What was lifted, and until when that is remembered.
    lifted: BTreeMap<RevocationId, Instant>,
    /// What lies where the others look, as it is here.
    told: HashSet<RevocationId>,
}

impl Shared {
    /// A revocation is lifted.
    pub(super) fn lift(&mut self, revocation: &Revocation) {
        if self.is_on && is_shared(revocation) {
            self.told.remove(&revocation.id);
            let memory = revocation.left().unwrap_or(LIFTED_MEMORY);
            self.remember(revocation.id, memory.min(LIFTED_MEMORY));
        }
    }

    fn remember(&mut self, id: RevocationId, memory: Duration) {
        let until = Instant::now() + memory.min(LIFTED_MEMORY);
        if self.lifted.len() >= MAX_REVOCATIONS
            && let Some(soonest) = self.lifted.iter().min_by_key(|(_, until)| **until)
        {
            let soonest = *soonest.0;
            self.lifted.remove(&soonest);
        }
        self.lifted.insert(id, until);
    }

    pub(super) fn forget_old(&mut self) {
        let now = Instant::now();
        self.lifted.retain(|_, until| *until > now);
    }
}

fn is_shared(revocation: &Revocation) -> bool {
    revocation.scope.session.is_none()
}

impl Revocations {
    /// From now on there are other nodes.
    pub(crate) fn share(&self) {
        self.write().shared.is_on = true;
    }

    /// Sees every change that others may have to hear of, or have heard of.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What the others cannot know yet.
    pub(crate) fn untold(&self) -> Vec<Word> {
        let list = self.read();
        let shared = &list.shared;
        if !shared.is_on {
            return Vec::new();
        }
        let now = Instant::now();
        let held = list
            .by_id
            .values()
            .filter(|one| is_shared(one) && one.holds());
        let held = held.map(|one| Word {
            id: one.id,
            says: Says::Holds {
                scope: one.scope.clone(),
                reason: one.reason.clone(),
                since: one.since,
                ttl: one.ttl,
            },
            left: one.left(),
        });
        let lifted = shared.lifted.iter().filter(|(_, until)| **until > now);
        let lifted = lifted.map(|(id, until)| Word {
            id: *id,
            says: Says::Lifted,
            left: Some(until.saturating_duration_since(now)),
        });
        let is_untold = |word: &Word| !shared.told.contains(&word.id);
        held.chain(lifted).filter(is_untold).collect()
    }

    /// These words lie where the others look.
    pub(crate) fn on_told(&self, words: &[Word]) {
        if words.is_empty() {
            return;
        }
        let mut list = self.write();
        for word in words {
            // It may have been lifted since.
            let still = match word.says {
                Says::Holds { .. } => list.by_id.contains_key(&word.id),
                Says::Lifted => list.shared.lifted.contains_key(&word.id),
            };
            if still {
                list.shared.told.insert(word.id);
            }
        }
        drop(list);
        self.changed.send_modify(|version| *version += 1);
    }

    /// These are all the words that lie where everybody looks. Takes over what is news here; what
    /// is missing there has to be said again.
    pub(crate) fn on_read(&self, words: Vec<Word>) {
        let mut list = self.write();
        list.forget_old();
        let (mut told, mut added, mut left_out) = (HashSet::new(), 0, 0);
        for word in words {
            match word.says {
                Says::Lifted => {
                    if let Some(lifted) = list.remove(word.id) {
                        tracing::warn!(target: "culvert::security", id = %lifted.id, "a revocation was lifted on another node");
                    }
                    // Only for the case that it is lost there: not in the place of what is remembered.
                    let shared = &mut list.shared;
                    if shared.lifted.len() < MAX_REVOCATIONS
                        && !shared.lifted.contains_key(&word.id)
                    {
                        shared.remember(word.id, word.left.unwrap_or(LIFTED_MEMORY));
                    }
                    told.insert(word.id);
                }
                Says::Holds { .. } if list.shared.lifted.contains_key(&word.id) => {}
                Says::Holds { .. } if list.by_id.contains_key(&word.id) => {
                    told.insert(word.id);
                }
                Says::Holds { .. } if list.by_id.len() >= MAX_REVOCATIONS => left_out += 1,
                Says::Holds {
                    scope,
                    reason,
                    since,
                    ttl,
                } => {
                    tracing::warn!(target: "culvert::security", id = %word.id, ?scope, "revoked on another node");
                    list.insert(Arc::new(Revocation {
                        id: word.id,
                        scope,
                        reason,
                        since,
                        ttl,
                        until: word.left.and_then(|left| Instant::now().checked_add(left)),
                    }));
                    told.insert(word.id);
                    added += 1;
                }
            }
        }
        list.shared.told = told;
        self.settle(list);
        if left_out > 0 {
            tracing::error!(
                target: "culvert::security",
                left_out,
                "other nodes have revoked more than a node can hold: lift what is not needed any more"
            );
        }
        if added > 0 {
            self.added.send_modify(|version| *version += 1);
        }
        self.changed.send_modify(|version| *version += 1);
    }

    /// Whether the others can know.
    pub(crate) fn told(&self, id: RevocationId) -> Told {
        let list = self.read();
        let is_here = list.by_id.get(&id).is_none_or(|held| is_shared(held));
        if !list.shared.is_on || !is_here {
            Told::Nobody
        } else if list.shared.told.contains(&id) {
            Told::Everybody
        } else {
            Told::NotYet
        }
    }

    /// Waits until the others can know, but not for long.
    pub(crate) async fn until_told(&self, id: RevocationId, patience: Duration) -> Told {
        let mut changes = self.changes();
        let deadline = Instant::now() + patience;
        loop {
            let told = self.told(id);
            if told != Told::NotYet {
                return told;
            }
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return self.told(id);
            }
        }
    }
}
