//! The memory by which receive windows may grow: one budget for all sessions of a process.
//!
//! A window starts small, whatever the line. What lets one grow to a long line's size is memory
//! that all tenants share, and within a tenant all of its sessions, by the same rule: while less
//! than half of it is taken, one may hold half of it; after that nobody takes more than an equal
//! part among those that claim any (one alone, all of it), and when it is short who holds more
//! gives back. So neither one session's bulk nor a hundred sessions of one tenant keep the
//! windows of others small for long.
//!
//! A session *claims* memory while it holds some, and after it asked for some in vain until it no
//! longer asks: that is how a newcomer makes those shrink who hold everything.
//!
//! What was granted to a peer cannot be taken back: a window shrinks as bytes of it are read, or
//! when its stream ends. A stream that lies idle after it has grown keeps what it has until then.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::names::TenantName;

/// A budget in bytes, and the tenant on whose part of it a session draws. Clones, and those
/// [of other tenants](Self::of_tenant), are the same budget.
#[derive(Debug, Clone)]
pub struct GrowthBudget {
    shared: Arc<Shared>,
    tenant: Arc<str>,
    /// Most that the tenant may hold, whatever is left.
    most: u64,
    /// What it holds is never more than what is left.
    leaves_room: bool,
}

#[derive(Debug)]
struct Shared {
    total: u64,
    /// Taken when a window grows, when one that has grown shrinks or ends, and once per session
    /// and ping: never per frame.
    ledger: Mutex<Ledger>,
}

/// The budget of each tenant, for sessions that carry calls of many.
#[derive(Clone)]
pub struct TenantBudgets(Arc<dyn Fn(&TenantName) -> GrowthBudget + Send + Sync>);

impl TenantBudgets {
    /// Tenants have what `of` says. It is asked when a tenant's first stream comes to a session.
    pub fn new(of: impl Fn(&TenantName) -> GrowthBudget + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    /// The budget of this tenant.
    pub fn of(&self, tenant: &TenantName) -> GrowthBudget {
        (self.0)(tenant)
    }
}

impl fmt::Debug for TenantBudgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantBudgets")
    }
}

/// Who holds what. It has an entry for each tenant with a session that claims any, and no others.
#[derive(Debug, Default)]
struct Ledger {
    used: u64,
    tenants: HashMap<Arc<str>, Account>,
}

/// What the sessions of a tenant hold.
#[derive(Debug, Default, Clone, Copy)]
struct Account {
    used: u64,
    /// Sessions that claim any.
    claims: u64,
}

/// Most that one of `claims` may hold of `total`, of which `used` is taken.
fn part(total: u64, used: u64, claims: u64) -> u64 {
    let equal = total / claims.max(1);
    if used <= total / 2 {
        equal.max(total / 2)
    } else {
        equal
    }
}

/// Whether so much is taken that who holds more than an equal part gives back.
fn is_short(total: u64, used: u64) -> bool {
    used > total / 4 * 3
}

impl Default for GrowthBudget {
    fn default() -> Self {
        Self::new(0)
    }
}

impl GrowthBudget {
    /// A budget of `total` bytes; 0: windows keep their first size.
    pub fn new(total: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                total,
                ledger: Mutex::default(),
            }),
            tenant: Arc::from(""),
            most: u64::MAX,
            leaves_room: false,
        }
    }

    /// The same budget, for sessions of this tenant.
    pub fn of_tenant(&self, tenant: &str) -> Self {
        Self {
            shared: self.shared.clone(),
            tenant: Arc::from(tenant),
            most: u64::MAX,
            leaves_room: false,
        }
    }

    /// The same, where the sessions of the tenant hold no more than `bytes` together.
    pub fn at_most(self, bytes: u64) -> Self {
        Self {
            most: bytes,
            ..self
        }
    }

    /// The same, where the tenant takes nothing beyond as much as it leaves to others: one alone
    /// half of the budget, and who comes finds room, however many there are already.
    pub fn leaving_room(self) -> Self {
        Self {
            leaves_room: true,
            ..self
        }
    }

    /// The part of each tenant.
    pub fn by_tenant(&self) -> TenantBudgets {
        let all = self.clone();
        TenantBudgets::new(move |tenant| all.of_tenant(tenant.as_str()))
    }

    /// Takes so many bytes for one thing of that size; `None`: there is no room for all of it.
    pub fn hold(&self, bytes: u32) -> Option<Held> {
        let mut share = Share::new(self.clone());
        let taken = share.take(bytes);
        (taken == bytes).then_some(Held { _share: share })
    }

    /// All of it, in bytes.
    pub fn total(&self) -> u64 {
        self.shared.total
    }

    /// What is taken at the moment, in bytes; never more than [`total`](Self::total).
    pub fn used(&self) -> u64 {
        self.ledger().used
    }

    /// Tenants that have sessions with a claim.
    #[cfg(test)]
    pub(crate) fn tenants(&self) -> usize {
        self.ledger().tenants.len()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared
            .ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Most that the tenant may hold now.
    fn tenant_part(&self, total: u64) -> u64 {
        part(total, self.used, self.tenants.len() as u64)
    }
}

/// What one session holds of a budget. Dropping it gives all of it back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: GrowthBudget,
    held: u64,
    /// It counts in its tenant's account.
    claims: bool,
    /// It asked since [`rebalance`](Self::rebalance).
    asked: bool,
}

impl Share {
    pub(crate) fn new(budget: GrowthBudget) -> Self {
        Self {
            budget,
            held: 0,
            claims: false,
            asked: false,
        }
    }

    /// What the session holds, in bytes.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Takes up to `wanted` bytes and says how many.
    pub(crate) fn take(&mut self, wanted: u32) -> u32 {
        let total = self.budget.total();
        if wanted == 0 || total == 0 {
            return 0;
        }
        self.asked = true;
        let mut ledger = self.budget.ledger();
        let ledger = &mut *ledger;
        let first = !std::mem::replace(&mut self.claims, true);
        if !ledger.tenants.contains_key(&self.budget.tenant) {
            ledger
                .tenants
                .insert(self.budget.tenant.clone(), Account::default());
        }
        let mut of_tenant = ledger.tenant_part(total).min(self.budget.most);
        let left = total - ledger.used;
        let Some(account) = ledger.tenants.get_mut(&self.budget.tenant) else {
            return 0;
        };
        account.claims += u64::from(first);
        if self.budget.leaves_room {
            of_tenant = of_tenant.min((account.used + left) / 2);
        }
        let of_session = part(of_tenant, account.used, account.claims);
        let taken = u64::from(wanted)
            .min(left)
            .min(of_tenant.saturating_sub(account.used))
            .min(of_session.saturating_sub(self.held));
        account.used += taken;
        ledger.used += taken;
        self.held += taken;
        // At most `wanted`, which came as a `u32`.
        taken as u32
    }

    /// Gives back up to `bytes`.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.held);
        if bytes == 0 {
            return;
        }
        self.held -= bytes;
        let mut ledger = self.budget.ledger();
        ledger.used -= bytes;
        if let Some(account) = ledger.tenants.get_mut(&self.budget.tenant) {
            account.used -= bytes;
        }
    }

    /// Once per session and ping: gives up a claim that is used no more, and says by how much
    /// this session should shrink, because the budget is short and it holds more than its part.
    pub(crate) fn rebalance(&mut self) -> u64 {
        let asked = std::mem::take(&mut self.asked);
        if self.held == 0 {
            if !asked {
                self.give_up();
            }
            return 0;
        }
        let total = self.budget.total();
        let ledger = self.budget.ledger();
        let Some(account) = ledger.tenants.get(&self.budget.tenant) else {
            return 0;
        };
        let of_tenant = ledger.tenant_part(total).min(self.budget.most);
        let short = is_short(total, ledger.used) || of_tenant == self.budget.most;
        if short && is_short(of_tenant, account.used) {
            self.held
                .saturating_sub(part(of_tenant, account.used, account.claims))
        } else {
            0
        }
    }

    /// Gives all of it back and claims nothing any more.
    pub(crate) fn release(&mut self) {
        self.give_back(self.held);
        self.give_up();
    }

    fn give_up(&mut self) {
        if !std::mem::take(&mut self.claims) {
            return;
        }
        let mut ledger = self.budget.ledger();
        if let Some(account) = ledger.tenants.get_mut(&self.budget.tenant) {
            account.claims -= 1;
            if account.claims == 0 {
                ledger.tenants.remove(&self.budget.tenant);
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

/// Bytes that one thing holds of a budget. Dropping it gives them back.
#[derive(Debug)]
pub struct Held {
    _share: Share,
}

#[cfg(test)]
mod tests;
