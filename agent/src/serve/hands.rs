//! Tasks that carry a session's calls, one after the other.
//!
//! What a call has to remember while it waits is 10 KB, in one piece. A task for each call would take
//! that from the allocator, be copied there, and give it back; a task that has carried one call carries
//! the next where it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use culvert_proto::head::CallHead;
use culvert_session::Stream;
use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Serving;
use super::exchange;

/// Most tasks of a session that wait for a next call: 64 hold less than 1 MB. Those above end with
/// their call.
pub(super) const KEPT: usize = 64;

/// The way to one task; whoever has it may give it a call.
type Hand = mpsc::Sender<Work>;

/// A call for a task.
struct Work {
    head: CallHead,
    stream: Stream,
    /// Counts among the calls that a drain waits for, from here to its end.
    counted: TaskTrackerToken,
    /// The way to the task itself, for it to give back.
    hand: Hand,
}

/// The tasks that wait. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Hands {
    serving: Arc<Serving>,
    node: Arc<str>,
    idle: Arc<Idle>,
}

/// The last one that has become idle is the next to be taken: its memory is in the processor's cache.
type Idle = Mutex<Vec<Hand>>;

impl Hands {
    /// For the calls of a session with this relay node.
    pub(super) fn new(serving: Arc<Serving>, node: Arc<str>) -> Self {
        Self {
            serving,
            node,
            idle: Arc::default(),
        }
    }

    /// Has a call carried, by a task that waits or by a new one.
    pub(super) fn carry(&self, head: CallHead, stream: Stream) {
        let idle = lock(&self.idle).pop();
        let hand = idle.unwrap_or_else(|| self.start());
        // Never full: it has one place, and the task waits. Never closed: it waits as long as there is this
        // way to it; and if the runtime has ended it, nothing is carried any more.
        let way = hand.clone();
        let _ = way.try_send(Work {
            head,
            stream,
            counted: self.serving.calls.token(),
            hand,
        });
    }

    fn start(&self) -> Hand {
        let (hand, mut work) = mpsc::channel::<Work>(1);
        let (serving, node) = (self.serving.clone(), self.node.clone());
        let idle = Arc::downgrade(&self.idle);
        let task = async move {
            while let Some(Work {
                head,
                stream,
                counted,
                hand,
            }) = work.recv().await
            {
                exchange::run(&serving, head, stream, &node).await;
                drop(counted);
                // Unless it is kept there, nobody has the way to this task any more, and it ends.
                keep(&idle, hand);
            }
        };
        // In a box: a task's future is moved many times before it runs.
        tokio::spawn(Box::pin(task));
        hand
    }
}

/// Puts a task among those that wait, unless there are enough or the session is over.
fn keep(idle: &Weak<Idle>, hand: Hand) {
    if let Some(idle) = idle.upgrade() {
        let mut idle = lock(&idle);
        if idle.len() < KEPT {
            idle.push(hand);
        }
    }
}

/// Nothing that is done under the lock can panic.
fn lock(idle: &Idle) -> MutexGuard<'_, Vec<Hand>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
