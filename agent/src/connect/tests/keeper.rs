//! What is said on a session: tokens, offers, notices.

use culvert_proto::code::ErrorCode;

use super::*;
use crate::connect::keeper::MAX_NOTICES;

#[tokio::test(start_paused = true)]
async fn a_renewed_token_is_passed_on_in_band() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&[]).await;
    let _running = begun.await.unwrap().unwrap();
    // The same token again is no news; an outage of the issuer is none for the relay either.
    agent.tokens.send_replace(Some(token("one")));
    agent.tokens.send_replace(None);
    tokio::task::yield_now().await;
    agent.tokens.send_replace(Some(token("two")));
    let Control::Auth { token } = relay.control().await else {
        panic!("no AUTH")
    };
    assert_eq!(token, "two");
}

#[tokio::test(start_paused = true)]
async fn every_endpoint_is_offered_again_with_a_new_token_and_status_says_what_it_covers() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&["nsx"]).await;
    let _running = begun.await.unwrap().unwrap();
    agent.refuses(&["nsx"]).await;
    for (renewed, refused) in [("two", vec![]), ("three", vec!["vcenter"])] {
        agent.tokens.send_replace(Some(token(renewed)));
        assert!(matches!(relay.control().await, Control::Auth { .. }));
        relay.register(&refused).await;
        agent.refuses(&refused).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_notice_of_something_wrong_the_agent_asks_what_is_still_registered() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&[]).await;
    let _running = begun.await.unwrap().unwrap();
    let notice = |code| Control::Notice {
        code,
        text: "vcenter is no longer registered".to_owned(),
    };
    // Without a code nothing is wrong; and a relay cannot make the agent ask for ever.
    relay.session.send_control(&notice(None)).unwrap();
    for _ in 1..MAX_NOTICES {
        let lost = notice(Some(ErrorCode::Forbidden));
        relay.session.send_control(&lost).unwrap();
        relay.register(&["vcenter", "nsx"]).await;
        agent.refuses(&["vcenter", "nsx"]).await;
    }
    let lost = notice(Some(ErrorCode::Forbidden));
    relay.session.send_control(&lost).unwrap();
    let asked = timeout(Duration::from_secs(1), relay.control()).await;
    assert!(asked.is_err(), "{asked:?}");
    assert!(relay.session.is_open(), "calls in flight go on");
}

/// What a relay says whose issuer does not answer.
fn not_checked() -> Control {
    Control::Notice {
        code: Some(ErrorCode::Unauthenticated),
        text: "the token cannot be checked at the moment".to_owned(),
    }
}

/// Longer than any wait before something is tried again.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn a_token_that_could_not_be_checked_is_sent_again_until_it_is_taken() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&[]).await;
    let _running = begun.await.unwrap().unwrap();
    agent.tokens.send_replace(Some(token("two")));
    let mut sent = None::<Instant>;
    // More often than there are notices that an agent acts upon.
    for tries in 0..=2 * MAX_NOTICES {
        let Control::Auth { token } = relay.control().await else {
            panic!("no AUTH")
        };
        assert_eq!(token, "two");
        let wait = sent.replace(Instant::now()).map(|sent| sent.elapsed());
        let bounds = Duration::from_secs(1)..Duration::from_secs(21);
        assert!(wait.is_none_or(|wait| bounds.contains(&wait)), "{wait:?}");
        if tries < 2 * MAX_NOTICES {
            relay.session.send_control(&not_checked()).unwrap();
        }
        relay.register(&[]).await;
    }
    let more = timeout(LONG, relay.control()).await;
    assert!(more.is_err(), "it was taken: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_expired_is_not_sent_again() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&[]).await;
    let _running = begun.await.unwrap().unwrap();
    agent.tokens.send_replace(Some(AccessToken {
        expires_at: Instant::now() + Duration::from_millis(500),
        ..token("two")
    }));
    assert!(matches!(relay.control().await, Control::Auth { .. }));
    relay.session.send_control(&not_checked()).unwrap();
    relay.register(&[]).await;
    let more = timeout(LONG, relay.control()).await;
    assert!(more.is_err(), "{more:?}");
    agent.tokens.send_replace(Some(token("three")));
    assert!(matches!(relay.control().await, Control::Auth { .. }));
}

/// It stands in a file, whose date says that it counts for longer.
#[tokio::test(start_paused = true)]
async fn a_token_that_had_expired_and_counts_again_is_sent_whatever_the_relay_said_meanwhile() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&["nsx"]).await;
    let _running = begun.await.unwrap().unwrap();
    let expired = AccessToken {
        expires_at: Instant::now() + Duration::from_millis(500),
        ..token("two")
    };
    agent.tokens.send_replace(Some(expired));
    assert!(matches!(relay.control().await, Control::Auth { .. }));
    relay.session.send_control(&not_checked()).unwrap();
    relay.register(&["nsx"]).await;
    // Answers to what is offered again say nothing of a token that was not sent.
    for _ in 0..3 {
        relay.register(&["nsx"]).await;
    }
    agent.tokens.send_replace(Some(token("two")));
    loop {
        let sent = timeout(LONG, relay.control()).await;
        match sent.expect("the token is sent") {
            Control::Auth { token } => {
                assert_eq!(token, "two");
                break;
            }
            Control::Register { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_offered_again_until_it_is_registered() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&["nsx"]).await;
    let _running = begun.await.unwrap().unwrap();
    for refused in [vec!["nsx"], vec!["vcenter", "nsx"], vec!["nsx"], vec![]] {
        let since = Instant::now();
        relay.register(&refused).await;
        let bounds = Duration::from_secs(3)..Duration::from_secs(61);
        assert!(bounds.contains(&since.elapsed()), "{:?}", since.elapsed());
        agent.refuses(&refused).await;
    }
    let more = timeout(LONG, relay.control()).await;
    assert!(more.is_err(), "everything is registered: {more:?}");
}

/// Its successor offers what it may; the relay would take this for the session that counts.
#[tokio::test(start_paused = true)]
async fn a_session_that_drains_offers_nothing_again() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&["nsx"]).await;
    let running = begun.await.unwrap().unwrap();
    relay.session.drain(Duration::ZERO);
    running.lost.await.unwrap();
    let more = timeout(LONG, relay.controls.recv()).await;
    assert!(more.is_err(), "{more:?}");
}
