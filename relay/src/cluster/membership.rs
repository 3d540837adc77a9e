//! Joining a cluster, and leaving it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use culvert_config::RelayConfig;
use culvert_config::cluster::{Directory as Configured, Peer};
use culvert_process::background::Background;
use culvert_process::workers::Workers;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::redis::RedisRegistry;
use super::registry::{Entry, Instance, Registry};
use super::withdrawals::LastRead;
use super::{Cluster, GATHER, Word};
use crate::node::Node;
use crate::peer::{Acceptor, Introduction, PeerTls, Peers};

/// How long the registry may take to hear that a node has left.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a node that starts waits for the registry to say what is revoked.
const FIRST_WORDS: Duration = Duration::from_secs(2);

/// What a node of a cluster needs, loaded.
#[derive(Debug)]
pub(crate) struct Membership {
    registry: Arc<RedisRegistry>,
    tls: Arc<PeerTls>,
    lease: Duration,
}

/// A node that other nodes can reach.
pub(crate) struct Joined {
    cluster: Cluster<RedisRegistry>,
    acceptor: Acceptor,
}

impl Membership {
    /// Loads what the configuration names; `None` for a node alone. Gives the key that is to blame.
    pub(crate) fn prepare(config: &RelayConfig) -> Result<Option<Self>, (&'static str, String)> {
        let (Configured::Redis(redis), Some(peer)) = (&config.directory, &config.peer) else {
            return Ok(None);
        };
        let registry = RedisRegistry::new(redis);
        let registry = registry.map_err(|error| ("directory.url", error.to_string()))?;
        let tls = PeerTls::load(&peer.tls);
        let tls = tls.map_err(|error| ("peer.certificate", error.to_string()))?;
        Ok(Some(Self {
            registry: Arc::new(registry),
            tls: Arc::new(tls),
            lease: redis.lease.0,
        }))
    }

    /// What the node shows other nodes, and whom it takes for one.
    pub(crate) fn tls(&self) -> &Arc<PeerTls> {
        &self.tls
    }

    /// Binds the address for other nodes, whose connections `workers` carry.
    pub(crate) async fn join(
        self,
        peer: &Peer,
        node: &Node,
        workers: &Arc<Workers>,
    ) -> io::Result<Joined> {
        let instance = Instance {
            node: node.name.clone(),
            process: node.agents.instance(),
        };
        let (growth, waiting) = node.agents.memory();
        let introduction = Introduction {
            name: node.name.clone(),
            instance: instance.process,
            growth,
            waiting,
        };
        let acceptor = Acceptor::bind(
            peer.listen,
            self.tls.clone(),
            introduction.clone(),
            node,
            workers.clone(),
        );
        tracing::info!(listen = %peer.listen, address = peer.address, %instance, "joining the cluster");
        Ok(Joined {
            acceptor: acceptor.await?,
            cluster: Cluster {
                registry: self.registry,
                directory: node.directory.clone(),
                peers: Peers::new(self.tls, introduction, workers.clone()),
                revocations: node.revocations.clone(),
                metrics: node.metrics.clone(),
                neighbours: node.neighbours.clone().unwrap_or_default(),
                hinted: watch::Sender::new(()),
                me: Entry {
                    instance,
                    version: 0,
                    address: peer.address.clone(),
                    leaving: false,
                    routes: Vec::new(),
                },
                lease: self.lease,
                leaving: node.ending.drain.clone(),
                left: CancellationToken::new(),
                word: Word::default(),
            },
        })
    }
}

impl Joined {
    /// Hears what is revoked, before anybody is let in. A registry that does not answer holds nobody
    /// up: loudly, the node goes on without.
    pub(crate) async fn hear_first(&self) {
        self.cluster.revocations.share();
        let (mut last, mut trouble) = (LastRead::default(), None);
        let heard = async {
            // An engine that is being started says no at once.
            while let Err(error) = self.cluster.exchange(&mut last).await {
                trouble = Some(error.to_string());
                sleep(GATHER).await;
            }
        };
        if timeout(FIRST_WORDS, heard).await.is_err() {
            unheard(trouble.as_deref().unwrap_or("no answer"));
        }
    }

    /// Takes part in the cluster for as long as the tasks live; gives what is to be awaited at last.
    pub(crate) fn run_in(self, tasks: &mut Background) -> impl Future<Output = ()> + use<> {
        tasks.spawn("listen.peer", self.acceptor.run());
        self.cluster.run_in(tasks)
    }
}

impl<R: Registry> Cluster<R> {
    /// Takes part for as long as the tasks live; gives what takes the node's entry back.
    pub(super) fn run_in(self, tasks: &mut Background) -> impl Future<Output = ()> + use<R> {
        let (registry, me) = (self.registry.clone(), self.me.instance.clone());
        let left = self.left.clone();
        let (running, ended) = oneshot::channel::<()>();
        tasks.spawn("cluster", async move {
            self.run().await;
            drop(running);
        });
        async move {
            left.cancel();
            let withdrawn = async {
                // What is on its way to the registry would stand there again after it.
                let _ = ended.await;
                registry.withdraw(&me).await
            };
            // Its lease ends anyway.
            let _ = timeout(FAREWELL, withdrawn).await;
        }
    }
}

fn unheard(why: &str) {
    tracing::error!(
        target: "culvert::security",
        "the node begins without knowing what is revoked: the registry cannot be reached ({why})"
    );
}
