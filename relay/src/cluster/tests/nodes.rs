//! Nodes that follow each other, over a registry that fails. Nobody answers where the others are
//! said to be: that is for tests of whole relays.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use culvert_config::cluster::PeerTls as Files;
use culvert_process::background::Background;
use culvert_process::workers::Workers;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::growth::GrowthBudget;
use culvert_proto::names::{EndpointName, TenantName};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::conformance::{instance, route};
use crate::cluster::memory::MemoryRegistry;
use crate::cluster::registry::{Entry, Instance, Load, Registry};
use crate::cluster::{Cluster, Neighbours, Word};
use crate::directory::{Directory, Lookup};
use crate::metrics::Metrics;
use crate::peer::{Introduction, PeerTls, Peers};
use crate::revocations::Revocations;

pub(super) const LEASE: Duration = Duration::from_secs(15);
const MEMORY: Duration = Duration::from_secs(3600);

/// Where nobody is, which takes no looking up.
pub(super) const NOWHERE: &str = "127.0.0.1:1";

/// What every node shows the others.
static TLS: LazyLock<Arc<PeerTls>> = LazyLock::new(|| {
    let files = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["relays.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let path = |name: &str| files.path().join(name);
    std::fs::write(path("node.pem"), certificate.pem()).unwrap();
    std::fs::write(path("node.key"), key.serialize_pem()).unwrap();
    let tls = PeerTls::load(&Files {
        name: "relays.test".into(),
        certificate: path("node.pem"),
        private_key: path("node.key"),
        ca: path("node.pem"),
    });
    Arc::new(tls.unwrap())
});

/// A node of this process.
pub(super) struct Node {
    pub(super) instance: Instance,
    pub(super) directory: Arc<Directory>,
    pub(super) revocations: Arc<Revocations>,
    pub(super) leaving: CancellationToken,
    pub(super) neighbours: Arc<Neighbours>,
    farewell: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _tasks: Background,
}

impl Node {
    /// Starts one called `a`.
    pub(super) fn start(registry: &MemoryRegistry) -> Self {
        Self::start_named(registry, "a", 1)
    }

    pub(super) fn start_named(registry: &MemoryRegistry, name: &str, process: u8) -> Self {
        Self::start_as(registry, instance(name, process))
    }

    pub(super) fn start_as(registry: &MemoryRegistry, instance: Instance) -> Self {
        let introduction = Introduction {
            name: instance.node.clone(),
            instance: instance.process,
            growth: GrowthBudget::new(0),
            waiting: GrowthBudget::new(1 << 20).by_tenant(),
        };
        let directory = Arc::new(Directory::new(MEMORY));
        let revocations = Arc::new(Revocations::default());
        revocations.share();
        let neighbours = Arc::new(Neighbours::default());
        let leaving = CancellationToken::new();
        let cluster = Cluster {
            registry: Arc::new(registry.clone()),
            directory: directory.clone(),
            peers: Peers::new(TLS.clone(), introduction, Arc::new(Workers::here())),
            revocations: revocations.clone(),
            metrics: Arc::new(Metrics::new()),
            neighbours: neighbours.clone(),
            hinted: watch::Sender::new(()),
            me: Entry {
                instance: instance.clone(),
                version: 0,
                address: NOWHERE.into(),
                leaving: false,
                routes: Vec::new(),
            },
            lease: LEASE,
            leaving: leaving.clone(),
            left: CancellationToken::new(),
            word: Word::default(),
        };
        let mut tasks = Background::default();
        Self {
            instance,
            directory,
            revocations,
            leaving,
            neighbours,
            farewell: Some(Box::pin(cluster.run_in(&mut tasks))),
            _tasks: tasks,
        }
    }

    /// Takes its entry back, as a node does at last.
    pub(super) async fn leave(&mut self) {
        self.leaving.cancel();
        if let Some(farewell) = self.farewell.take() {
            farewell.await;
        }
    }

    /// `moving`: known, and out of reach at the moment; `offline`, or `unknown`.
    pub(super) fn finds(&self, tenant: &str, endpoint: &str) -> &'static str {
        let tenant = TenantName::new(tenant).unwrap();
        match self
            .directory
            .lookup(&tenant, &EndpointName::new(endpoint).unwrap())
        {
            Lookup::Session(..) => "session",
            Lookup::Moving => "moving",
            Lookup::Offline => "offline",
            Lookup::Unknown => "unknown",
        }
    }
}

/// The entry of a node called `b`, which nobody can reach.
pub(super) fn entry(version: u64, routes: &[(&str, &str)]) -> Entry {
    Entry {
        instance: instance("b", 2),
        version,
        address: NOWHERE.into(),
        leaving: false,
        routes: routes
            .iter()
            .map(|(tenant, endpoint)| route(tenant, endpoint))
            .collect(),
    }
}

/// Leaves an entry of a node that does nothing.
pub(super) async fn publish(registry: &MemoryRegistry, entry: &Entry) {
    let said = registry.publish(entry, Load::default(), LEASE).await;
    said.unwrap();
}

/// Lets what is due within a while happen.
pub(super) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn what_another_node_serves_is_known_until_it_says_otherwise_or_nothing() {
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    let b = async |version, routes: &[_]| publish(&registry, &entry(version, routes)).await;
    b(1, &[("acme", "vcenter"), ("acme", "nsx")]).await;
    pass(1).await;
    assert_eq!(node.finds("acme", "vcenter"), "moving");
    assert_eq!(
        node.finds("globex", "vcenter"),
        "unknown",
        "an endpoint is its tenant's alone"
    );
    let name = ConnectName::parse("vc.sddc.local:443").unwrap();
    let holder = node
        .directory
        .holder(&TenantName::new("acme").unwrap(), &name);
    assert!(holder.is_some());
    assert_eq!(
        node.directory.served_here(),
        0,
        "nothing of it is this node's to tell"
    );

    b(2, &[("acme", "nsx")]).await;
    pass(1).await;
    assert_eq!(node.finds("acme", "vcenter"), "offline");
    assert_eq!(node.finds("acme", "nsx"), "moving");

    // It is not renewed: the lease ends, and nobody answers either.
    pass(2 * LEASE.as_secs()).await;
    assert_eq!(node.finds("acme", "nsx"), "offline");
}

#[tokio::test(start_paused = true)]
async fn without_the_registry_what_is_known_goes_on() {
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    publish(&registry, &entry(1, &[("acme", "vcenter")])).await;
    pass(1).await;
    registry.set_down(true);
    pass(600).await;
    assert_eq!(node.finds("acme", "vcenter"), "moving");

    // It comes back knowing nothing: this node says again what it serves, within a lease.
    registry.forget();
    registry.set_down(false);
    pass(10).await;
    let seen = registry.read().await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].instance, instance("a", 1));
    assert_eq!(node.finds("acme", "vcenter"), "offline");
}

/// What `status` shows: as the other node said it last, and whether that may be old.
#[tokio::test(start_paused = true)]
async fn operators_see_the_load_of_other_nodes_and_that_the_registry_is_lost() {
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    let mine = entry(1, &[("acme", "vcenter"), ("acme", "nsx")]);
    let calls = |calls| Load {
        sessions: 3,
        connections: 70,
        calls,
    };
    registry.publish(&mine, calls(5), LEASE).await.unwrap();
    pass(1).await;
    let seen = || {
        let nodes = node.neighbours.nodes();
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].link.target().name, "b");
        assert!(!nodes[0].link.answers());
        (nodes[0].endpoints, nodes[0].load)
    };
    assert_eq!(seen(), (2, Some(calls(5))));
    assert!(registry.renew(&mine, calls(6), LEASE).await.unwrap());
    pass(4).await;
    assert_eq!(seen(), (2, Some(calls(6))));
    assert_eq!(node.neighbours.trouble(), None);

    registry.set_down(true);
    pass(10).await;
    assert_eq!(seen(), (2, Some(calls(6))));
    assert!(node.neighbours.trouble().unwrap().contains("down"));
    registry.set_down(false);
    registry.forget();
    pass(10).await;
    assert!(node.neighbours.nodes().is_empty());
    assert_eq!(node.neighbours.trouble(), None);
}

/// An engine without its replicas, or one that was a primary: what is read says nothing of what is written.
#[tokio::test(start_paused = true)]
async fn operators_see_that_a_node_cannot_write_to_a_registry_that_it_reads() {
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    pass(1).await;
    registry.set_read_only(true);
    // Longer than it takes to renew the entry; it is read, well, until the end.
    pass(LEASE.as_secs()).await;
    let said = "what this node serves cannot be said: ";
    let trouble = node.neighbours.trouble().unwrap();
    assert!(
        trouble.starts_with(said) && trouble.ends_with("read only"),
        "{trouble}"
    );
    assert!(!trouble.contains("; "), "{trouble}");
    node.revoke("ann");
    pass(2).await;
    let trouble = node.neighbours.trouble().unwrap();
    assert!(
        trouble.contains("; revocations cannot be shared: "),
        "{trouble}"
    );
    registry.set_read_only(false);
    pass(LEASE.as_secs()).await;
    assert_eq!(node.neighbours.trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn a_node_says_that_it_is_there_and_that_it_leaves() {
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    pass(1).await;
    let own = async || registry.read().await.unwrap().remove(0);
    assert!(!own().await.leaving);
    pass(10 * LEASE.as_secs()).await;
    let before = own().await;
    assert_eq!(before.version, 1, "renewed, not said again");
    node.leaving.cancel();
    pass(1).await;
    assert!(own().await.leaving);
}
