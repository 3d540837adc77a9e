//! This node as one of several: tells the others which endpoints it serves, and learns which they do.
//!
//! What nodes know of each other lies in a [registry](registry): an entry for each process, under a
//! lease, that says where it is and what its sessions serve. Each node reads it every few seconds,
//! and at once after a hint; that is all the truth there is. The [directory](crate::directory) gets
//! the others' endpoints with the [link](crate::peer::Link) to the node in the place of a session.
//!
//! **While the registry cannot be reached** nothing changes: sessions live, endpoints of this node
//! are served, and those of others as long as they answer. A node whose entry is gone, while the
//! link to it stands, has lost the registry and not its agents: it is kept too.
//!
//! An entry is a claim, not a permission: it can lead a call to a node of this cluster, which looks
//! the tenant's endpoint up among its own sessions, and nowhere else.
//!
//! What operators [revoke](crate::revocations) on one node holds on all: [`withdrawals`].

mod learning;
mod membership;
#[cfg(test)]
mod memory;
mod neighbours;
mod redis;
mod registry;
#[cfg(test)]
mod tests;
mod withdrawals;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::membership::Membership;
pub(crate) use self::neighbours::{Neighbour, Neighbours};
pub(crate) use self::registry::Load;
use self::registry::{Entry, Registry, RegistryError, Route};
use crate::directory::Directory;
use crate::metrics::{Metrics, RegistryWork};
use crate::peer::Peers;
use crate::revocations::Revocations;

/// How long changes and hints gather before they are acted on.
const GATHER: Duration = Duration::from_millis(50);

/// Longest wait between two attempts to tell the registry something.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long after hints could not be heard they are waited for again.
const DEAF: Duration = Duration::from_secs(1);

/// This node's part in the cluster.
struct Cluster<R> {
    registry: Arc<R>,
    directory: Arc<Directory>,
    peers: Arc<Peers>,
    revocations: Arc<Revocations>,
    metrics: Arc<Metrics>,
    neighbours: Arc<Neighbours>,
    /// Changes when somebody has said something.
    hinted: watch::Sender<()>,
    /// What this node says of itself; its routes are the directory's.
    me: Entry,
    lease: Duration,
    /// Set when the node is about to leave.
    leaving: CancellationToken,
    /// Set when it has left: nothing more is said in its name.
    left: CancellationToken,
    word: Word,
}

/// What this node has told the registry, to find out when something else stands there.
#[derive(Debug, Default)]
struct Word {
    /// What was taken last.
    given: ArcSwapOption<Entry>,
    /// The version that was last on its way.
    sent: AtomicU64,
    /// Something else was read.
    broken: Notify,
}

impl<R: Registry> Cluster<R> {
    /// Tells and learns, until the node has left: then there is nothing on its way to the registry.
    async fn run(self) {
        let this = Arc::new(self);
        let telling = AbortOnDropHandle::new(tokio::spawn(this.clone().tell()));
        let rest = async { tokio::join!(this.listen(), this.learn(), this.share_revocations()) };
        tokio::select! {
            told = telling => {
                // Without it nobody renews the entry: its panic is one of the whole.
                if let Err(Ok(panic)) = told.map_err(JoinError::try_into_panic) {
                    resume_unwind(panic);
                }
            }
            _ = rest => {}
        }
    }

    /// Takes hints as they come, so that none pile up while something is read, and makes one of those
    /// that nobody has acted on yet.
    async fn listen(&self) {
        loop {
            let hint = self.registry.hint().await;
            self.note(RegistryWork::Hear, &hint);
            match hint {
                Ok(()) => self.hinted.send_replace(()),
                Err(_) => sleep(DEAF).await,
            }
        }
    }

    /// Keeps this node's entry what it should be, until the node has left.
    async fn tell(self: Arc<Self>) {
        let mut changes = self.directory.changes();
        let mut told: Option<Arc<Entry>> = None;
        let mut version = 0;
        let mut had_too_many = false;
        while !self.left.is_cancelled() {
            let _ = changes.borrow_and_update();
            let begun = Instant::now();
            let mut entry = self.me.clone();
            entry.leaving = self.leaving.is_cancelled();
            let routes = self.directory.routes_here();
            let routes: Vec<_> = routes.iter().map(Route::from).collect();
            let endpoints = routes.len();
            // What others would not read is not written: it would look like somebody else's when it is
            // compared.
            entry.routes = R::fit(routes);
            let left_out = endpoints - entry.routes.len();
            if left_out > 0 && !had_too_many {
                tracing::error!(
                    endpoints,
                    left_out,
                    "this node serves more than its entry in the registry has room for: of what is left \
                     out other nodes hear nothing"
                );
            }
            had_too_many = left_out > 0;
            entry.version = version;
            let load = self.metrics.load();
            let renewed = match &told {
                Some(last) if **last == entry => {
                    self.registry.renew(&entry, load, self.lease).await
                }
                _ => Ok(false),
            };
            let tried_to_leave = entry.leaving;
            let outcome = match renewed {
                Ok(true) => Ok(()),
                Ok(false) => {
                    version += 1;
                    entry.version = version;
                    self.word.sent.store(version, Ordering::Relaxed);
                    self.registry.publish(&entry, load, self.lease).await
                }
                Err(error) => Err(error),
            };
            self.note(RegistryWork::Tell, &outcome);
            let pause = match outcome {
                Ok(()) => {
                    let entry = Arc::new(entry);
                    self.word.given.store(Some(entry.clone()));
                    told = Some(entry);
                    // The lease runs while the engine takes its time to answer.
                    (self.lease / 3).saturating_sub(begun.elapsed())
                }
                Err(_) => {
                    // The engine may have forgotten everything: say it all again, but not with
                    // all others in the same moment.
                    told = None;
                    LONGEST_WAIT
                        .min(self.lease / 3)
                        .mul_f64(0.5 + fastrand::f64() / 2.0)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                Ok(()) = changes.changed() => sleep(GATHER).await,
                () = self.leaving.cancelled(), if !tried_to_leave => {}
                // To renew it would keep alive what somebody else wrote.
                () = self.word.broken.notified() => told = None,
                () = self.left.cancelled() => {}
            }
        }
    }

    /// Counts a use of the registry, and says when a kind of work fails or is done again: each by itself,
    /// since an engine may let itself be read and not written.
    fn note<T>(&self, work: RegistryWork, outcome: &Result<T, RegistryError>) {
        let was_well = self.metrics.peers.on_registry(work, outcome.is_ok());
        let trouble = neighbours::trouble(work);
        self.neighbours
            .note_trouble(work, outcome.as_ref().err().map(ToString::to_string));
        match outcome {
            Err(error) if was_well => {
                tracing::warn!(
                    "the registry fails: {}: {error}; {}",
                    trouble.what,
                    trouble.meanwhile
                );
            }
            Ok(_) if !was_well => tracing::info!("the registry works again: {}", trouble.over),
            _ => {}
        }
    }
}
