//! How an upstream is doing: for its operators, and so that calls to one that is down do not all
//! find that out by themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::UpstreamError;

/// How long a connection attempt that nobody answered is believed: it took its time, and the
/// next would too. A refusal is quick, and is asked for again.
const SILENCE_BELIEVED: Duration = Duration::from_secs(1);

/// How an upstream is doing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// When it answered last.
    pub(crate) last_success: Option<Instant>,
    /// When it failed last, and how.
    pub(crate) last_failure: Option<(Instant, String)>,
    /// Failures since it answered last.
    pub(crate) failures: u32,
}

/// What calls have found out about one upstream.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: Mutex<State>,
}

/// What is dialled, each of which can be down by itself. There are as many as the endpoint has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// HTTP/1.1, with its TLS.
    Http1,
    /// HTTP/2, with its TLS and its own beginning.
    Http2,
    /// A port, for calls that are bytes.
    Bytes(u16),
}

#[derive(Debug, Default)]
struct State {
    status: Status,
    /// Why the last attempt at a connection failed, where it did.
    down: HashMap<Way, Down>,
}

#[derive(Debug)]
struct Down {
    error: Arc<UpstreamError>,
    since: Instant,
    /// The attempt that finds out whether it is still so; others wait for it.
    probe: Option<watch::Receiver<()>>,
}

/// What a call that wants a connection does.
enum Turn {
    /// It dials. Its end is told by dropping the sender.
    Dial(Option<watch::Sender<()>>),
    /// It waits for the one that dials.
    Wait(watch::Receiver<()>, Arc<UpstreamError>),
    /// It is told what is known.
    Known(Arc<UpstreamError>),
}

impl Health {
    /// How it is doing.
    pub(crate) fn status(&self) -> Status {
        self.lock().status.clone()
    }

    /// Takes note of an answer.
    pub(crate) fn answered(&self) {
        let mut state = self.lock();
        state.status.last_success = Some(Instant::now());
        state.status.failures = 0;
    }

    /// Takes note of a failure, if it is the upstream's.
    pub(crate) fn failed(&self, error: &UpstreamError) {
        if error.is_own_shortage() {
            return;
        }
        let status = &mut self.lock().status;
        status.last_failure = Some((Instant::now(), error.to_string()));
        status.failures = status.failures.saturating_add(1);
    }

    /// Dials; while this way is known to be down, one call at a time does so, and the others share
    /// what it finds. Cancel safe: a call that goes leaves its turn to the next.
    pub(crate) async fn dial<T, D>(
        &self,
        way: Way,
        dial: impl FnOnce() -> D,
    ) -> Result<T, UpstreamError>
    where
        D: Future<Output = Result<T, UpstreamError>>,
    {
        loop {
            match self.turn(way) {
                Turn::Known(error) => return Err(UpstreamError::Shared(error)),
                Turn::Wait(mut probe, before) => {
                    // Ends with the attempt, whatever becomes of it.
                    let _ = probe.changed().await;
                    if let Some(error) = self.news(way, &before) {
                        return Err(UpstreamError::Shared(error));
                    }
                }
                Turn::Dial(_probe) => {
                    let dialled = dial().await;
                    // Who turns a protocol down is there: it says nothing to calls in another. Who
                    // could not even try has found nothing out.
                    return match dialled {
                        Err(error) if error.is_own_shortage() => Err(error),
                        Err(error) if !error.is_about_protocol() => Err(self.is_down(way, error)),
                        dialled => {
                            self.is_up(way);
                            dialled
                        }
                    };
                }
            }
        }
    }

    fn turn(&self, way: Way) -> Turn {
        let mut state = self.lock();
        let Some(down) = state.down.get_mut(&way) else {
            return Turn::Dial(None);
        };
        let is_silent = matches!(*down.error, UpstreamError::Timeout { .. });
        if is_silent && down.since.elapsed() < SILENCE_BELIEVED {
            return Turn::Known(down.error.clone());
        }
        if let Some(probe) = &down.probe
            && probe.has_changed().is_ok()
        {
            return Turn::Wait(probe.clone(), down.error.clone());
        }
        let (sender, receiver) = watch::channel(());
        down.probe = Some(receiver);
        Turn::Dial(Some(sender))
    }

    /// What is known now, if it is not what was known before.
    fn news(&self, way: Way, before: &Arc<UpstreamError>) -> Option<Arc<UpstreamError>> {
        let state = self.lock();
        let error = &state.down.get(&way)?.error;
        (!Arc::ptr_eq(error, before)).then(|| error.clone())
    }

    fn is_up(&self, way: Way) {
        self.lock().down.remove(&way);
    }

    fn is_down(&self, way: Way, error: UpstreamError) -> UpstreamError {
        let error = Arc::new(error);
        let mut state = self.lock();
        // The probe, if there is one, is this attempt's, or one that another finds out with.
        let probe = state.down.remove(&way).and_then(|down| down.probe);
        let down = Down {
            error: error.clone(),
            since: Instant::now(),
            probe,
        };
        state.down.insert(way, down);
        UpstreamError::Shared(error)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::error::Phase;
    use super::*;

    fn refused() -> UpstreamError {
        UpstreamError::Connect {
            host: "vc.example".into(),
            port: 443,
            source: std::io::ErrorKind::ConnectionRefused.into(),
        }
    }

    fn silent() -> UpstreamError {
        UpstreamError::Timeout {
            phase: Phase::Connect,
            limit: Duration::from_secs(5),
        }
    }

    /// Fifty calls at once; how many dialled, and how many got through.
    async fn fifty(
        health: &Arc<Health>,
        outcome: fn() -> Result<(), UpstreamError>,
    ) -> (usize, usize) {
        let dials = Arc::new(AtomicUsize::new(0));
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let (health, dials) = (health.clone(), dials.clone());
                tokio::spawn(async move {
                    let dial = || async {
                        dials.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        outcome()
                    };
                    health.dial(Way::Http1, dial).await.is_ok()
                })
            })
            .collect();
        let mut through = 0;
        for call in calls {
            through += usize::from(call.await.unwrap());
        }
        (dials.load(Ordering::Relaxed), through)
    }

    #[tokio::test(start_paused = true)]
    async fn while_an_upstream_is_down_one_call_at_a_time_finds_out() {
        let health = Arc::new(Health::default());
        assert_eq!(
            fifty(&health, || Ok(())).await,
            (50, 50),
            "nothing is known yet"
        );
        health
            .dial(Way::Http1, || async { Err::<(), _>(refused()) })
            .await
            .unwrap_err();
        assert_eq!(fifty(&health, || Err(refused())).await, (1, 0));
        assert_eq!(
            fifty(&health, || Err(refused())).await,
            (1, 0),
            "it is asked again"
        );
        let (dials, through) = fifty(&health, || Ok(())).await;
        assert_eq!((dials, through), (50, 50), "once one is through, all go");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_believed_for_a_moment_and_a_refusal_is_not() {
        let health = Health::default();
        let dial = async |outcome: fn() -> Result<(), UpstreamError>| {
            let dial = || async move { outcome() };
            health
                .dial(Way::Http1, dial)
                .await
                .map_err(|error| error.code().as_str())
        };
        assert_eq!(dial(|| Err(silent())).await, Err("upstream-timeout"));
        assert_eq!(
            dial(|| Ok(())).await,
            Err("upstream-timeout"),
            "not even tried"
        );
        tokio::time::sleep(SILENCE_BELIEVED).await;
        assert_eq!(dial(|| Ok(())).await, Ok(()));
        assert_eq!(dial(|| Err(refused())).await, Err("upstream-unreachable"));
        assert_eq!(dial(|| Ok(())).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_goes_leaves_its_turn_to_the_next() {
        let health = Arc::new(Health::default());
        health
            .dial(Way::Http1, || async { Err::<(), _>(refused()) })
            .await
            .unwrap_err();
        let prober = tokio::spawn({
            let health = health.clone();
            async move {
                health
                    .dial(Way::Http1, std::future::pending::<Result<(), _>>)
                    .await
            }
        });
        tokio::task::yield_now().await;
        let waiting = tokio::spawn({
            let health = health.clone();
            async move { health.dial(Way::Http1, || async { Ok(()) }).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        prober.abort();
        assert!(waiting.await.unwrap().is_ok());
    }

    fn out_of_files() -> UpstreamError {
        UpstreamError::Connect {
            host: "vc.example".into(),
            port: 443,
            source: rustix::io::Errno::MFILE.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn that_the_agent_has_no_descriptors_left_is_not_held_against_the_upstream() {
        let health = Arc::new(Health::default());
        health.failed(&out_of_files());
        let status = health.status();
        assert_eq!((status.failures, status.last_failure.is_some()), (0, false));
        // Each call tries by itself, and is told what came of that.
        assert_eq!(fifty(&health, || Err(out_of_files())).await, (50, 0));
        assert_eq!(fifty(&health, || Ok(())).await, (50, 50));
        // What was known of it stays known.
        let refuse = || async { Err::<(), _>(refused()) };
        health.dial(Way::Http1, refuse).await.unwrap_err();
        let short = || async { Err::<(), _>(out_of_files()) };
        let error = health.dial(Way::Http1, short).await.unwrap_err();
        assert_eq!(error.code().as_str(), "overloaded");
        assert_eq!(fifty(&health, || Err(refused())).await, (1, 0));
    }

    #[test]
    fn the_status_tells_failures_since_the_last_answer() {
        let health = Health::default();
        health.failed(&refused());
        health.failed(&silent());
        let status = health.status();
        assert_eq!(status.failures, 2);
        assert!(
            status
                .last_failure
                .unwrap()
                .1
                .contains("connecting to the upstream")
        );
        health.answered();
        let status = health.status();
        assert_eq!(status.failures, 0);
        assert!(status.last_success.is_some() && status.last_failure.is_some());
    }
}
