//! What the parts of one caller's connection know of each other.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use culvert_proto::code::ErrorCode;
use culvert_proto::head::ResponseHead;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, StatusCode};

use crate::guard::Violation;
use crate::headers;
use crate::pace::Untaken;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::request::size;
use crate::source::Source;

/// Most bytes of heads that wait for an answer, all calls of an HTTP/2 connection together.
const MAX_HEADS: usize = 512 * 1024;

/// The calls of one connection, and what its guard found. Shared by the guard, which sees bytes,
/// and the service, which sees requests.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Calls that are not over, and calls that ever were.
    calls: AtomicUsize,
    begun: AtomicUsize,
    refused: OnceLock<Violation>,
    untaken: OnceLock<Untaken>,
    switched: AtomicBool,
    winding_up: AtomicBool,
    taking_no_more: AtomicBool,
    /// Nobody knows yet who calls.
    stranger: AtomicBool,
    source: Option<Source>,
    /// Whoever reads no further for a stranger.
    holding_back: AtomicWaker,
    /// Whoever waits for the end of a call.
    waiting: AtomicWaker,
    /// The connection's own task is at work, and a call has ended since it last asked.
    at_work: AtomicBool,
    missed: AtomicBool,
    interim: Mutex<Interim>,
    /// A call waits until all that hyper has of its answer is written.
    flush_awaited: AtomicBool,
    flushing: AtomicWaker,
    /// The call that waits until its interim answer is written.
    interim_waiting: AtomicWaker,
    /// Bytes of heads that wait for an answer.
    heads: AtomicUsize,
    /// The progress of the call that was just begun: over HTTP/2 until its task is spawned.
    fresh: Mutex<Option<Arc<Progress>>>,
    afterwards: Afterwards,
}

/// What goes on on an HTTP/1.1 connection when HTTP has ended there.
#[derive(Default)]
struct Afterwards(Mutex<Option<Passing>>);

type Passing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Room for one head, given back when dropped.
#[derive(Debug)]
pub struct HeadRoom {
    traffic: Arc<Traffic>,
    bytes: usize,
}

/// An interim answer on its way from the service to the guard: one at a time.
#[derive(Debug, Default)]
enum Interim {
    #[default]
    None,
    Waiting(Bytes),
    UnderWay,
}

impl Traffic {
    /// Of a connection of which nobody knows yet who calls: little is read from it until somebody is
    /// [trusted](Self::trust).
    pub fn of_stranger(source: Source) -> Self {
        Self {
            stranger: AtomicBool::new(true),
            source: Some(source),
            ..Self::default()
        }
    }

    /// It is known who calls.
    pub fn trust(&self) {
        self.stranger.store(false, Ordering::Release);
        self.holding_back.wake();
    }

    /// Whether nobody knows yet who calls.
    pub(crate) fn is_stranger(&self) -> bool {
        self.stranger.load(Ordering::Acquire)
    }

    /// Where a stranger comes from.
    pub(crate) fn stranger(&self) -> Option<Source> {
        self.source.filter(|_| self.is_stranger())
    }

    /// Whether nobody knows yet who calls; wakes the task when that changes.
    pub(crate) fn poll_stranger(&self, waker: &Waker) -> bool {
        self.stranger.load(Ordering::Acquire) && {
            self.holding_back.register(waker);
            self.stranger.load(Ordering::Acquire)
        }
    }

    /// A call begins. [`on_end`](Self::on_end) must follow.
    pub(crate) fn on_begin(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// How many calls have begun on this connection.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// How many of them are over.
    pub(crate) fn ended(&self) -> usize {
        self.begun()
            .wrapping_sub(self.calls.load(Ordering::Acquire))
    }

    /// A call is over: answered to the last byte, or broken off.
    pub fn on_end(&self) {
        self.calls.fetch_sub(1, Ordering::SeqCst);
        if self.at_work.load(Ordering::SeqCst) {
            self.missed.store(true, Ordering::SeqCst);
            // Still: then it looks at what it missed before it rests.
            if self.at_work.load(Ordering::SeqCst) {
                return;
            }
        }
        self.waiting.wake();
    }

    /// Runs what the connection's own task does in one go. A call that ends meanwhile wakes the task
    /// only if it does not ask again: nearly every call ends there, and the task would come once more
    /// for nothing.
    pub(crate) fn work<T>(&self, work: impl FnOnce() -> T) -> T {
        self.at_work.store(true, Ordering::SeqCst);
        let done = work();
        self.at_work.store(false, Ordering::SeqCst);
        if self.missed.swap(false, Ordering::SeqCst) {
            self.waiting.wake();
        }
        done
    }

    /// Whether a call is in flight.
    pub fn is_busy(&self) -> bool {
        self.calls.load(Ordering::SeqCst) > 0
    }

    /// Whether a call is in flight; wakes the task when one ends.
    pub(crate) fn poll_busy(&self, waker: &Waker) -> bool {
        // Before it looks: what ends afterwards is missed again.
        self.missed.store(false, Ordering::SeqCst);
        self.is_busy() && {
            self.waiting.register(waker);
            self.is_busy()
        }
    }

    /// The guard refuses the request whose place the next one takes, or whose body is coming.
    pub(crate) fn refuse(&self, violation: Violation) {
        let _ = self.refused.set(violation);
    }

    /// What the guard refused. Nothing follows on this connection.
    pub fn refused(&self) -> Option<Violation> {
        self.refused.get().copied()
    }

    /// The connection breaks, for its caller did not take what it was sent.
    pub(crate) fn on_untaken(&self, untaken: Untaken) {
        let _ = self.untaken.set(untaken);
    }

    /// Whether the connection broke for that.
    pub fn untaken(&self) -> Option<Untaken> {
        self.untaken.get().copied()
    }

    /// The connection is to end after the calls in flight.
    pub fn wind_up(&self) {
        self.winding_up.store(true, Ordering::Release);
        self.waiting.wake();
    }

    /// Whether the connection is to end.
    pub(crate) fn is_winding_up(&self) -> bool {
        self.winding_up.load(Ordering::Acquire)
    }

    /// The caller was told that the connection ends and has had its time to hear of it: no call begins
    /// any more.
    pub(crate) fn take_no_more(&self) {
        self.taking_no_more.store(true, Ordering::Release);
    }

    /// Whether no call begins any more.
    pub(crate) fn is_taking_no_more(&self) -> bool {
        self.taking_no_more.load(Ordering::Acquire)
    }

    /// Sends an interim answer to the caller of the call in flight, of HTTP/1.1. Completes when it
    /// is written, so that the answer cannot overtake it.
    async fn send_interim(&self, bytes: Bytes) {
        *self.lock_interim() = Interim::Waiting(bytes);
        poll_fn(|cx| {
            self.interim_waiting.register(cx.waker());
            match *self.lock_interim() {
                Interim::None => Poll::Ready(()),
                Interim::Waiting(_) | Interim::UnderWay => Poll::Pending,
            }
        })
        .await;
    }

    /// Passes an interim answer on to the caller of the call in flight, of HTTP/1.1: hyper has no way
    /// to send one over HTTP/2. A 100 is for callers that wait for it. `host` as for
    /// [`headers::of_response`].
    pub async fn pass_interim(&self, progress: &Progress, head: ResponseHead, host: Option<&str>) {
        let go_on = head.status == StatusCode::CONTINUE;
        if go_on && !progress.waits.load(Ordering::Relaxed) {
            return;
        }
        self.send_interim(headers::of_interim(head, host)).await;
        if go_on {
            progress.waits.store(false, Ordering::Relaxed);
        }
    }

    /// Takes an interim answer that is to be written, if there is one.
    pub(crate) fn take_interim(&self, into: &mut Bytes) -> bool {
        let mut interim = self.lock_interim();
        match std::mem::take(&mut *interim) {
            Interim::Waiting(bytes) => {
                *into = bytes;
                *interim = Interim::UnderWay;
                true
            }
            other => {
                *interim = other;
                false
            }
        }
    }

    /// It is written.
    pub(crate) fn on_interim_written(&self) {
        *self.lock_interim() = Interim::None;
        self.interim_waiting.wake();
    }

    /// Has the task woken once all that hyper has to write is written: see
    /// [`poll_flushed`](Self::poll_flushed). For a call over HTTP/1, which is alone on its connection.
    pub(crate) fn await_flush(&self, cx: &Context<'_>) {
        self.flushing.register(cx.waker());
        self.flush_awaited.store(true, Ordering::Release);
    }

    /// Ready once that is so.
    pub(crate) fn poll_flushed(&self, cx: &Context<'_>) -> Poll<()> {
        self.flushing.register(cx.waker());
        if self.flush_awaited.load(Ordering::Acquire) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// All is written.
    pub(crate) fn on_flushed(&self) {
        // Of every flush only this look is paid.
        if self.flush_awaited.load(Ordering::Relaxed) {
            self.flush_awaited.store(false, Ordering::Release);
            self.flushing.wake();
        }
    }

    fn lock_interim(&self) -> MutexGuard<'_, Interim> {
        lock(&self.interim)
    }

    /// The request in flight is answered with 101: what follows is not HTTP.
    pub fn switch(&self) {
        self.switched.store(true, Ordering::Release);
    }

    /// Whether what follows is not HTTP.
    pub(crate) fn is_switched(&self) -> bool {
        self.switched.load(Ordering::Acquire)
    }

    /// Takes room for a request's fields, to be held until its answer.
    pub fn take_room(self: &Arc<Self>, fields: &HeaderMap) -> Result<HeadRoom, Problem> {
        self.take_room_within(fields, MAX_HEADS)
    }

    /// The same, where all heads together have at most `most` bytes; one alone may have more.
    pub fn take_room_within(
        self: &Arc<Self>,
        fields: &HeaderMap,
        most: usize,
    ) -> Result<HeadRoom, Problem> {
        let bytes = size(fields);
        let room = HeadRoom {
            traffic: self.clone(),
            bytes,
        };
        let held = self.heads.fetch_add(bytes, Ordering::Relaxed);
        if held + bytes <= most || held == 0 {
            return Ok(room);
        }
        Err(Problem::new(
            ErrorCode::Overloaded,
            "the calls in flight on this connection have too many header fields; try again",
        ))
    }

    /// Leaves what goes on here once HTTP has ended.
    pub fn leave_afterwards(&self, passing: impl Future<Output = ()> + Send + 'static) {
        *lock(&self.afterwards.0) = Some(Box::pin(passing));
    }

    /// Takes what goes on once HTTP has ended.
    pub(crate) fn take_afterwards(&self) -> Option<Passing> {
        lock(&self.afterwards.0).take()
    }

    /// Leaves the progress of a call for the task that it is about to get.
    pub(crate) fn leave_progress(&self, progress: &Arc<Progress>) {
        *lock(&self.fresh) = Some(progress.clone());
    }

    /// Whether the call of an HTTP/1.1 connection is to end and waits for its caller.
    pub(crate) fn is_stuck(&self) -> bool {
        lock(&self.fresh)
            .as_ref()
            .is_some_and(|call| call.is_stuck())
    }

    /// Takes what was left.
    pub(crate) fn take_progress(&self) -> Option<Arc<Progress>> {
        lock(&self.fresh).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Afterwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Afterwards").finish_non_exhaustive()
    }
}

impl Drop for HeadRoom {
    fn drop(&mut self) {
        self.traffic.heads.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often the task of a connection with one call in flight is woken by `then`.
    fn woken(then: impl FnOnce(&Traffic, &Waker)) -> u32 {
        let (traffic, woken) = (Traffic::default(), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        traffic.on_begin();
        assert!(traffic.poll_busy(&waker));
        then(&traffic, &waker);
        assert!(!traffic.is_busy());
        woken.0.load(Ordering::Relaxed)
    }

    #[test]
    fn the_end_of_a_call_wakes_the_connections_task_unless_that_has_seen_it() {
        assert_eq!(woken(|traffic, _| traffic.on_end()), 1);
        assert_eq!(
            woken(|traffic, _| traffic.work(|| traffic.on_end())),
            1,
            "it has not asked since"
        );
        let seen = |traffic: &Traffic, waker: &Waker| {
            traffic.work(|| {
                traffic.on_end();
                assert!(!traffic.poll_busy(waker));
            });
        };
        assert_eq!(woken(seen), 0);
        let afterwards = |traffic: &Traffic, waker: &Waker| {
            traffic.work(|| assert!(traffic.poll_busy(waker)));
            traffic.on_end();
        };
        assert_eq!(woken(afterwards), 1);
    }

    #[test]
    fn no_end_of_a_call_is_missed_whenever_it_comes() {
        for _ in 0..2000 {
            let traffic = Traffic::default();
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            traffic.on_begin();
            let still_busy = std::thread::scope(|scope| {
                scope.spawn(|| traffic.on_end());
                traffic.work(|| traffic.poll_busy(&waker))
            });
            // Whoever went to rest in the belief that there is a call is woken.
            assert!(!still_busy || woken.0.load(Ordering::Relaxed) > 0);
        }
    }
}
