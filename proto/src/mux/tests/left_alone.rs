//! Streams that nobody here holds any more, at a peer that does not end them.

use super::hostile::{Victim, WINDOW, frame, head, said, word};
use super::*;
use crate::growth::GrowthBudget;
use crate::mux::accounts::FREE;

/// What is left of a stream's bytes where the peer gives no more credit.
const REST: usize = 16 * 1024;

/// Sends as much on a stream as there is credit for, leaves [`REST`] waiting behind it, and lets go.
fn leave(victim: &mut Victim, id: StreamId) {
    let mut left = WINDOW + REST;
    while left > 0 {
        let mut data = Bytes::from(vec![7; left]);
        left -= victim.mux.write(id, &mut data).unwrap();
        transmit(&mut victim.mux, victim.now);
    }
    victim.mux.finish(id).unwrap();
    victim.mux.release_send(id);
    victim.mux.release_recv(id);
    transmit(&mut victim.mux, victim.now);
}

/// The RESETs that go in so much time to a peer that is alive.
fn resets(victim: &mut Victim, seconds: u64) -> Vec<(Kind, u32, u32)> {
    let mut resets = Vec::new();
    for _ in 0..seconds / 5 {
        victim.now += Duration::from_secs(5);
        victim.take(&[frame(Kind::Ping, 0, 0, &[0; 8])]).unwrap();
        victim.mux.handle_timeout(victim.now).unwrap();
        resets.extend(said(&transmit(&mut victim.mux, victim.now)));
    }
    resets.retain(|frame| frame.0 == Kind::Reset);
    resets
}

#[test]
fn an_answer_that_nobody_wants_is_reset_where_the_peer_does_not_end_it() {
    let mut victim = Victim::new();
    leave(&mut victim, StreamId(2));
    assert_eq!(resets(&mut victim, 55), [], "it may end in good order");
    assert_eq!(victim.mux.stats().queued, REST);
    let cancelled = ResetCode::Cancelled.number();
    assert_eq!(resets(&mut victim, 10), [(Kind::Reset, 2, cancelled)]);
    let stats = victim.mux.stats();
    assert_eq!((stats.streams, stats.queued), (1, 0), "{stats:?}");
    assert_eq!(victim.mux.stream_count(), 1, "there is room for another");
}

#[test]
fn the_rest_of_a_request_whose_answer_is_over_is_kept_while_there_is_memory() {
    let mut victim = Victim::new();
    let finish = frame(Kind::Finish, 0, 2, b"");
    victim.take(&[head(2, &answer()), finish]).unwrap();
    leave(&mut victim, StreamId(2));
    assert_eq!(resets(&mut victim, 1000), []);
    victim.take(&[word(Kind::Window, 2, REST as u32)]).unwrap();
    let said = said(&transmit(&mut victim.mux, victim.now));
    assert!(matches!(said.as_slice(), [(Kind::Data, 2, _)]), "{said:?}");
    assert_eq!(victim.mux.stats().streams, 1, "it is over");
}

#[test]
fn requests_that_nobody_takes_and_nobody_holds_take_no_memory_beyond_the_budget() {
    let mut victim = Victim::new();
    let now = victim.now;
    let mut config = config(Side::Acceptor);
    config.limits.waiting = GrowthBudget::new(0);
    victim.mux = Mux::new(config, now);
    let mut peer = Mux::new(super::config(Side::Dialer), now);
    victim.take(&[transmit(&mut peer, now).to_vec()]).unwrap();
    for _ in 0..20 {
        let id = victim.mux.open(&call_head(), Bytes::new(), false).unwrap();
        transmit(&mut victim.mux, now);
        let finish = frame(Kind::Finish, 0, id.0, b"");
        victim.take(&[head(id.0, &answer()), finish]).unwrap();
        leave(&mut victim, id);
    }
    assert_eq!(victim.mux.stats().queued, 20 * REST);
    assert!(!resets(&mut victim, 5).is_empty());
    let stats = victim.mux.stats();
    assert!((1..=FREE).contains(&stats.queued), "{stats:?}");
    assert_eq!(stats.streams, stats.queued / REST);
}

#[test]
fn the_rest_of_an_answer_waits_for_its_reader_as_long_as_the_peer_keeps_the_call() {
    let mut victim = Victim::new();
    leave(&mut victim, StreamId(1));
    assert_eq!(resets(&mut victim, 1000), []);
    assert_eq!(victim.mux.stats().queued, REST);
}
