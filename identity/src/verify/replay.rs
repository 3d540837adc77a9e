//! Which proofs were used: each of them counts once.
//!
//! A proof is good for two minutes at most (a minute ahead of a clock to a minute behind it), so
//! it is remembered for that long and forgotten before twice that: two generations, of which the
//! older one is dropped whole. What is remembered is bounded, in all and for each tenant; when
//! the room is used up further proofs are refused, never old ones forgotten early.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::time::{Duration, SystemTime};

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
    since: Option<SystemTime>,
}

impl Replays {
    /// Takes note of a proof of a tenant's caller, unless it was used before.
    pub(super) fn use_up(
        &mut self,
        tenant: &TenantName,
        proof: ProofId,
        now: SystemTime,
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

    /// Begins a new generation when it is time. A clock that was set back changes nothing.
    fn advance(&mut self, now: SystemTime) {
        let since = *self.since.get_or_insert(now);
        let Ok(age) = now.duration_since(since) else {
            return;
        };
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
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_790_000_000 + second)
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
        replays.use_up(&acme, proof(1), at(1000)).unwrap();
        let again = replays.use_up(&acme, proof(1), at(0));
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
