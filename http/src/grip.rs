//! A hand on a caller's side of a passage: to break it visibly, and to notice that it is gone.
//!
//! With HTTP/1.1 the connection is the caller's side; broken, it ends by a TCP reset. With HTTP/2 it
//! is one stream. hyper sends on it from a task of its own, which it makes in the same breath as it
//! answers; whoever gives the answer leaves the hand for that task in [`LEFT`].

use std::cell::Cell;
use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Version;
use tokio_util::sync::CancellationToken;

use crate::traffic::Traffic;

thread_local! {
    /// For the task that hyper is about to make, on this thread and in this very poll.
    static LEFT: Cell<Option<StreamGrip>> = const { Cell::new(None) };
}

/// Makes a connection end by a reset (TCP RST) when it is dropped, so that its peer cannot take
/// what came for all there was. Clones are of the same connection.
#[derive(Debug, Clone, Default)]
pub struct Breaker(Arc<Break>);

#[derive(Debug, Default)]
struct Break {
    set: AtomicBool,
    behind: AtomicBool,
}

impl Breaker {
    /// From now on, the end is a reset.
    pub fn set(&self) {
        self.0.set.store(true, Ordering::Relaxed);
    }

    /// The same, behind what was written: a reset throws away what the kernel has not sent yet.
    pub fn set_behind(&self) {
        self.0.behind.store(true, Ordering::Relaxed);
        self.set();
    }

    /// Whether the end is a reset: for whoever holds the connection.
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Relaxed)
    }

    /// Whether what was written is sent before it.
    pub fn is_behind(&self) -> bool {
        self.0.behind.load(Ordering::Relaxed)
    }
}

/// A hand on a caller's side.
#[derive(Debug)]
pub enum Grip {
    /// On a connection of HTTP/1.1.
    Connection(Breaker),
    /// On a stream of HTTP/2.
    Stream(StreamGrip),
}

/// A hand on a stream of HTTP/2. Clones hold the same stream.
#[derive(Debug, Clone, Default)]
pub struct StreamGrip {
    cut: CancellationToken,
    gone: CancellationToken,
}

impl Grip {
    /// A hand on the caller's side of a call that leaves HTTP with the answer that is given next, in
    /// this very poll.
    pub fn take(version: Version, traffic: &Traffic, breaker: &Breaker) -> Self {
        if version == Version::HTTP_2 {
            return Self::Stream(StreamGrip::leave());
        }
        traffic.switch();
        Self::Connection(breaker.clone())
    }

    /// Lets the caller see that what it got is not all: the connection or stream ends by a reset
    /// once it is dropped.
    pub fn cut(&self) {
        match self {
            Self::Connection(breaker) => breaker.set(),
            Self::Stream(stream) => stream.cut.cancel(),
        }
    }

    /// The same behind what was written to the caller, which on a stream of HTTP/2 cannot be had: its
    /// reset overtakes what waits for the caller's credit.
    pub fn cut_behind(&self) {
        match self {
            Self::Connection(breaker) => breaker.set_behind(),
            Self::Stream(stream) => stream.cut.cancel(),
        }
    }

    /// Completes when nothing can be sent to the caller any more. A connection that is gone shows
    /// that by itself, when it is read.
    pub async fn gone(&self) {
        match self {
            Self::Connection(_) => pending().await,
            Self::Stream(stream) => stream.gone.cancelled().await,
        }
    }
}

impl StreamGrip {
    /// Leaves a hand for the task that hyper makes next.
    fn leave() -> Self {
        let grip = Self::default();
        LEFT.set(Some(grip.clone()));
        grip
    }

    /// Takes what was left, if this task is the one.
    pub(crate) fn take() -> Option<Self> {
        LEFT.take()
    }

    /// Runs what sends on the stream, until it ends or is cut.
    pub(crate) async fn hold(self, sending: impl Future<Output = ()>) {
        let _gone = self.gone.drop_guard();
        tokio::select! {
            biased;
            () = self.cut.cancelled() => {}
            () = sending => {}
        }
    }
}
