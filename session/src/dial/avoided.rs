//! The addresses of a relay at which dials came to nothing behind TCP.
//!
//! Who takes connections and says nothing wins every race: resolvers give addresses in the same order
//! each time. So those go last, and among them the one that failed last, or two such addresses would
//! be tried in turns while a third is good.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a failure counts: nodes are restarted and ways mended.
const MEMORY: Duration = Duration::from_secs(300);

/// Most addresses that are remembered; of more, those that failed last.
const MAX: usize = 32;

/// The addresses that failed, and when; the last in the end. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Avoided(Arc<Mutex<Vec<(SocketAddr, Instant)>>>);

impl Avoided {
    /// Puts the addresses that failed behind all others; the longer ago, the further in front.
    pub(super) fn sort(&self, addresses: &mut [SocketAddr]) {
        let mut failed = self.lock();
        failed.retain(|(_, at)| at.elapsed() < MEMORY);
        // `None`, which is the least, for those that did not fail.
        addresses.sort_by_key(|address| failed.iter().position(|(known, _)| known == address));
    }

    /// Takes note of a dial that came to nothing.
    pub(super) fn failed(&self, address: SocketAddr) {
        let mut failed = self.lock();
        failed.retain(|(known, _)| *known != address);
        if failed.len() == MAX {
            failed.remove(0);
        }
        failed.push((address, Instant::now()));
    }

    /// Takes note of an address where a relay is.
    pub(super) fn answered(&self, address: SocketAddr) {
        self.lock().retain(|(known, _)| *known != address);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(SocketAddr, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> SocketAddr {
        ([10, 0, 0, number as u8], 443).into()
    }

    fn sorted(avoided: &Avoided, count: usize) -> Vec<usize> {
        let mut addresses: Vec<_> = (0..count).map(address).collect();
        avoided.sort(&mut addresses);
        let number = |found: SocketAddr| (0..count).find(|n| address(*n) == found).unwrap();
        addresses.into_iter().map(number).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_last_is_tried_last_until_it_answers_or_time_has_passed() {
        let avoided = Avoided::default();
        assert_eq!(sorted(&avoided, 4), [0, 1, 2, 3]);
        avoided.failed(address(0));
        avoided.failed(address(1));
        assert_eq!(sorted(&avoided, 4), [2, 3, 0, 1]);
        tokio::time::sleep(MEMORY / 2).await;
        avoided.failed(address(0));
        assert_eq!(sorted(&avoided, 4), [2, 3, 1, 0]);
        avoided.answered(address(1));
        assert_eq!(sorted(&avoided, 4), [1, 2, 3, 0]);
        tokio::time::sleep(MEMORY).await;
        assert_eq!(sorted(&avoided, 4), [0, 1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_leads_to_ever_other_addresses_costs_no_memory() {
        let avoided = Avoided::default();
        for number in 0..=MAX {
            avoided.failed(address(number));
        }
        assert_eq!(avoided.lock().len(), MAX);
        assert_eq!(
            sorted(&avoided, MAX + 1)[..2],
            [0, 1],
            "the oldest is forgotten"
        );
    }
}
