//! What the node's operators have withdrawn: subjects, tenants, sessions, endpoints.
//!
//! A [`Revocation`] matches what fits *all* that it names. While it holds, matching sessions and
//! calls end and new ones are refused. [`Revocations`] is only the list: whoever knows of a
//! revocation (the admin listener; a directory that all nodes share) puts it there, and
//! [`enforce`](enforce::enforce) does the rest, so that every source counts alike.
//!
//! Nobody slips between: sessions and calls are entered among the living first and ask the list
//! then, while a revocation is entered in the list first and looks through the living then.
//!
//! The list is this process's memory, and ends with it; nodes of a cluster tell each other what is
//! on theirs ([`sharing`]).

pub(crate) mod enforce;
pub(crate) mod sharing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::principal::Principal;
use tokio::sync::watch;
use tokio::time::Instant;

use self::sharing::Shared;

use crate::directory::SessionId;

/// Most revocations that hold at once. Each takes less than 2 KiB.
pub const MAX_REVOCATIONS: usize = 4096;

/// Farthest end of a revocation from now: a hundred years. What holds for longer has no end.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// What a caller is told whose call is refused.
pub(crate) const REFUSED: &str =
    "the relay's operator has revoked the access of this credential, or to this endpoint";

/// What a caller is told whose call is ended.
pub(crate) const ENDED: &str = "the relay's operator revoked the access while the call was in flight; whether \
     the local API has seen it is not known";

/// Longest reason, in bytes.
pub const MAX_REASON: usize = 512;

/// Longest subject, in bytes: no token has a longer one.
pub const MAX_SUBJECT: usize = 255;

/// How long the revocation of a session is remembered: it is over at once, and its id never comes
/// again.
pub const SESSION_MEMORY: Duration = Duration::from_secs(3600);

/// The name of a revocation: random, so that nodes need not agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevocationId(u64);

impl RevocationId {
    fn random() -> Self {
        Self(fastrand::u64(..))
    }
}

/// The text is not a [`RevocationId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the id of a revocation: 16 hexadecimal digits")]
pub struct NoRevocationId;

impl fmt::Display for RevocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for RevocationId {
    type Err = NoRevocationId;

    fn from_str(text: &str) -> Result<Self, NoRevocationId> {
        let id = u64::from_str_radix(text, 16);
        id.map(Self).or(Err(NoRevocationId))
    }
}

/// What a revocation is about: everything that fits all that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// `sub` of a token, or the name of a certificate.
    pub subject: Option<String>,
    /// The tenant of agents and callers.
    pub tenant: Option<TenantName>,
    /// A session of an agent on this node.
    pub session: Option<SessionId>,
    /// An endpoint of the tenant, which must be given: calls to it.
    pub endpoint: Option<EndpointName>,
}

/// Why something is no scope of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// It would be everything.
    #[error("name at least one of subject, tenant, session, endpoint")]
    Nothing,
    /// Endpoints are a tenant's.
    #[error("an endpoint goes with its tenant")]
    EndpointAlone,
    /// Sessions have many endpoints.
    #[error("a session and an endpoint do not go together")]
    SessionAndEndpoint,
    /// No token has such a subject.
    #[error("a subject has 1 to 255 bytes and no control characters")]
    Subject,
}

impl Scope {
    /// Whether it is about something, and about something that can be.
    pub fn check(&self) -> Result<(), ScopeError> {
        let Self {
            subject,
            tenant,
            session,
            endpoint,
        } = self;
        if let Some(subject) = subject
            && (subject.is_empty()
                || subject.len() > MAX_SUBJECT
                || subject.contains(char::is_control))
        {
            return Err(ScopeError::Subject);
        }
        match (subject, tenant, session, endpoint) {
            (None, None, None, None) => Err(ScopeError::Nothing),
            (_, None, _, Some(_)) => Err(ScopeError::EndpointAlone),
            (_, _, Some(_), Some(_)) => Err(ScopeError::SessionAndEndpoint),
            _ => Ok(()),
        }
    }

    fn is_of(&self, tenant: &TenantName, subject: &str) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
            && self.subject.as_ref().is_none_or(|own| own == subject)
    }

    fn is_agent(&self, tenant: &TenantName, subject: &str, session: Option<SessionId>) -> bool {
        self.endpoint.is_none()
            && (self.session.is_none() || self.session == session)
            && self.is_of(tenant, subject)
    }

    fn is_call(&self, caller: &Principal, endpoint: Option<&EndpointName>) -> bool {
        self.session.is_none()
            && (self.endpoint.is_none() || self.endpoint.as_ref() == endpoint)
            && self.is_of(&caller.tenant, &caller.subject)
    }
}

/// Something that an operator has withdrawn.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// Its name.
    pub id: RevocationId,
    /// What it is about.
    pub scope: Scope,
    /// Why; agents whose sessions it ends are told.
    pub reason: Option<String>,
    /// Since when it holds.
    pub since: SystemTime,
    /// How long it holds from then on; `None`: until it is lifted.
    pub ttl: Option<Duration>,
    /// The same by the clock that never jumps.
    until: Option<Instant>,
}

impl Revocation {
    /// One that holds from now on.
    pub fn new(scope: Scope, reason: Option<String>, ttl: Option<Duration>) -> Self {
        let ttl = ttl.or_else(|| scope.session.map(|_| SESSION_MEMORY));
        Self {
            id: RevocationId::random(),
            scope,
            reason,
            since: SystemTime::now(),
            ttl,
            // One that outlives what the clock can count is never over.
            until: ttl.and_then(|ttl| Instant::now().checked_add(ttl)),
        }
    }

    /// What is left of it; `None`: it holds until it is lifted.
    pub(crate) fn left(&self) -> Option<Duration> {
        let now = Instant::now();
        self.until.map(|until| until.saturating_duration_since(now))
    }

    fn holds(&self) -> bool {
        self.until.is_none_or(|until| until > Instant::now())
    }

    /// What those are told whom it concerns.
    pub(crate) fn told(&self) -> String {
        match &self.reason {
            None => "the relay's operator has revoked the access".to_owned(),
            Some(reason) => format!("the relay's operator has revoked the access: {reason}"),
        }
    }
}

/// There are [`MAX_REVOCATIONS`] already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {MAX_REVOCATIONS} revocations already: lift what is not needed any more")]
pub struct Full;

/// What is withdrawn at the moment.
#[derive(Debug)]
pub struct Revocations {
    list: RwLock<List>,
    /// How many there are. Nearly always none: then nobody looks further.
    count: AtomicUsize,
    /// Its version: changes whenever one is added.
    added: watch::Sender<u64>,
    /// Changes with everything that others may have to hear, or have heard.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct List {
    by_id: BTreeMap<RevocationId, Arc<Revocation>>,
    /// Where to look for a subject: each revocation that names one.
    by_subject: HashMap<String, Vec<Arc<Revocation>>>,
    /// Where to look for a tenant: each that names one and no subject.
    by_tenant: HashMap<TenantName, Vec<Arc<Revocation>>>,
    /// The rest: those of a session.
    others: Vec<Arc<Revocation>>,
    shared: Shared,
}

impl Default for Revocations {
    fn default() -> Self {
        Self {
            list: RwLock::default(),
            count: AtomicUsize::new(0),
            added: watch::Sender::new(0),
            changed: watch::Sender::new(0),
        }
    }
}

impl Revocations {
    /// Adds one, or changes the one of that id.
    pub fn add(&self, revocation: Revocation) -> Result<Arc<Revocation>, Full> {
        let revocation = Arc::new(revocation);
        let mut list = self.write();
        list.forget_old();
        list.remove(revocation.id);
        let room = list.by_id.len() < MAX_REVOCATIONS;
        if room {
            list.insert(revocation.clone());
        }
        self.settle(list);
        if !room {
            return Err(Full);
        }
        self.added.send_modify(|version| *version += 1);
        self.changed.send_modify(|version| *version += 1);
        Ok(revocation)
    }

    /// The list has changed: how many there are is known without its lock.
    fn settle(&self, list: RwLockWriteGuard<'_, List>) {
        self.count.store(list.by_id.len(), Ordering::Release);
    }

    /// Takes one back; says which it was, if it was there.
    pub fn lift(&self, id: RevocationId) -> Option<Arc<Revocation>> {
        let mut list = self.write();
        let lifted = list.remove(id).filter(|revocation| revocation.holds());
        if let Some(revocation) = &lifted {
            list.shared.lift(revocation);
        }
        self.settle(list);
        self.changed.send_modify(|version| *version += 1);
        lifted
    }

    /// Everything that is withdrawn, oldest first.
    pub fn list(&self) -> Vec<Arc<Revocation>> {
        let mut found: Vec<_> = self.read().by_id.values().cloned().collect();
        found.retain(|revocation| revocation.holds());
        found.sort_by_key(|revocation| (revocation.since, revocation.id));
        found
    }

    /// How many hold.
    pub fn len(&self) -> usize {
        self.list().len()
    }

    /// Whether nothing is withdrawn.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets those that are over. To be called now and then.
    pub(crate) fn forget_old(&self) {
        let mut list = self.write();
        list.forget_old();
        self.settle(list);
    }

    /// What forbids an agent to have a session: this one, or any.
    pub(crate) fn of_agent(
        &self,
        tenant: &TenantName,
        subject: &str,
        session: Option<SessionId>,
    ) -> Option<Arc<Revocation>> {
        self.find(tenant, subject, |scope| {
            scope.is_agent(tenant, subject, session)
        })
    }

    /// What forbids a caller a call, to this endpoint of its tenant if there is one.
    pub(crate) fn of_call(
        &self,
        caller: &Principal,
        endpoint: Option<&EndpointName>,
    ) -> Option<Arc<Revocation>> {
        self.find(&caller.tenant, &caller.subject, |scope| {
            scope.is_call(caller, endpoint)
        })
    }

    fn find(
        &self,
        tenant: &TenantName,
        subject: &str,
        matches: impl Fn(&Scope) -> bool,
    ) -> Option<Arc<Revocation>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let list = self.read();
        let of_subject = list.by_subject.get(subject).into_iter().flatten();
        let of_tenant = list.by_tenant.get(tenant).into_iter().flatten();
        of_subject
            .chain(of_tenant)
            .chain(&list.others)
            .find(|revocation| revocation.holds() && matches(&revocation.scope))
            .cloned()
    }

    /// Sees each addition.
    pub(crate) fn additions(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, List> {
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, List> {
        self.list.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn insert(&mut self, revocation: Arc<Revocation>) {
        self.by_id.insert(revocation.id, revocation.clone());
        let Scope {
            subject, tenant, ..
        } = &revocation.scope;
        let place = match (subject, tenant) {
            (Some(subject), _) => self.by_subject.entry(subject.clone()).or_default(),
            (None, Some(tenant)) => self.by_tenant.entry(tenant.clone()).or_default(),
            (None, None) => &mut self.others,
        };
        place.push(revocation);
    }

    fn remove(&mut self, id: RevocationId) -> Option<Arc<Revocation>> {
        let revocation = self.by_id.remove(&id)?;
        self.others.retain(|other| other.id != id);
        let Scope {
            subject, tenant, ..
        } = &revocation.scope;
        if let Some(subject) = subject
            && let Some(place) = self.by_subject.get_mut(subject)
        {
            place.retain(|other| other.id != id);
            if place.is_empty() {
                self.by_subject.remove(subject);
            }
        } else if let Some(tenant) = tenant
            && let Some(place) = self.by_tenant.get_mut(tenant)
        {
            place.retain(|other| other.id != id);
            if place.is_empty() {
                self.by_tenant.remove(tenant);
            }
        }
        Some(revocation)
    }

    fn forget_old(&mut self) {
        let over = self.by_id.values().filter(|revocation| !revocation.holds());
        let over: Vec<_> = over.map(|revocation| revocation.id).collect();
        for id in over {
            self.remove(id);
        }
        self.shared.forget_old();
    }
}
