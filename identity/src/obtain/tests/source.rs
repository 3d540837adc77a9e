//! Keeping a token at hand, on a clock that only the test moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::sleep;

use super::*;
use crate::fetch::FetchError;
use crate::obtain::source::Pace;

/// What the issuer does when asked.
#[derive(Clone)]
enum Reply {
    Token(Duration),
    Fail(ObtainError),
    Defect,
    Hang,
}

/// An issuer that numbers its tokens.
#[derive(Clone)]
struct FakeIssuer {
    reply: Arc<Mutex<Reply>>,
    asked_at: Arc<Mutex<Vec<Instant>>>,
    given: Arc<AtomicU64>,
}

impl FakeIssuer {
    fn new(reply: Reply) -> Self {
        let given = Arc::default();
        Self {
            reply: Arc::new(Mutex::new(reply)),
            asked_at: Arc::default(),
            given,
        }
    }

    fn start(&self) -> TokenSource {
        let issuer = self.clone();
        started(TokenSource::with(Pace::Renew, move || {
            let issuer = issuer.clone();
            async move { issuer.ask().await }
        }))
    }

    async fn ask(&self) -> Result<AccessToken, ObtainError> {
        self.asked_at.lock().unwrap().push(Instant::now());
        let reply = self.reply.lock().unwrap().clone();
        match reply {
            Reply::Token(life) => {
                let number = self.given.fetch_add(1, Ordering::Relaxed) + 1;
                Ok(token(&format!("token-{number}"), life))
            }
            Reply::Fail(error) => Err(error),
            Reply::Defect => panic!("as the test wants it"),
            Reply::Hang => std::future::pending().await,
        }
    }

    fn reply(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    fn asked(&self) -> usize {
        self.asked_at.lock().unwrap().len()
    }

    fn pauses(&self) -> Vec<Duration> {
        self.asked_at
            .lock()
            .unwrap()
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .collect()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn outage() -> Reply {
    let url = "https://issuer.example.com/token".into();
    Reply::Fail(ObtainError::Exchange(FetchError::TimedOut { url }))
}

fn current(source: &TokenSource) -> Option<String> {
    source
        .watch()
        .borrow()
        .as_ref()
        .map(|token| token.expose().to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_at_two_thirds_of_its_life_with_jitter() {
    let issuer = FakeIssuer::new(Reply::Token(HOUR));
    let source = issuer.start();
    assert_eq!(source.token().await.unwrap().expose(), "token-1");
    sleep(20 * HOUR).await;
    let pauses = issuer.pauses();
    assert!(pauses.len() >= 29);
    for pause in &pauses {
        assert!(
            *pause >= HOUR.mul_f64(0.6) && *pause <= HOUR.mul_f64(2.0 / 3.0),
            "{pause:?}"
        );
    }
    let spread = *pauses.iter().max().unwrap() - *pauses.iter().min().unwrap();
    assert!(spread > Duration::from_secs(30), "no jitter: {spread:?}");
}

#[tokio::test(start_paused = true)]
async fn watchers_see_each_new_token() {
    let issuer = FakeIssuer::new(Reply::Token(HOUR));
    let source = issuer.start();
    let mut tokens = source.watch();
    for number in 1..5 {
        tokens.changed().await.unwrap();
        let seen = tokens
            .borrow_and_update()
            .as_ref()
            .map(|token| token.expose().to_owned());
        assert_eq!(
            seen,
            Some(format!("token-{number}")),
            "no gap between two tokens"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_lives_a_second_does_not_make_it_spin() {
    let issuer = FakeIssuer::new(Reply::Token(Duration::from_secs(1)));
    let source = issuer.start();
    assert!(source.token().await.is_ok());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(current(&source), None, "an expired token is not kept");
    sleep(Duration::from_secs(99)).await;
    assert_eq!(issuer.asked(), 11);
    assert!(issuer.pauses().iter().all(|pause| *pause >= MIN_RENEWAL));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_ridden_out_until_the_token_expires() {
    let issuer = FakeIssuer::new(Reply::Token(HOUR));
    let source = issuer.start();
    let expires_at = source.token().await.unwrap().expires_at;
    issuer.reply(outage());

    tokio::time::sleep_until(expires_at - Duration::from_secs(1)).await;
    assert_eq!(current(&source).as_deref(), Some("token-1"));
    assert_eq!(source.token().await.unwrap().expose(), "token-1");
    let status = source.status();
    assert!(status.error.is_some() && status.failures > 5, "{status:?}");

    tokio::time::sleep_until(expires_at + Duration::from_secs(1)).await;
    assert_eq!(current(&source), None);
    assert!(matches!(
        source.token().await,
        Err(ObtainError::Exchange(_))
    ));

    issuer.reply(Reply::Token(HOUR));
    let mut tokens = source.watch();
    let back = tokens
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!(back.expose(), "token-2");
    assert!(source.status().error.is_none());
}

/// Also while a request hangs, not only between requests.
#[tokio::test(start_paused = true)]
async fn a_token_that_expires_during_a_renewal_is_taken_back() {
    let issuer = FakeIssuer::new(Reply::Token(HOUR));
    let source = issuer.start();
    source.token().await.unwrap();
    issuer.reply(Reply::Hang);
    sleep(HOUR + Duration::from_secs(1)).await;
    assert_eq!(issuer.asked(), 2);
    assert_eq!(current(&source), None);
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_with_growing_jittered_waits_up_to_a_minute() {
    let issuer = FakeIssuer::new(outage());
    let _source = issuer.start();
    sleep(4 * HOUR).await;
    let pauses = issuer.pauses();
    for (attempt, pause) in pauses.iter().enumerate() {
        let bound = Duration::from_secs(60.min(1 << attempt.min(6)));
        assert!(
            *pause <= bound + Duration::from_millis(2),
            "attempt {attempt}: {pause:?}"
        );
    }
    let mean = pauses.iter().sum::<Duration>() / pauses.len() as u32;
    assert!(
        mean > Duration::from_secs(20) && mean < Duration::from_secs(40),
        "{mean:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_does_not_hammer_the_issuer() {
    let refused = ObtainError::InvalidClient { description: None };
    let issuer = FakeIssuer::new(Reply::Fail(refused.clone()));
    let source = issuer.start();
    assert_eq!(source.token().await.unwrap_err(), refused);
    sleep(HOUR).await;
    assert!(
        issuer
            .pauses()
            .iter()
            .all(|pause| *pause >= Duration::from_secs(10))
    );
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_asks_for_patience_gets_it_within_reason() {
    let status = |retry_after| {
        let url = "https://issuer.example.com/token".into();
        let retry_after = Some(retry_after);
        Reply::Fail(ObtainError::Exchange(FetchError::Status {
            url,
            status: 503,
            retry_after,
        }))
    };
    let issuer = FakeIssuer::new(status(45));
    let _source = issuer.start();
    sleep(HOUR).await;
    assert!(
        issuer
            .pauses()
            .iter()
            .all(|pause| *pause >= Duration::from_secs(45))
    );
    issuer.reply(status(u64::MAX));
    let before = issuer.asked();
    sleep(HOUR).await;
    assert!(
        issuer.asked() - before >= 8,
        "five minutes and a little, but no more"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_has_no_token_waits_for_the_first_attempt() {
    let issuer = FakeIssuer::new(Reply::Hang);
    let source = issuer.start();
    tokio::select! {
        outcome = source.token() => panic!("{outcome:?}"),
        () = sleep(HOUR) => {}
    }
    let failing = FakeIssuer::new(outage());
    let source = failing.start();
    assert!(matches!(
        source.token().await,
        Err(ObtainError::Exchange(_))
    ));
}

/// Has the relay refuse whatever token there is for so long.
async fn refuse_for(source: &TokenSource, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        source.renew();
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_early_and_less_often_the_longer_all_are_refused() {
    let issuer = FakeIssuer::new(Reply::Token(10 * HOUR));
    let source = issuer.start();
    source.token().await.unwrap();
    refuse_for(&source, HOUR).await;
    let mut wait = MIN_RENEWAL;
    for pause in issuer.pauses() {
        let late = pause.checked_sub(wait).expect("no sooner");
        assert!(late < Duration::from_millis(200), "{late:?}");
        wait = (2 * wait).min(Duration::from_secs(300));
    }
    assert_eq!(issuer.asked(), 16);
    // One that was good for a while is renewed at once.
    sleep(Duration::from_secs(301)).await;
    refuse_for(&source, Duration::from_secs(1)).await;
    assert_eq!(issuer.asked(), 17);
    refuse_for(&source, MIN_RENEWAL).await;
    assert_eq!(issuer.asked(), 18);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_does_not_hurry_an_issuer_that_asked_for_time() {
    let issuer = FakeIssuer::new(Reply::Token(HOUR));
    let source = issuer.start();
    source.token().await.unwrap();
    issuer.reply(Reply::Fail(ObtainError::Exchange(FetchError::Status {
        url: "https://issuer.example.com/token".into(),
        status: 429,
        retry_after: Some(120),
    })));
    refuse_for(&source, Duration::from_secs(130)).await;
    assert_eq!(issuer.asked(), 2);
}

/// Nobody hears of a task that fails but who watches it: what keeps the token is the owner's to run.
#[tokio::test(start_paused = true)]
async fn the_work_that_renews_fails_before_its_owner_and_ends_with_it() {
    let work = |reply: Reply| {
        let issuer = FakeIssuer::new(reply);
        let asks = issuer.clone();
        let (source, renewing) = TokenSource::with(Pace::Renew, move || {
            let issuer = asks.clone();
            async move { issuer.ask().await }
        });
        (issuer, source, tokio::spawn(renewing))
    };
    let (_, source, renewing) = work(Reply::Defect);
    assert!(renewing.await.unwrap_err().is_panic());
    assert!(matches!(source.token().await, Err(ObtainError::Stopped)));

    let (issuer, source, renewing) = work(Reply::Token(HOUR));
    source.token().await.unwrap();
    renewing.abort();
    assert!(renewing.await.unwrap_err().is_cancelled());
    sleep(10 * HOUR).await;
    assert_eq!(issuer.asked(), 1);
}
