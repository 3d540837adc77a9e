//! The memory by which receive windows may grow: one budget for all sessions of a process.
//!
//! A window starts small, whatever the line. What lets one grow to a long line's size is memory
//! that all sessions share: while less than half of it is taken, one session may hold half of it;
//! after that nobody takes more than an equal part among those that hold any (one alone, all of
//! it), and who holds more gives back. So one session's bulk does not keep another's windows
//! small for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A budget in bytes. Clones are the same budget.
#[derive(Debug, Clone, Default)]
pub struct GrowthBudget(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    total: u64,
    used: AtomicU64,
    /// Sessions that hold some of it.
    holders: AtomicUsize,
}

impl GrowthBudget {
    /// A budget of `total` bytes; 0: windows keep their first size.
    pub fn new(total: u64) -> Self {
        Self(Arc::new(Shared {
            total,
            ..Shared::default()
        }))
    }

    /// All of it, in bytes.
    pub fn total(&self) -> u64 {
        self.0.total
    }

    /// What is taken at the moment, in bytes; never more than [`total`](Self::total).
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }
}

/// What one session holds of a budget. Dropping it gives all of it back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: GrowthBudget,
    held: u64,
}

impl Share {
    pub(crate) fn new(budget: GrowthBudget) -> Self {
        Self { budget, held: 0 }
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Most that this session may hold now.
    fn limit(&self) -> u64 {
        let Shared {
            total,
            used,
            holders,
        } = &*self.budget.0;
        let others = holders.load(Ordering::Relaxed) - usize::from(self.held > 0);
        let equal = total / (others as u64 + 1);
        if used.load(Ordering::Relaxed) <= total / 2 {
            equal.max(total / 2)
        } else {
            equal
        }
    }

    /// Takes up to `wanted` bytes and says how many.
    pub(crate) fn take(&mut self, wanted: u32) -> u32 {
        let shared = &*self.budget.0;
        let wanted = u64::from(wanted).min(self.limit().saturating_sub(self.held));
        let mut taken = 0;
        let _ = shared
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                taken = wanted.min(shared.total - used);
                (taken > 0).then_some(used + taken)
            });
        if taken > 0 && self.held == 0 {
            shared.holders.fetch_add(1, Ordering::Relaxed);
        }
        self.held += taken;
        // At most `wanted`, which came as a `u32`.
        taken as u32
    }

    pub(crate) fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.held);
        if bytes == 0 {
            return;
        }
        self.held -= bytes;
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
        if self.held == 0 {
            self.budget.0.holders.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// By how much this session should shrink: what it holds beyond an equal part while more
    /// than three quarters of the budget are taken.
    pub(crate) fn excess(&self) -> u64 {
        let Shared { total, used, .. } = &*self.budget.0;
        if used.load(Ordering::Relaxed) <= total / 4 * 3 {
            return 0;
        }
        self.held.saturating_sub(self.limit())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_session_alone_gets_all_of_the_budget_and_its_end_gives_all_back() {
        let budget = GrowthBudget::new(1000);
        let mut share = Share::new(budget.clone());
        assert_eq!(share.take(400), 400);
        // An equal part among one is all of it.
        assert_eq!(share.take(5000), 600);
        assert_eq!(share.take(1), 0);
        assert_eq!(budget.used(), 1000);
        drop(share);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_taken_is_never_more_than_the_budget() {
        let budget = GrowthBudget::new(1000);
        let mut shares: Vec<_> = (0..7).map(|_| Share::new(budget.clone())).collect();
        for round in 1..50 {
            for share in &mut shares {
                share.take(round * 7);
                assert!(budget.used() <= 1000);
            }
        }
    }

    #[test]
    fn a_late_session_gets_its_part_once_the_first_has_shrunk() {
        let budget = GrowthBudget::new(1000);
        let mut first = Share::new(budget.clone());
        first.take(1000);
        let mut second = Share::new(budget.clone());
        assert_eq!(second.take(500), 0, "nothing is left");
        assert_eq!(
            first.excess(),
            0,
            "nobody else holds any, so all is its part"
        );
        first.give_back(100);
        assert_eq!(second.take(500), 100);
        assert_eq!(first.excess(), 400, "beyond the half that is its part now");
        first.give_back(400);
        assert_eq!(second.take(500), 400);
        assert_eq!((first.held(), second.held()), (500, 500));
        assert_eq!((first.excess(), second.excess()), (0, 0));
    }

    #[test]
    fn nothing_can_be_taken_of_nothing() {
        let mut share = Share::new(GrowthBudget::default());
        assert_eq!(share.take(u32::MAX), 0);
        share.give_back(5);
        assert_eq!(share.held(), 0);
    }
}
