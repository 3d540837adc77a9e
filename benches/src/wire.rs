//! A wire for packets: a forwarder between two TUN devices with delay, loss, a rate and a bounded
//! queue, so that the kernel's TCP behaves over it as over a long line.
//!
//! Each direction has two threads: one reads packets, loses some and stamps the others with the
//! time at which they arrive; one writes them at that time. Order is kept.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tun_rs::SyncDevice;

/// What the wire does to packets, in each direction.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// One way; half of what the wire adds to the RTT.
    pub delay: Duration,
    /// The chance, 0 to 1, that a packet is lost, each for itself.
    pub loss: f64,
    /// Bytes of packets per second; `None`: as fast as the machine forwards.
    pub rate: Option<u64>,
    /// How long a packet may wait for the rate; one that would wait longer is dropped, as by a
    /// router whose queue is full.
    pub queue: Duration,
}

/// Bytes of a packet on the wire, headers included.
pub const MTU: u16 = 1500;

/// Most packets on their way in one direction: 100 MB, what 75 ms at 10 Gbit/s hold.
const ON_THE_WAY: usize = 1 << 16;

/// What happened to the packets of one direction.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets that came.
    pub taken: AtomicU64,
    /// Lost by chance.
    pub lost: AtomicU64,
    /// Dropped because the queue was full.
    pub dropped: AtomicU64,
}

/// Starts one direction. It ends when either device is deleted.
pub fn forward(from: Arc<SyncDevice>, to: Arc<SyncDevice>, quality: Quality) -> Arc<Counters> {
    let counters = Arc::new(Counters::default());
    let counting = counters.clone();
    let (sender, receiver) = sync_channel(ON_THE_WAY);
    // Whatever ends one thread ends the other: its end of the queue is gone.
    thread::spawn(move || read(&from, &sender, quality, &counting));
    thread::spawn(move || write(&to, &receiver));
    counters
}

fn read(
    from: &SyncDevice,
    queue: &SyncSender<(Instant, Vec<u8>)>,
    quality: Quality,
    counters: &Counters,
) -> io::Result<()> {
    let mut buffer = vec![0; usize::from(MTU)];
    let mut bottleneck = Bottleneck::new(quality, Instant::now());
    loop {
        let read = from.recv(&mut buffer)?;
        counters.taken.fetch_add(1, Ordering::Relaxed);
        let Some(due) = bottleneck.pass(read, Instant::now()) else {
            counters.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        // Behind the bottleneck, as on a radio link: what is lost has taken its share of the rate.
        if fastrand::f64() < quality.loss {
            counters.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        match queue.try_send((due, buffer[..read].to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => _ = counters.dropped.fetch_add(1, Ordering::Relaxed),
            Err(TrySendError::Disconnected(_)) => return Ok(()),
        }
    }
}

fn write(to: &SyncDevice, queue: &Receiver<(Instant, Vec<u8>)>) -> io::Result<()> {
    for (due, packet) in queue {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        to.send(&packet)?;
    }
    Ok(())
}

/// The narrowest place of the wire, with its queue.
struct Bottleneck {
    quality: Quality,
    free: Instant,
}

impl Bottleneck {
    fn new(quality: Quality, now: Instant) -> Self {
        Self { quality, free: now }
    }

    /// When a packet that comes now arrives at the other end; `None`: the queue has no room.
    fn pass(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        let start = self.free.max(now);
        if start - now > self.quality.queue {
            return None;
        }
        let taken = self.quality.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(bytes as f64 / rate as f64)
        });
        self.free = start + taken;
        Some(self.free + self.quality.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn packets_come_at_the_rate_after_the_delay() {
        let now = Instant::now();
        let mut bottleneck = Bottleneck::new(
            Quality {
                delay: 10 * SECOND,
                loss: 0.0,
                rate: Some(100),
                queue: 60 * SECOND,
            },
            now,
        );
        assert_eq!(bottleneck.pass(100, now), Some(now + 11 * SECOND));
        assert_eq!(bottleneck.pass(200, now), Some(now + 13 * SECOND));
        let later = now + 20 * SECOND;
        assert_eq!(bottleneck.pass(100, later), Some(later + 11 * SECOND));
    }

    #[test]
    fn a_full_queue_drops_what_comes_and_takes_more_once_it_has_drained() {
        let now = Instant::now();
        let mut bottleneck = Bottleneck::new(
            Quality {
                delay: Duration::ZERO,
                loss: 0.0,
                rate: Some(100),
                queue: 2 * SECOND,
            },
            now,
        );
        let passed = (0..10)
            .filter_map(|_| bottleneck.pass(100, now))
            .collect::<Vec<_>>();
        assert_eq!(passed, [now + SECOND, now + 2 * SECOND, now + 3 * SECOND]);
        assert!(bottleneck.pass(100, now + SECOND).is_some());
        assert!(bottleneck.pass(100, now + SECOND).is_none());
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let now = Instant::now();
        let mut bottleneck = Bottleneck::new(
            Quality {
                delay: SECOND,
                loss: 0.0,
                rate: None,
                queue: Duration::ZERO,
            },
            now,
        );
        for _ in 0..1000 {
            assert_eq!(bottleneck.pass(1500, now), Some(now + SECOND));
        }
    }
}
