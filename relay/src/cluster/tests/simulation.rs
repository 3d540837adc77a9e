//! Clusters by seeds: nodes come, die and leave, agents claim endpoints and go, operators revoke and
//! lift, the registry is lost, emptied and poisoned, hints get lost. On a virtual clock, with everything
//! that decides where a call goes, and without the network: a link leads to the process that it names,
//! or to nobody.
//!
//! A seed that fails is tried again by `CULVERT_SEED=N`; `CULVERT_SEEDS=N` tries so many from 0 on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use culvert_proto::control::Hello;
use culvert_proto::mux;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_session::{Session, WebSocketIo};
use fastrand::Rng;
use tokio::time::sleep;

use super::conformance::route;
use super::nodes::{LEASE, NOWHERE, Node};
use crate::cluster::learning::READ_INTERVAL;
use crate::cluster::memory::MemoryRegistry;
use crate::cluster::registry::{Entry, Instance, Load, Registry};
use crate::directory::{Service, SessionId};
use crate::place::Place;
use crate::revocations::RevocationId;

/// Seeds that are tried with every run of the tests.
const SEEDS: u64 = 60;

/// Events of one seed.
const EVENTS: usize = 60;

/// Most nodes at once.
const NODES: usize = 5;

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
const ENDPOINTS: [&str; 3] = ["vcenter", "nsx", "esx-1"];

/// Within this after the last event everybody knows what there is: a lie ends with its lease, and a
/// node whose word was lost says it again before its lease would have ended.
const QUIET: Duration = Duration::from_secs(LEASE.as_secs() + 2 * READ_INTERVAL.as_secs() + 5);

/// A node with what its agents serve.
struct Member {
    node: Node,
    sessions: BTreeMap<SessionId, (TenantName, EndpointName)>,
}

impl Member {
    fn process(&self) -> [u8; 16] {
        self.node.instance.process
    }

    fn revoked(&self) -> BTreeSet<RevocationId> {
        let revocations = self.node.revocations.list();
        revocations.iter().map(|known| known.id).collect()
    }
}

struct World {
    seed: u64,
    rng: Rng,
    registry: MemoryRegistry,
    down: bool,
    session: Session,
    nodes: Vec<Member>,
    /// What was revoked and lifted, by which process: with a process dies what it could not say yet.
    revoked: Vec<(RevocationId, [u8; 16])>,
    lifted: BTreeMap<RevocationId, [u8; 16]>,
    next: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        fastrand::seed(seed);
        Self {
            seed,
            rng: Rng::with_seed(seed),
            registry: MemoryRegistry::default(),
            down: false,
            session: session(),
            nodes: Vec::new(),
            revoked: Vec::new(),
            lifted: BTreeMap::new(),
            next: 1,
        }
    }

    fn start_node(&mut self) {
        let process = u128::from(self.next).to_be_bytes();
        self.next += 1;
        // Names come again with another process, as when a node is started anew.
        let instance = Instance {
            node: format!("relay-{}", self.rng.usize(..NODES)),
            process,
        };
        self.nodes.push(Member {
            node: Node::start_as(&self.registry, instance),
            sessions: BTreeMap::new(),
        });
    }

    fn some_node(&mut self) -> Option<usize> {
        (!self.nodes.is_empty()).then(|| self.rng.usize(..self.nodes.len()))
    }

    fn some_route(&mut self) -> (TenantName, EndpointName) {
        let tenant = self.rng.choice(TENANTS).expect("there are some");
        let endpoint = self.rng.choice(ENDPOINTS).expect("there are some");
        (tenant_name(tenant), endpoint_name(endpoint))
    }

    async fn event(&mut self) {
        match self.rng.u32(..100) {
            0..10 if self.nodes.len() < NODES => self.start_node(),
            10..14 => {
                // Killed: nothing is taken back.
                if let Some(node) = self.some_node() {
                    self.nodes.swap_remove(node);
                }
            }
            14..18 => {
                if let Some(node) = self.some_node() {
                    let Member { mut node, .. } = self.nodes.swap_remove(node);
                    node.leave().await;
                }
            }
            18..44 => self.claim(),
            44..60 => self.give_up(),
            60..64 => self.revoke(),
            64..66 => self.lift(),
            66..72 => {
                self.down = !self.down;
                self.registry.set_down(self.down);
            }
            72..75 => self.registry.forget(),
            75..80 => {
                let deaf = self.rng.bool();
                self.registry.lose_hints(deaf);
            }
            80..90 => self.poison().await,
            _ => {}
        }
        let pause = self.rng.u64(..4000);
        sleep(Duration::from_millis(pause)).await;
    }

    /// An agent registers with a node.
    fn claim(&mut self) {
        let (tenant, endpoint) = self.some_route();
        let Some(node) = self.some_node() else { return };
        let id = SessionId(self.next);
        self.next += 1;
        let place = Place::Here(self.session.clone());
        let Member { node, sessions } = &mut self.nodes[node];
        node.directory
            .register(&tenant, &endpoint, id, &place, Service::default());
        sessions.insert(id, (tenant, endpoint));
    }

    /// An agent goes.
    fn give_up(&mut self) {
        let Some(node) = self.some_node() else { return };
        let Member { node, sessions } = &mut self.nodes[node];
        let Some(id) = self.rng.choice(sessions.keys().copied()) else {
            return;
        };
        if let Some((tenant, endpoint)) = sessions.remove(&id) {
            node.directory.withdraw(&tenant, &endpoint, id);
        }
    }

    fn revoke(&mut self) {
        let Some(node) = self.some_node() else { return };
        let member = &self.nodes[node];
        let id = member.node.revoke(&format!("subject-{}", self.next));
        self.next += 1;
        self.revoked.push((id, member.process()));
    }

    /// An operator lifts something that a node knows.
    fn lift(&mut self) {
        let Some(node) = self.some_node() else { return };
        let member = &self.nodes[node];
        if let Some(id) = self.rng.choice(member.revoked()) {
            member.node.revocations.lift(id);
            self.lifted.insert(id, member.process());
        }
    }

    /// Somebody who can write to the engine lies: in the name of a node, of one that is gone, or of
    /// one that never was; about every endpoint of everybody.
    async fn poison(&mut self) {
        let known = self.some_node().filter(|_| self.rng.bool());
        let instance = match known {
            Some(node) => self.nodes[node].node.instance.clone(),
            None => Instance {
                node: "relay-0".into(),
                process: self.rng.u128(..).to_be_bytes(),
            },
        };
        let mut routes = Vec::new();
        for tenant in TENANTS {
            for endpoint in ENDPOINTS {
                if self.rng.bool() {
                    routes.push(route(tenant, endpoint));
                }
            }
        }
        let entry = Entry {
            instance,
            version: self.rng.u64(..),
            address: NOWHERE.into(),
            leaving: self.rng.bool(),
            routes,
        };
        let _ = self.registry.publish(&entry, Load::default(), LEASE).await;
    }

    /// Calls of every tenant to every endpoint by way of every node: a call that arrives is at a
    /// session of its own endpoint and tenant.
    fn call_everything(&self) {
        for node in &self.nodes {
            for (tenant, endpoint) in routes() {
                if let Some(reached) = self.call(node, &tenant, &endpoint) {
                    assert_eq!(reached, (tenant, endpoint), "seed {}", self.seed);
                }
            }
        }
    }

    /// Whose session a call reaches: as the edge does, place after place, until one has a session.
    fn call(
        &self,
        at: &Member,
        tenant: &TenantName,
        endpoint: &EndpointName,
    ) -> Option<(TenantName, EndpointName)> {
        for (id, place) in at.node.directory.places(tenant, endpoint) {
            match place {
                Place::Here(_) => return at.sessions.get(&id).cloned(),
                Place::There(link) => {
                    let process = link.target().instance;
                    let Some(there) = self.nodes.iter().find(|node| node.process() == process)
                    else {
                        continue;
                    };
                    match there
                        .node
                        .directory
                        .newest_here(tenant, endpoint, 1)
                        .first()
                    {
                        Some(id) => return there.sessions.get(id).cloned(),
                        // Not here: the entry is out until the node claims it again.
                        None => {
                            at.node.directory.withdraw(tenant, endpoint, link.id());
                            link.note_miss();
                        }
                    }
                }
            }
        }
        None
    }

    /// Everybody reaches what there is, and nobody takes anything for served that is not; and what is
    /// revoked is so everywhere.
    fn assert_converged(&self) {
        let seed = self.seed;
        for (tenant, endpoint) in routes() {
            let route = (tenant.clone(), endpoint.clone());
            let serves = |node: &Member| node.sessions.values().any(|held| *held == route);
            let served = self.nodes.iter().any(serves);
            for member in &self.nodes {
                let here = &member.node.instance;
                for (_, place) in member.node.directory.places(&tenant, &endpoint) {
                    if let Place::There(link) = place {
                        let process = link.target().instance;
                        let there = self.nodes.iter().find(|node| node.process() == process);
                        assert!(
                            there.is_some_and(serves),
                            "seed {seed}: {here} believes that {} has {tenant}/{endpoint}",
                            link.target().name
                        );
                    }
                }
                assert_eq!(
                    self.call(member, &tenant, &endpoint).is_some(),
                    served,
                    "seed {seed}: {tenant}/{endpoint} by way of {here}"
                );
            }
        }
        for member in &self.nodes {
            let (here, known) = (&member.node.instance, member.revoked());
            let lives = |by| self.nodes.iter().any(|node| node.process() == by);
            for (id, by) in &self.revoked {
                match self.lifted.get(id) {
                    Some(by) if lives(*by) => assert!(
                        !known.contains(id),
                        "seed {seed}: {here} holds what is lifted"
                    ),
                    None if lives(*by) => {
                        assert!(known.contains(id), "seed {seed}: {here} has not heard");
                    }
                    _ => {}
                }
            }
            let others = self.nodes.iter().map(Member::revoked);
            for other in others {
                assert_eq!(known, other, "seed {seed}: {here} and another disagree");
            }
        }
    }
}

fn routes() -> impl Iterator<Item = (TenantName, EndpointName)> {
    let of = |tenant| ENDPOINTS.map(|endpoint| (tenant_name(tenant), endpoint_name(endpoint)));
    TENANTS.into_iter().flat_map(of)
}

fn tenant_name(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn endpoint_name(name: &str) -> EndpointName {
    EndpointName::new(name).unwrap()
}

/// What stands for every agent's session: nobody is at its other end.
pub(super) fn session() -> Session {
    let (io, _) = tokio::io::duplex(64);
    let config = mux::Config {
        side: mux::Side::Acceptor,
        hello: Hello {
            min_version: mux::VERSION,
            max_version: mux::VERSION,
            features: 0,
            name: "relay".into(),
            instance: [0; 16],
            software: "simulation".into(),
            max_streams: 0,
            initial_window: 65_536,
            lane: None,
            slot: None,
        },
        limits: Default::default(),
    };
    Session::spawn(WebSocketIo::acceptor(io), config).0
}

async fn play(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..2 {
        world.start_node();
    }
    for _ in 0..EVENTS {
        world.event().await;
        world.call_everything();
    }
    world.registry.set_down(false);
    world.registry.lose_hints(false);
    sleep(QUIET).await;
    world.assert_converged();
}

/// The registry is away for a long time and comes back empty.
async fn play_outage(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..3 {
        world.start_node();
    }
    for _ in 0..9 {
        world.claim();
    }
    sleep(QUIET).await;
    world.assert_converged();
    world.registry.set_down(true);
    world.registry.forget();
    sleep(Duration::from_secs(300)).await;
    world.assert_converged();
    world.registry.set_down(false);
    sleep(QUIET).await;
    world.assert_converged();
}

fn wanted() -> std::ops::Range<u64> {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().expect("a number"))
    };
    match (number("CULVERT_SEED"), number("CULVERT_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(SEEDS),
    }
}

/// Each in a world of its own, with a clock of its own.
fn each<F: Future<Output = ()>>(seeds: impl Iterator<Item = u64>, play: impl Fn(u64) -> F) {
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(seed));
    }
}

/// Whatever happens, a call never gets to another tenant's session, or to another endpoint's; and when
/// it is over, everybody soon knows what there is, and nothing else.
#[test]
fn whatever_happens_calls_stay_with_their_tenant_and_nodes_agree_in_the_end() {
    each(wanted(), play);
}

/// While the registry cannot be reached, nobody forgets what was known before, however long it takes.
#[test]
fn without_the_registry_nothing_that_was_known_is_forgotten() {
    each(wanted().take(10), play_outage);
}
