//! The end of an HTTP/2 connection whose caller does not say that it has heard of it.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::frames::Frames;
use super::rig::{HOST, Rig, answer};

/// Refused credentials after which a connection ends, and requests that h2 may have by then.
const REFUSED: usize = 10;
const IN_FLIGHT: usize = 2;

#[tokio::test(start_paused = true)]
async fn a_stranger_that_does_not_hear_the_farewell_gets_no_more_answers_than_others() {
    let rig = Rig::new();
    let mut caller = Frames::open(&rig).await;
    for _ in 0..30 {
        caller.get(HOST, "/", None).await;
    }
    let heard = caller
        .go_on(HOST, "/", None, Duration::from_millis(10))
        .await;
    let answered = heard.answered.len();
    assert!(
        (REFUSED..=REFUSED + IN_FLIGHT).contains(&answered),
        "{heard:?}"
    );
    assert!(heard.after < Duration::from_secs(1), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drained_caller_that_does_not_hear_the_farewell_keeps_the_calls_it_had() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    tokio::spawn(async move {
        loop {
            let (head, mut stream) = agent.accept().await;
            tokio::spawn(async move {
                if head.target == "/long" {
                    sleep(Duration::from_secs(20)).await;
                }
                answer(&mut stream, 200, &[], b"").await;
            });
        }
    });
    let token = rig.token(json!({}));
    let mut caller = Frames::open(&rig).await;
    let long = caller.get(HOST, "/long", Some(&token)).await;
    sleep(Duration::from_secs(1)).await;
    rig.drain.cancel();
    let heard = caller
        .go_on(HOST, "/short", Some(token), Duration::from_millis(100))
        .await;
    assert_eq!(heard.answered.last(), Some(&long), "{heard:?}");
    // What it asked for in about a second.
    assert!((5..=15).contains(&heard.answered.len()), "{heard:?}");
    let seconds = heard.after.as_secs();
    assert!((18..=20).contains(&seconds), "{heard:?}");
}
