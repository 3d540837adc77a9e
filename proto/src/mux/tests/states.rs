//! The states of a stream, by table: what each step does in each state.

use super::hostile::{Victim, WINDOW, frame, said, word};
use super::pair::Pair;
use super::*;

/// Steps towards a state, and what is tried in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Finish,
    Reset,
    Stop,
    ReleaseSend,
    ReleaseRecv,
    PeerFinish,
    PeerReset,
    PeerStop,
    PeerData,
    Lost,
}

use Step::{
    Finish, Lost, PeerData, PeerFinish, PeerReset, PeerStop, ReleaseRecv, ReleaseSend, Reset, Stop,
};

const CODE: ResetCode = ResetCode::Withdrawn;

/// What a write and a read give in the state that `steps` lead to. The stream was opened by the
/// peer and accepted here (the dialer).
fn outcome(
    steps: &[Step],
) -> (
    Result<usize, StreamError>,
    Result<Option<&'static str>, StreamError>,
) {
    let mut pair = Pair::new(Duration::ZERO);
    let id = pair.open();
    for step in steps {
        match step {
            Finish => pair.dialer.finish(id).unwrap(),
            Reset => pair.dialer.reset(id, CODE),
            Stop => pair.dialer.stop(id, CODE),
            ReleaseSend => pair.dialer.release_send(id),
            ReleaseRecv => pair.dialer.release_recv(id),
            PeerFinish => pair.acceptor.finish(id).unwrap(),
            PeerReset => pair.acceptor.reset(id, CODE),
            PeerStop => pair.acceptor.stop(id, CODE),
            PeerData => {
                pair.acceptor
                    .write(id, &mut Bytes::from_static(b"data"))
                    .unwrap();
            }
            Lost => {
                pair.acceptor.close(GoawayCode::Revoked, "");
                let goodbye = transmit(&mut pair.acceptor, pair.now);
                pair.dialer.handle_message(goodbye, pair.now).unwrap_err();
            }
        }
        if *step != Lost {
            pair.settle();
        }
    }
    let write = pair.dialer.write(id, &mut Bytes::from_static(b"x"));
    let read = pair.dialer.read(id, pair.now).map(|item| {
        item.map(|item| match item {
            Item::Head(_) => "head",
            Item::Data(_) => "data",
            Item::Finished => "end",
        })
    });
    (write, read)
}

#[test]
fn each_state_of_a_stream_gives_what_the_table_says() {
    let reset = || StreamError::Reset(CODE);
    let stopped = || StreamError::Stopped(CODE);
    let cancelled = || StreamError::Reset(ResetCode::Cancelled);
    let (unknown, finished, lost) = (
        StreamError::Unknown,
        StreamError::Finished,
        StreamError::SessionLost,
    );
    type Row = (
        &'static [Step],
        Result<usize, StreamError>,
        Result<Option<&'static str>, StreamError>,
    );
    let table: &[Row] = &[
        (&[], Ok(1), Ok(None)),
        (&[PeerData], Ok(1), Ok(Some("data"))),
        (&[Finish], Err(finished), Ok(None)),
        (&[Finish, Finish], Err(finished), Ok(None)),
        (&[PeerFinish], Ok(1), Ok(Some("end"))),
        (&[PeerData, PeerFinish], Ok(1), Ok(Some("data"))),
        (&[Finish, PeerFinish], Err(finished), Ok(Some("end"))),
        (&[Reset], Err(reset()), Err(reset())),
        (&[PeerReset], Err(reset()), Err(reset())),
        (&[PeerData, PeerReset], Err(reset()), Err(reset())),
        (
            &[PeerData, PeerFinish, PeerReset],
            Err(reset()),
            Ok(Some("data")),
        ),
        (&[Finish, PeerReset], Err(finished), Err(reset())),
        (&[Finish, Reset], Err(finished), Err(reset())),
        (&[Finish, PeerFinish, Reset], Err(finished), Ok(Some("end"))),
        (
            &[Finish, PeerFinish, PeerReset],
            Err(finished),
            Ok(Some("end")),
        ),
        (&[PeerStop], Err(stopped()), Ok(None)),
        (&[PeerStop, PeerFinish], Err(stopped()), Ok(Some("end"))),
        (&[Finish, PeerStop], Err(finished), Ok(None)),
        (&[PeerStop, PeerReset], Err(stopped()), Err(reset())),
        (&[Stop], Ok(1), Err(stopped())),
        (&[PeerData, Stop], Ok(1), Err(stopped())),
        (&[PeerFinish, Stop], Ok(1), Ok(Some("end"))),
        (&[PeerData, PeerFinish, Stop], Ok(1), Err(stopped())),
        (&[Stop, Reset], Err(reset()), Err(stopped())),
        (&[ReleaseSend], Err(unknown), Err(cancelled())),
        (&[Finish, ReleaseSend], Err(unknown), Ok(None)),
        (
            &[Finish, ReleaseSend, PeerFinish],
            Err(unknown),
            Ok(Some("end")),
        ),
        (&[ReleaseRecv], Ok(1), Err(unknown)),
        (&[PeerData, ReleaseRecv], Ok(1), Err(unknown)),
        (&[PeerData, PeerFinish, ReleaseRecv], Ok(1), Err(unknown)),
        (&[ReleaseRecv, ReleaseSend], Err(unknown), Err(unknown)),
        (&[Lost], Err(lost), Err(lost)),
        (&[PeerData, Lost], Err(lost), Ok(Some("data"))),
        (&[PeerFinish, Lost], Err(lost), Ok(Some("end"))),
        (&[PeerReset, Lost], Err(reset()), Err(reset())),
        (&[Finish, Lost], Err(finished), Err(lost)),
        (&[PeerStop, Lost], Err(stopped()), Err(lost)),
    ];
    for (steps, write, read) in table {
        let outcome = outcome(steps);
        assert_eq!(outcome.0, *write, "write after {steps:?}");
        assert_eq!(outcome.1, *read, "read after {steps:?}");
    }
}

/// Both handles gone: whatever came before, both ends forget the stream once they have talked.
#[test]
fn a_stream_is_forgotten_from_every_state_once_nobody_holds_it() {
    let all = [
        Finish, Reset, Stop, PeerFinish, PeerReset, PeerStop, PeerData,
    ];
    let two = all
        .into_iter()
        .flat_map(|a| all.into_iter().map(move |b| [a, b]));
    for steps in two {
        let mut pair = Pair::new(Duration::from_millis(20));
        let id = pair.open();
        for step in steps {
            // Some do nothing in some states.
            match step {
                Finish => drop(pair.dialer.finish(id)),
                Reset => pair.dialer.reset(id, CODE),
                Stop => pair.dialer.stop(id, CODE),
                PeerFinish => drop(pair.acceptor.finish(id)),
                PeerReset => pair.acceptor.reset(id, CODE),
                PeerStop => pair.acceptor.stop(id, CODE),
                _ => drop(pair.acceptor.write(id, &mut Bytes::from_static(b"data"))),
            }
            // What crosses on the line must not matter.
            pair.send();
        }
        for mux in [&mut pair.dialer, &mut pair.acceptor] {
            mux.release_recv(id);
            mux.release_send(id);
        }
        pair.settle();
        for mux in [&pair.dialer, &pair.acceptor] {
            assert_eq!(
                (mux.stats().streams, mux.stream_count()),
                (0, 0),
                "{steps:?}"
            );
        }
    }
}

#[test]
fn a_call_that_nobody_waits_for_any_more_is_not_sent() {
    let mut pair = Pair::new(Duration::ZERO);
    pair.settle();
    let body = Bytes::from_static(b"whole");
    let id = pair.acceptor.open(&call_head(), body, true).unwrap();
    pair.acceptor.release_send(id);
    assert_eq!(
        pair.acceptor.stats().streams,
        1,
        "the answer may still be wanted"
    );
    pair.acceptor.release_recv(id);
    assert!(transmit(&mut pair.acceptor, pair.now).is_empty());
    assert_eq!(
        (pair.acceptor.stats().streams, pair.acceptor.stream_count()),
        (0, 0)
    );
}

#[test]
fn the_end_of_a_session_forgets_what_only_waited_for_the_peer() {
    let mut pair = Pair::new(Duration::ZERO);
    let id = pair.open();
    pair.acceptor.finish(id).unwrap();
    pair.acceptor.release_send(id);
    pair.acceptor.release_recv(id);
    let stats = pair.acceptor.stats();
    assert_eq!(stats.streams, 1, "the peer has not ended its half");
    pair.acceptor.close(GoawayCode::Drain, "enough");
    let stats = pair.acceptor.stats();
    assert_eq!((stats.streams, stats.granted), (0, 0), "it never will");
}

#[test]
fn a_stream_that_both_sides_end_at_once_makes_room_for_the_next() {
    let mut small = config(Side::Dialer);
    small.hello.max_streams = 1;
    let ends: [fn(&mut Mux, StreamId); 2] = [
        |acceptor, id| acceptor.reset(id, ResetCode::Cancelled),
        |acceptor, id| acceptor.finish(id).unwrap(),
    ];
    for end in ends {
        let mut pair = Pair::with(small.clone(), config(Side::Acceptor), Duration::ZERO);
        let id = pair.open();
        pair.dialer.finish(id).unwrap();
        pair.settle();
        // The dialer's socket is full: its RESET waits while the acceptor's end arrives.
        pair.line(Side::Acceptor).stuck = true;
        pair.dialer.reset(id, ResetCode::Cancelled);
        end(&mut pair.acceptor, id);
        pair.settle();
        let next = pair.acceptor.open(&call_head(), Bytes::new(), true);
        pair.settle();
        let accepted = pair.dialer.accept().expect("it is not refused");
        assert_eq!(accepted.0, next.unwrap());
    }
}

#[test]
fn what_is_read_after_the_end_of_a_session_asks_for_no_credit() {
    let mut victim = Victim::new();
    let data = frame(Kind::Data, 0, 2, &vec![7; WINDOW]);
    victim.take(&[data]).unwrap();
    victim.mux.close(GoawayCode::Drain, "");
    let read = victim.mux.read(StreamId(2), victim.now);
    assert!(matches!(read, Ok(Some(Item::Data(_)))));
    assert!(victim.mux.streams.due.is_empty());
}

#[test]
fn a_half_that_is_over_meanwhile_is_not_asked_to_stop() {
    for ending in [frame(Kind::Finish, 0, 2, b""), word(Kind::Reset, 2, 1)] {
        let mut victim = Victim::new();
        victim.mux.stop(StreamId(2), ResetCode::NotNeeded);
        victim.take(&[ending]).unwrap();
        assert_eq!(said(&transmit(&mut victim.mux, victim.now)), []);
    }
    // Nor is one of which the RESET follows.
    let mut victim = Victim::new();
    victim.mux.send_head(StreamId(1), &answer()).unwrap();
    victim.mux.stop(StreamId(1), ResetCode::NotNeeded);
    victim.mux.cut_short(StreamId(1), ResetCode::Truncated);
    let said = said(&transmit(&mut victim.mux, victim.now));
    let kinds: Vec<_> = said.iter().map(|frame| frame.0).collect();
    assert_eq!(kinds, [Kind::Head, Kind::Reset]);
}

#[test]
fn heads_out_of_order_are_a_defect_of_ours_and_reset_the_stream() {
    let mut pair = Pair::new(Duration::ZERO);
    let id = pair.open();
    pair.dialer.send_head(id, &answer()).unwrap();
    let internal = Err(StreamError::Reset(ResetCode::Internal));
    assert_eq!(pair.dialer.send_head(id, &answer()), internal);
    pair.settle();
    assert!(matches!(
        pair.acceptor.read(id, pair.now),
        Err(StreamError::Reset(ResetCode::Internal))
    ));
    let id = pair.open();
    let opener = pair.acceptor.send_head(id, &answer());
    assert_eq!(opener, internal, "an opener has no answer to give");
}

#[test]
fn a_head_that_breaks_a_limit_is_not_sent_and_breaks_nothing() {
    let mut pair = Pair::new(Duration::ZERO);
    let mut call = call_head();
    call.target = Bytes::from(vec![b'/'; crate::limits::MAX_TARGET + 1]);
    let open = pair.acceptor.open(&call, Bytes::new(), true);
    assert_eq!(open, Err(OpenError::HeadTooLarge));
    let id = pair.open();
    let Head::Response(mut response) = answer() else {
        unreachable!()
    };
    for _ in 0..101 {
        response.headers.append("x-many", "v".parse().unwrap());
    }
    let send = pair.dialer.send_head(id, &Head::Response(response));
    assert_eq!(send, Err(StreamError::HeadTooLarge));
    pair.dialer.send_head(id, &answer()).unwrap();
}

#[test]
fn ids_that_are_used_up_ask_both_sides_for_a_new_session() {
    let mut pair = Pair::new(Duration::ZERO);
    pair.settle();
    pair.acceptor.streams.skip_to(u32::MAX - 1);
    let last = pair
        .acceptor
        .open(&call_head(), Bytes::new(), true)
        .unwrap();
    assert_eq!(last.0, u32::MAX - 1);
    for _ in 0..2 {
        let none = pair.acceptor.open(&call_head(), Bytes::new(), true);
        assert_eq!(none, Err(OpenError::Draining));
    }
    pair.settle();
    assert_eq!(
        pair.dialer.accept().unwrap().0,
        last,
        "what was opened before goes on"
    );
    for mux in [&mut pair.acceptor, &mut pair.dialer] {
        let draining = |event: &Event| {
            matches!(
                event,
                Event::Draining {
                    code: GoawayCode::Exhausted,
                    ..
                }
            )
        };
        assert_eq!(
            events(mux).iter().filter(|event| draining(event)).count(),
            1
        );
    }
}

#[test]
fn a_full_backlog_refuses_calls_that_may_then_go_elsewhere() {
    let mut small = config(Side::Dialer);
    small.limits.backlog = 2;
    let mut pair = Pair::with(small, config(Side::Acceptor), Duration::ZERO);
    let ids: Vec<StreamId> = (0..4)
        .map(|_| {
            pair.acceptor
                .open(&call_head(), Bytes::from_static(b"body"), false)
                .unwrap()
        })
        .collect();
    pair.settle();
    let refused = |mux: &mut Mux, id| {
        matches!(
            mux.read(id, start()),
            Err(StreamError::Reset(ResetCode::Refused))
        )
    };
    assert!(!refused(&mut pair.acceptor, ids[0]) && !refused(&mut pair.acceptor, ids[1]));
    assert!(refused(&mut pair.acceptor, ids[2]) && refused(&mut pair.acceptor, ids[3]));
    assert_eq!(pair.dialer.stats().refused, 2);
    // Data that was on its way to a refused call is no offence.
    pair.acceptor
        .write(ids[0], &mut Bytes::from_static(b"more"))
        .unwrap();
    pair.settle();
    assert!(pair.dialer.accept().is_some());
}

#[test]
fn a_backlog_of_large_heads_is_bounded_in_bytes() {
    let mut small = config(Side::Dialer);
    small.limits.backlog_bytes = 20_000;
    let mut pair = Pair::with(small, config(Side::Acceptor), Duration::ZERO);
    let mut large = call_head();
    large.target = Bytes::from(vec![b'/'; 15_000]);
    pair.acceptor.open(&large, Bytes::new(), true).unwrap();
    let second = pair.acceptor.open(&large, Bytes::new(), true).unwrap();
    pair.settle();
    let read = pair.acceptor.read(second, pair.now);
    assert!(matches!(read, Err(StreamError::Reset(ResetCode::Refused))));
    assert!(pair.dialer.accept().is_some());
    pair.acceptor.open(&large, Bytes::new(), true).unwrap();
    pair.settle();
    assert!(pair.dialer.accept().is_some(), "there is room again");
}

#[test]
fn a_call_that_is_cancelled_before_it_was_accepted_is_never_seen() {
    let mut pair = Pair::new(Duration::ZERO);
    let gone = pair
        .acceptor
        .open(&call_head(), Bytes::from_static(b"body"), false)
        .unwrap();
    pair.settle();
    pair.acceptor.reset(gone, ResetCode::Cancelled);
    let next = pair
        .acceptor
        .open(&call_head(), Bytes::new(), true)
        .unwrap();
    pair.settle();
    assert_eq!(pair.dialer.accept().unwrap().0, next);
    assert!(pair.dialer.accept().is_none());
    assert_eq!(pair.dialer.stats().buffered, 0);
    assert_eq!(pair.dialer.backlog.bytes(), 0);
}

#[test]
fn streams_that_a_goaway_does_not_accept_may_go_elsewhere_at_once() {
    let now = start();
    let mut mux = greeted(Side::Dialer, now);
    let ids: Vec<StreamId> = (0..3)
        .map(|_| mux.open(&call_head(), Bytes::new(), true).unwrap())
        .collect();
    transmit(&mut mux, now);
    for id in &ids {
        assert!(matches!(mux.read(*id, now), Ok(None)));
    }
    let mut goaway = BytesMut::new();
    let payload = [1u32, ids[0].0, 0].map(u32::to_be_bytes).concat();
    put_frame(&mut goaway, Kind::Goaway, 0, 0, &payload);
    mux.handle_message(goaway.freeze(), now).unwrap();
    let refused = |mux: &mut Mux, id| match mux.read(id, now) {
        Ok(None) => false,
        Err(StreamError::Reset(ResetCode::Refused)) => true,
        other => panic!("{other:?}"),
    };
    let outcomes: Vec<bool> = ids.iter().map(|id| refused(&mut mux, *id)).collect();
    assert_eq!(outcomes, [false, true, true]);
    let told = |event: &Event| matches!(event, Event::Reset(_, ResetCode::Refused));
    assert_eq!(
        events(&mut mux).iter().filter(|event| told(event)).count(),
        2
    );
    assert_eq!(mux.stream_count(), 1);
}
