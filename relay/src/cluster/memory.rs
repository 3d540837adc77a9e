//! The registry of nodes in one process: for tests, and a model of what the others must do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::registry::{
    Entry, Heard, Instance, Load, Registry, RegistryError, Route, Routes, Seen, Stamp, WORDS,
};
use crate::revocations::RevocationId;
use crate::revocations::sharing::{Says, Word};

/// Entries in memory. Clones are the same registry, each with hints of its own.
#[derive(Debug)]
pub(crate) struct MemoryRegistry {
    shared: Arc<Shared>,
    /// A permit for each hint that nobody has heard.
    hints: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<Entries>,
    words: Mutex<Words>,
    hints: Mutex<Vec<Arc<Semaphore>>>,
    down: AtomicBool,
    read_only: AtomicBool,
    deaf: AtomicBool,
    /// How long each question takes.
    pace: Mutex<Duration>,
    /// A word that is refused, with those that are said together with it.
    refused: Mutex<Option<RevocationId>>,
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

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::of(Arc::default())
    }
}

impl Clone for MemoryRegistry {
    fn clone(&self) -> Self {
        Self::of(self.shared.clone())
    }
}

impl Drop for MemoryRegistry {
    fn drop(&mut self) {
        let own = |hints: &Arc<Semaphore>| Arc::ptr_eq(hints, &self.hints);
        self.listeners().retain(|hints| !own(hints));
    }
}

impl MemoryRegistry {
    /// Most routes of one entry that are read.
    pub(crate) const MAX_ROUTES: usize = 64;

    fn of(shared: Arc<Shared>) -> Self {
        let new = Self {
            shared,
            hints: Arc::new(Semaphore::new(0)),
        };
        new.listeners().push(new.hints.clone());
        new
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Arc<Semaphore>>> {
        let hints = self.shared.hints.lock();
        hints.unwrap_or_else(PoisonError::into_inner)
    }

    /// Hints that some clone, other than this one, has not heard.
    pub(crate) fn unheard(&self) -> usize {
        let listeners = self.listeners();
        let others = listeners.iter();
        let others = others.filter(|hints| !Arc::ptr_eq(hints, &self.hints));
        others.map(|hints| hints.available_permits()).sum()
    }

    /// From now on each question takes so long.
    pub(crate) fn set_pace(&self, pace: Duration) {
        *self.pace() = pace;
    }

    /// Says no from now on to this word.
    pub(crate) fn refuse(&self, word: Option<RevocationId>) {
        *self.refused() = word;
    }

    fn pace(&self) -> MutexGuard<'_, Duration> {
        let pace = self.shared.pace.lock();
        pace.unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Option<RevocationId>> {
        let refused = self.shared.refused.lock();
        refused.unwrap_or_else(PoisonError::into_inner)
    }

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

    async fn reach(&self) -> Result<(), RegistryError> {
        let pace = *self.pace();
        if !pace.is_zero() {
            sleep(pace).await;
        }
        match self.shared.down.load(Ordering::Relaxed) {
            true => Err(RegistryError::Engine("down".into())),
            false => Ok(()),
        }
    }

    async fn write(&self) -> Result<(), RegistryError> {
        self.reach().await?;
        match self.shared.read_only.load(Ordering::Relaxed) {
            true => Err(RegistryError::Refused("read only".into())),
            false => Ok(()),
        }
    }

    /// Says to everybody that something may have changed.
    pub(crate) fn hint_all(&self) {
        if self.shared.deaf.load(Ordering::Relaxed) {
            return;
        }
        self.listeners()
            .iter()
            .for_each(|hints| hints.add_permits(1));
    }
}

impl Registry for MemoryRegistry {
    fn fit(mut routes: Vec<Route>) -> Vec<Route> {
        routes.truncate(Self::MAX_ROUTES);
        routes
    }

    async fn publish(
        &self,
        entry: &Entry,
        load: Load,
        lease: Duration,
    ) -> Result<(), RegistryError> {
        self.write().await?;
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
        self.write().await?;
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

    async fn read(&self) -> Result<Vec<Seen>, RegistryError> {
        self.reach().await?;
        let now = Instant::now();
        let mut entries = self.entries();
        entries.retain(|_, (_, _, until)| *until > now);
        let seen = entries.values().map(|(entry, load, _)| Seen {
            instance: entry.instance.clone(),
            version: entry.version,
            address: entry.address.clone(),
            leaving: entry.leaving,
            load: Some(*load),
        });
        Ok(seen.collect())
    }

    async fn routes(&self, instance: &Instance) -> Result<Option<Routes>, RegistryError> {
        self.reach().await?;
        let entries = self.entries();
        let entry = entries.get(instance);
        Ok(entry.map(|(entry, ..)| Routes {
            version: entry.version,
            routes: entry
                .routes
                .iter()
                .take(Self::MAX_ROUTES)
                .cloned()
                .collect(),
        }))
    }

    async fn withdraw(&self, instance: &Instance) -> Result<(), RegistryError> {
        self.write().await?;
        self.entries().remove(instance);
        self.hint_all();
        Ok(())
    }

    async fn say(&self, said: &[Word]) -> Result<(), RegistryError> {
        assert!(said.len() <= WORDS, "{} at once", said.len());
        self.write().await?;
        let refused = *self.refused();
        if said.iter().any(|word| Some(word.id) == refused) {
            return Err(RegistryError::Refused("a word is refused".into()));
        }
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
        self.reach().await?;
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

    async fn hint(&self) -> Result<(), RegistryError> {
        let hint = self.hints.acquire().await;
        hint.expect("it is not closed").forget();
        Ok(())
    }
}
