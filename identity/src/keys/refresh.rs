//! Keeping one issuer's keys fresh: lock-free snapshots, one refresh at a time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::KeysError;
use crate::verify::KeySet;

/// How often keys are fetched without any reason, give or take a tenth.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(300);

/// Least time between two refreshes that tokens ask for, and after one that failed.
///
/// A refresh by the clock that went well does not count: else a rotation just after it would cost
/// calls.
pub const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// How long fetched keys are used while the issuer cannot be reached.
pub const KEEP_KEYS: Duration = Duration::from_secs(3600);

/// Longest wait of a token for a refresh that it asked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The keys of one issuer, as far as they are known.
///
/// Readers take a snapshot without locking. One driver ([`Keys::keep_fresh`]) fetches: a refresh
/// belongs to it and not to whoever asked, so that a peer that goes away cannot cut it short.
pub(crate) struct Keys {
    snapshot: ArcSwapOption<Snapshot>,
    progress: watch::Sender<Progress>,
}

struct Snapshot {
    keys: KeySet,
    /// When keys that cannot be refreshed are too old; never for keys of a file.
    void_at: Option<Instant>,
    fetched_at: Instant,
}

/// How the refreshes went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Whether somebody wants a refresh: one wish, however many wish.
    wished: bool,
    /// Whether a refresh is going on.
    in_flight: bool,
    /// Until when wishes have to wait.
    quiet_until: Option<Instant>,
    /// How many have ended, well or not.
    pub(crate) ended: u64,
    /// Why the last one failed, if it did.
    pub(crate) error: Option<KeysError>,
    /// Whether there were keys nevertheless.
    usable: bool,
}

impl Progress {
    /// Whether the log has not said this of the refresh before. An issuer that is only asked about
    /// tokens may have no keys for ever.
    pub(super) fn is_news(&self, error: &KeysError, usable: bool) -> bool {
        self.error.as_ref() != Some(error) || self.usable != usable
    }
}

impl Keys {
    /// Starts with these keys, which never get too old, or with none.
    pub(crate) fn new(given: Option<KeySet>) -> Self {
        let snapshot = given.map(|keys| {
            Arc::new(Snapshot {
                keys,
                void_at: None,
                fetched_at: Instant::now(),
            })
        });
        Self {
            snapshot: ArcSwapOption::new(snapshot),
            progress: watch::Sender::default(),
        }
    }

    /// Calls `read` with the keys, if there are any that are not too old.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&KeySet) -> T) -> Option<T> {
        let snapshot = self.snapshot.load();
        let snapshot = snapshot.as_ref()?;
        let void = snapshot
            .void_at
            .is_some_and(|void_at| Instant::now() >= void_at);
        (!void).then(|| read(&snapshot.keys))
    }

    /// How long ago the keys were fetched.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.snapshot
            .load()
            .as_ref()
            .map(|snapshot| snapshot.fetched_at.elapsed())
    }

    /// How the refreshes went.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Asks for a refresh as soon as the least interval allows one. One that is going on will do.
    pub(crate) fn request(&self) {
        self.progress.send_if_modified(|progress| {
            let news = !progress.in_flight && !progress.wished;
            progress.wished |= news;
            news
        });
    }

    /// Asks for a refresh and waits for its end. Returns at once, with `false`, when the last
    /// one is too fresh for another: the wish is kept, the caller is not.
    pub(crate) async fn refreshed(&self) -> bool {
        let progress = self.progress();
        let quiet = progress
            .quiet_until
            .is_some_and(|until| Instant::now() < until);
        self.request();
        if quiet && !progress.in_flight {
            return false;
        }
        timeout(PATIENCE, self.ended_after(progress.ended))
            .await
            .is_ok()
    }

    /// Waits for the end of a refresh later than the `seen`th.
    pub(crate) async fn ended_after(&self, seen: u64) {
        // Cannot fail: the sender is in `self`.
        let _ = self
            .progress
            .subscribe()
            .wait_for(|progress| progress.ended > seen)
            .await;
    }

    /// The driver: fetches at once, then at every interval and wish, for ever.
    ///
    /// `lasting` keys (those of a file) are kept however long newer ones cannot be had.
    pub(crate) async fn keep_fresh<F, Fut>(&self, issuer: &str, lasting: bool, fetch: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<KeySet, KeysError>>,
    {
        let mut wished = false;
        let mut quiet_until = Instant::now();
        loop {
            let begun_at = Instant::now();
            self.progress.send_modify(|progress| {
                progress.wished = false;
                progress.in_flight = true;
            });
            let fetched = fetch().await;
            let pause = match fetched {
                Ok(_) => REFRESH_INTERVAL.mul_f64(0.9 + 0.2 * fastrand::f64()),
                Err(_) => MIN_REFRESH_INTERVAL.mul_f64(1.0 + fastrand::f64()),
            };
            if wished || fetched.is_err() {
                quiet_until = begun_at + MIN_REFRESH_INTERVAL;
            }
            self.settle(issuer, lasting, fetched, quiet_until);
            let wish = async {
                sleep_until(quiet_until).await;
                let _ = self
                    .progress
                    .subscribe()
                    .wait_for(|progress| progress.wished)
                    .await;
            };
            wished = tokio::select! {
                () = sleep_until(begun_at + pause) => false,
                () = wish => true,
            };
        }
    }

    /// Takes the outcome of a refresh, and says in the log what changed.
    pub(super) fn settle(
        &self,
        issuer: &str,
        lasting: bool,
        fetched: Result<KeySet, KeysError>,
        quiet_until: Instant,
    ) {
        let before = self.progress();
        let (error, usable) = match fetched {
            Ok(keys) => {
                if before.error.is_some() || self.snapshot.load().is_none() {
                    tracing::info!(issuer, keys = keys.len(), "the issuer's keys are known");
                }
                let fetched_at = Instant::now();
                let void_at = (!lasting).then(|| fetched_at + KEEP_KEYS);
                self.snapshot.store(Some(Arc::new(Snapshot {
                    keys,
                    void_at,
                    fetched_at,
                })));
                (None, true)
            }
            Err(error) => {
                let usable = self.with(|_| ()).is_some();
                if before.is_news(&error, usable) {
                    tracing::warn!(
                        issuer,
                        %error,
                        usable,
                        age_s = self.age().map(|age| age.as_secs()),
                        "the issuer's keys cannot be refreshed"
                    );
                }
                (Some(error), usable)
            }
        };
        self.progress.send_modify(|progress| {
            progress.in_flight = false;
            progress.quiet_until = Some(quiet_until);
            progress.ended += 1;
            progress.error = error;
            progress.usable = usable;
        });
    }
}
