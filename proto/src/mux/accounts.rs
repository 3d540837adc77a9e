//! On whose part of the process's memory is drawn for what waits on a session.
//!
//! An agent's session is one tenant's, and has one account. One between relay nodes carries calls
//! of all tenants: each stream draws on its call's tenant's part there
//! ([`Limits::waiting_of`](super::Limits::waiting_of)), so that a tenant whose answers nobody
//! takes uses up its own. A tenant has an account while it has streams on the session.

use std::collections::HashMap;

use crate::growth::{GrowthBudget, Share, TenantBudgets};
use crate::names::TenantName;

/// Bytes that may wait on a session, of all accounts together, without being covered: small calls
/// leave the budget alone.
pub(super) const FREE: usize = 64 * 1024;

/// Bytes by which cover is taken.
const COVER: u64 = 64 * 1024;

/// Which account a stream has: its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AccountId(usize);

impl AccountId {
    /// The session's own.
    pub(super) const SESSION: Self = Self(0);
}

/// The accounts of a session.
#[derive(Debug)]
pub(super) struct Accounts {
    /// The session's own comes first.
    all: Vec<Account>,
    /// Places of tenants that are gone.
    vacant: Vec<AccountId>,
    tenants: HashMap<TenantName, AccountId>,
    /// `None`: no tenant has an account of its own.
    budgets: Option<TenantBudgets>,
    /// Bytes that wait on the session.
    waits: usize,
}

#[derive(Debug)]
struct Account {
    /// Whose it is, unless it is the session's.
    tenant: Option<TenantName>,
    /// Streams that have it; those with the session's are not counted.
    streams: usize,
    /// Bytes that wait on these streams.
    waits: usize,
    /// What covers them.
    cover: Share,
}

impl Account {
    fn new(tenant: Option<TenantName>, budget: GrowthBudget) -> Self {
        Self {
            tenant,
            streams: 0,
            waits: 0,
            cover: Share::new(budget),
        }
    }
}

impl Accounts {
    pub(super) fn new(session: GrowthBudget, budgets: Option<TenantBudgets>) -> Self {
        Self {
            all: vec![Account::new(None, session)],
            vacant: Vec::new(),
            tenants: HashMap::new(),
            budgets,
            waits: 0,
        }
    }

    /// The account for another stream of a tenant's.
    pub(super) fn enter(&mut self, tenant: &TenantName) -> AccountId {
        let Some(budgets) = &self.budgets else {
            return AccountId::SESSION;
        };
        let id = match self.tenants.get(tenant) {
            Some(id) => *id,
            None => {
                let account = Account::new(Some(tenant.clone()), budgets.of(tenant));
                let id = self.vacant.pop().unwrap_or(AccountId(self.all.len()));
                match self.all.get_mut(id.0) {
                    Some(place) => *place = account,
                    None => self.all.push(account),
                }
                self.tenants.insert(tenant.clone(), id);
                id
            }
        };
        self.all[id.0].streams += 1;
        id
    }

    /// A stream is gone, of which nothing waits any more.
    pub(super) fn leave(&mut self, id: AccountId) {
        if id == AccountId::SESSION {
            return;
        }
        let account = &mut self.all[id.0];
        account.streams -= 1;
        if account.streams > 0 {
            return;
        }
        account.cover.release();
        if let Some(tenant) = account.tenant.take() {
            self.tenants.remove(&tenant);
        }
        self.vacant.push(id);
    }

    /// Gives back the room of accounts that were there: no stream is left.
    pub(super) fn shrink(&mut self) {
        self.all.truncate(1);
        self.all.shrink_to_fit();
        self.vacant = Vec::new();
        self.tenants = HashMap::new();
    }

    /// Whether the process has memory for `more` bytes to wait on streams of an account.
    pub(super) fn has_memory(&mut self, id: AccountId, more: usize) -> bool {
        let needed = self.needed(id, more);
        let cover = &mut self.all[id.0].cover;
        let missing = needed.saturating_sub(cover.held());
        if missing == 0 {
            return true;
        }
        let wanted = u32::try_from(missing.next_multiple_of(COVER)).unwrap_or(u32::MAX);
        let enough = u64::from(cover.take(wanted)) >= missing;
        if !enough {
            // What there was may be of use elsewhere.
            self.spare(id);
        }
        enough
    }

    /// Bytes of an account that are to be covered once `more` wait: all, but for what is left of
    /// [`FREE`] beside what waits on other accounts. So not more than that is uncovered in all.
    fn needed(&self, id: AccountId, more: usize) -> u64 {
        let beyond = (self.waits + more).saturating_sub(FREE);
        beyond.min(self.all[id.0].waits + more) as u64
    }

    /// More bytes wait on streams of an account.
    pub(super) fn add(&mut self, id: AccountId, bytes: usize) {
        self.waits += bytes;
        self.all[id.0].waits += bytes;
    }

    /// Fewer bytes wait.
    pub(super) fn remove(&mut self, id: AccountId, bytes: usize) {
        self.waits -= bytes;
        self.all[id.0].waits -= bytes;
        self.spare(id);
    }

    /// Gives memory back once much less of it is needed: all of it when little waits.
    fn spare(&mut self, id: AccountId) {
        let account = &mut self.all[id.0];
        let cover = account.cover.held();
        if self.waits < FREE / 2 || account.waits == 0 {
            account.cover.give_back(cover);
        } else if cover >= 4 * COVER && (account.waits as u64) < cover / 4 {
            account.cover.give_back(cover / 2);
        }
    }

    /// Every few seconds: what is not needed is given back, and claims that are not used given up.
    pub(super) fn rebalance(&mut self) {
        for place in 0..self.all.len() {
            let needed = self.needed(AccountId(place), 0);
            let cover = &mut self.all[place].cover;
            cover.give_back(cover.held().saturating_sub(needed));
            cover.rebalance();
        }
    }
}

#[cfg(any(test, feature = "model"))]
impl Accounts {
    /// Tenants that have one.
    pub(super) fn len(&self) -> usize {
        self.tenants.len()
    }

    /// Whose an account is, its streams, and the bytes that wait on them.
    pub(super) fn look(&self, id: AccountId) -> (Option<&TenantName>, usize, usize) {
        let account = &self.all[id.0];
        (account.tenant.as_ref(), account.streams, account.waits)
    }

    /// What covers all that waits.
    pub(super) fn cover(&self) -> u64 {
        self.all.iter().map(|account| account.cover.held()).sum()
    }

    /// Bytes that wait.
    pub(super) fn waits(&self) -> usize {
        self.waits
    }
}
