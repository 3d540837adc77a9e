//! Always a token: renewed in time, through outages, without hammering the issuer.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::{AccessToken, Fault, Grant, ObtainError};

/// Least time between a token and its renewal, however short it lives.
pub const MIN_RENEWAL: Duration = Duration::from_secs(10);

/// Longest wait for a renewal that is asked for: a relay that refuses every token cannot have the
/// issuer asked for new ones all the time.
const MAX_ASKED_WAIT: Duration = Duration::from_secs(300);

/// Waits after failures: full jitter below this, doubled up to the cap.
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_CAP: Duration = Duration::from_secs(60);

/// Least wait after a refusal that only a person can cure: some issuers lock clients out.
const REFUSED_FLOOR: Duration = Duration::from_secs(10);

/// Longest Retry-After that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// An access token that is kept at hand.
///
/// The work that comes with it renews at two thirds of a token's life, up to a tenth of that earlier
/// so that many agents do not come at once, and never sooner than [`MIN_RENEWAL`]. While the issuer is
/// away it keeps the old token until that expires, and tries again with growing, jittered waits.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct TokenSource {
    tokens: watch::Receiver<Option<AccessToken>>,
    progress: watch::Receiver<Progress>,
    wanted: Arc<Notify>,
}

/// How a [`TokenSource`] is doing, for status and metrics.
#[derive(Debug, Clone)]
pub struct TokenStatus {
    /// How long the current token still lives; `None` without a token.
    pub expires_in: Option<Duration>,
    /// Why the last attempt failed, if it did.
    pub error: Option<ObtainError>,
    /// How many attempts failed since the last token.
    pub failures: u32,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    error: Option<ObtainError>,
    failures: u32,
}

impl TokenSource {
    /// A source, and the work that keeps it: to be watched, for without it the last token expires. The
    /// first attempt begins with the work.
    pub fn new(grant: Grant) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let pace = match &grant {
            Grant::TokenFile(_) => Pace::Look,
            Grant::ClientCredentials(_) | Grant::RefreshToken(..) => Pace::Renew,
        };
        let grant = Arc::new(grant);
        Self::with(pace, move || {
            let grant = grant.clone();
            async move { grant.obtain().await }
        })
    }

    pub(super) fn with<F, Fut>(
        pace: Pace,
        obtain: F,
    ) -> (Self, impl Future<Output = ()> + Send + use<F, Fut>)
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = Result<AccessToken, ObtainError>> + Send + 'static,
    {
        let (token_sender, tokens) = watch::channel(None);
        let (progress_sender, progress) = watch::channel(Progress::default());
        let wanted = Arc::new(Notify::new());
        let renewing = Renewing {
            pace,
            tokens: token_sender,
            progress: progress_sender,
        };
        let source = Self {
            tokens,
            progress,
            wanted: wanted.clone(),
        };
        (source, async move { renewing.run(obtain, &wanted).await })
    }

    /// The current token and its successors. `None`: none yet, or it expired in an outage.
    pub fn watch(&self) -> watch::Receiver<Option<AccessToken>> {
        self.tokens.clone()
    }

    /// The current token; without one, the outcome of the attempt that is going on, or why the
    /// last one failed.
    pub async fn token(&self) -> Result<AccessToken, ObtainError> {
        let mut progress = self.progress.clone();
        loop {
            let error = progress.borrow_and_update().error.clone();
            let current = self.tokens.borrow().clone();
            if let Some(token) = current.filter(|token| !token.is_expired()) {
                return Ok(token);
            }
            if let Some(error) = error {
                return Err(error);
            }
            if progress.changed().await.is_err() {
                return Err(ObtainError::Stopped);
            }
        }
    }

    /// Asks for another token soon: the relay refused the current one. A renewal comes of it no sooner
    /// than [`MIN_RENEWAL`] after the token was obtained, twice that when the next one is refused too,
    /// and so on up to five minutes; and none while the issuer is away, which is asked again anyway.
    pub fn renew(&self) {
        self.wanted.notify_one();
    }

    /// How it is going.
    pub fn status(&self) -> TokenStatus {
        let token = self.tokens.borrow().clone();
        let left = |token: AccessToken| token.expires_at.duration_since(Instant::now());
        let Progress { error, failures } = self.progress.borrow().clone();
        TokenStatus {
            expires_in: token.map(left),
            error,
            failures,
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// When to obtain the next token.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// At two thirds of the life of the one before.
    Renew,
    /// Every [`MIN_RENEWAL`]: to look costs nothing, and only another token is news. The same one is
    /// good for as long as the last look says.
    Look,
}

/// The side of the work.
struct Renewing {
    pace: Pace,
    tokens: watch::Sender<Option<AccessToken>>,
    progress: watch::Sender<Progress>,
}

impl Renewing {
    async fn run<F, Fut>(self, obtain: F, wanted: &Notify)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<AccessToken, ObtainError>>,
    {
        let mut asked_wait = MIN_RENEWAL;
        loop {
            let begun_at = Instant::now();
            let outcome = self.guard(obtain()).await;
            // What was asked for before is about an earlier token.
            pin!(wanted.notified()).enable();
            let next = match outcome {
                Ok(token) => {
                    let next = begun_at
                        + match self.pace {
                            Pace::Renew => renew_after(token.lifetime),
                            Pace::Look => MIN_RENEWAL,
                        };
                    self.tokens.send_if_modified(|current| {
                        let new = current
                            .as_ref()
                            .is_none_or(|current| current.expose() != token.expose());
                        // A file in which a token still stands says that it is still good.
                        if new || matches!(self.pace, Pace::Look) {
                            *current = Some(token);
                        }
                        new
                    });
                    self.report(Progress::default());
                    next
                }
                Err(error) => {
                    let failures = self.progress.borrow().failures + 1;
                    let wait = retry_after(&error, failures);
                    let retry_s = wait.as_secs_f32();
                    tracing::warn!(%error, failures, retry_s, "no access token was obtained");
                    self.report(Progress {
                        error: Some(error),
                        failures,
                    });
                    Instant::now() + wait
                }
            };
            let failed = self.progress.borrow().failures > 0;
            let early = async {
                wanted.notified().await;
                if begun_at.elapsed() >= MAX_ASKED_WAIT {
                    asked_wait = MIN_RENEWAL;
                }
                sleep_until(begun_at + asked_wait).await;
            };
            let asked = self.guard(async {
                tokio::select! {
                    () = sleep_until(next) => false,
                    () = early, if !failed => true,
                }
            });
            // To look costs nothing.
            if asked.await && matches!(self.pace, Pace::Renew) {
                asked_wait = (asked_wait * 2).min(MAX_ASKED_WAIT);
            }
        }
    }

    fn report(&self, progress: Progress) {
        if progress.failures == 0 && self.progress.borrow().failures > 0 {
            tracing::info!("an access token was obtained again");
        }
        self.progress.send_replace(progress);
    }

    /// Awaits `work`; takes the current token back should it expire meanwhile.
    async fn guard<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let expires_at = self.tokens.borrow().as_ref().map(|token| token.expires_at);
        if let Some(expires_at) = expires_at {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = sleep_until(expires_at) => {
                    self.tokens.send_replace(None);
                    tracing::warn!("the access token expired without a successor");
                }
            }
        }
        work.await
    }
}

/// Two thirds of a life, up to a tenth of that earlier, but no sooner than [`MIN_RENEWAL`].
fn renew_after(lifetime: Duration) -> Duration {
    let jitter = 0.9 + 0.1 * fastrand::f64();
    lifetime.mul_f64(2.0 / 3.0 * jitter).max(MIN_RENEWAL)
}

fn retry_after(error: &ObtainError, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let bound = RETRY_BASE.saturating_mul(1 << doublings).min(RETRY_CAP);
    let asked = error.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER);
    let floor = match error.fault() {
        Fault::Issuer => asked,
        Fault::Configuration => asked.max(REFUSED_FLOOR),
    };
    floor + bound.mul_f64(fastrand::f64())
}
