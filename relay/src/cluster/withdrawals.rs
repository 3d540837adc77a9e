//! Revocations of a cluster: what is revoked or lifted on one node holds on all.
//!
//! Words about revocations lie in the registry, each until it is over; a stamp there changes with
//! every word. Each node looks at the stamp every second and at once after a hint, and reads all
//! words when it is another one. A node says its own words, and says again what is missing there: an
//! engine that comes back empty knows everything again that any node knows.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::registry::{Registry, RegistryError, Stamp, WORDS};
use super::{Cluster, GATHER};
use crate::metrics::RegistryWork;

/// How often the stamp is looked at without a hint. What is revoked is to hold everywhere within two
/// seconds.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often all words are read though the stamp is the same: an engine may have dropped some.
const READ_INTERVAL: Duration = Duration::from_secs(60);

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct LastRead {
    stamp: Option<Stamp>,
    at: Option<Instant>,
}

impl<R: Registry> Cluster<R> {
    /// Says and hears what is revoked, until it is dropped.
    pub(super) async fn share_revocations(&self) {
        let mut changes = self.revocations.changes();
        let mut hints = self.hinted.subscribe();
        let mut last = LastRead::default();
        loop {
            changes.borrow_and_update();
            let outcome = self.exchange(&mut last).await;
            let is_well = outcome.is_ok();
            self.note(RegistryWork::Revoke, &outcome);
            sleep(GATHER).await;
            tokio::select! {
                () = sleep(LOOK_INTERVAL) => {}
                Ok(()) = hints.changed() => {}
                // An engine that does not answer is not asked ever faster.
                Ok(()) = changes.changed(), if is_well => {}
            }
        }
    }

    /// Says what is new here, and hears what is new there.
    pub(super) async fn exchange(&self, last: &mut LastRead) -> Result<(), RegistryError> {
        let said = self.say().await;
        // Others are heard also where nothing can be said: an engine may be readable only.
        let is_due = last.at.is_none_or(|at| at.elapsed() >= READ_INTERVAL);
        let known = last.stamp.as_ref().filter(|_| !is_due);
        if let Some(heard) = self.registry.hear(known).await? {
            self.revocations.on_read(heard.words);
            *last = LastRead {
                stamp: Some(heard.stamp),
                at: Some(Instant::now()),
            };
        }
        said
    }

    /// Says what is new here, piece by piece; gives the first error.
    async fn say(&self) -> Result<(), RegistryError> {
        let mut outcome = Ok(());
        for words in self.revocations.untold().chunks(WORDS) {
            match self.registry.say(words).await {
                Ok(()) => self.revocations.on_told(words),
                // Of a piece that is refused others know nothing; of the rest they shall.
                Err(refused @ RegistryError::Refused(_)) => outcome = outcome.and(Err(refused)),
                Err(error) => return outcome.and(Err(error)),
            }
        }
        outcome
    }
}
