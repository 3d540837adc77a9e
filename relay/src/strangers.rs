//! Those of whom nobody knows yet who they are: connections without a valid credential, and
//! sources of wrong ones.
//!
//! What is kept is of a fixed size, whoever comes: a table of numbers, in which a source has its
//! place by a hash that nobody outside can foresee. Two sources that meet in one place share it:
//! neither can push the other out, and thousands of sources take no more memory than one.
//!
//! Only credentials that were *wrong* are charged to a source. One whose account is empty is not
//! asked to stop calling: on connections that have proved who they are, and with tokens that were
//! good here before, calls go on; what is new and unproven gets 429, before anything is verified.
//! So the many behind one address suffer from one among them for as long as it goes on, and only
//! those that come with a token that this node has never seen.

#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_config::relay::RelayLimits;
use culvert_http::{Problem, Rate, Source};
use culvert_proto::code::ErrorCode;
use tokio::time::{Instant, sleep};

use crate::metrics::Metrics;

/// Places for sources: 16 bytes each.
const PLACES: usize = 1 << 15;

/// Tokens that were good and are remembered: 8 bytes each.
const REMEMBERED: usize = 1 << 14;

/// So many seconds' worth of wrong credentials are taken at once.
const BURST: u64 = 10;

/// Tokens of callers and agents that are verified at once for one source. An issuer may have to be asked
/// about each, and has so many places for the questions of all.
const AT_ONCE: u32 = 16;

/// How long a further one waits, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Least time between two log lines about sources that are refused.
const QUIET: Duration = Duration::from_secs(10);

/// The strangers of a node.
pub struct Strangers {
    hash: RandomState,
    /// Connections of each place that have not proved who they are.
    open: Box<[AtomicU32]>,
    /// Most of them.
    most: u32,
    rate: Rate,
    /// Tokens of each place that are being verified.
    trying: Box<[AtomicU32]>,
    /// What each place has left.
    failures: Box<[AtomicU64]>,
    /// Hashes of tokens that were good, each in its place.
    good: Box<[AtomicU64]>,
    complained: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

/// What is known of who is on a connection. Clones are of the same connection.
#[derive(Debug, Clone, Default)]
pub struct Standing(Arc<State>);

#[derive(Debug)]
struct State {
    since: Instant,
    proven: AtomicBool,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    strangers: Arc<Strangers>,
    at: usize,
}

/// A token is being verified. Dropped, that is over.
#[derive(Debug)]
pub(crate) struct Trying(Place);

impl Drop for Trying {
    fn drop(&mut self) {
        self.0.strangers.trying[self.0.at].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            proven: AtomicBool::new(false),
            place: None,
        }
    }
}

impl Standing {
    /// When the connection began.
    pub(crate) fn since(&self) -> Instant {
        self.0.since
    }

    /// Somebody on the connection has shown a valid credential: it is no stranger's any more.
    pub(crate) fn prove(&self) {
        if !self.0.proven.swap(true, Ordering::AcqRel) {
            self.0.leave();
        }
    }

    /// Whether somebody has.
    pub(crate) fn is_proven(&self) -> bool {
        self.0.proven.load(Ordering::Acquire)
    }
}

impl State {
    fn leave(&self) {
        if let Some(Place { strangers, at }) = &self.place {
            strangers.open[*at].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if !*self.proven.get_mut() {
            self.leave();
        }
    }
}

impl Strangers {
    /// None yet, with what the limits say of them.
    pub fn new(limits: &RelayLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        let numbers = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            hash: RandomState::new(),
            open: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            most: limits.unauthenticated_per_source,
            rate: Rate::deep(limits.failures_per_source.0.into(), BURST),
            trying: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            failures: numbers(PLACES),
            good: numbers(REMEMBERED),
            complained: Mutex::default(),
            metrics,
        })
    }

    /// Takes a new connection, unless its source has as many unproven ones as it may.
    pub(crate) fn arrive(self: &Arc<Self>, from: IpAddr) -> Option<Standing> {
        let at = self.place(from);
        let open = &self.open[at];
        if open.fetch_add(1, Ordering::Relaxed) >= self.most {
            open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let place = Place {
            strangers: self.clone(),
            at,
        };
        Some(Standing(Arc::new(State {
            since: Instant::now(),
            proven: AtomicBool::new(false),
            place: Some(place),
        })))
    }

    /// Whether a token from this source is to be verified at all.
    pub(crate) fn may_try(&self, from: IpAddr, token: &str) -> Result<(), Problem> {
        let account = &self.failures[self.place(from)];
        if self.rate.is_there(account) || self.was_good(token) {
            return Ok(());
        }
        self.metrics.strangers.rate_limited.inc();
        self.complain(from);
        Err(Problem {
            retry_after: Some(Duration::from_secs(1)),
            ..Problem::new(
                ErrorCode::RateLimited,
                "too many wrong credentials came from your address; try again with a valid one",
            )
        })
    }

    /// Like [`may_try`](Self::may_try), while what is given is held; waits a little for it. Answers take a
    /// while where the issuer is asked, and only they are charged: what comes meanwhile would be free.
    pub(crate) async fn try_one(
        self: &Arc<Self>,
        from: IpAddr,
        token: &str,
    ) -> Result<Trying, Problem> {
        let at = self.place(from);
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.may_try(from, token)?;
            let before = self.trying[at].fetch_add(1, Ordering::Relaxed);
            let strangers = self.clone();
            let trying = Trying(Place { strangers, at });
            if before < AT_ONCE || self.was_good(token) {
                return Ok(trying);
            }
            drop(trying);
            if Instant::now() >= deadline {
                break;
            }
            sleep(PAUSE).await;
        }
        self.metrics.strangers.rate_limited.inc();
        Err(Problem {
            retry_after: Some(Duration::from_secs(1)),
            ..Problem::new(
                ErrorCode::RateLimited,
                "too many new credentials from your address are being verified; try again",
            )
        })
    }

    /// The token was good.
    pub(crate) fn on_good(&self, token: &str) {
        let (at, hash) = self.token(token);
        self.good[at].store(hash, Ordering::Relaxed);
    }

    /// The token was wrong, or the proof that its key is the sender's.
    pub(crate) fn on_wrong(&self, from: IpAddr, token: &str) {
        // One that is void now opens no doors any more.
        let (at, hash) = self.token(token);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.good[at].compare_exchange(hash, 0, set, fetch);
        // An account is empty or it is not: nobody owes more for having tried at once.
        let _ = self.rate.take(&self.failures[self.place(from)]);
    }

    fn was_good(&self, token: &str) -> bool {
        let (at, hash) = self.token(token);
        self.good[at].load(Ordering::Relaxed) == hash
    }

    fn token(&self, token: &str) -> (usize, u64) {
        // No place is empty by chance.
        let hash = self.hash.hash_one(token) | 1;
        ((hash >> 32) as usize % REMEMBERED, hash)
    }

    fn place(&self, from: IpAddr) -> usize {
        self.hash.hash_one(Source::from(from)) as usize % PLACES
    }

    fn complain(&self, from: IpAddr) {
        let mut last = self
            .complained
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= QUIET) {
            *last = Some(Instant::now());
            tracing::warn!(
                target: "culvert::security",
                source = %from,
                "too many wrong credentials: what comes unproven from there is answered 429"
            );
        }
    }
}

impl fmt::Debug for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strangers").finish_non_exhaustive()
    }
}
