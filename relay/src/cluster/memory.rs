//! The registry of nodes in one process: for tests, and a model of what the others must do.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::registry::{Entry, Instance, Registry, RegistryError, Seen};

/// Entries in memory. Clones are the same registry, each with hints of its own.
#[derive(Debug, Default)]
pub(crate) struct MemoryRegistry {
    shared: Arc<Shared>,
    hint: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<BTreeMap<Instance, (Entry, Instant)>>,
    hints: Mutex<Vec<Arc<Notify>>>,
    down: AtomicBool,
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

    /// Forgets everything, as an engine that was started anew.
    pub(crate) fn forget(&self) {
        self.entries().clear();
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Instance, (Entry, Instant)>> {
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

    fn hint_all(&self) {
        let hints = self
            .shared
            .hints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        hints.iter().for_each(|hint| hint.notify_one());
    }
}

impl Registry for MemoryRegistry {
    async fn publish(&self, entry: &Entry, lease: Duration) -> Result<(), RegistryError> {
        self.reach()?;
        let until = Instant::now() + lease;
        self.entries()
            .insert(entry.instance.clone(), (entry.clone(), until));
        self.hint_all();
        Ok(())
    }

    async fn renew(&self, instance: &Instance, lease: Duration) -> Result<bool, RegistryError> {
        self.reach()?;
        let now = Instant::now();
        Ok(match self.entries().get_mut(instance) {
            Some((_, until)) if *until > now => {
                *until = now + lease;
                true
            }
            _ => false,
        })
    }

    async fn read(&self, known: &HashMap<Instance, u64>) -> Result<Vec<Seen>, RegistryError> {
        self.reach()?;
        let now = Instant::now();
        let mut entries = self.entries();
        entries.retain(|_, (_, until)| *until > now);
        let seen = entries.values().map(|(entry, _)| {
            let unchanged = known.get(&entry.instance) == Some(&entry.version);
            let mut entry = entry.clone();
            if unchanged {
                entry.routes.clear();
            }
            Seen { entry, unchanged }
        });
        Ok(seen.collect())
    }

    async fn withdraw(&self, instance: &Instance) -> Result<(), RegistryError> {
        self.reach()?;
        self.entries().remove(instance);
        self.hint_all();
        Ok(())
    }

    async fn hint(&self) {
        self.hint.notified().await;
    }
}
