//! What strangers may do, and that others do not suffer more than they must.

use tokio::time::advance;

use super::*;

const ONE: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn strangers(most: u32) -> Arc<Strangers> {
    let limits = RelayLimits {
        unauthenticated_per_source: most,
        ..RelayLimits::default()
    };
    Strangers::new(&limits, Arc::default())
}

/// Wrong tokens until one is not even looked at; says how many were.
fn exhaust(strangers: &Strangers, from: &str) -> usize {
    (0..)
        .take_while(|number| {
            let token = format!("wrong-{number}");
            let tried = strangers.may_try(ip(from), &token).is_ok();
            if tried {
                strangers.on_wrong(ip(from), &token);
            }
            tried
        })
        .count()
}

#[test]
fn a_source_has_so_many_unproven_connections_and_others_have_theirs() {
    let strangers = strangers(2);
    let from = |text| strangers.arrive(ip(text));
    let (first, second) = (from(ONE).unwrap(), from(ONE).unwrap());
    assert!(from(ONE).is_none());
    // The same address through an IPv6 socket.
    assert!(from("::ffff:192.0.2.1").is_none());
    assert!(from("192.0.2.2").is_some());
    drop(first);
    let third = from(ONE).unwrap();
    assert!(from(ONE).is_none());
    second.prove();
    second.prove();
    assert!(second.is_proven() && !third.is_proven());
    let fourth = from(ONE).unwrap();
    assert!(from(ONE).is_none());
    // One that is proven is counted once.
    drop(second);
    assert!(from(ONE).is_none());
    drop((third, fourth));
    let again: Vec<_> = (0..2).map(|_| from(ONE).unwrap()).collect();
    assert!(from(ONE).is_none());
    drop(again);
    assert!(
        strangers
            .open
            .iter()
            .all(|open| open.load(Ordering::Relaxed) == 0)
    );
}

#[test]
fn the_many_addresses_of_one_ipv6_network_are_one_source() {
    let strangers = strangers(1);
    let _held = strangers.arrive(ip("2001:db8:1:2::1")).unwrap();
    assert!(strangers.arrive(ip("2001:db8:1:2:ffff::9")).is_none());
    assert!(strangers.arrive(ip("2001:db8:1:3::1")).is_some());
}

#[tokio::test(start_paused = true)]
async fn wrong_credentials_of_a_source_are_verified_at_a_rate() {
    let strangers = strangers(1);
    assert_eq!(exhaust(&strangers, ONE), 100);
    let problem = strangers.may_try(ip(ONE), "wrong").unwrap_err();
    assert_eq!(
        (problem.code, problem.status().as_u16()),
        (ErrorCode::RateLimited, 429)
    );
    assert!(problem.retry_after.is_some());
    assert!(strangers.may_try(ip("192.0.2.2"), "wrong").is_ok());
    advance(Duration::from_millis(100)).await;
    assert_eq!(exhaust(&strangers, ONE), 1);
    advance(Duration::from_secs(3600)).await;
    assert_eq!(exhaust(&strangers, ONE), 100);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_good_passes_whatever_others_do_behind_the_same_address() {
    let strangers = strangers(1);
    strangers.on_good("good");
    exhaust(&strangers, ONE);
    assert!(strangers.may_try(ip(ONE), "good").is_ok());
    assert!(strangers.may_try(ip(ONE), "never seen").is_err());
    // Until it is void: nobody gets verifications for nothing.
    strangers.on_wrong(ip(ONE), "good");
    assert!(strangers.may_try(ip(ONE), "good").is_err());
}

#[tokio::test(start_paused = true)]
async fn good_credentials_are_charged_to_nobody() {
    let strangers = strangers(1);
    for number in 0..1000 {
        let token = format!("good-{number}");
        strangers.may_try(ip(ONE), &token).unwrap();
        strangers.on_good(&token);
    }
}

#[tokio::test(start_paused = true)]
async fn sources_without_end_take_no_memory_without_end_and_free_nobody() {
    let strangers = strangers(1);
    exhaust(&strangers, ONE);
    for number in 0..1000_u32 {
        let from = IpAddr::from((0x0a00_0000 | number).to_be_bytes());
        strangers.on_wrong(from, "wrong");
    }
    assert!(
        strangers.may_try(ip(ONE), "wrong").is_err(),
        "nobody pushed it out"
    );
}

/// An issuer that is asked takes its time, and has so many places for the questions of all.
#[tokio::test(start_paused = true)]
async fn one_source_has_only_so_many_tokens_verified_at_once() {
    let strangers = strangers(1);
    strangers.on_good("good");
    let mut held = Vec::new();
    for number in 0..AT_ONCE {
        let token = format!("new-{number}");
        held.push(strangers.try_one(ip(ONE), &token).await.unwrap());
    }
    let problem = strangers.try_one(ip(ONE), "more").await.unwrap_err();
    assert_eq!(problem.code, ErrorCode::RateLimited);
    assert!(strangers.try_one(ip("192.0.2.2"), "other").await.is_ok());
    assert!(strangers.try_one(ip(ONE), "good").await.is_ok());
    // Many calls may begin with the same new token: one verification is enough for all.
    let (waited, ()) = tokio::join!(strangers.try_one(ip(ONE), "shared"), async {
        sleep(PATIENCE / 2).await;
        strangers.on_good("shared");
    });
    drop(waited.unwrap());
    held.pop();
    assert!(strangers.try_one(ip(ONE), "more").await.is_ok());
}
