//! An agent that comes back takes the place of its own older session.
//!
//! The relay may hold a session for one that has long been dead: a middlebox forgot the connection,
//! or its end never arrived. Calls that are given to it hang until the silence is noticed. So the
//! agent says for which of its slots a session is, and the newest of a slot is the one that counts.
//! Other processes of the same agent have places of their own, and share the calls.
//!
//! Tenant and subject of the session's own token and the random id of the agent's process are part
//! of the key: whoever is somebody else has another place.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_proto::code::GoawayCode;
use culvert_proto::control::Hello;
use culvert_proto::names::{EndpointName, TenantName};
use tokio::time::Instant;

use super::{Agents, Record};
use crate::directory::SessionId;

/// What an agent is told whose session is not the newest of its slot.
const REPLACED: &str = "a newer session of this agent has taken this one's place";

/// Most sessions of an endpoint that are told of a further one: where more share it, they know. What is
/// done for one that registers must not grow with all that there are.
const MOST_TOLD: usize = 16;

/// How often a session is told at most that further agents serve what it serves: somebody who comes
/// and goes must not fill others' logs.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Everything that must be the same for a session to take the place of another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    tenant: TenantName,
    subject: String,
    instance: [u8; 16],
    slot: u8,
}

impl Key {
    /// The place that a greeting asks for, if it does.
    pub(crate) fn of(record: &Record, hello: &Hello) -> Option<Self> {
        Some(Self {
            tenant: record.tenant.clone(),
            subject: record.subject.clone(),
            instance: hello.instance,
            slot: hello.slot?.number,
        })
    }
}

/// The newest registered session of each place.
#[derive(Default)]
pub(crate) struct Places {
    taken: Mutex<HashMap<Key, Arc<Record>>>,
}

/// What becomes of two sessions that want one place.
struct Replacement {
    older: Arc<Record>,
    newer: Arc<Record>,
}

impl Places {
    /// Enters a session. If there is another one, the older of the two has to go.
    fn enter(&self, key: &Key, record: &Arc<Record>) -> Option<Replacement> {
        let mut taken = self.lock();
        let Some(held) = taken.get_mut(key) else {
            taken.insert(key.clone(), record.clone());
            return None;
        };
        if held.id == record.id {
            return None;
        }
        let (older, newer) = if held.id < record.id {
            (std::mem::replace(held, record.clone()), record.clone())
        } else {
            (record.clone(), held.clone())
        };
        Some(Replacement { older, newer })
    }

    /// Takes back what [`enter`](Self::enter) did.
    pub(crate) fn leave(&self, key: &Key, id: SessionId) {
        let mut taken = self.lock();
        if taken.get(key).is_some_and(|held| held.id == id) {
            taken.remove(key);
        }
    }

    /// How many places there are.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Record>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agents {
    /// A session has registered endpoints: from now on the older one of its place gets no calls.
    /// Those that are under way there go on, if the agent still knows that session; otherwise they
    /// are lost already, and end. Both sessions are told.
    pub(crate) fn take_place(&self, key: &Key, record: &Arc<Record>) {
        let Some(Replacement { older, newer }) = self.places.enter(key, record) else {
            return;
        };
        let lives = {
            let mut state = newer.state();
            state.replaces = Some(older.id);
            let slot = state.hello.as_ref().and_then(|hello| hello.slot);
            slot.is_some_and(|slot| slot.older_lives)
        };
        older.state().replaced_by = Some(newer.id);
        tracing::info!(
            session = %older.id,
            tenant = %older.tenant,
            subject = %older.subject.escape_debug(),
            by = %newer.id,
            calls = older.session.stream_count(),
            lives,
            "the agent has replaced the session"
        );
        if lives {
            older.session.make_way();
            older.replaced.cancel();
        } else {
            older.session.close(GoawayCode::Replaced, REPLACED);
        }
        newer.inform(format!(
            "this session has taken the place of session {} of this agent, which {}",
            older.id,
            if lives {
                "ends with its last call"
            } else {
                "is closed"
            },
        ));
    }

    /// Tells a session that has registered these endpoints, and those of other agents' processes that
    /// serve one of them too, that they share its calls.
    pub(crate) fn tell_of_sharing(&self, record: &Record, endpoints: &[EndpointName]) {
        let mut shared: BTreeMap<SessionId, Vec<&EndpointName>> = BTreeMap::new();
        for endpoint in endpoints {
            for id in self
                .directory
                .newest_here(&record.tenant, endpoint, MOST_TOLD)
            {
                shared.entry(id).or_default().push(endpoint);
            }
        }
        let live = self.live();
        let others = shared.into_iter();
        let others = others.filter_map(|(id, shared)| Some((live.get(&id)?.clone(), shared)));
        let mut shared: Vec<(Arc<Record>, Vec<&EndpointName>)> = others.collect();
        drop(live);
        shared.retain(|(other, _)| !record.is_of_the_process_of(other));
        if shared.is_empty() {
            return;
        }
        for (other, endpoints) in &shared {
            if other.may_be_told_of_sharing() {
                other.inform(format!(
                    "another process of an agent ({}) serves {} too: they share the calls",
                    record.subject.escape_debug(),
                    listed(endpoints),
                ));
            }
        }
        let mut endpoints: Vec<_> = shared
            .iter()
            .flat_map(|(_, own)| own.iter().copied())
            .collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        if record.may_be_told_of_sharing() {
            record.inform(format!(
                "other processes of agents serve {} too: they share the calls",
                listed(&endpoints),
            ));
        }
    }
}

impl Record {
    fn is_of_the_process_of(&self, other: &Self) -> bool {
        let instance = |record: &Self| record.state().hello.as_ref().map(|hello| hello.instance);
        (self.id == other.id)
            || (self.subject == other.subject && instance(self) == instance(other))
    }

    fn may_be_told_of_sharing(&self) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        let may = state
            .told_of_sharing
            .is_none_or(|told| now.duration_since(told) >= TELL_AGAIN);
        if may {
            state.told_of_sharing = Some(now);
        }
        may
    }
}

fn listed(endpoints: &[&EndpointName]) -> String {
    let names: Vec<_> = endpoints.iter().map(|endpoint| endpoint.as_str()).collect();
    names.join(", ")
}
