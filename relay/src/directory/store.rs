//! What the directory stores: endpoints by tenant and name, with their sessions, and for a while those
//! that have none any more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::names::{EndpointName, TenantName};
use tokio::time::Instant;

use super::{MAX_REMEMBERED, MAX_REMEMBERED_OF_TENANT, RouteHere, Service, SessionId, Target};

pub(super) struct Tenants<S> {
    pub(super) by_name: HashMap<TenantName, Tenant<S>>,
    /// Endpoints of all tenants that have a session, here or elsewhere.
    pub(super) served: usize,
    /// Endpoints of all tenants that are remembered without one.
    pub(super) remembered: usize,
}

pub(super) struct Tenant<S> {
    pub(super) endpoints: HashMap<EndpointName, Endpoint<S>>,
    /// When endpoints went, oldest first. Some are back since, or gone again.
    pub(super) gone: VecDeque<(Instant, EndpointName)>,
    /// The endpoint that each name belongs to: the one that had it first, for as long as it is
    /// served or remembered.
    pub(super) names: HashMap<ConnectName, EndpointName>,
}

pub(super) struct Endpoint<S> {
    /// Those of this node first.
    pub(super) sessions: Vec<Served<S>>,
    /// How many of them are of this node.
    pub(super) here: usize,
    /// When the last session went, if there is none.
    pub(super) since: Instant,
    /// What its sessions declare, or the last one did, and how often. Sessions come and go: what that costs
    /// must not grow with those that there are.
    pub(super) declared: HashMap<ConnectName, usize>,
    /// What of it is another's, while there is a session.
    waits_for: HashSet<ConnectName>,
    /// What the last session declared, if there is none.
    pub(super) left: Arc<[ConnectName]>,
    /// How calls to those names are carried, as was said last.
    pub(super) tunnel: Option<Mode>,
}

/// A session that serves an endpoint.
pub(super) struct Served<S> {
    pub(super) id: SessionId,
    pub(super) session: S,
    pub(super) service: Service,
}

impl<S> Endpoint<S> {
    pub(super) fn route(&self, tenant: &TenantName, endpoint: &EndpointName) -> RouteHere {
        let here = &self.sessions[..self.here];
        // Not those that are another's here: elsewhere it may be heard of first.
        let mut names: Vec<_> = here
            .iter()
            .flat_map(|served| &*served.service.names)
            .filter(|name| !self.waits_for.contains(*name))
            .cloned()
            .collect();
        names.sort_unstable();
        names.dedup();
        RouteHere {
            tenant: tenant.clone(),
            endpoint: endpoint.clone(),
            names,
            tunnel: here.iter().rev().find_map(|served| served.service.tunnel),
            priority: here.iter().rev().find_map(|served| served.service.priority),
        }
    }

    pub(super) fn new() -> Self {
        Self {
            sessions: Vec::new(),
            here: 0,
            since: Instant::now(),
            declared: HashMap::new(),
            waits_for: HashSet::new(),
            left: Arc::default(),
            tunnel: None,
        }
    }

    /// Whether it has been without a session since then.
    fn is_gone_since(&self, then: Instant) -> bool {
        self.sessions.is_empty() && self.since == then
    }
}

impl<S: Target> Endpoint<S> {
    /// Sessions of this node that take calls.
    pub(super) fn open_here(&self) -> usize {
        let here = self.sessions[..self.here].iter();
        here.filter(|served| !served.session.is_closing()).count()
    }
}

impl<S> Tenants<S> {
    /// An endpoint that is served, or remembered.
    pub(super) fn find(
        &self,
        tenant: &TenantName,
        endpoint: &EndpointName,
        memory: Duration,
    ) -> Option<&Endpoint<S>> {
        let found = self.by_name.get(tenant)?.endpoints.get(endpoint)?;
        let is_known = !found.sessions.is_empty() || found.since.elapsed() < memory;
        is_known.then_some(found)
    }

    /// Says whether the session was one of this node.
    pub(super) fn withdraw(
        &mut self,
        name: &TenantName,
        endpoint: &EndpointName,
        id: SessionId,
        memory: Duration,
    ) -> bool {
        let Some(tenant) = self.by_name.get_mut(name) else {
            return false;
        };
        let Some(entry) = tenant.endpoints.get_mut(endpoint) else {
            return false;
        };
        let Some(at) = entry.sessions.iter().position(|known| known.id == id) else {
            return false;
        };
        let names = entry.sessions.remove(at).service.names;
        let was_here = at < entry.here;
        if was_here {
            entry.here -= 1;
        }
        if !entry.sessions.is_empty() {
            tenant.undeclare(endpoint, &names);
            return was_here;
        }
        let now = Instant::now();
        entry.since = now;
        entry.left = names;
        entry.waits_for.clear();
        self.served -= 1;
        self.remembered += 1;
        tenant.gone.push_back((now, endpoint.clone()));
        self.remembered -= tenant.forget_until(now, memory);
        if tenant.gone.len() > MAX_REMEMBERED_OF_TENANT {
            tenant.forget_returned();
        }
        while tenant.gone.len() > MAX_REMEMBERED_OF_TENANT
            || (self.remembered > MAX_REMEMBERED && !tenant.gone.is_empty())
        {
            self.remembered -= usize::from(tenant.forget_oldest());
        }
        if tenant.endpoints.is_empty() {
            self.by_name.remove(name);
        }
        was_here
    }
}

impl<S> Tenant<S> {
    pub(super) fn new() -> Self {
        Self {
            endpoints: HashMap::new(),
            gone: VecDeque::new(),
            names: HashMap::new(),
        }
    }

    /// A session of the endpoint declares names: they are its own, but for those that are another's.
    pub(super) fn declare(&mut self, endpoint: &EndpointName, names: &[ConnectName]) {
        for name in names {
            if let Some(entry) = self.endpoints.get_mut(endpoint) {
                *entry.declared.entry(name.clone()).or_default() += 1;
            }
            self.claim(endpoint, name);
        }
    }

    /// A session of the endpoint declares names no more.
    pub(super) fn undeclare(&mut self, endpoint: &EndpointName, names: &[ConnectName]) {
        for name in names {
            let Some(entry) = self.endpoints.get_mut(endpoint) else {
                return;
            };
            let Some(count) = entry.declared.get_mut(name) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                entry.declared.remove(name);
                entry.waits_for.remove(name);
                self.unname(endpoint, name);
            }
        }
    }

    /// Gives a name to an endpoint that declares it, or lets that wait for it.
    fn claim(&mut self, endpoint: &EndpointName, name: &ConnectName) {
        // Who is only remembered, perhaps this one under its old name, has no need of it.
        let holder = self.names.get(name);
        let is_others = holder.is_some_and(|it| it != endpoint && self.is_served(it));
        let Some(entry) = self.endpoints.get_mut(endpoint) else {
            return;
        };
        if is_others {
            entry.waits_for.insert(name.clone());
        } else {
            entry.waits_for.remove(name);
            self.names.insert(name.clone(), endpoint.clone());
        }
    }

    /// Gives names that nobody has needed for `rest` to endpoints that wait for them; says whether there
    /// were any.
    pub(super) fn hand_over(&mut self, rest: Duration) -> bool {
        let is_free = |name: &ConnectName| {
            let holder = self.names.get(name);
            let holder = holder.and_then(|holder| self.endpoints.get(holder));
            holder.is_none_or(|it| it.sessions.is_empty() && it.since.elapsed() >= rest)
        };
        let mut waiting: Vec<(EndpointName, ConnectName)> = Vec::new();
        for (endpoint, entry) in &self.endpoints {
            let free = entry.waits_for.iter().filter(|name| is_free(name));
            waiting.extend(free.map(|name| (endpoint.clone(), name.clone())));
        }
        // Where several wait, each node gives it to the same one.
        waiting.sort_unstable();
        for (endpoint, name) in &waiting {
            self.claim(endpoint, name);
        }
        !waiting.is_empty()
    }

    /// Whether the endpoint has a session.
    pub(super) fn is_served(&self, endpoint: &EndpointName) -> bool {
        let found = self.endpoints.get(endpoint);
        found.is_some_and(|found| !found.sessions.is_empty())
    }

    /// Takes a name from an endpoint, if it is still its own.
    fn unname(&mut self, endpoint: &EndpointName, name: &ConnectName) {
        if self.names.get(name) == Some(endpoint) {
            self.names.remove(name);
        }
    }

    /// Forgets endpoints that went longer ago than `memory`; says how many.
    pub(super) fn forget_until(&mut self, now: Instant, memory: Duration) -> usize {
        let mut forgotten = 0;
        while self
            .gone
            .front()
            .is_some_and(|(since, _)| now.duration_since(*since) >= memory)
        {
            forgotten += usize::from(self.forget_oldest());
        }
        forgotten
    }

    /// Drops the entries of `gone` whose endpoints are back since, or gone again: they are in the way of those
    /// that are away.
    fn forget_returned(&mut self) {
        let endpoints = &self.endpoints;
        self.gone.retain(|(since, name)| {
            let entry = endpoints.get(name);
            entry.is_some_and(|entry| entry.is_gone_since(*since))
        });
    }

    /// Drops the oldest entry of `gone`, and its endpoint unless it is back since; says whether
    /// an endpoint was forgotten.
    fn forget_oldest(&mut self) -> bool {
        let Some((since, name)) = self.gone.pop_front() else {
            return false;
        };
        let still_gone = self
            .endpoints
            .get(&name)
            .is_some_and(|entry| entry.is_gone_since(since));
        if still_gone && let Some(entry) = self.endpoints.remove(&name) {
            for declared in entry.declared.keys() {
                self.unname(&name, declared);
            }
        }
        still_gone
    }
}
