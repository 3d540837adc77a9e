//! Drains: what was on its way is taken, and nothing is once the peer has heard.

use super::floods::{MANY, generous};
use super::hostile::{Victim, frame, open, said};
use super::pair::{Pair, drain};
use super::*;

const DELAY: Duration = Duration::from_millis(10);

fn pong(number: u64) -> Vec<u8> {
    frame(Kind::Pong, 0, 0, &number.to_be_bytes())
}

/// What is sent now: the last stream of each GOAWAY, and the number of each PING.
fn goaways_and_pings(mux: &mut Mux, now: Instant) -> (Vec<u32>, Vec<u64>) {
    let (mut goaways, mut pings) = (Vec::new(), Vec::new());
    let mut batch = transmit(mux, now);
    while let Some(frame) = crate::frame::next(&mut batch).unwrap() {
        match frame.kind {
            Kind::Goaway => {
                let goaway = crate::controls::decode_goaway(frame.payload);
                goaways.push(goaway.unwrap().last);
            }
            Kind::Ping => {
                let number = frame.payload.as_ref().try_into().unwrap();
                pings.push(u64::from_be_bytes(number));
            }
            _ => {}
        }
    }
    (goaways, pings)
}

/// Drains, and the peer has answered every PING. The second GOAWAY is yet to be sent.
fn drain_heard(victim: &mut Victim) {
    victim.mux.drain(Duration::ZERO);
    let (goaways, pings) = goaways_and_pings(&mut victim.mux, victim.now);
    assert_eq!((goaways, pings), (vec![u32::MAX], vec![2]));
    // The first PING was sent behind the greeting.
    victim.take(&[pong(1), pong(2)]).unwrap();
}

#[test]
fn a_drain_takes_what_is_on_its_way_finishes_it_and_says_when_to_come_back() {
    let mut pair = Pair::new(DELAY);
    let old = pair.open();
    pair.dialer.drain(Duration::from_secs(3));
    // Before the GOAWAY arrives. What follows its head could not be sent twice.
    let crossing = pair
        .acceptor
        .open(&call_head(), Bytes::new(), false)
        .unwrap();
    pair.settle();
    assert!(events(&mut pair.acceptor).iter().any(|event| matches!(
        event,
        Event::Draining { code: GoawayCode::Drain, retry_after } if retry_after.as_secs() == 3
    )));
    let late = pair.acceptor.open(&call_head(), Bytes::new(), true);
    assert_eq!(late, Err(OpenError::Draining));
    assert_eq!(pair.dialer.accept().unwrap().0, crossing);
    for id in [old, crossing] {
        pair.acceptor.finish(id).unwrap();
        pair.dialer.send_head(id, &answer()).unwrap();
        pair.dialer.finish(id).unwrap();
    }
    pair.settle();
    for id in [old, crossing] {
        assert_eq!(drain(&mut pair.acceptor, id, pair.now).0.len(), 2);
    }
    assert_eq!(pair.dialer.stats().refused, 0);
}

#[test]
fn a_drain_is_over_once_the_peer_has_heard_of_it() {
    let mut pair = Pair::new(DELAY);
    pair.settle();
    pair.dialer.drain(Duration::ZERO);
    assert!(pair.dialer.is_draining() && !pair.dialer.is_drained());
    while pair.send() {}
    pair.advance(2 * DELAY - Duration::from_millis(1));
    assert!(pair.acceptor.is_draining() && !pair.dialer.is_drained());
    pair.advance(Duration::from_millis(1));
    assert!(pair.dialer.is_drained());
    assert!(
        !pair.acceptor.is_drained(),
        "only who drains takes no streams"
    );
}

#[test]
fn what_comes_behind_the_answer_of_a_peer_that_has_heard_is_refused() {
    let mut victim = Victim::new();
    drain_heard(&mut victim);
    // In one batch with that answer.
    victim.take(&[open(3, 0, b"")]).unwrap();
    assert!(!victim.mux.is_drained());
    let (goaways, _) = goaways_and_pings(&mut victim.mux, victim.now);
    assert_eq!(goaways, [3]);
    assert_eq!(victim.mux.accept().unwrap().0, StreamId(3));
    victim.take(&[open(5, 0, b"")]).unwrap();
    let refused = (Kind::Reset, 5, ResetCode::Refused.number());
    assert_eq!(said(&transmit(&mut victim.mux, victim.now)), [refused]);
    assert!(victim.mux.accept().is_none());
    // Its id was seen, and must not rise for that.
    victim.mux.close(GoawayCode::Replaced, "another is there");
    let (goaways, _) = goaways_and_pings(&mut victim.mux, victim.now);
    assert_eq!(goaways, [3]);
}

#[test]
fn a_drain_behind_pings_that_are_not_answered_waits_for_one_of_its_own() {
    let mut victim = Victim::new();
    for _ in 0..2 {
        victim.now += Limits::default().ping_interval;
        victim.mux.handle_timeout(victim.now).unwrap();
        transmit(&mut victim.mux, victim.now);
    }
    victim.mux.drain(Duration::ZERO);
    let said = goaways_and_pings(&mut victim.mux, victim.now);
    assert_eq!(said, (vec![u32::MAX], vec![]), "three are enough");
    victim.take(&[pong(1)]).unwrap();
    let said = goaways_and_pings(&mut victim.mux, victim.now);
    assert_eq!(said, (vec![], vec![4]));
    victim.take(&[pong(2), pong(3)]).unwrap();
    assert!(!victim.mux.has_transmit(), "these were sent before");
    victim.take(&[pong(4)]).unwrap();
    let said = goaways_and_pings(&mut victim.mux, victim.now);
    assert_eq!(said, (vec![1], vec![]));
    assert!(victim.mux.is_drained());
}

#[test]
fn calls_that_are_refused_by_a_drain_are_no_flood() {
    let mut victim = generous();
    drain_heard(&mut victim);
    transmit(&mut victim.mux, victim.now);
    for n in 0..MANY {
        victim.take(&[open(1 + 2 * n, 0, b"")]).unwrap();
    }
    let refused = |said: &(Kind, u32, u32)| said.0 == Kind::Reset;
    let said = said(&transmit(&mut victim.mux, victim.now));
    assert_eq!(said.into_iter().filter(refused).count(), MANY as usize);
    let more = victim.take(&[open(1 + 2 * MANY, 0, b"")]);
    assert_eq!(more, Err(Flood::Cancels.into()));
}
