//! Floods, and what is borne with: frames that come late, and no more of them than can.

use super::hostile::{Victim, WINDOW, frame, head, open, said, word};
use super::pair::Pair;
use super::*;
use crate::frame::FIN;
use crate::limits::RAPID;

/// Repeats what `frames` gives until the session ends; says why and after how many.
fn flood(mut frames: impl FnMut(&mut Victim, u32) -> Vec<Vec<u8>>) -> (u32, SessionError) {
    let mut victim = Victim::new();
    for round in 0..1_000_000 {
        let frames = frames(&mut victim, round);
        if let Err(error) = victim.take(&frames) {
            return (round, error);
        }
        let stats = victim.mux.stats();
        assert!(stats.streams <= 1003, "{stats:?}");
        assert!(victim.mux.refused.len() <= 2048 && victim.mux.news.controls.len() <= 32);
        assert!(victim.mux.backlog.len() <= 1024 && victim.mux.backlog.numbers() <= 2 * 1024 + 64);
    }
    panic!("a flood without an end")
}

#[test]
fn floods_are_cut() {
    let limits = Limits::default();
    let cancels =
        |rounds: u32| (limits.cancel_burst..=2 * limits.cancel_burst + 1100).contains(&rounds);
    let next = |round: u32| 3 + 2 * round;

    let pings = |_: &mut Victim, _| vec![frame(Kind::Ping, 0, 0, &[0; 8])];
    assert!(matches!(
        flood(pings),
        (..=30, SessionError::Flood(Flood::Pings))
    ));

    let answered = |victim: &mut Victim, _| {
        transmit(&mut victim.mux, victim.now);
        vec![frame(Kind::Ping, 0, 0, &[0; 8])]
    };
    assert!(matches!(
        flood(answered),
        (..=30, SessionError::Flood(Flood::Pings))
    ));

    // Rapid reset, and its disguises.
    let (rounds, error) =
        flood(|_, round| vec![open(next(round), 0, b""), word(Kind::Reset, next(round), 1)]);
    assert!(
        cancels(rounds) && error == Flood::Cancels.into(),
        "{rounds} {error}"
    );
    let (rounds, error) = flood(|_, round| {
        vec![
            open(next(round), FIN, b""),
            word(Kind::Stop, next(round), 8),
        ]
    });
    assert!(
        cancels(rounds) && error == Flood::Cancels.into(),
        "{rounds} {error}"
    );
    let (rounds, error) =
        flood(|_, round| vec![open(next(round), 0, b""), head(next(round), &answer())]);
    assert!(
        cancels(rounds) && error == Flood::Cancels.into(),
        "{rounds} {error}"
    );
    // As many calls as it likes, none of which is taken: refused, then cut.
    let (rounds, error) = flood(|_, round| vec![open(next(round), 0, b"")]);
    assert!(
        cancels(rounds) && error == Flood::Cancels.into(),
        "{rounds} {error}"
    );
    let (rounds, error) = flood(|_, round| vec![frame(Kind::Open, 0, next(round), &[0])]);
    assert!(
        cancels(rounds) && error == Flood::Cancels.into(),
        "{rounds} {error}"
    );

    let notice = |_: &mut Victim, _| vec![frame(Kind::Notice, 0, 0, b"\x02\x01x")];
    assert!(matches!(
        flood(notice),
        (16, SessionError::Flood(Flood::Control))
    ));
    let (rounds, error) = flood(|victim, _| {
        events(&mut victim.mux);
        vec![frame(Kind::Notice, 0, 0, b"\x02\x01x")]
    });
    assert!(rounds < 300 && error == Flood::Control.into());
    let (rounds, error) = flood(|_, _| vec![frame(Kind::Goaway, 0, 0, &[0; 12])]);
    assert!(rounds < 300 && error == Flood::Control.into());

    // Frames without effect: crumbs of credit, stops of what is stopped, resets of what is gone.
    let (rounds, error) = flood(|_, _| vec![word(Kind::Window, 2, 1)]);
    assert!(rounds < 2000 && error == Flood::Idle.into());
    let (rounds, error) = flood(|_, _| vec![word(Kind::Stop, 2, 1)]);
    assert!(rounds < 2000 && error == Flood::Idle.into());
    let (rounds, error) = flood(|_, _| vec![word(Kind::Reset, 2, 1)]);
    assert!(rounds < 2000 && error == Flood::Idle.into());
}

#[test]
fn a_peer_that_never_reads_makes_nothing_grow() {
    // Everything that waits to be sent is a number per stream, or bounded.
    let mut victim = Victim::new();
    for round in 0..999 {
        victim.take(&[open(3 + 2 * round, FIN, b"body")]).unwrap();
        let (id, _) = victim.mux.accept().unwrap();
        victim.mux.send_head(id, &answer()).unwrap();
        while victim
            .mux
            .write(id, &mut Bytes::from(vec![0; 50_000]))
            .unwrap()
            > 0
        {}
    }
    let stats = victim.mux.stats();
    assert!(
        stats.queued <= 999 * (Limits::default().send_queue + 100),
        "{stats:?}"
    );
    let batch = transmit(&mut victim.mux, victim.now);
    assert!(
        batch.len() <= 1001 * (WINDOW + 20 * 1024),
        "no more than the credit goes out"
    );
}

#[test]
fn calls_that_come_and_go_while_nothing_can_be_sent_leave_nothing_behind() {
    let mut victim = Victim::new();
    for round in 0..5000 {
        let id = StreamId(3 + 2 * round);
        let body = [0; 8 * 1024];
        victim.take(&[open(id.0, 0, &body)]).unwrap();
        victim.mux.accept().unwrap();
        // Credit is due, and an answer waits.
        assert!(matches!(
            victim.mux.read(id, victim.now),
            Ok(Some(Item::Data(_)))
        ));
        victim.mux.send_head(id, &answer()).unwrap();
        let ours = victim.mux.open(&call_head(), Bytes::new(), true).unwrap();
        // Old enough to be no cancel.
        victim.now += RAPID;
        victim.take(&[word(Kind::Reset, id.0, 1)]).unwrap();
        for id in [id, ours] {
            victim.mux.release_send(id);
            victim.mux.release_recv(id);
        }
        events(&mut victim.mux);
        assert_eq!(victim.mux.stats().streams, 2);
        let waits = (victim.mux.schedule.len(), victim.mux.streams.due.len());
        assert!(waits.0.max(waits.1) <= 128, "{waits:?} after {round} calls");
    }
}

#[test]
fn late_frames_are_borne_with_for_one_round_trip_and_no_further_than_the_credit() {
    let mut victim = Victim::new();
    victim.mux.reset(StreamId(1), ResetCode::Cancelled);
    victim.mux.release_send(StreamId(1));
    victim.mux.release_recv(StreamId(1));
    transmit(&mut victim.mux, victim.now);
    assert!(victim.mux.streams.find(StreamId(1)).is_none());
    // The peer cannot know yet.
    victim
        .take(&[frame(Kind::Data, 0, 1, &vec![0; WINDOW - 10])])
        .unwrap();
    victim
        .take(&[
            word(Kind::Window, 1, 5),
            word(Kind::Stop, 1, 1),
            word(Kind::Reset, 1, 1),
        ])
        .unwrap();
    victim.take(&[frame(Kind::Data, FIN, 1, &[0; 5])]).unwrap();
    assert_eq!(victim.mux.stats().buffered, 0);
    // Neither the answer to the ping that went before the RESET changes that, ...
    let pong = |number: u64| frame(Kind::Pong, 0, 0, &number.to_be_bytes());
    victim.take(&[pong(1)]).unwrap();
    victim.take(&[frame(Kind::Data, 0, 1, b"x")]).unwrap();
    // ... but the answer to one that went after it does: now the peer knows.
    victim.now += Duration::from_secs(5);
    victim.mux.handle_timeout(victim.now).unwrap();
    let ping = said(&transmit(&mut victim.mux, victim.now));
    assert!(matches!(ping.as_slice(), [(Kind::Ping, 0, _)]), "{ping:?}");
    victim.take(&[pong(2)]).unwrap();
    let late = victim.take(&[frame(Kind::Data, 0, 1, b"x")]);
    assert_eq!(
        late,
        Err(Violation::AfterEnd(Kind::Data, StreamId(1)).into())
    );
}

/// A victim that takes no calls at all. The peer's next id is 1.
pub(super) fn refusing() -> Victim {
    let now = start();
    let mut config = config(Side::Acceptor);
    config.limits.backlog = 0;
    let mut mux = Mux::new(config, now);
    let mut peer = Mux::new(super::config(Side::Dialer), now);
    mux.handle_message(transmit(&mut peer, now), now).unwrap();
    transmit(&mut mux, now);
    Victim { mux, now }
}

#[test]
fn what_follows_a_call_that_is_refused_is_borne_with_as_it_may_be_on_its_way() {
    let mut victim = refusing();
    // More than is borne with in advance.
    for id in (1..2000).step_by(2) {
        let follows = [
            open(id, 0, b"body"),
            frame(Kind::Data, 0, id, &[0; 100]),
            word(Kind::Stop, id, 1),
            frame(Kind::Finish, 0, id, b""),
            word(Kind::Reset, id, 1),
        ];
        victim.take(&follows).unwrap();
        let said = said(&transmit(&mut victim.mux, victim.now));
        assert_eq!(said, [(Kind::Reset, id, ResetCode::Refused.number())]);
    }
    // As much as there was credit for, and nothing behind an end.
    let mut victim = refusing();
    let whole = [
        open(1, 0, b"body"),
        frame(Kind::Data, 0, 1, &[0; WINDOW - 4]),
    ];
    victim.take(&whole).unwrap();
    assert!(victim.take(&[frame(Kind::Data, 0, 1, b"x")]).is_err());
    let ended = [open(1, FIN, b"body"), frame(Kind::Data, 0, 1, b"x")];
    assert!(refusing().take(&ended).is_err());
}

#[test]
fn the_answer_to_a_ping_between_refusals_says_nothing_about_those_behind_it() {
    let mut victim = refusing();
    victim.mux.limits.batch = 4 * 1024;
    let pong = |number: u64| frame(Kind::Pong, 0, 0, &number.to_be_bytes());
    let calls: Vec<_> = (1..801).step_by(2).map(|id| open(id, 0, b"")).collect();
    victim.take(&[vec![pong(1)], calls].concat()).unwrap();
    victim.now += Duration::from_secs(5);
    victim.mux.handle_timeout(victim.now).unwrap();
    let mut batch = BytesMut::new();
    victim.mux.poll_transmit(&mut batch, victim.now);
    let said = said(&batch.freeze());
    assert!(said.len() < 400 && said.last().unwrap().0 == Kind::Ping);
    let data = frame(Kind::Data, 0, 799, b"on its way");
    victim.take(&[pong(2), data]).unwrap();
}

#[test]
fn a_peer_that_never_hears_of_its_refusals_is_a_flood_however_slow_it_is() {
    let mut victim = refusing();
    let most = victim.mux.limits.cancel_burst as usize;
    let mut id = 1;
    let error = loop {
        // No more in a second than are borne with for ever.
        victim.now += Duration::from_millis(10);
        if let Err(error) = victim.take(&[open(id, FIN, b"")]) {
            break error;
        }
        assert!(victim.mux.refused.len() <= most);
        id += 2;
    };
    assert_eq!(error, Flood::Cancels.into());
    assert_eq!(id as usize, 1 + 2 * most);
}

#[test]
fn data_beyond_the_credit_of_a_forgotten_stream_is_not_borne_with() {
    let mut victim = Victim::new();
    victim.mux.release_send(StreamId(1));
    victim.mux.release_recv(StreamId(1));
    transmit(&mut victim.mux, victim.now);
    victim
        .take(&[frame(Kind::Data, 0, 1, &vec![0; WINDOW])])
        .unwrap();
    let beyond = victim.take(&[frame(Kind::Data, 0, 1, b"x")]);
    assert_eq!(
        beyond,
        Err(Violation::AfterEnd(Kind::Data, StreamId(1)).into())
    );
}

#[test]
fn a_stopped_stream_takes_no_more_than_its_window_and_holds_nothing() {
    let mut victim = Victim::new();
    victim.mux.stop(StreamId(1), ResetCode::NotNeeded);
    for _ in 0..WINDOW / 1024 {
        victim.take(&[frame(Kind::Data, 0, 1, &[0; 1024])]).unwrap();
        assert_eq!(victim.mux.stats().buffered, 0);
    }
    let said = said(&transmit(&mut victim.mux, victim.now));
    assert_eq!(
        said,
        [(Kind::Stop, 1, ResetCode::NotNeeded.number())],
        "no credit for nothing"
    );
    let beyond = victim.take(&[frame(Kind::Data, 0, 1, b"x")]);
    assert_eq!(beyond, Err(SessionError::FlowControl(StreamId(1))));
}

#[test]
fn small_payloads_do_not_hold_the_message_that_they_came_in() {
    let mut victim = Victim::new();
    let message: Bytes = [
        frame(Kind::Data, 0, 1, b"few bytes"),
        frame(Kind::Data, 0, 2, &vec![7; 100_000]),
    ]
    .concat()
    .into();
    let range = message.as_ptr_range();
    victim.mux.handle_message(message, victim.now).unwrap();
    let mut within = |id| match victim.mux.read(StreamId(id), victim.now) {
        Ok(Some(Item::Data(data))) => range.contains(&data.as_ptr()),
        other => panic!("{other:?}"),
    };
    assert!(!within(1), "copied out");
    assert!(within(2), "not copied");
}

#[test]
fn stopping_every_answer_at_once_is_a_flood_like_any_other() {
    let (rounds, error) = flood(|victim, round| {
        while let Some((id, _)) = victim.mux.accept() {
            victim.mux.release_send(id);
            victim.mux.release_recv(id);
        }
        transmit(&mut victim.mux, victim.now);
        let id = 3 + 2 * round;
        vec![open(id, FIN, b""), word(Kind::Stop, id, 8)]
    });
    let burst = Limits::default().cancel_burst;
    assert!(
        (burst..burst + 10).contains(&rounds) && error == Flood::Cancels.into(),
        "{rounds}"
    );
}

#[test]
fn stopping_answers_that_are_cut_short_is_a_flood_like_any_other() {
    let (rounds, error) = flood(|victim, round| {
        transmit(&mut victim.mux, victim.now);
        let id = 3 + 2 * round;
        while let Some((id, _)) = victim.mux.accept() {
            victim.mux.send_head(id, &answer()).unwrap();
            victim.mux.cut_short(id, ResetCode::Truncated);
            victim.mux.release_send(id);
            victim.mux.release_recv(id);
        }
        match round {
            0 => vec![open(id, FIN, b"")],
            _ => vec![word(Kind::Stop, id - 2, 8), open(id, FIN, b"")],
        }
    });
    let burst = Limits::default().cancel_burst;
    assert!(
        (burst..burst + 10).contains(&rounds) && error == Flood::Cancels.into(),
        "{rounds}"
    );
}

/// More than the usual burst of cancels, as between an agent and its relay.
pub(super) const MANY: u32 = 4096;

/// A victim that lets its peer have [`MANY`] streams open. The peer's next id is 1.
pub(super) fn generous() -> Victim {
    let now = start();
    let mut config = config(Side::Acceptor);
    config.hello.max_streams = MANY;
    config.limits.backlog = MANY as usize;
    assert!(config.limits.cancel_burst < MANY);
    let mut mux = Mux::new(config, now);
    let mut peer = Mux::new(super::config(Side::Dialer), now);
    mux.handle_message(transmit(&mut peer, now), now).unwrap();
    transmit(&mut mux, now);
    Victim { mux, now }
}

/// How many calls, from the id `next` on, can be cancelled in the moment in which they are opened.
fn rapid_resets(victim: &mut Victim, next: u32) -> u32 {
    for n in 0..2 * MANY {
        let id = next + 2 * n;
        if let Err(error) = victim.take(&[open(id, 0, b""), word(Kind::Reset, id, 1)]) {
            assert_eq!(error, Flood::Cancels.into());
            return n;
        }
    }
    panic!("a flood without an end")
}

#[test]
fn a_peer_whose_calls_all_vanish_at_once_is_no_flood() {
    let mut victim = generous();
    for round in 0..3 {
        let ids: Vec<u32> = (0..MANY).map(|n| 1 + 2 * (round * MANY + n)).collect();
        for id in &ids {
            victim.take(&[open(*id, FIN, b"")]).unwrap();
            assert_eq!(victim.mux.accept().unwrap().0, StreamId(*id));
        }
        // New calls may vanish like old ones; after that, only those that had some time.
        if round > 0 {
            victim.now += Duration::from_secs(1);
        }
        for id in &ids {
            // The answer is stopped, then the call is broken off: that is one cancel.
            victim.take(&[word(Kind::Stop, *id, 1)]).unwrap();
            victim.take(&[word(Kind::Reset, *id, 1)]).unwrap();
            victim.mux.release_send(StreamId(*id));
            victim.mux.release_recv(StreamId(*id));
        }
        transmit(&mut victim.mux, victim.now);
        assert_eq!(victim.mux.stats().streams, 0);
    }
    // Old calls have left no room for new ones: two seconds gave back a quarter of the cancels.
    let next = 1 + 2 * 3 * MANY;
    assert_eq!(rapid_resets(&mut victim, next), MANY / 4);
}

#[test]
fn cancelling_calls_as_they_are_opened_is_a_flood_however_many_may_be_open() {
    assert_eq!(rapid_resets(&mut generous(), 1), MANY);
}

#[test]
fn no_traffic_that_keeps_to_the_protocol_is_a_flood() {
    let mut pair = Pair::new(Duration::from_millis(1));
    // Credit for every frame of a long transfer ...
    let id = pair.open();
    for _ in 0..3000 {
        pair.dialer
            .write(id, &mut Bytes::from(vec![0; 16 * 1024]))
            .unwrap();
        pair.settle();
        while let Ok(Some(_)) = pair.acceptor.read(id, pair.now) {}
    }
    pair.settle();
    // ... and calls that end in every way that has a frame, slowly enough.
    for _ in 0..2000 {
        let id = pair.open();
        pair.acceptor.finish(id).unwrap();
        pair.settle();
        pair.acceptor.stop(id, ResetCode::NotNeeded);
        pair.send();
        pair.acceptor.reset(id, ResetCode::Cancelled);
        pair.advance(Duration::from_millis(10));
        for mux in [&mut pair.dialer, &mut pair.acceptor] {
            mux.release_send(id);
            mux.release_recv(id);
        }
    }
    pair.settle();
    assert_eq!(pair.dialer.stats().streams, 1);
}

#[test]
fn nothing_is_borne_with_on_a_stream_that_the_peer_itself_has_ended() {
    let endings: [fn() -> Vec<u8>; 2] = [
        || word(Kind::Reset, 1, 1),
        || frame(Kind::Finish, 0, 1, b""),
    ];
    // As both sides at once, and the peer alone.
    for (ending, reset_here) in endings
        .iter()
        .zip([true, false])
        .chain([(&endings[0], false)])
    {
        let mut victim = Victim::new();
        if reset_here {
            victim.mux.reset(StreamId(1), ResetCode::Cancelled);
        }
        victim.take(&[ending()]).unwrap();
        victim.mux.finish(StreamId(1)).ok();
        victim.mux.release_send(StreamId(1));
        victim.mux.release_recv(StreamId(1));
        transmit(&mut victim.mux, victim.now);
        assert!(victim.mux.streams.find(StreamId(1)).is_none());
        let data = victim.take(&[frame(Kind::Data, 0, 1, b"x")]);
        assert_eq!(
            data,
            Err(Violation::AfterEnd(Kind::Data, StreamId(1)).into())
        );
    }
}

#[test]
fn callers_that_give_up_at_once_never_make_a_flood_of_their_own_side() {
    let mut pair = Pair::new(Duration::ZERO);
    let (mut open, mut full) = (0, 0);
    for _ in 0..20_000 {
        match pair.acceptor.open(&call_head(), Bytes::new(), true) {
            Ok(id) => {
                open += 1;
                pair.settle();
                pair.dialer.accept().unwrap();
                pair.acceptor.release_send(id);
                pair.acceptor.release_recv(id);
            }
            // They have used up their own room, and nobody else's session.
            Err(error) => {
                assert_eq!(error, OpenError::TooManyStreams);
                full += 1;
                pair.advance(Duration::from_millis(1));
            }
        }
        pair.settle();
        events(&mut pair.acceptor);
    }
    assert!(open > 3000 && full > 0, "{open} {full}");
    assert!(pair.acceptor.ended.is_none() && pair.dialer.ended.is_none());
}

#[test]
fn whoever_takes_calls_may_end_any_number_of_them_at_once() {
    let mut pair = Pair::new(Duration::ZERO);
    for round in 0..6000 {
        let id = pair
            .acceptor
            .open(&call_head(), Bytes::new(), false)
            .unwrap();
        pair.settle();
        pair.dialer.accept().unwrap();
        // It wants no more of the body, or breaks the call off.
        if round % 2 == 0 {
            pair.dialer.stop(id, ResetCode::NotNeeded);
        } else {
            pair.dialer.reset(id, ResetCode::Truncated);
        }
        pair.settle();
        for end in [&mut pair.dialer, &mut pair.acceptor] {
            end.release_send(id);
            end.release_recv(id);
        }
        pair.settle();
        for end in [&mut pair.dialer, &mut pair.acceptor] {
            assert!(end.ended.is_none());
            events(end);
        }
    }
}
