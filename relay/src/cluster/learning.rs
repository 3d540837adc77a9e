//! What this node learns of the others: it reads what they serve, and binds it in the directory.
//!
//! Entries are read first, then the routes of each node that has changed, one node after the other: what
//! was read counts at once, however slow the engine is with the rest. What cannot be read stays as it
//! was.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::registry::{Entry, Instance, Load, Registry, RegistryError, Route, Routes, Seen};
use super::{Cluster, GATHER, Neighbour};
use crate::directory::Service;
use crate::metrics::RegistryWork;
use crate::peer::{Link, Target};
use crate::place::Place;

/// How often the registry is read without a hint.
pub(super) const READ_INTERVAL: Duration = Duration::from_secs(3);

/// How often this node's own routes are read, to find out whether they are what it wrote.
const OWN_INTERVAL: Duration = Duration::from_secs(60);

/// Most nodes that are followed. More are ignored, loudly.
const MAX_NODES: usize = 512;

/// Another node, as it is known here.
struct Known {
    /// Whose routes these are; `None`: of none yet.
    version: Option<u64>,
    routes: Vec<Route>,
    load: Option<Load>,
    link: Arc<Link>,
    _kept_up: AbortOnDropHandle<()>,
}

type Nodes = HashMap<Instance, Known>;

impl<R: Registry> Cluster<R> {
    /// Follows the other nodes.
    pub(super) async fn learn(&self) {
        let mut nodes = Nodes::new();
        let mut own_read = Instant::now();
        let mut hints = self.hinted.subscribe();
        let mut ticks = interval(READ_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = hints.changed() => sleep(GATHER).await,
            }
            // What has come meanwhile asks for the same read.
            hints.mark_unchanged();
            let read = self.read(&mut nodes, &mut own_read).await;
            self.note(RegistryWork::Learn, &read);
            // A call that found no session at a node was told so, and the route is out. For as long as
            // the node claims it, or nobody can say whether it does, it is tried again.
            for node in nodes.values().filter(|node| node.link.take_miss()) {
                self.bind(&node.link, &node.routes);
            }
            self.show(&nodes);
        }
    }

    /// Makes the directory say what the entries do; `own_read`: when this node's own was compared.
    async fn read(&self, nodes: &mut Nodes, own_read: &mut Instant) -> Result<(), RegistryError> {
        let given = self.word.given.load_full();
        let mut seen = self.registry.read().await?;
        if seen.len() > MAX_NODES {
            tracing::error!(
                nodes = seen.len(),
                "there are more than {MAX_NODES} nodes: calls reach no agents of the others"
            );
        }
        let own = seen
            .iter()
            .find(|s| s.instance == self.me.instance)
            .cloned();
        seen.truncate(MAX_NODES);
        seen.retain(|seen| seen.instance != self.me.instance);
        self.forget(nodes, &seen);
        for seen in &seen {
            if let Some(node) = nodes.get_mut(&seen.instance) {
                self.update(node, seen);
            }
        }
        if let Some(own) = own {
            self.check_own(&own, given, own_read).await?;
        }
        seen.retain(|seen| {
            let known = nodes.get(&seen.instance);
            known.is_none_or(|node| node.version != Some(seen.version))
        });
        self.read_routes(nodes, seen).await
    }

    /// Reads the routes of nodes that have changed, as far as the engine gives them.
    async fn read_routes(
        &self,
        nodes: &mut Nodes,
        mut changed: Vec<Seen>,
    ) -> Result<(), RegistryError> {
        // A node whose routes take too long is not in the way of the same others each time.
        fastrand::shuffle(&mut changed);
        let mut outcome = Ok(());
        for seen in changed {
            match self.registry.routes(&seen.instance).await {
                Ok(Some(read)) => {
                    let node = nodes.entry(seen.instance.clone());
                    let node = node.or_insert_with(|| self.meet(&seen));
                    self.take(node, read);
                }
                Ok(None) => {}
                Err(refused @ RegistryError::Refused(_)) => outcome = outcome.and(Err(refused)),
                Err(error) => return outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Notices when somebody else has written in this node's name; `given`: what had been taken before
    /// the entry was read.
    async fn check_own(
        &self,
        own: &Seen,
        given: Option<Arc<Entry>>,
        read: &mut Instant,
    ) -> Result<(), RegistryError> {
        let oldest = given.as_ref().map_or(0, |given| given.version);
        let is_version = |version| {
            let sent = self.word.sent.load(Ordering::Relaxed);
            (oldest..=sent).contains(&version)
        };
        let mut is_ours = is_version(own.version) && own.address == self.me.address;
        if is_ours
            && read.elapsed() >= OWN_INTERVAL
            && let Some(given) = given
        {
            *read = Instant::now();
            let Some(there) = self.registry.routes(&own.instance).await? else {
                // Nobody need have done that, but others cannot read them.
                self.word.broken.notify_one();
                return Ok(());
            };
            is_ours = match there.version == given.version {
                true => there.routes == given.routes,
                false => is_version(there.version),
            };
        }
        if !is_ours {
            tracing::warn!(
                target: "culvert::security",
                "somebody else has written this node's entry in the registry: it is written anew"
            );
            self.word.broken.notify_one();
        }
        Ok(())
    }

    /// Begins to follow a node.
    fn meet(&self, seen: &Seen) -> Known {
        let (link, kept_up) = self.link(seen);
        Known {
            version: None,
            routes: Vec::new(),
            load: seen.load,
            link,
            _kept_up: kept_up,
        }
    }

    fn link(&self, seen: &Seen) -> (Arc<Link>, AbortOnDropHandle<()>) {
        let (link, kept_up) = self.peers.link(Target {
            name: seen.instance.node.clone(),
            instance: seen.instance.process,
            address: seen.address.clone(),
        });
        link.set_leaving(seen.leaving);
        (link, kept_up)
    }

    /// Notes what an entry says of a node beside its routes.
    fn update(&self, node: &mut Known, seen: &Seen) {
        // A link that stands leads to the process that is meant, whatever is said. One that does not may
        // lead where the node is no more, or where somebody else said that it is.
        if node.link.target().address != seen.address && !node.link.answers() {
            let (link, kept_up) = self.link(seen);
            self.bind(&link, &node.routes);
            self.withdraw(&node.link, &node.routes);
            (node.link, node._kept_up) = (link, kept_up);
        }
        node.link.set_leaving(seen.leaving);
        node.load = seen.load;
    }

    /// Takes over the routes of a node.
    fn take(&self, node: &mut Known, read: Routes) {
        let stay: HashSet<_> = read.routes.iter().map(Route::of).collect();
        let gone = node.routes.iter();
        let gone = gone.filter(|route| !stay.contains(&route.of()));
        self.withdraw(&node.link, gone);
        self.bind(&node.link, &read.routes);
        node.version = Some(read.version);
        node.routes = read.routes;
    }

    /// Forgets nodes that have no entry any more. One that answers has lost the registry, and not its
    /// agents.
    fn forget(&self, nodes: &mut Nodes, seen: &[Seen]) {
        let listed: HashSet<_> = seen.iter().map(|seen| &seen.instance).collect();
        nodes.retain(|instance, node| {
            let stays = listed.contains(instance) || node.link.answers();
            if !stays {
                self.withdraw(&node.link, &node.routes);
                tracing::info!(node = instance.node, "a node has left the cluster");
            }
            stays
        });
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

    fn withdraw<'r>(&self, link: &Link, routes: impl IntoIterator<Item = &'r Route>) {
        for route in routes {
            self.directory
                .withdraw(&route.tenant, &route.endpoint, link.id());
        }
    }

    fn show(&self, nodes: &Nodes) {
        self.metrics
            .peers
            .nodes
            .set(i64::try_from(nodes.len()).unwrap_or(i64::MAX));
        let neighbours = nodes.values().map(|node| Neighbour {
            link: node.link.clone(),
            endpoints: node.routes.len(),
            load: node.load,
        });
        self.neighbours.note(neighbours.collect());
    }
}
