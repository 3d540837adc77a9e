//! Threads that carry connections, each with a scheduler of its own.
//!
//! What happens on one connection (read, decrypt, decide, encrypt, write) wakes a chain of tasks. On
//! one thread they follow each other; a scheduler that moves tasks between threads wakes another
//! thread for every second one, which costs a small call as much again as its system calls
//! (`docs/performance.md`). So a connection stays with the worker that it was given to, and so does
//! what is spawned for it. Workers are given connections in turn; one that will work with another
//! connection all the time is better with that one's worker, as long as it [has room](Workers::has_room).

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How long a look at how busy a worker is counts.
const LOOK: Duration = Duration::from_millis(200);

/// A worker that was busy for more than this share of the time gets only what it has to take.
const BUSY: f64 = 0.7;

/// Sockets that a worker attends to before it turns to the tasks that those have woken. What they have
/// to send leaves together; more at once would save nothing, and whoever waits for it has nothing to do
/// until then.
const EVENTS: usize = 16;

/// Tasks that a worker runs before it looks at its sockets again. With transfers there is always one that
/// is ready, and what just arrived, a small call say, waits for all of these (tokio's own 61 are some
/// milliseconds); to look more often costs nothing that could be measured.
const TASKS: u32 = 8;

/// The workers of a process. Dropped, they stop where they are.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    /// Of each worker, how busy it was when that was looked at last.
    looks: Mutex<Vec<Look>>,
    next: AtomicUsize,
    /// Dropped, each ends one thread.
    _lives: Vec<oneshot::Sender<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// Until then, since the start.
    busy: Duration,
    /// Share of the time between the last two looks.
    share: f64,
}

impl Look {
    fn first(worker: &Handle) -> Self {
        Self {
            at: Instant::now(),
            busy: worker.metrics().worker_total_busy_duration(0),
            share: 0.0,
        }
    }

    fn again(&mut self, worker: &Handle) {
        let past = self.at.elapsed();
        if past >= LOOK {
            let next = Self::first(worker);
            let busy = next.busy.saturating_sub(self.busy);
            *self = Self {
                share: busy.as_secs_f64() / past.as_secs_f64(),
                ..next
            };
        }
    }
}

impl Workers {
    /// Starts `count` threads; at least one.
    ///
    /// # Errors
    /// The system gives no thread, or no descriptor for its events.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut handles = Vec::new();
        let mut lives = Vec::new();
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_io_events_per_tick(EVENTS)
                .event_interval(TASKS)
                .build()?;
            let (life, over) = oneshot::channel::<()>();
            handles.push(runtime.handle().clone());
            lives.push(life);
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            thread.spawn(move || {
                let _ = runtime.block_on(over);
                // A name that is still being resolved is not waited for.
                runtime.shutdown_background();
            })?;
        }
        Ok(Self {
            looks: Mutex::new(handles.iter().map(Look::first).collect()),
            handles,
            next: AtomicUsize::new(0),
            _lives: lives,
        })
    }

    /// No threads of their own: everything happens in the runtime that this is called in.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn here() -> Self {
        let here = Handle::current();
        Self {
            looks: Mutex::new(vec![Look::first(&here)]),
            handles: vec![here],
            next: AtomicUsize::new(0),
            _lives: Vec::new(),
        }
    }

    /// The worker whose turn it is.
    pub fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }

    /// Whether this is a worker that was not too busy a moment ago to be given more than its turn.
    pub fn has_room(&self, worker: &Handle) -> bool {
        let mut handles = self.handles.iter();
        let Some(number) = handles.position(|known| known.id() == worker.id()) else {
            return false;
        };
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks[number].again(worker);
        looks[number].share < BUSY
    }
}

/// How many processors this process may use; 1 where that is not known.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::task::Poll;

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn each_worker_is_a_thread_that_gets_its_turn_and_keeps_what_is_spawned_on_it() {
        let workers = Workers::start(3).unwrap();
        let names = || async { thread::current().name().map(ToOwned::to_owned) };
        let outer = Builder::new_current_thread().build().unwrap();
        let seen: BTreeSet<_> = outer.block_on(async {
            let mut seen = BTreeSet::new();
            for _ in 0..6 {
                let work = async move {
                    let inner = tokio::spawn(names()).await.unwrap();
                    assert_eq!(inner, names().await);
                    inner.unwrap()
                };
                seen.insert(workers.next().spawn(work).await.unwrap());
            }
            seen
        });
        assert_eq!(
            seen,
            ["worker-0", "worker-1", "worker-2"].map(Into::into).into()
        );
    }

    #[test]
    fn a_busy_worker_has_no_room_and_a_stranger_none_either() {
        let workers = Workers::start(2).unwrap();
        let [busy, idle] = [workers.next().clone(), workers.next().clone()];
        assert!(workers.has_room(&busy));
        busy.spawn(async {
            loop {
                let start = Instant::now();
                while start.elapsed() < LOOK / 10 {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
        });
        // Until it has been busy for as long as is looked at.
        while workers.has_room(&busy) {
            thread::yield_now();
        }
        assert!(workers.has_room(&idle));
        let other = Workers::start(1).unwrap();
        assert!(!workers.has_room(other.next()));
    }

    #[test]
    fn what_the_first_sockets_woke_is_done_before_the_last_ones_are_attended_to() {
        let workers = Workers::start(1).unwrap();
        let worker = workers.next();
        let (woken, first_look) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut near = Vec::new();
        let reading: Vec<_> = (0..4 * EVENTS)
            .map(|_| {
                let (here, there) = UnixStream::pair().unwrap();
                there.set_nonblocking(true).unwrap();
                near.push(here);
                let (woken, first_look) = (woken.clone(), first_look.clone());
                worker.spawn(async move {
                    let there = tokio::net::UnixStream::from_std(there).unwrap();
                    there.readable().await.unwrap();
                    woken.fetch_add(1, Ordering::Relaxed);
                    first_look.notify_one();
                })
            })
            .collect();
        let sender = worker.spawn(async move {
            first_look.notified().await;
            woken.load(Ordering::Relaxed)
        });
        // All of them become readable while the worker is at something else.
        let busy = worker.spawn(async move {
            for mut socket in near {
                socket.write_all(b"x").unwrap();
            }
        });
        let together = worker.block_on(async move {
            busy.await.unwrap();
            for task in reading {
                task.await.unwrap();
            }
            sender.await.unwrap()
        });
        // Twice as many where the scheduler's own regular look at the sockets comes right behind.
        assert!((1..=2 * EVENTS).contains(&together), "{together} at once");
    }

    /// Lets the tasks that are ready go first, as one does that has more to do. `yield_now` would let
    /// the sockets go first, too.
    async fn turn() {
        let mut begun = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut begun, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn what_arrives_waits_for_a_few_tasks_only_however_many_are_ready() {
        let workers = Workers::start(1).unwrap();
        let worker = workers.next();
        let turns = Arc::new(AtomicUsize::new(0));
        for _ in 0..4 {
            let turns = turns.clone();
            worker.spawn(async move {
                loop {
                    turns.fetch_add(1, Ordering::Relaxed);
                    turn().await;
                }
            });
        }
        let longest = worker.block_on(worker.spawn(async move {
            let (mut here, there) = UnixStream::pair().unwrap();
            there.set_nonblocking(true).unwrap();
            let there = tokio::net::UnixStream::from_std(there).unwrap();
            let mut longest = 0;
            for number in 0..100 {
                // Not always at the same distance from the last look.
                for _ in 0..number {
                    turn().await;
                }
                here.write_all(b"x").unwrap();
                let before = turns.load(Ordering::Relaxed);
                there.readable().await.unwrap();
                assert_eq!(there.try_read(&mut [0; 8]).unwrap(), 1);
                // Only now does the socket count as empty.
                assert!(there.try_read(&mut [0; 8]).is_err());
                longest = longest.max(turns.load(Ordering::Relaxed) - before);
            }
            longest
        }));
        // Until the next look, and until it is the turn of what was woken.
        let most = TASKS as usize + 4;
        assert!(longest.unwrap() <= 2 * most);
    }

    #[test]
    fn dropped_workers_drop_what_they_carry() {
        let workers = Workers::start(1).unwrap();
        let (held, dropped) = oneshot::channel::<()>();
        workers.next().spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert!(dropped.blocking_recv().is_err());
    }
}
