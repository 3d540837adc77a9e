//! Room for long heads of callers of whom nobody knows yet who they are.
//!
//! A head is held until it is whole, and may have 64 KiB. Most have a few: so a connection without a
//! credential may hold a quarter of that for itself, and only some of them more at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::source::Source;

/// Bytes of a head that is not whole which a stranger may hold without further ado.
pub(crate) const LONG: usize = 16 * 1024;

/// How many strangers may hold more at once.
pub(crate) const AT_ONCE: usize = 128;

/// The places for long heads of all connections of a server. A source takes no more than it leaves to
/// others: one alone half of them, and who comes from elsewhere finds one.
#[derive(Debug, Clone, Default)]
pub(crate) struct LongHeads(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Of each source that has any.
    of: HashMap<Source, usize>,
}

/// The place of one long head, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: LongHeads,
    source: Source,
}

impl LongHeads {
    /// A place for a head from this source, if there is one.
    pub(crate) fn take(&self, source: Source) -> Option<Place> {
        let mut taken = self.taken();
        let held = taken.of.get(&source).copied().unwrap_or(0);
        if held >= AT_ONCE - taken.all {
            return None;
        }
        taken.all += 1;
        taken.of.insert(source, held + 1);
        Some(Place {
            places: self.clone(),
            source,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(held) = taken.of.get_mut(&self.source) {
            *held -= 1;
            if *held == 0 {
                taken.of.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(address: &str) -> Source {
        Source::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn one_source_takes_half_and_who_comes_from_elsewhere_finds_a_place() {
        let places = LongHeads::default();
        let take = |from| std::iter::from_fn(|| places.take(source(from))).collect::<Vec<_>>();
        let first = take("192.0.2.1");
        assert_eq!(first.len(), AT_ONCE / 2);
        let second = take("2001:db8::1");
        assert_eq!(second.len(), AT_ONCE / 4);
        assert!(take("2001:db8::2").is_empty(), "of the same customer");
        let third = take("::ffff:192.0.2.2");
        assert_eq!(third.len(), AT_ONCE / 8);

        drop(first);
        assert_eq!(take("192.0.2.1").len(), (AT_ONCE - 48) / 2);
        drop((second, third));
        assert!(places.taken().of.is_empty());
        assert_eq!(places.taken().all, 0);
    }
}
