//! The queue on a virtual clock.

use std::future::pending;

use culvert_config::units::Span;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::*;

const WAIT: Duration = Duration::from_secs(3);

fn queue(most: u32) -> Arc<Handshakes> {
    let limits = RelayLimits {
        handshakes: most,
        handshake_wait: Span(WAIT),
        ..RelayLimits::default()
    };
    Handshakes::new(&limits, Arc::new(Metrics::new()))
}

/// A thousand come at once: never more than the limit are worked on, each in its turn, and those whose
/// turn would come too late are turned away when they have waited, not later.
#[tokio::test(start_paused = true)]
async fn a_storm_is_worked_on_in_turn_and_the_rest_is_turned_away_in_time() {
    let queue = queue(10);
    let start = Instant::now();
    let mut storm = JoinSet::new();
    for _ in 0..1000 {
        let queue = queue.clone();
        storm.spawn(async move {
            let metrics = queue.metrics.clone();
            let Ok(_turn) = queue.turn().await else {
                return false;
            };
            assert!(metrics.handshakes.working.get() <= 10);
            sleep(Duration::from_millis(100)).await;
            true
        });
    }
    let outcomes = storm.join_all().await;
    let done = outcomes.iter().filter(|done| **done).count();
    // Ten each tenth of a second, for as long as anybody waits, and those at once.
    assert!((300..=320).contains(&done), "{done}");
    assert!(start.elapsed() < WAIT + Duration::from_millis(200));
    let counts = &queue.metrics.handshakes;
    assert_eq!(counts.late.get(), (1000 - done) as u64);
    assert_eq!((counts.working.get(), counts.waiting.get()), (0, 0));
}

/// Those who make the relay wait have no turn meanwhile, and those that have something to do go on.
#[tokio::test(start_paused = true)]
async fn a_peer_that_stalls_does_not_keep_its_turn() {
    let queue = queue(2);
    let mut stalled = JoinSet::new();
    for _ in 0..20 {
        let queue = queue.clone();
        stalled.spawn(async move { queue.take(pending::<()>()).await });
    }
    yield_now().await;
    assert_eq!(queue.metrics.handshakes.working.get(), 2);
    let start = Instant::now();
    assert_eq!(queue.take(async { 7 }).await, Ok(7));
    assert_eq!(start.elapsed(), Duration::ZERO);
    let counts = &queue.metrics.handshakes;
    assert_eq!((counts.working.get(), counts.waiting.get()), (0, 0));
    drop(stalled);
}

/// Who goes away while it waits leaves nothing behind.
#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_away_waits_no_more() {
    let queue = queue(1);
    let first = tokio::spawn({
        let queue = queue.clone();
        async move {
            let _turn = queue.turn().await;
            sleep(WAIT / 2).await;
        }
    });
    yield_now().await;
    let gone = timeout(WAIT / 4, queue.take(async {})).await;
    assert!(gone.is_err());
    assert_eq!(queue.metrics.handshakes.waiting.get(), 0);
    first.await.unwrap();
    assert_eq!(queue.take(async {}).await, Ok(()));
}
