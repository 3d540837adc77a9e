//! The registry of nodes in one process: for tests, and a model of what the others must do.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::registry::{Entry, Heard, Instance, Load, Registry, RegistryError, Seen, Stamp};
use crate::revocations::RevocationId;
use crate::revocations::sharing::{Says, Word};

/// Entries in memory. Clones are the same registry, each with hints of its own.
#[derive(Debug, Default)]
pub(crate) struct MemoryRegistry {
    shared: Arc<Shared>,
    hint: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<Entries>,
    words: Mutex<Words>,
    hints: Mutex<Vec<Arc<Notify>>>,
    down: AtomicBool,
    read_only: AtomicBool,
    deaf: AtomicBool,
}

/// Each with the time when its lease ends.
type Entries = BTreeMap<Instance, (Entry, Load, Instant)>;

#[derive(Debug, Default)]
struct Words {
    /// Each with the time when it is over.
    by_id: BTreeMap<RevocationId, (Says, Option<Instant>)>,
    /// `None`: there has been none.
    stamp: Option<u64>,
    last_stamp: u64,
}

impl Clone for MemoryRegistry {
    fn clone(&self) -> Self {
        let hint = Arc::new(Notify::new());
        let mut hints = self
            .shared
            .hints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        hints.push(hint.clone());
        drop(hints);
        Self {
            shared: self.shared.clone(),
            hint,
        }
    }
}

impl MemoryRegistry {
    /// From now on nobody reaches it, or everybody again.
    pub(crate) fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::Relaxed);
    }

    /// From now on it can be read and not written, or is as before.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.shared.read_only.store(read_only, Ordering::Relaxed);
    }

    /// Forgets everything, as an engine that was started anew.
    pub(crate) fn forget(&self) {
        self.entries().clear();
        let mut words = self.words();
        words.by_id.clear();
        words.stamp = None;
    }

    /// Hints arrive nowhere from now on, or do again.
    pub(crate) fn lose_hints(&self, lost: bool) {
        self.shared.deaf.store(lost, Ordering::Relaxed);
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        let words = self.shared.words.lock();
        words.unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.shared
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self) -> Result<(), RegistryError> {
        match self.shared.down.load(Ordering::Relaxed) {
            true => Err(RegistryError::Engine("down".into())),
            false => Ok(()),
        }
    }

    fn write(&self) -> Result<(), RegistryError> {
        self.reach()?;
        match self.shared.read_only.load(Ordering::Relaxed) {
            true => Err(RegistryError::Engine("read only".into())),
            false => Ok(()),
        }
    }

    fn hint_all(&self) {
        if self.shared.deaf.load(Ordering::Relaxed) {
            return;
        }
        let hints = self
            .shared
            .hints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        hints.iter().for_each(|hint| hint.notify_one());
    }
}

impl Registry for MemoryRegistry {
    async fn publish(
        &self,
        entry: &Entry,
        load: Load,
        lease: Duration,
    ) -> Result<(), RegistryError> {
        self.write()?;
        let until = Instant::now() + lease;
        self.entries()
            .insert(entry.instance.clone(), (entry.clone(), load, until));
        self.hint_all();
        Ok(())
    }

    async fn renew(
        &self,
        entry: &Entry,
        load: Load,
        lease: Duration,
    ) -> Result<bool, RegistryError> {
        self.write()?;
        let now = Instant::now();
        Ok(match self.entries().get_mut(&entry.instance) {
            Some((_, last, until)) if *until > now => {
                *until = now + lease;
                *last = load;
                true
            }
            _ => false,
        })
    }

    async fn read(&self, known: &HashMap<Instance, u64>) -> Result<Vec<Seen>, RegistryError> {
        self.reach()?;
        let now = Instant::now();
        let mut entries = self.entries();
        entries.retain(|_, (_, _, until)| *until > now);
        let seen = entries.values().map(|(entry, load, _)| {
            let unchanged = known.get(&entry.instance) == Some(&entry.version);
            let mut entry = entry.clone();
            if unchanged {
                entry.routes.clear();
            }
            Seen {
                entry,
                load: Some(*load),
                unchanged,
            }
        });
        Ok(seen.collect())
    }

    async fn withdraw(&self, instance: &Instance) -> Result<(), RegistryError> {
        self.write()?;
        self.entries().remove(instance);
        self.hint_all();
        Ok(())
    }

    async fn say(&self, said: &[Word]) -> Result<(), RegistryError> {
        self.write()?;
        let now = Instant::now();
        let mut words = self.words();
        for word in said {
            let end = word.left.map(|left| now + left);
            let there = words.by_id.get(&word.id);
            let there = there.is_some_and(|(_, end)| end.is_none_or(|end| end > now));
            if word.says == Says::Lifted || !there {
                words.by_id.insert(word.id, (word.says.clone(), end));
            }
        }
        words.last_stamp += 1;
        words.stamp = Some(words.last_stamp);
        drop(words);
        self.hint_all();
        Ok(())
    }

    async fn hear(&self, known: Option<&Stamp>) -> Result<Option<Heard>, RegistryError> {
        self.reach()?;
        let now = Instant::now();
        let mut words = self.words();
        let stamp = words.stamp.map(|stamp| stamp.to_string());
        if known == Some(&stamp) {
            return Ok(None);
        }
        words
            .by_id
            .retain(|_, (_, end)| end.is_none_or(|end| end > now));
        let words = words.by_id.iter().map(|(id, (says, end))| Word {
            id: *id,
            says: says.clone(),
            left: end.map(|end| end - now),
        });
        Ok(Some(Heard {
            words: words.collect(),
            stamp,
        }))
    }

    async fn hint(&self) {
        self.hint.notified().await;
    }
}
