//! Which sessions serve which endpoint: (tenant, endpoint) to sessions; and which endpoint a name
//! belongs to that callers CONNECT to: (tenant, name) to endpoint.
//!
//! A session is one of an agent with this node, or the way to another node that has one: where
//! there are both, calls stay here.
//!
//! Nothing here is looked up by an endpoint's name alone: the tenant comes first, always. What is
//! stored is bounded by what sessions may register, and what is remembered of those that are gone
//! by [`MAX_REMEMBERED`] and [`MAX_REMEMBERED_OF_TENANT`].

mod choice;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::priority::Priority;
use tokio::sync::watch;
use tokio::time::Instant;

use self::choice::{choose, chosen, least};
use self::store::{Endpoint, Served, Tenant, Tenants};
use crate::place::Place;

/// Most endpoints of one tenant that are remembered while they have no session.
pub const MAX_REMEMBERED_OF_TENANT: usize = 1024;

/// Most endpoints of all tenants that are remembered while they have no session.
pub const MAX_REMEMBERED: usize = 65_536;

/// How long a name is kept for an endpoint that has no session, before it goes to another one that waits
/// for it: its agent may just be coming back.
const NAME_REST: Duration = Duration::from_secs(30);

/// How long after the start of a node its agents may still be on their way.
const SETTLING: Duration = Duration::from_secs(30);

/// A number that no two sessions of a process share, nor a session and the way to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the directory knows of an endpoint.
#[derive(Debug)]
pub enum Lookup<S = Place> {
    /// This one serves it, and its calls are that urgent on it; `None`: each earns its class.
    Session(S, Option<Priority>),
    /// There are sessions, and none of them takes calls at the moment: they are about to go
    /// elsewhere, or come back.
    Moving,
    /// It was registered before, and has no session now.
    Offline,
    /// There is no such endpoint, as far as anybody remembers.
    Unknown,
}

/// How a session serves an endpoint.
#[derive(Debug, Clone, Default)]
pub struct Service {
    /// How urgent its calls are on that session; `None`: each earns its class.
    pub priority: Option<Priority>,
    /// Names that callers may CONNECT to.
    pub names: Arc<[ConnectName]>,
    /// How such calls are carried; `None`: there are none.
    pub tunnel: Option<Mode>,
}

/// What the directory must know of a session to choose among several.
pub trait Target: Clone {
    /// Whether it takes no further calls.
    fn is_closing(&self) -> bool;
    /// Calls in flight.
    fn load(&self) -> usize;
    /// Whether it is with this node, and not the way to another one.
    fn is_here(&self) -> bool;
    /// Whether the thread that asks carries it: a call that stays on one thread costs less.
    fn is_near(&self) -> bool;
}

/// What this node knows of endpoints, its own and those of other nodes.
pub struct Directory<S = Place> {
    memory: Duration,
    /// Until then it may not know of any agent.
    settling: Option<Instant>,
    tenants: RwLock<Tenants<S>>,
    /// Counts what changed in [`routes_here`](Self::routes_here).
    changes: watch::Sender<u64>,
}

/// An endpoint that sessions of this node serve: what other nodes need to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteHere {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its name.
    pub endpoint: EndpointName,
    /// Names that callers may CONNECT to, by name.
    pub names: Vec<ConnectName>,
    /// How such calls are carried.
    pub tunnel: Option<Mode>,
    /// How urgent its calls are.
    pub priority: Option<Priority>,
}

/// What a tenant has a session for, here or elsewhere.
#[derive(Debug, Default)]
pub(crate) struct ServedOf {
    pub(crate) endpoints: HashSet<EndpointName>,
    /// Names to connect to that each of them declares, taken together.
    pub(crate) names: usize,
}

/// An endpoint in [`Directory::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its name.
    pub endpoint: EndpointName,
    /// Sessions with this node that take calls to it.
    pub sessions: usize,
    /// Sessions with this node that are about to go, and take no further ones.
    pub draining: usize,
    /// Other nodes that have sessions; it is offline where none takes calls, here or there.
    pub elsewhere: usize,
}

impl<S: Target> Directory<S> {
    /// An empty directory that remembers lost endpoints for so long.
    pub fn new(memory: Duration) -> Self {
        let tenants = Tenants {
            by_name: HashMap::new(),
            served: 0,
            remembered: 0,
        };
        Self {
            memory,
            settling: None,
            tenants: RwLock::new(tenants),
            changes: watch::Sender::new(0),
        }
    }

    /// The same of a node that has just started.
    pub fn of_new_node(memory: Duration) -> Self {
        Self {
            settling: Some(Instant::now() + SETTLING),
            ..Self::new(memory)
        }
    }

    /// Whether what is unknown of a tenant may be there all the same: the node has just started, and
    /// nothing was heard of any of the tenant's agents so far. Whatever they served before, callers must
    /// not take it for gone.
    pub fn is_too_early(&self, tenant: &TenantName) -> bool {
        self.settling.is_some_and(|until| Instant::now() < until)
            && !self.read().by_name.contains_key(tenant)
    }

    /// Finds a session for a call: of two picked at random the one with fewer calls in flight,
    /// among those of this node as long as one of them takes calls. One that is near may have a few
    /// calls more.
    pub fn lookup(&self, tenant: &TenantName, endpoint: &EndpointName) -> Lookup<S> {
        let tenants = self.read();
        match tenants.find(tenant, endpoint, self.memory) {
            Some(found) => {
                let (here, elsewhere) = found.sessions.split_at(found.here);
                chosen(choose(here).or_else(|| choose(elsewhere)), &found.sessions)
            }
            None => Lookup::Unknown,
        }
    }

    /// Finds a session of this node for a call that another node passes on, one that declares
    /// `name` if there is a name. What other nodes have is no answer: one hop, not two.
    pub fn lookup_here(
        &self,
        tenant: &TenantName,
        endpoint: &EndpointName,
        name: Option<&ConnectName>,
    ) -> Lookup<S> {
        let tenants = self.read();
        let Some(found) = tenants.find(tenant, endpoint, self.memory) else {
            return Lookup::Unknown;
        };
        let here = &found.sessions[..found.here];
        match name {
            Some(name) => chosen(least(here, name), here),
            None => chosen(choose(here), here),
        }
    }

    /// The endpoint that a name belongs to and that is served. One that is only remembered is no reason
    /// to refuse the name to another: endpoints are renamed.
    pub fn server(&self, tenant: &TenantName, name: &ConnectName) -> Option<EndpointName> {
        let tenants = self.read();
        let found = tenants.by_name.get(tenant)?;
        let endpoint = found.names.get(name)?;
        found.is_served(endpoint).then(|| endpoint.clone())
    }

    /// The endpoint that a name belongs to, and how calls to the name are carried.
    pub fn holder(&self, tenant: &TenantName, name: &ConnectName) -> Option<(EndpointName, Mode)> {
        let tenants = self.read();
        let endpoint = tenants.by_name.get(tenant)?.names.get(name)?;
        let found = tenants.find(tenant, endpoint, self.memory)?;
        Some((endpoint.clone(), found.tunnel?))
    }

    /// The names of a tenant that callers may CONNECT to with TLS, and their endpoints, by name.
    pub fn names(&self, tenant: &TenantName) -> Vec<(ConnectName, EndpointName)> {
        let tenants = self.read();
        let Some(found) = tenants.by_name.get(tenant) else {
            return Vec::new();
        };
        let is_tls = |endpoint: &EndpointName| {
            let found = tenants.find(tenant, endpoint, self.memory);
            found.is_some_and(|found| found.tunnel != Some(Mode::Tcp))
        };
        let named = found.names.iter().filter(|(_, endpoint)| is_tls(endpoint));
        let mut names: Vec<_> = named.map(|(n, e)| (n.clone(), e.clone())).collect();
        drop(tenants);
        names.sort();
        names
    }

    /// Like [`lookup`](Self::lookup), among the sessions of the endpoint that declare the name.
    pub fn lookup_name(
        &self,
        tenant: &TenantName,
        endpoint: &EndpointName,
        name: &ConnectName,
    ) -> Lookup<S> {
        let tenants = self.read();
        let Some(found) = tenants.find(tenant, endpoint, self.memory) else {
            return Lookup::Unknown;
        };
        let (here, elsewhere) = found.sessions.split_at(found.here);
        chosen(
            least(here, name).or_else(|| least(elsewhere, name)),
            &found.sessions,
        )
    }

    /// What sessions of this node serve, by tenant and endpoint.
    pub fn routes_here(&self) -> Vec<RouteHere> {
        let tenants = self.read();
        let mut routes = Vec::new();
        for (tenant, found) in &tenants.by_name {
            for (endpoint, found) in found.endpoints.iter().filter(|(_, found)| found.here > 0) {
                routes.push(found.route(tenant, endpoint));
            }
        }
        drop(tenants);
        routes.sort_unstable_by(|a, b| (&a.tenant, &a.endpoint).cmp(&(&b.tenant, &b.endpoint)));
        routes
    }

    /// Tells when [`routes_here`](Self::routes_here) is no longer what it was.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Binds an endpoint to a session, beside those that serve it already; or sets how it serves
    /// the endpoint from now on. A name that belongs to another endpoint that is served stays there; this
    /// one waits for it.
    pub(crate) fn register(
        &self,
        tenant: &TenantName,
        endpoint: &EndpointName,
        id: SessionId,
        session: &S,
        service: Service,
    ) {
        let mut guard = self.write();
        let tenants = &mut *guard;
        let tenant = tenants
            .by_name
            .entry(tenant.clone())
            .or_insert_with(Tenant::new);
        let entry = match tenant.endpoints.get_mut(endpoint) {
            Some(entry) => {
                if entry.sessions.is_empty() {
                    tenants.remembered -= 1;
                    tenants.served += 1;
                }
                entry
            }
            None => {
                tenants.served += 1;
                let new = tenant.endpoints.entry(endpoint.clone());
                new.or_insert_with(Endpoint::new)
            }
        };
        entry.tunnel = service.tunnel.or(entry.tunnel);
        let names = service.names.clone();
        let before = match entry.sessions.iter_mut().find(|known| known.id == id) {
            Some(known) => std::mem::replace(&mut known.service, service).names,
            None => {
                let served = Served {
                    id,
                    session: session.clone(),
                    service,
                };
                if session.is_here() {
                    entry.sessions.insert(entry.here, served);
                    entry.here += 1;
                } else {
                    entry.sessions.push(served);
                }
                std::mem::take(&mut entry.left)
            }
        };
        tenant.declare(endpoint, &names);
        tenant.undeclare(endpoint, &before);
        drop(guard);
        if session.is_here() {
            self.changed();
        }
    }

    /// Takes back what [`register`](Self::register) did.
    pub(crate) fn withdraw(&self, tenant: &TenantName, endpoint: &EndpointName, id: SessionId) {
        let was_here = self.write().withdraw(tenant, endpoint, id, self.memory);
        if was_here {
            self.changed();
        }
    }

    fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Forgets what was remembered for long enough, and gives names that are free to who waits for them. To
    /// be called now and then.
    pub(crate) fn forget_old(&self) {
        let mut guard = self.write();
        let tenants = &mut *guard;
        let now = Instant::now();
        let mut handed_over = false;
        for tenant in tenants.by_name.values_mut() {
            tenants.remembered -= tenant.forget_until(now, self.memory);
            handed_over |= tenant.hand_over(NAME_REST);
        }
        tenants
            .by_name
            .retain(|_, tenant| !tenant.endpoints.is_empty());
        drop(guard);
        if handed_over {
            self.changed();
        }
    }

    /// Endpoints for which a session with this node takes calls. Looks at each: for whoever asks now and
    /// then.
    pub fn served_here(&self) -> usize {
        let tenants = self.read();
        let endpoints = tenants.by_name.values().flat_map(|t| t.endpoints.values());
        endpoints.filter(|found| found.open_here() > 0).count()
    }

    /// What there is of a tenant that has a session.
    pub(crate) fn served_of(&self, tenant: &TenantName) -> ServedOf {
        let tenants = self.read();
        let endpoints = tenants.by_name.get(tenant).map(|found| &found.endpoints);
        let mut served = ServedOf::default();
        for (endpoint, found) in endpoints.into_iter().flatten() {
            if !found.sessions.is_empty() {
                served.endpoints.insert(endpoint.clone());
                served.names += found.declared.len();
            }
        }
        served
    }

    /// How many of these names the sessions of an endpoint do not declare so far.
    pub(crate) fn count_new(
        &self,
        tenant: &TenantName,
        endpoint: &EndpointName,
        names: &[ConnectName],
    ) -> usize {
        let tenants = self.read();
        let found = tenants.by_name.get(tenant);
        let found = found.and_then(|tenant| tenant.endpoints.get(endpoint));
        let found = found.filter(|found| !found.sessions.is_empty());
        let is_new = |name: &&ConnectName| found.is_none_or(|it| !it.declared.contains_key(*name));
        names.iter().filter(is_new).count()
    }

    /// All that serve an endpoint, whether they take calls or not.
    #[cfg(test)]
    pub(crate) fn places(
        &self,
        tenant: &TenantName,
        endpoint: &EndpointName,
    ) -> Vec<(SessionId, S)> {
        let tenants = self.read();
        let found = tenants.find(tenant, endpoint, self.memory);
        let served = found.iter().flat_map(|found| &found.sessions);
        served
            .map(|served| (served.id, served.session.clone()))
            .collect()
    }

    /// The sessions of this node that serve an endpoint, the newest first, no more than so many.
    pub(crate) fn newest_here(
        &self,
        tenant: &TenantName,
        endpoint: &EndpointName,
        most: usize,
    ) -> Vec<SessionId> {
        let tenants = self.read();
        let found = tenants.find(tenant, endpoint, self.memory);
        let here = found.map_or(&[][..], |found| &found.sessions[..found.here]);
        let newest = here.iter().rev().take(most);
        newest.map(|served| served.id).collect()
    }

    /// Every endpoint, those that are offline too, by tenant and name.
    pub fn list(&self) -> Vec<Listed> {
        let tenants = self.read();
        let mut list = Vec::with_capacity(tenants.served + tenants.remembered);
        for (name, tenant) in &tenants.by_name {
            for (endpoint, found) in &tenant.endpoints {
                if found.sessions.is_empty() && found.since.elapsed() >= self.memory {
                    continue;
                }
                let (tenant, endpoint) = (name.clone(), endpoint.clone());
                list.push(Listed {
                    tenant,
                    endpoint,
                    sessions: found.open_here(),
                    draining: found.here - found.open_here(),
                    elsewhere: found.sessions.len() - found.here,
                });
            }
        }
        drop(tenants);
        list.sort_by(|a, b| (&a.tenant, &a.endpoint).cmp(&(&b.tenant, &b.endpoint)));
        list
    }

    fn read(&self) -> RwLockReadGuard<'_, Tenants<S>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tenants<S>> {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> fmt::Debug for Directory<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}
