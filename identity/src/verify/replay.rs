//! Which proofs were used: each of them counts once.
//!
//! A proof is good for two minutes at most (a minute ahead of a clock to a minute behind it), so
//! it is remembered for that long and forgotten before twice that: two generations, of which the
//! older one is dropped whole. What is remembered is bounded, in all and for each tenant; when
//! the room is used up further proofs are refused, never old ones forgotten early.
//!
//! A clock can be set, and a proof's own time is by the clock. So a generation is as old as a clock
//! says that nobody sets: were it by the other one alone, a moment in the future would fill the room
//! until that future has come, and a jump ahead would forget what is still good.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::time::{Duration, Instant, SystemTime};

use culvert_proto::names::TenantName;

use super::dpop::{PROOF_WINDOW, ProofError, ProofId};

/// How long a generation takes in proofs, and then is kept.
const GENERATION: Duration = PROOF_WINDOW.saturating_mul(2);

/// Most proofs of one generation, and most of one tenant among them: with about 40 bytes each the
/// two generations take 20 MiB, and a tenant may make 500 calls with proofs a second.
const MOST: usize = 262_144;
const MOST_OF_TENANT: usize = 65_536;

/// The proofs that were used lately.
#[derive(Default)]
pub(super) struct Replays {
    current: HashMap<TenantName, HashSet<ProofId>>,
    previous: HashMap<TenantName, HashSet<ProofId>>,
    /// Proofs in the current generation.
    count: usize,
    since: Option<Moment>,
}

/// A time by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// By the one that can be set.
    wall: SystemTime,
    /// By the one that only goes on.
    steady: Instant,
}

impl Moment {
    /// Now, when the clock that can be set says `wall`.
    pub(super) fn now(wall: SystemTime) -> Self {
        Self {
            wall,
            steady: Instant::now(),
        }
    }

    /// How old a generation is that began then. A clock that was set back a little makes its proofs good
    /// for longer by so much, and one that was set back by more makes them no good.
    fn age(self, since: Self) -> Duration {
        let steady = self.steady.duration_since(since.steady);
        let wall = self.wall.duration_since(since.wall);
        wall.map_or(steady, |wall| wall.min(steady))
    }
}

impl Replays {
    /// Takes note of a proof of a tenant's caller, unless it was used before.
    pub(super) fn use_up(
        &mut self,
        tenant: &TenantName,
        proof: ProofId,
        now: Moment,
    ) -> Result<(), ProofError> {
        self.advance(now);
        let knows = |proofs: &HashMap<TenantName, HashSet<ProofId>>| {
            proofs
                .get(tenant)
                .is_some_and(|known| known.contains(&proof))
        };
        if knows(&self.current) || knows(&self.previous) {
            return Err(ProofError::Replayed);
        }
        let of_tenant = self.current.get(tenant).map_or(0, HashSet::len);
        if self.count >= MOST || of_tenant >= MOST_OF_TENANT {
            return Err(ProofError::Crowded);
        }
        self.current
            .entry(tenant.clone())
            .or_default()
            .insert(proof);
        self.count += 1;
        Ok(())
    }

    /// Begins a new generation when it is time.
    fn advance(&mut self, now: Moment) {
        let since = *self.since.get_or_insert(now);
        let age = now.age(since);
        if age < GENERATION {
            return;
        }
        self.previous = mem::take(&mut self.current);
        if age >= 2 * GENERATION {
            self.previous.clear();
        }
        self.count = 0;
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::time::UNIX_EPOCH;

    use super::*;

    /// So many seconds after the beginning, by both clocks.
    fn at(second: u64) -> Moment {
        set(second, second)
    }

    /// Seconds after the beginning by each of the clocks.
    fn set(wall: u64, steady: u64) -> Moment {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        Moment {
            wall: UNIX_EPOCH + Duration::from_secs(1_790_000_000 + wall),
            steady: *BEGINNING.get_or_init(Instant::now) + Duration::from_secs(steady),
        }
    }

    fn proof(number: u32) -> ProofId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_ne_bytes());
        ProofId(id)
    }

    fn tenant(name: &str) -> TenantName {
        TenantName::new(name).unwrap()
    }

    #[test]
    fn a_proof_counts_once_for_as_long_as_it_could_be_good() {
        let (mut replays, acme) = (Replays::default(), tenant("acme"));
        // Used at the end of a generation: the next one still knows it.
        replays.use_up(&acme, proof(0), at(0)).unwrap();
        replays.use_up(&acme, proof(1), at(119)).unwrap();
        for second in [119, 120, 200, 239] {
            let again = replays.use_up(&acme, proof(1), at(second));
            assert_eq!(again, Err(ProofError::Replayed), "{second}");
        }
        // By then its own time is over, whatever is remembered.
        assert_eq!(replays.use_up(&acme, proof(1), at(500)), Ok(()));
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_nothing() {
        let (mut replays, acme) = (Replays::default(), tenant("acme"));
        replays.use_up(&acme, proof(0), set(100, 0)).unwrap();
        replays.use_up(&acme, proof(1), set(219, 119)).unwrap();
        // It says so again, and the proof is good for longer.
        for (wall, steady) in [(0, 119), (120, 120), (219, 219), (339, 339)] {
            let again = replays.use_up(&acme, proof(1), set(wall, steady));
            assert_eq!(again, Err(ProofError::Replayed), "{wall}, {steady}");
        }
    }

    #[test]
    fn a_clock_that_is_set_ahead_forgets_nothing() {
        let (mut replays, acme) = (Replays::default(), tenant("acme"));
        replays.use_up(&acme, proof(1), at(0)).unwrap();
        replays.use_up(&acme, proof(2), set(86_400, 1)).unwrap();
        for second in [1, 60, 120] {
            let again = replays.use_up(&acme, proof(1), at(second));
            assert_eq!(again, Err(ProofError::Replayed), "{second}");
        }
    }

    #[test]
    fn a_clock_that_was_ahead_for_a_moment_leaves_room_again_two_minutes_later() {
        let (mut replays, acme) = (Replays::default(), tenant("acme"));
        replays.use_up(&acme, proof(0), set(86_400, 0)).unwrap();
        for number in 1..MOST_OF_TENANT as u32 {
            replays.use_up(&acme, proof(number), at(1)).unwrap();
        }
        let one_more = proof(u32::MAX);
        for (second, expected) in [(119, Err(ProofError::Crowded)), (120, Ok(()))] {
            let used = replays.use_up(&acme, one_more, at(second));
            assert_eq!(used, expected, "{second}");
        }
        // What was used a moment ago is known all the same.
        let again = replays.use_up(&acme, proof(1), at(121));
        assert_eq!(again, Err(ProofError::Replayed));
    }

    #[test]
    fn a_tenant_that_fills_its_part_leaves_the_others_theirs() {
        let mut replays = Replays::default();
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        for number in 0..MOST_OF_TENANT as u32 {
            replays.use_up(&acme, proof(number), at(0)).unwrap();
        }
        let one_more = replays.use_up(&acme, proof(u32::MAX), at(0));
        assert_eq!(one_more, Err(ProofError::Crowded));
        // Full is not forgetful.
        let again = replays.use_up(&acme, proof(0), at(0));
        assert_eq!(again, Err(ProofError::Replayed));
        assert_eq!(replays.use_up(&globex, proof(0), at(0)), Ok(()));
        assert_eq!(replays.use_up(&acme, proof(u32::MAX), at(120)), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut replays = Replays::default();
        let tenants = (0..5).map(|number| tenant(&format!("t{number}")));
        let mut refused = 0;
        for tenant in tenants {
            for number in 0..MOST_OF_TENANT as u32 {
                let used = replays.use_up(&tenant, proof(number), at(0));
                refused += usize::from(used == Err(ProofError::Crowded));
            }
        }
        assert_eq!(refused, MOST_OF_TENANT);
        let held: usize = replays.current.values().map(HashSet::len).sum();
        assert_eq!(held, MOST);
    }
}
