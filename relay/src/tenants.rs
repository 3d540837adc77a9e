//! What each tenant has in progress on this node.
//!
//! A tenant has an [`Account`] while it has a call or session, and a little longer. Tenants come
//! from verified credentials alone.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};

use culvert_http::Progress;
use culvert_identity::VerifiedToken;
use culvert_proto::head::CallId;
use culvert_proto::names::{EndpointName, TenantName};
use futures_util::task::AtomicWaker;

use crate::revocations::Revocations;

/// The tenants of a node.
#[derive(Debug, Default)]
pub struct Tenants {
    accounts: RwLock<HashMap<TenantName, Arc<Account>>>,
}

/// One tenant.
#[derive(Debug, Default)]
struct Account {
    calls: Mutex<HashMap<CallId, Arc<LiveCall>>>,
}

/// A call in progress, from the moment its caller is known.
#[derive(Debug)]
pub(crate) struct LiveCall {
    pub(crate) caller: Arc<VerifiedToken>,
    /// The endpoint of the caller's tenant that it is for.
    endpoint: Option<EndpointName>,
    /// Its end is said there.
    progress: Arc<Progress>,
    /// Whoever carries the call on.
    waiting: AtomicWaker,
}

impl LiveCall {
    /// Whether an operator has withdrawn it.
    pub(crate) fn is_revoked(&self) -> bool {
        self.progress.cut.load(Ordering::Acquire)
    }

    /// Ready once an operator has withdrawn it; else the task is woken when that happens.
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

impl Tenants {
    /// Enters a call among those in progress.
    pub(crate) fn enter(
        &self,
        id: CallId,
        caller: &Arc<VerifiedToken>,
        endpoint: Option<&EndpointName>,
        progress: &Arc<Progress>,
    ) -> CallSeat {
        let account = self.account(&caller.principal.tenant);
        let call = Arc::new(LiveCall {
            caller: caller.clone(),
            endpoint: endpoint.cloned(),
            progress: progress.clone(),
            waiting: AtomicWaker::new(),
        });
        account.calls().insert(id, call.clone());
        CallSeat { account, id, call }
    }

    /// Ends every call that is withdrawn; says how many.
    pub(crate) fn end_revoked(&self, revocations: &Revocations) -> usize {
        let accounts: Vec<_> = self.read().values().cloned().collect();
        let mut ended = 0;
        for account in accounts {
            let calls: Vec<_> = account.calls().values().cloned().collect();
            for call in calls {
                let caller = &call.caller.principal;
                if revocations
                    .of_call(caller, call.endpoint.as_ref())
                    .is_some()
                {
                    ended += usize::from(call.revoke());
                }
            }
        }
        ended
    }

    /// Calls of all tenants.
    #[cfg(test)]
    pub(crate) fn in_progress(&self) -> usize {
        self.read()
            .values()
            .map(|account| account.calls().len())
            .sum()
    }

    /// Forgets tenants that have nothing in progress. To be called now and then.
    pub(crate) fn forget_idle(&self) {
        let mut accounts = self
            .accounts
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Others get hold of an account only under this lock.
        accounts.retain(|_, account| Arc::strong_count(account) > 1);
    }

    fn account(&self, tenant: &TenantName) -> Arc<Account> {
        if let Some(account) = self.read().get(tenant) {
            return account.clone();
        }
        let mut accounts = self
            .accounts
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        accounts.entry(tenant.clone()).or_default().clone()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<TenantName, Arc<Account>>> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn calls(&self) -> MutexGuard<'_, HashMap<CallId, Arc<LiveCall>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
