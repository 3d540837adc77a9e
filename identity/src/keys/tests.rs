//! Keeping keys fresh, on a clock that only the test moves.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::testing::{Signer, key_set};
use crate::verify::Algorithm;

/// An issuer whose answers the test chooses, and which counts the questions.
struct FakeIssuer {
    signers: RefCell<Vec<Signer>>,
    up: Cell<bool>,
    delay: Cell<Duration>,
    asked_at: RefCell<Vec<Instant>>,
}

impl FakeIssuer {
    fn new() -> Self {
        Self {
            signers: RefCell::new(vec![Signer::new("k1", Algorithm::EdDSA)]),
            up: Cell::new(true),
            delay: Cell::new(Duration::ZERO),
            asked_at: RefCell::default(),
        }
    }

    async fn fetch(&self) -> Result<KeySet, KeysError> {
        self.asked_at.borrow_mut().push(Instant::now());
        sleep(self.delay.get()).await;
        if self.up.get() {
            Ok(key_set(&*self.signers.borrow()))
        } else {
            Err(KeysError::Fetch(FetchError::TimedOut {
                url: "https://issuer.example.com".into(),
            }))
        }
    }

    fn asked(&self) -> usize {
        self.asked_at.borrow().len()
    }
}

/// Runs `test` beside the driver of `keys`.
async fn beside_driver(keys: &Keys, issuer: &FakeIssuer, lasting: bool, test: impl AsyncFnOnce()) {
    tokio::select! {
        biased;
        () = keys.keep_fresh("issuer", lasting, || issuer.fetch()) => {}
        () = test() => {}
    }
}

/// Lets the driver do all that is due now.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

fn known(keys: &Keys) -> bool {
    keys.with(|_| ()).is_some()
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_at_once_and_then_about_every_five_minutes() {
    let (keys, issuer) = (Keys::new(None), FakeIssuer::new());
    assert!(!known(&keys));
    beside_driver(&keys, &issuer, false, async || {
        settle().await;
        assert!(known(&keys));
        sleep(Duration::from_secs(3600)).await;
    })
    .await;
    let asked_at = issuer.asked_at.borrow();
    for pair in asked_at.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause >= REFRESH_INTERVAL.mul_f64(0.9) && pause <= REFRESH_INTERVAL.mul_f64(1.1));
    }
    assert!((10..=14).contains(&asked_at.len()));
}

#[tokio::test(start_paused = true)]
async fn wishes_bring_at_most_one_refresh_in_ten_seconds() {
    let (keys, issuer) = (Keys::new(None), FakeIssuer::new());
    beside_driver(&keys, &issuer, false, async || {
        settle().await;
        // For a minute, a wish every 20 ms, half of them waited for.
        for _ in 0..1500 {
            keys.request();
            sleep(Duration::from_millis(20)).await;
            keys.refreshed().await;
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let asked_at = issuer.asked_at.borrow();
    assert!((6..=8).contains(&asked_at.len()), "{}", asked_at.len());
    // The first is by the clock.
    for pair in asked_at[1..].windows(2) {
        assert!(pair[1] - pair[0] >= MIN_REFRESH_INTERVAL);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotation_right_after_a_refresh_by_the_clock_is_noticed_at_once() {
    let (keys, issuer) = (Keys::new(None), FakeIssuer::new());
    beside_driver(&keys, &issuer, false, async || {
        settle().await;
        issuer
            .signers
            .borrow_mut()
            .push(Signer::new("k2", Algorithm::EdDSA));
        assert!(keys.refreshed().await);
        assert_eq!(keys.with(KeySet::len), Some(2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_comes_too_soon_is_refused_but_kept() {
    let (keys, issuer) = (Keys::new(None), FakeIssuer::new());
    beside_driver(&keys, &issuer, false, async || {
        settle().await;
        assert!(keys.refreshed().await);
        let before = Instant::now();
        assert!(!keys.refreshed().await);
        assert_eq!(
            Instant::now(),
            before,
            "nobody waits for the interval to pass"
        );
        assert_eq!(issuer.asked(), 2);
        sleep(MIN_REFRESH_INTERVAL).await;
        assert_eq!(issuer.asked(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_during_a_refresh_shares_it() {
    let (keys, issuer) = (Keys::new(None), FakeIssuer::new());
    beside_driver(&keys, &issuer, false, async || {
        settle().await;
        issuer.delay.set(Duration::from_secs(2));
        let all = tokio::join!(keys.refreshed(), keys.refreshed(), async {
            sleep(Duration::from_secs(1)).await;
            keys.refreshed().await
        });
        assert_eq!(all, (true, true, true));
        assert_eq!(issuer.asked(), 2);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(issuer.asked(), 2, "no wish is left over");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_goes_on_when_whoever_asked_for_it_goes_away() {
    let (keys, issuer) = (Keys::new(None), FakeIssuer::new());
    beside_driver(&keys, &issuer, false, async || {
        settle().await;
        issuer
            .signers
            .borrow_mut()
            .push(Signer::new("k2", Algorithm::EdDSA));
        issuer.delay.set(Duration::from_secs(2));
        tokio::select! {
            _ = keys.refreshed() => panic!("too early"),
            () = sleep(Duration::from_secs(1)) => {}
        }
        sleep(Duration::from_secs(2)).await;
        assert_eq!(keys.with(KeySet::len), Some(2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_stuck_issuer_longer_than_a_few_seconds() {
    let (keys, issuer) = (Keys::new(None), FakeIssuer::new());
    issuer.delay.set(Duration::from_secs(3600));
    beside_driver(&keys, &issuer, false, async || {
        settle().await;
        let before = Instant::now();
        assert!(!keys.refreshed().await);
        assert_eq!(before.elapsed().as_secs(), 5);
        assert!(!known(&keys));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn known_keys_outlive_an_outage_of_an_hour_and_no_longer() {
    let (keys, issuer) = (Keys::new(None), FakeIssuer::new());
    beside_driver(&keys, &issuer, false, async || {
        settle().await;
        issuer.up.set(false);
        sleep(KEEP_KEYS - Duration::from_secs(2)).await;
        assert!(known(&keys));
        assert!(keys.progress().error.is_some());
        sleep(Duration::from_secs(2)).await;
        assert!(!known(&keys));
        issuer.up.set(true);
        sleep(2 * MIN_REFRESH_INTERVAL).await;
        assert!(known(&keys));
        assert!(keys.progress().error.is_none());
    })
    .await;
    let asked_at = issuer.asked_at.borrow();
    for pair in asked_at.windows(2) {
        assert!(pair[1] - pair[0] >= MIN_REFRESH_INTERVAL);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_file_stay_however_long_it_is_bad() {
    let (issuer, given) = (
        FakeIssuer::new(),
        key_set([&Signer::new("k1", Algorithm::EdDSA)]),
    );
    let keys = Keys::new(Some(given));
    issuer.up.set(false);
    beside_driver(&keys, &issuer, true, async || {
        sleep(KEEP_KEYS * 48).await;
        assert!(known(&keys));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_issuer_drops_is_gone_with_the_next_refresh() {
    let (keys, issuer) = (Keys::new(None), FakeIssuer::new());
    beside_driver(&keys, &issuer, false, async || {
        settle().await;
        let old = issuer.signers.borrow()[0].clone();
        let token = old.token();
        let verify = || {
            let token = crate::verify::Token::parse(&token).unwrap();
            let rules = crate::testing::rules();
            keys.with(|keys| token.verify(&rules, keys, crate::testing::now()).is_ok())
        };
        assert_eq!(verify(), Some(true));
        *issuer.signers.borrow_mut() = vec![Signer::new("k2", Algorithm::EdDSA)];
        advance(REFRESH_INTERVAL.mul_f64(1.1)).await;
        settle().await;
        assert_eq!(verify(), Some(false));
    })
    .await;
}

/// What an issuer without keys, which is only asked about tokens, would say four times a minute.
#[tokio::test(start_paused = true)]
async fn a_failure_that_goes_on_is_said_once() {
    let keys = Keys::new(None);
    let unreachable = |url: &str| KeysError::Fetch(FetchError::TimedOut { url: url.into() });
    let is_news = |fetched: Result<KeySet, KeysError>| {
        let usable = known(&keys);
        let before = keys.progress();
        let error = fetched.as_ref().err();
        let news = error.is_some_and(|error| before.is_news(error, usable));
        keys.settle("issuer", false, fetched, Instant::now());
        news
    };
    let (one, other) = (unreachable("https://one"), unreachable("https://other"));
    assert!(is_news(Err(one.clone())));
    assert!(!is_news(Err(one.clone())));
    assert!(is_news(Err(other.clone())));
    assert!(is_news(Err(one.clone())));
    // Keys that work on, and then are too old.
    is_news(Ok(key_set([&Signer::new("k1", Algorithm::EdDSA)])));
    assert!(is_news(Err(one.clone())));
    assert!(!is_news(Err(one.clone())));
    advance(KEEP_KEYS).await;
    assert!(is_news(Err(one.clone())));
    assert!(!is_news(Err(one)));
}
