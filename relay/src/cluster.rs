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

mod membership;
#[cfg(test)]
mod memory;
mod neighbours;
mod redis;
mod registry;
#[cfg(test)]
mod tests;
mod withdrawals;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::membership::Membership;
pub(crate) use self::neighbours::{Neighbour, Neighbours};
pub(crate) use self::registry::Load;
use self::registry::{Entry, Instance, Registry, RegistryError, Route};
use crate::directory::{Directory, Service};
use crate::metrics::{Metrics, RegistryWork};
use crate::peer::{Link, Peers, Target};
use crate::place::Place;
use crate::revocations::Revocations;

/// How often the registry is read without a hint.
const READ_INTERVAL: Duration = Duration::from_secs(3);

/// How long changes and hints gather before they are acted on.
const GATHER: Duration = Duration::from_millis(50);

/// How long the registry is waited for.
const PATIENCE: Duration = Duration::from_secs(4);

/// Longest wait between two attempts to tell the registry something.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Most nodes that are followed. More are ignored, loudly.
const MAX_NODES: usize = 512;

/// This node's part in the cluster.
struct Cluster<R> {
    registry: Arc<R>,
    directory: Arc<Directory>,
    peers: Arc<Peers>,
    revocations: Arc<Revocations>,
    metrics: Arc<Metrics>,
    neighbours: Arc<Neighbours>,
    /// Somebody has said something.
    hinted: Notify,
    /// What this node says of itself; its routes are the directory's.
    me: Entry,
    lease: Duration,
    /// Set when the node is about to leave.
    leaving: CancellationToken,
    word: Word,
}

/// What this node has told the registry, to find out when something else stands there.
#[derive(Debug, Default)]
struct Word {
    /// The version that was taken last.
    given: AtomicU64,
    /// The version that was last on its way.
    sent: AtomicU64,
    /// Another one was read.
    broken: Notify,
}

/// Another node, as it is known here.
struct Known {
    version: u64,
    routes: Vec<Route>,
    load: Option<Load>,
    link: Arc<Link>,
    _kept_up: AbortOnDropHandle<()>,
}

impl<R: Registry> Cluster<R> {
    /// Tells and learns, until it is dropped.
    async fn run(self) {
        let this = Arc::new(self);
        let telling = AbortOnDropHandle::new(tokio::spawn(this.clone().tell()));
        tokio::join!(this.learn(), this.share_revocations());
        drop(telling);
    }

    /// Keeps this node's entry what it should be.
    async fn tell(self: Arc<Self>) {
        let mut changes = self.directory.changes();
        let mut told: Option<Entry> = None;
        let mut version = 0;
        loop {
            let _ = changes.borrow_and_update();
            let mut entry = self.me.clone();
            entry.leaving = self.leaving.is_cancelled();
            entry.routes = self
                .directory
                .routes_here()
                .iter()
                .map(Route::from)
                .collect();
            entry.version = version;
            let renewed = match &told {
                Some(last) if *last == entry => self.renew(&entry).await,
                _ => Ok(false),
            };
            let tried_to_leave = entry.leaving;
            let outcome = match renewed {
                Ok(true) => Ok(()),
                Ok(false) => {
                    version += 1;
                    entry.version = version;
                    self.word.sent.store(version, Ordering::Relaxed);
                    self.publish(&entry).await
                }
                Err(error) => Err(error),
            };
            self.note(RegistryWork::Tell, &outcome);
            let pause = match outcome {
                Ok(()) => {
                    self.word.given.store(entry.version, Ordering::Relaxed);
                    told = Some(entry);
                    self.lease / 3
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
            }
        }
    }

    async fn publish(&self, entry: &Entry) -> Result<(), RegistryError> {
        within(
            self.registry
                .publish(entry, self.metrics.load(), self.lease),
        )
        .await
    }

    async fn renew(&self, entry: &Entry) -> Result<bool, RegistryError> {
        within(self.registry.renew(entry, self.metrics.load(), self.lease)).await
    }

    /// Follows the other nodes.
    async fn learn(&self) {
        let mut known: HashMap<Instance, Known> = HashMap::new();
        let mut ticks = interval(READ_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.registry.hint() => {
                self.hinted.notify_one();
                sleep(GATHER).await;
                // What has come meanwhile asks for the same read.
                while self.registry.hint().now_or_never().is_some() {}
            }
            }
            let given = self.word.given.load(Ordering::Relaxed);
            let versions = known
                .iter()
                .map(|(instance, known)| (instance.clone(), known.version))
                // Its own routes the node knows best.
                .chain([(self.me.instance.clone(), given)]);
            let read = within(self.registry.read(&versions.collect())).await;
            self.note(RegistryWork::Learn, &read);
            if let Ok(entries) = read {
                self.check_own(&entries, given);
                self.apply(&mut known, entries);
            }
        }
    }

    /// Notices when somebody else has written in this node's name; `given`: the version that had been
    /// taken before the entries were read.
    fn check_own(&self, entries: &[registry::Seen], given: u64) {
        let own = entries.iter().map(|seen| &seen.entry);
        let Some(own) = own.into_iter().find(|e| e.instance == self.me.instance) else {
            return;
        };
        let sent = self.word.sent.load(Ordering::Relaxed);
        if !(given..=sent).contains(&own.version) {
            tracing::warn!(
                target: "culvert::security",
                "somebody else has written this node's entry in the registry: it is written anew"
            );
            self.word.broken.notify_one();
        }
    }

    /// Makes the directory say what the entries do. An entry without routes is as it was.
    fn apply(&self, known: &mut HashMap<Instance, Known>, entries: Vec<registry::Seen>) {
        if entries.len() > MAX_NODES {
            tracing::error!(
                nodes = entries.len(),
                "there are more than {MAX_NODES} nodes: calls reach no agents of the others"
            );
        }
        let mut listed = Vec::with_capacity(entries.len());
        for seen in entries.into_iter().take(MAX_NODES) {
            let entry = seen.entry;
            if entry.instance == self.me.instance {
                continue;
            }
            listed.push(entry.instance.clone());
            let node = known.entry(entry.instance.clone()).or_insert_with(|| {
                let target = Target {
                    name: entry.instance.node.clone(),
                    instance: entry.instance.process,
                    address: entry.address.clone(),
                };
                let (link, kept_up) = self.peers.link(target);
                Known {
                    version: 0,
                    routes: Vec::new(),
                    load: None,
                    link,
                    _kept_up: kept_up,
                }
            });
            node.link.set_leaving(entry.leaving);
            node.load = seen.load;
            if seen.unchanged {
                // A call that found no session there was told so, and the route is out; as long as
                // the node claims it, it is tried again.
                self.bind(&node.link, &node.routes);
                continue;
            }
            let stay: HashSet<_> = entry.routes.iter().map(Route::of).collect();
            let gone = node
                .routes
                .iter()
                .filter(|route| !stay.contains(&route.of()));
            for gone in gone {
                self.directory
                    .withdraw(&gone.tenant, &gone.endpoint, node.link.id());
            }
            self.bind(&node.link, &entry.routes);
            node.version = entry.version;
            node.routes = entry.routes;
        }
        known.retain(|instance, node| {
            let stays = listed.contains(instance) || node.link.answers();
            if !stays {
                for route in &node.routes {
                    self.directory
                        .withdraw(&route.tenant, &route.endpoint, node.link.id());
                }
                tracing::info!(node = instance.node, "a node has left the cluster");
            }
            stays
        });
        self.metrics
            .peers
            .nodes
            .set(i64::try_from(known.len()).unwrap_or(i64::MAX));
        let neighbours = known.values().map(|node| Neighbour {
            link: node.link.clone(),
            endpoints: node.routes.len(),
            load: node.load,
        });
        self.neighbours.note(neighbours.collect());
    }

    fn bind(&self, link: &Arc<Link>, routes: &[Route]) {
        for route in routes {
            let service = Service {
                priority: route.priority,
                names: route.names.clone().into(),
                tunnel: route.tunnel,
            };
            let place = Place::There(link.clone());
            self.directory
                .register(&route.tenant, &route.endpoint, link.id(), &place, service);
        }
    }

    fn note<T>(&self, work: RegistryWork, outcome: &Result<T, RegistryError>) {
        let was_well = self.metrics.peers.on_registry(work, outcome.is_ok());
        self.neighbours
            .note_trouble(work, outcome.as_ref().err().map(ToString::to_string));
        match outcome {
            Err(error) if was_well => tracing::warn!(
                "the registry cannot be reached: {error}; what is known goes on, what changes on \
                 other nodes is not seen"
            ),
            Ok(_) if !was_well => tracing::info!("the registry can be reached again"),
            _ => {}
        }
    }
}

async fn within<T>(
    work: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    let done = timeout(PATIENCE, work).await;
    done.unwrap_or(Err(RegistryError::Timeout(PATIENCE)))
}
