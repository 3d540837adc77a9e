//! What each tenant has in progress on this node, and how much it may have.
//!
//! A tenant has an [`Account`] while it has a call or session, and a little longer. Tenants come
//! from verified credentials alone. To begin a call is one look-up and a few atomic operations.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use culvert_config::quota::{Quota, Tenant};
use culvert_config::relay::RelayLimits;
use culvert_http::{Bucket, Progress, Throttle};
use culvert_identity::VerifiedToken;
use culvert_proto::growth::{GrowthBudget, TenantBudgets};
use culvert_proto::head::CallId;
use culvert_proto::names::{EndpointName, TenantName};
use futures_util::task::AtomicWaker;

use crate::metrics::{Metrics, QuotaKind};
use crate::revocations::Revocations;

/// Accounts above which idle ones are dropped before another is opened, without the wait.
const MANY: usize = 65_536;

/// The tenants of a node.
#[derive(Debug)]
pub struct Tenants {
    /// What a tenant may take that has no quota of its own.
    everybody: Quota,
    own: HashMap<TenantName, Quota>,
    metrics: Arc<Metrics>,
    accounts: RwLock<HashMap<TenantName, Arc<Account>>>,
}

/// One tenant.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) quota: Quota,
    calls: Mutex<HashMap<CallId, Arc<LiveCall>>>,
    sessions: AtomicU32,
    call_rate: Option<Bucket>,
    byte_rate: Option<Arc<Bucket>>,
    /// Held while endpoints are counted and registered.
    registering: Mutex<()>,
    /// What was refused because the quota was used up.
    refused: AtomicU64,
}

/// A tenant's quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// Which part of it.
    pub(crate) what: QuotaKind,
    /// When there is room again, where that is known.
    pub(crate) retry_after: Option<Duration>,
}

impl Exceeded {
    /// What those are told who asked for more.
    pub(crate) fn told(self) -> &'static str {
        match self.what {
            QuotaKind::Calls => "your tenant has as many calls in progress as it may; try again",
            QuotaKind::CallRate => "your tenant makes more calls a second than it may; try again",
            QuotaKind::Sessions => "your tenant has as many agent sessions as it may; try again",
            QuotaKind::Endpoints => "your tenant has as many endpoints as it may",
            QuotaKind::Names => {
                "your tenant's endpoints have as many names to connect to as they may"
            }
        }
    }
}

/// A call in progress, from the moment its caller is known.
#[derive(Debug)]
pub(crate) struct LiveCall {
    pub(crate) caller: Arc<VerifiedToken>,
    /// The endpoint of the caller's tenant that it is for.
    endpoint: Option<EndpointName>,
    /// The rate that it shares with its tenant's other calls.
    byte_rate: Option<Arc<Bucket>>,
    /// Its end is said there.
    progress: Arc<Progress>,
    /// The node stops, and does not wait for the call any longer.
    given_up: AtomicBool,
    /// Whoever carries the call on.
    waiting: AtomicWaker,
}

impl LiveCall {
    /// Keeps one direction of the call to its tenant's rate.
    pub(crate) fn throttle(&self) -> Throttle {
        self.byte_rate
            .clone()
            .map_or_else(Throttle::default, Throttle::new)
    }

    /// Whether it is over because the node stops.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Whether an operator has withdrawn it, or the node has given it up.
    pub(crate) fn is_revoked(&self) -> bool {
        self.progress.cut.load(Ordering::Acquire)
    }

    /// Ready once that is so; else the task is woken when that happens.
    pub(crate) fn poll_revoked(&self, cx: &Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        if self.is_revoked() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn revoke(&self) -> bool {
        let first = !self.progress.cut.swap(true, Ordering::AcqRel);
        self.waiting.wake();
        first
    }
}

/// The place of a call among those of its tenant. Dropped, the call is over.
#[derive(Debug)]
pub(crate) struct CallSeat {
    account: Arc<Account>,
    id: CallId,
    pub(crate) call: Arc<LiveCall>,
}

impl Drop for CallSeat {
    fn drop(&mut self) {
        self.account.calls().remove(&self.id);
    }
}

/// The place of a session among those of its tenant. Dropped, the session is over.
#[derive(Debug)]
pub(crate) struct SessionSeat {
    pub(crate) account: Arc<Account>,
}

impl Drop for SessionSeat {
    fn drop(&mut self) {
        self.account.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a tenant uses, in [`Tenants::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) tenant: TenantName,
    pub(crate) sessions: u32,
    pub(crate) calls: usize,
    /// Refusals because the quota was used up.
    pub(crate) refused: u64,
    pub(crate) quota: Quota,
}

impl Tenants {
    /// The tenants of a node with these limits, some with quotas of their own; none has anything.
    pub fn new(limits: &RelayLimits, own: &[Tenant], metrics: Arc<Metrics>) -> Self {
        let own = own
            .iter()
            .map(|tenant| (tenant.name.clone(), tenant.quota.clone()));
        Self {
            everybody: limits.quota(),
            own: own.collect(),
            metrics,
            accounts: RwLock::default(),
        }
    }

    /// Enters a call among those in progress, if its tenant may have another.
    pub(crate) fn enter(
        &self,
        id: CallId,
        caller: &Arc<VerifiedToken>,
        endpoint: Option<&EndpointName>,
        progress: &Arc<Progress>,
    ) -> Result<CallSeat, Exceeded> {
        let account = self.account(&caller.principal.tenant);
        let mut calls = account.calls();
        if calls.len() >= account.quota.max_calls as usize {
            return Err(self.refuse(&account, QuotaKind::Calls, None));
        }
        if let Some(Err(wait)) = account.call_rate.as_ref().map(Bucket::take) {
            return Err(self.refuse(&account, QuotaKind::CallRate, Some(wait)));
        }
        let call = Arc::new(LiveCall {
            caller: caller.clone(),
            endpoint: endpoint.cloned(),
            byte_rate: account.byte_rate.clone(),
            progress: progress.clone(),
            given_up: AtomicBool::new(false),
            waiting: AtomicWaker::new(),
        });
        calls.insert(id, call.clone());
        drop(calls);
        Ok(CallSeat { account, id, call })
    }

    /// Enters a session, if the tenant may have another.
    pub(crate) fn enter_session(&self, tenant: &TenantName) -> Result<SessionSeat, Exceeded> {
        let account = self.account(tenant);
        let most = account.quota.max_sessions;
        let one_more = |sessions| (sessions < most).then_some(sessions + 1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        match account.sessions.fetch_update(set, fetch, one_more) {
            Ok(_) => Ok(SessionSeat { account }),
            Err(_) => Err(self.refuse(&account, QuotaKind::Sessions, None)),
        }
    }

    /// Notes that an account has no room for an endpoint: for another one, or for its names.
    pub(crate) fn refuse_endpoint(&self, account: &Account, what: QuotaKind) -> Exceeded {
        self.refuse(account, what, None)
    }

    fn refuse(
        &self,
        account: &Account,
        what: QuotaKind,
        retry_after: Option<Duration>,
    ) -> Exceeded {
        account.refused.fetch_add(1, Ordering::Relaxed);
        self.metrics.quotas.on_refused(what);
        Exceeded { what, retry_after }
    }

    /// The part of each tenant in the memory for what waits, and the most that it may hold of it. What its
    /// callers leave unread cannot be taken back: so it leaves room for who comes.
    pub(crate) fn budgets(self: &Arc<Self>, all: GrowthBudget) -> TenantBudgets {
        let tenants = self.clone();
        TenantBudgets::new(move |tenant| {
            let part = all.of_tenant(tenant.as_str()).leaving_room();
            match tenants.quota(tenant).max_buffer {
                None => part,
                Some(most) => part.at_most(most.0),
            }
        })
    }

    /// Ends every call that is withdrawn; says how many.
    pub(crate) fn end_revoked(&self, revocations: &Revocations) -> usize {
        let calls = self.calls().into_iter();
        let ended = calls.filter(|call| {
            let caller = &call.caller.principal;
            let found = revocations.of_call(caller, call.endpoint.as_ref());
            found.is_some() && call.revoke()
        });
        ended.count()
    }

    /// Ends every call, because the node stops.
    pub(crate) fn give_up(&self) {
        for call in self.calls() {
            call.given_up.store(true, Ordering::Release);
            call.revoke();
        }
    }

    /// Calls in progress, of all tenants.
    fn calls(&self) -> Vec<Arc<LiveCall>> {
        let accounts: Vec<_> = self.read().values().cloned().collect();
        let of = |account: &Arc<Account>| account.calls().values().cloned().collect::<Vec<_>>();
        accounts.iter().flat_map(of).collect()
    }

    /// Calls of all tenants.
    #[cfg(test)]
    pub(crate) fn in_progress(&self) -> usize {
        self.list().iter().map(|usage| usage.calls).sum()
    }

    /// What each tenant uses that has something in progress, by name.
    pub(crate) fn list(&self) -> Vec<Usage> {
        let accounts = self.read();
        let usage = |(tenant, account): (&TenantName, &Arc<Account>)| Usage {
            tenant: tenant.clone(),
            sessions: account.sessions.load(Ordering::Relaxed),
            calls: account.calls().len(),
            refused: account.refused.load(Ordering::Relaxed),
            quota: account.quota.clone(),
        };
        let mut list: Vec<_> = accounts.iter().map(usage).collect();
        drop(accounts);
        list.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        list
    }

    /// Forgets tenants that have nothing in progress and owe nothing. To be called now and then.
    pub(crate) fn forget_idle(&self) {
        // Others get hold of an account only under this lock.
        self.write()
            .retain(|_, account| Arc::strong_count(account) > 1 || !account.owes_nothing());
    }

    fn account(&self, tenant: &TenantName) -> Arc<Account> {
        if let Some(account) = self.read().get(tenant) {
            return account.clone();
        }
        let mut accounts = self.write();
        if accounts.len() >= MANY {
            // Those that are in use are bounded by the node's calls and sessions.
            accounts.retain(|_, account| Arc::strong_count(account) > 1);
        }
        let account = accounts
            .entry(tenant.clone())
            .or_insert_with(|| Arc::new(Account::new(self.quota(tenant).clone())));
        account.clone()
    }

    fn quota(&self, tenant: &TenantName) -> &Quota {
        self.own.get(tenant).unwrap_or(&self.everybody)
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<TenantName, Arc<Account>>> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<TenantName, Arc<Account>>> {
        self.accounts
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn new(quota: Quota) -> Self {
        let call_rate = quota.max_call_rate.map(|rate| Bucket::new(rate.0.into()));
        let byte_rate = quota
            .max_byte_rate
            .map(|rate| Arc::new(Bucket::new(rate.0)));
        Self {
            quota,
            calls: Mutex::default(),
            sessions: AtomicU32::new(0),
            call_rate,
            byte_rate,
            registering: Mutex::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Keeps other sessions of the tenant from registering meanwhile.
    pub(crate) fn registering(&self) -> MutexGuard<'_, ()> {
        self.registering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn owes_nothing(&self) -> bool {
        let calls = self.call_rate.as_ref().is_none_or(Bucket::is_full);
        calls && self.byte_rate.as_ref().is_none_or(|bytes| bytes.is_full())
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<CallId, Arc<LiveCall>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
