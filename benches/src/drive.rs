//! Drives callers: as fast as they get answers, or by a schedule.
//!
//! By a schedule, a call's latency counts from the time at which it was to begin. If all workers
//! wait for answers meanwhile, the calls that fall due wait too, and that wait is part of their
//! latency: a stall shows in all calls that it delays, not only in those that were under way
//! ("coordinated omission" is what load generators do that stop asking while they wait).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::load::Failure;
use crate::record::Recorder;

/// Makes one call after the other.
pub trait Caller: Send + 'static {
    /// One call, to the end of its answer. Bytes are counted as they come.
    fn call(
        &mut self,
        recorder: &Arc<Recorder>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What comes before the first call, and is no part of it.
    fn begin(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// How long the other side is asked to wait with each answer: latency is what a call takes
    /// longer, and an answer before is an error.
    fn held(&self) -> Duration {
        Duration::ZERO
    }
}

/// When calls begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each worker calls again as soon as it has its answer.
    Closed,
    /// So many calls per second, of all workers together.
    Open(f64),
}

/// How much to drive.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// For so long calls begin.
    pub time: Duration,
    /// Most calls; `None`: as many as the time allows.
    pub calls: Option<u64>,
    /// How long one call may take.
    pub patience: Duration,
    /// Ends everything early.
    pub stop: CancellationToken,
}

/// After a failed call: a port that refuses must not become a busy loop.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What calls that are under way at the end may still take.
const GRACE: Duration = Duration::from_secs(5);

/// The same when somebody waits for the report.
const SHORT_GRACE: Duration = Duration::from_millis(300);

/// What a call is called that did not end in time.
pub const UNFINISHED: &str = "unfinished";

/// By then a worker that is free has taken up a call that is due.
const MARGIN: Duration = Duration::from_millis(20);

/// The times at which calls begin.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    start: Instant,
    /// Calls per second.
    rate: f64,
    most: u64,
}

impl Schedule {
    /// When call `number` begins, counted from zero.
    fn at(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// How many calls were to begin before `now`.
    fn due(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.start).as_secs_f64();
        ((passed * self.rate).ceil() as u64).min(self.most)
    }
}

/// What the workers of one drive share.
#[derive(Debug)]
struct Shared {
    pace: Pace,
    schedule: Schedule,
    /// Of a schedule: permits for the calls that are due. Closed at the end.
    released: Semaphore,
    /// The next call's number.
    next: AtomicU64,
    end: Instant,
    patience: Duration,
    recorder: Arc<Recorder>,
    stop: CancellationToken,
}

impl Shared {
    /// Waits for the next call's turn; gives the time at which it was to begin, or `None` at the
    /// end.
    async fn next(&self) -> Option<Instant> {
        match self.pace {
            Pace::Closed => {
                let now = Instant::now();
                let over = now >= self.end || self.stop.is_cancelled();
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                (!over && number < self.schedule.most).then_some(now)
            }
            Pace::Open(_) => {
                self.released.acquire().await.ok()?.forget();
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                Some(self.schedule.at(number))
            }
        }
    }
}

/// A call under way. Dropped before its end it counts as failed, with the time it had, unless its
/// answer was not due yet: that one is let go.
struct UnderWay<'a> {
    intended: Instant,
    held: Duration,
    recorder: &'a Recorder,
    ended: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let late = self.intended.elapsed().checked_sub(self.held);
        if let (false, Some(late)) = (self.ended, late) {
            self.recorder.fail(late, UNFINISHED);
        }
    }
}

async fn work<C: Caller>(mut caller: C, shared: Arc<Shared>) {
    let recorder = &shared.recorder;
    let held = caller.held();
    caller.begin().await;
    while let Some(intended) = shared.next().await {
        let mut call = UnderWay {
            intended,
            held,
            recorder,
            ended: false,
        };
        let result = match timeout(held + shared.patience, caller.call(recorder)).await {
            Ok(result) => result,
            Err(elapsed) => Err(elapsed.into()),
        };
        call.ended = true;
        let took = intended.elapsed();
        match &result {
            Ok(()) if took + MARGIN < held => recorder.fail(took, "answered too early"),
            Ok(()) => recorder.end(took.saturating_sub(held), &result),
            Err(_) => recorder.end(took, &result),
        }
        drop(call);
        if result.is_err() {
            sleep(AFTER_FAILURE).await;
        }
    }
}

/// Lets `callers` call until a bound is reached; gives how long they called: by a schedule until
/// its end, else until the last answer.
///
/// Calls that are under way then may end; those that do not, and those whose turn never came, are
/// counted as failed with the time they had waited.
pub async fn drive<C: Caller>(
    callers: Vec<C>,
    pace: Pace,
    bounds: &Bounds,
    recorder: &Arc<Recorder>,
) -> Duration {
    drive_released(callers, pace, bounds, recorder, release_by_thread).await
}

/// [`drive`], with the way in which a schedule's calls are released.
async fn drive_released<C: Caller>(
    callers: Vec<C>,
    pace: Pace,
    bounds: &Bounds,
    recorder: &Arc<Recorder>,
    release: fn(Arc<Shared>),
) -> Duration {
    let start = Instant::now();
    let shared = Arc::new(Shared {
        pace,
        schedule: Schedule {
            start,
            rate: if let Pace::Open(rate) = pace {
                rate.max(0.001)
            } else {
                1.0
            },
            most: bounds.calls.unwrap_or(u64::MAX),
        },
        released: Semaphore::new(0),
        next: AtomicU64::new(0),
        end: start + bounds.time,
        patience: bounds.patience,
        recorder: recorder.clone(),
        stop: bounds.stop.clone(),
    });
    let mut workers = JoinSet::new();
    for caller in callers {
        workers.spawn(work(caller, shared.clone()));
    }
    if let Pace::Open(_) = pace {
        release(shared.clone());
    }
    // A schedule has run out when all its calls were made, not when its workers have ended.
    let all_made = async { while workers.join_next().await.is_some() {} };
    tokio::select! {
        () = all_made => {}
        () = bounds.stop.cancelled() => {}
        () = tokio::time::sleep_until(shared.end) => {}
    }
    let ended = Instant::now();
    shared.released.close();
    let grace = if bounds.stop.is_cancelled() {
        SHORT_GRACE
    } else {
        GRACE.min(bounds.patience)
    };
    let _ = timeout(grace, async {
        while workers.join_next().await.is_some() {}
    })
    .await;
    workers.shutdown().await;
    if let Pace::Open(_) = pace {
        let begun = shared.next.load(Ordering::Relaxed);
        // A call whose turn comes with the end was not kept waiting.
        for number in begun..shared.schedule.due(ended - MARGIN) {
            let waited = ended.saturating_duration_since(shared.schedule.at(number));
            recorder.fail(waited, "not begun: every worker was waiting");
        }
    }
    // Without a schedule, what the last calls carried counts, and so does the time that they took.
    let elapsed = match pace {
        Pace::Closed => start.elapsed(),
        Pace::Open(_) => ended - start,
    };
    elapsed.max(Duration::from_micros(1))
}

/// Releases each call at its time. A thread, since the runtime's timers are a millisecond coarse,
/// which is more than a call takes.
fn release_by_thread(shared: Arc<Shared>) {
    thread::spawn(move || {
        let mut released = 0;
        while !shared.released.is_closed() && released < shared.schedule.most {
            let now = Instant::now();
            let due = shared.schedule.due(now);
            shared.released.add_permits((due - released) as usize);
            released = due;
            // Not for ever: the end is noticed here.
            let next = shared.schedule.at(released).saturating_duration_since(now);
            thread::sleep(next.min(Duration::from_millis(50)));
        }
        // A schedule whose calls were all released has ended for workers that find none left.
        while !shared.released.is_closed() {
            if shared.released.available_permits() == 0 {
                shared.released.close();
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
}

#[cfg(test)]
mod tests;
