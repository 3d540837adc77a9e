//! The budget alone: who may take how much, and who is to give back.

use proptest::prelude::*;

use super::*;

#[test]
fn one_session_alone_gets_all_of_the_budget_and_its_end_gives_all_back() {
    let budget = GrowthBudget::new(1000);
    let mut share = Share::new(budget.clone());
    assert_eq!(share.take(400), 400);
    // An equal part among one is all of it.
    assert_eq!(share.take(5000), 600);
    assert_eq!(share.take(1), 0);
    assert_eq!((budget.used(), budget.tenants()), (1000, 1));
    drop(share);
    assert_eq!((budget.used(), budget.tenants()), (0, 0));
}

#[test]
fn a_late_session_gets_its_part_once_the_first_has_shrunk() {
    let budget = GrowthBudget::new(1000);
    let mut first = Share::new(budget.clone());
    first.take(1000);
    assert_eq!(first.rebalance(), 0, "nobody else claims any");
    let mut second = Share::new(budget.clone());
    assert_eq!(second.take(500), 0, "nothing is left");
    assert_eq!(
        first.rebalance(),
        500,
        "beyond the half that is its part now"
    );
    first.give_back(500);
    assert_eq!(first.take(1), 0, "what it gave is not its own again");
    assert_eq!(second.take(600), 500);
    assert_eq!((first.held(), second.held()), (500, 500));
    assert_eq!((first.rebalance(), second.rebalance()), (0, 0));
}

#[test]
fn who_leaves_room_holds_no_more_than_is_left() {
    let budget = GrowthBudget::new(1000);
    let share = |tenant| Share::new(budget.of_tenant(tenant).leaving_room());
    let mut all: Vec<Share> = Vec::new();
    for (tenant, most) in [("a", 500), ("b", 250), ("c", 125)] {
        let mut share = share(tenant);
        assert_eq!(share.take(1000), most);
        all.push(share);
        assert!(all.iter_mut().all(|share| share.take(1) == 0));
    }
    assert_eq!(budget.used(), 875, "and the next one finds some");
    drop(all.remove(0));
    assert_eq!((all[0].take(1000), all[1].take(1000)), (187, 156));
    // Sessions of one tenant hold together what one alone may.
    let (mut one, mut two) = (share("d"), share("d"));
    let taken = one.take(1000) + two.take(1000) + one.take(1000) + two.take(1000);
    assert!(u64::from(taken) <= budget.total() - budget.used());
    // Who does not leave room may take the rest.
    let mut rest = Share::new(budget.of_tenant("e"));
    assert!(rest.take(150) > 100);
}

#[test]
fn a_claim_that_is_used_no_more_is_given_up() {
    let budget = GrowthBudget::new(1000);
    let mut first = Share::new(budget.clone());
    first.take(1000);
    let mut second = Share::new(budget.of_tenant("other"));
    second.take(1);
    assert_eq!((first.rebalance(), second.rebalance()), (500, 0));
    assert_eq!(first.rebalance(), 500, "it asked since the last time");
    second.rebalance();
    assert_eq!((first.rebalance(), budget.tenants()), (0, 1));
    second.take(1);
    assert_eq!(first.rebalance(), 500);
}

#[test]
fn a_tenant_with_many_sessions_gets_no_more_than_one_with_one() {
    let budget = GrowthBudget::new(100_000);
    let many_budget = budget.of_tenant("many");
    let mut many: Vec<_> = (0..100).map(|_| Share::new(many_budget.clone())).collect();
    let mut one = Share::new(budget.of_tenant("one"));
    // The many were first and took everything.
    while many.iter_mut().map(|share| share.take(500)).sum::<u32>() > 0 {}
    assert_eq!(budget.used(), 100_000);
    assert_eq!(one.take(1000), 0);
    for _ in 0..8 {
        for share in &mut many {
            let excess = share.rebalance();
            share.give_back(excess);
            share.take(500);
        }
        one.take(100_000);
    }
    assert_eq!(one.held(), 50_000);
    let held: Vec<u64> = many.iter().map(Share::held).collect();
    assert_eq!(held, vec![500; 100], "and share their part equally");
}

#[test]
fn a_tenant_within_its_part_keeps_it_while_another_gives_back() {
    let budget = GrowthBudget::new(1200);
    let mut large = Share::new(budget.of_tenant("large"));
    let mut small = Share::new(budget.of_tenant("small"));
    large.take(1200);
    large.give_back(300);
    small.take(300);
    let mut third = Share::new(budget.of_tenant("third"));
    assert_eq!(third.take(400), 0);
    assert_eq!((small.rebalance(), third.rebalance()), (0, 0));
    assert_eq!(large.rebalance(), 500, "its part is 400");
}

#[test]
fn nothing_can_be_taken_of_nothing() {
    let budget = GrowthBudget::default();
    let mut share = Share::new(budget.clone());
    assert_eq!(share.take(u32::MAX), 0);
    share.give_back(5);
    assert_eq!((share.held(), budget.tenants()), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize, u32),
    GiveBack(usize, u64),
    Rebalance(usize),
    /// The session ends, another one of this tenant takes its place.
    Replace(usize, usize),
}

const SESSIONS: usize = 8;
const TENANTS: [&str; 4] = ["a", "b", "c", "d"];

fn step() -> impl Strategy<Value = Step> {
    let session = || 0..SESSIONS;
    prop_oneof![
        4 => (session(), 0..2000u32).prop_map(|(s, n)| Step::Take(s, n)),
        2 => (session(), 0..2000u64).prop_map(|(s, n)| Step::GiveBack(s, n)),
        2 => session().prop_map(Step::Rebalance),
        1 => (session(), 0..TENANTS.len()).prop_map(|(s, t)| Step::Replace(s, t)),
    ]
}

proptest! {
    #[test]
    fn the_books_always_balance_and_nothing_is_ever_overdrawn(
        total in 0..5000u64,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let budget = GrowthBudget::new(total);
        let open = |tenant: usize| Share::new(budget.of_tenant(TENANTS[tenant]));
        let mut shares: Vec<Share> = (0..SESSIONS).map(|n| open(n % TENANTS.len())).collect();
        for step in steps {
            match step {
                Step::Take(session, wanted) => prop_assert!(shares[session].take(wanted) <= wanted),
                Step::GiveBack(session, bytes) => shares[session].give_back(bytes),
                Step::Rebalance(session) => {
                    let excess = shares[session].rebalance();
                    prop_assert!(excess <= shares[session].held());
                }
                Step::Replace(session, tenant) => shares[session] = open(tenant),
            }
            let held: u64 = shares.iter().map(Share::held).sum();
            prop_assert_eq!(budget.used(), held);
            prop_assert!(held <= total);
            let ledger = budget.ledger();
            for tenant in TENANTS {
                let of_tenant = || shares.iter().filter(|share| &*share.budget.tenant == tenant);
                let account = ledger.tenants.get(tenant).copied().unwrap_or_default();
                prop_assert_eq!(account.used, of_tenant().map(Share::held).sum::<u64>());
                let claims = of_tenant().filter(|share| share.claims).count() as u64;
                prop_assert_eq!(account.claims, claims);
                prop_assert_eq!(ledger.tenants.contains_key(tenant), claims > 0);
            }
        }
        shares.clear();
        prop_assert_eq!((budget.used(), budget.tenants()), (0, 0));
    }

    /// From whatever state, those who want all they can get have equal parts after a few rounds.
    #[test]
    fn greedy_tenants_end_with_equal_parts(
        tenants in prop::collection::vec(1..6usize, 1..5),
        first in prop::collection::vec((0..30usize, 1..100_000u32), 0..30),
    ) {
        let total = 1_000_000;
        let budget = GrowthBudget::new(total);
        let mut shares: Vec<Vec<Share>> = (0..)
            .zip(&tenants)
            .map(|(n, sessions)| {
                let of_tenant = budget.of_tenant(&format!("{n}"));
                (0..*sessions).map(|_| Share::new(of_tenant.clone())).collect()
            })
            .collect();
        for (session, wanted) in first {
            if let Some(share) = shares.iter_mut().flatten().nth(session) {
                share.take(wanted);
            }
        }
        for _ in 0..40 {
            for share in shares.iter_mut().flatten() {
                let excess = share.rebalance();
                share.give_back(excess.div_ceil(2));
                share.take(20_000);
            }
        }
        for sessions in &shares {
            let held: u64 = sessions.iter().map(Share::held).sum();
            let equal = total / tenants.len() as u64;
            prop_assert!(held * 10 >= equal * 7, "{held} of {equal}");
        }
    }
}

#[test]
fn a_tenant_with_a_limit_of_its_own_holds_no_more_and_gives_back_what_is_more() {
    let budget = GrowthBudget::new(1000);
    let limited = || Share::new(budget.of_tenant("acme").at_most(100));
    let (mut one, mut two) = (limited(), limited());
    assert_eq!(one.take(1000), 100);
    assert_eq!(two.take(1000), 0, "both are of one tenant");
    // The newcomer makes the other shrink, though the whole is not short.
    assert_eq!(one.rebalance(), 50);
    one.give_back(50);
    assert_eq!(two.take(1000), 50);
    assert_eq!(Share::new(budget.of_tenant("globex")).take(1000), 500);
}
