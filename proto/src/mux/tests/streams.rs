//! Calls, half-closes, aborts, drains, as a conversation between two ends.

use super::pair::{Pair, bytes_of, drain};
use super::*;

const NONE: Duration = Duration::ZERO;

#[test]
fn a_small_call_is_one_frame_there_and_two_back() {
    let mut pair = Pair::new(NONE);
    pair.settle();
    let body = Bytes::from_static(b"hello");
    let id = pair.acceptor.open(&call_head(), body, true).unwrap();
    let request = transmit(&mut pair.acceptor, pair.now);
    assert_eq!(frames(&request), [Kind::Open]);
    pair.dialer.handle_message(request, pair.now).unwrap();
    let (accepted, head) = pair.dialer.accept().unwrap();
    assert_eq!(accepted, id);
    assert_eq!(head.target, "/api/vm?x=1");
    assert_eq!(head.caller.subject, "director-7");
    assert_eq!(head.headers["x-own-name"], "value");
    let (items, _) = drain(&mut pair.dialer, id, pair.now);
    assert_eq!(bytes_of(&items), b"hello");
    assert!(matches!(items.last(), Some(Item::Finished)));

    pair.dialer.send_head(id, &answer()).unwrap();
    pair.dialer
        .write(id, &mut Bytes::from_static(b"world"))
        .unwrap();
    pair.dialer.finish(id).unwrap();
    let reply = transmit(&mut pair.dialer, pair.now);
    assert_eq!(frames(&reply), [Kind::Head, Kind::Data]);
    pair.acceptor.handle_message(reply, pair.now).unwrap();
    let (items, _) = drain(&mut pair.acceptor, id, pair.now);
    assert!(matches!(items.first(), Some(Item::Head(Head::Response(_)))));
    assert_eq!(bytes_of(&items), b"world");
    assert!(matches!(items.last(), Some(Item::Finished)));
}

fn frames(message: &Bytes) -> Vec<Kind> {
    let mut message = message.clone();
    std::iter::from_fn(|| crate::frame::next(&mut message).unwrap())
        .map(|frame| frame.kind)
        .collect()
}

#[test]
fn a_stream_is_forgotten_once_over_and_released_on_both_sides() {
    let mut pair = Pair::new(NONE);
    for _ in 0..100 {
        let id = pair.open();
        pair.acceptor.finish(id).unwrap();
        pair.dialer.send_head(id, &answer()).unwrap();
        pair.dialer.finish(id).unwrap();
        pair.settle();
        drain(&mut pair.acceptor, id, pair.now);
        drain(&mut pair.dialer, id, pair.now);
        for mux in [&mut pair.acceptor, &mut pair.dialer] {
            mux.release_send(id);
            mux.release_recv(id);
        }
        pair.settle();
    }
    for mux in [&pair.acceptor, &pair.dialer] {
        assert_eq!(mux.stats().streams, 0);
        assert_eq!(mux.stream_count(), 0);
    }
}

#[test]
fn one_half_may_end_long_before_the_other() {
    let mut pair = Pair::new(NONE);
    let id = pair.open();
    pair.acceptor.finish(id).unwrap();
    pair.settle();
    let (items, _) = drain(&mut pair.dialer, id, pair.now);
    assert!(matches!(items.as_slice(), [Item::Finished]));
    pair.dialer.send_head(id, &answer()).unwrap();
    for _ in 0..3 {
        pair.dialer
            .write(id, &mut Bytes::from_static(b"x"))
            .unwrap();
        pair.settle();
    }
    let (items, _) = drain(&mut pair.acceptor, id, pair.now);
    assert_eq!(bytes_of(&items), b"xxx");
    assert_eq!(
        pair.acceptor.write(id, &mut Bytes::from_static(b"y")),
        Err(StreamError::Finished)
    );
}

#[test]
fn a_reset_reaches_both_halves_and_the_writer() {
    let mut pair = Pair::new(NONE);
    let id = pair.open();
    pair.dialer.send_head(id, &answer()).unwrap();
    pair.settle();
    pair.acceptor.reset(id, ResetCode::Cancelled);
    pair.settle();
    assert!(
        events(&mut pair.dialer)
            .iter()
            .any(|event| matches!(event, Event::Reset(_, ResetCode::Cancelled)))
    );
    let lost = StreamError::Reset(ResetCode::Cancelled);
    assert_eq!(
        pair.dialer.write(id, &mut Bytes::from_static(b"x")),
        Err(lost)
    );
    assert_eq!(drain(&mut pair.dialer, id, pair.now).1, Some(lost));
    assert_eq!(drain(&mut pair.acceptor, id, pair.now).1, Some(lost));
}

#[test]
fn a_reset_behind_a_whole_answer_does_not_take_it_back() {
    let mut pair = Pair::new(NONE);
    let id = pair.open();
    pair.dialer.send_head(id, &answer()).unwrap();
    pair.dialer
        .write(id, &mut Bytes::from_static(b"all of it"))
        .unwrap();
    pair.dialer.finish(id).unwrap();
    pair.settle();
    pair.dialer.reset(id, ResetCode::Internal);
    pair.settle();
    let (items, error) = drain(&mut pair.acceptor, id, pair.now);
    assert_eq!(error, None);
    assert_eq!(bytes_of(&items), b"all of it");
}

#[test]
fn an_answer_that_is_cut_short_is_read_to_where_it_broke() {
    for code in [ResetCode::Truncated, ResetCode::Timeout, ResetCode::Lost] {
        let mut pair = Pair::new(NONE);
        let id = pair.open();
        pair.dialer.send_head(id, &answer()).unwrap();
        // More than there is credit for: the end of it waits for the reader.
        let mut data = Bytes::from(vec![7; 200_000]);
        let taken = pair.dialer.write(id, &mut data).unwrap();
        pair.dialer.cut_short(id, code);
        // Whoever says it last of the layers above has not heard that it was said.
        pair.dialer.cut_short(id, code);
        pair.dialer.release_send(id);
        pair.dialer.release_recv(id);
        pair.settle();
        let mut read = 0;
        let error = loop {
            let (items, error) = drain(&mut pair.acceptor, id, pair.now);
            read += bytes_of(&items).len();
            if let Some(error) = error {
                break error;
            }
            pair.settle();
        };
        assert_eq!((read, error), (taken, StreamError::Reset(code)));
        pair.acceptor.release_send(id);
        pair.acceptor.release_recv(id);
        pair.settle();
        assert_eq!(pair.dialer.stream_count() + pair.acceptor.stream_count(), 0);
    }
}

#[test]
fn what_is_no_longer_permitted_is_not_read() {
    let mut pair = Pair::new(NONE);
    let id = pair.open();
    pair.dialer.send_head(id, &answer()).unwrap();
    let mut data = Bytes::from_static(b"a secret");
    pair.dialer.write(id, &mut data).unwrap();
    pair.settle();
    pair.dialer.reset(id, ResetCode::Withdrawn);
    pair.settle();
    let (items, error) = drain(&mut pair.acceptor, id, pair.now);
    assert!(items.is_empty());
    assert_eq!(error, Some(StreamError::Reset(ResetCode::Withdrawn)));
}

#[test]
fn who_wants_no_more_of_an_answer_that_is_cut_short_hears_of_the_break_at_once() {
    let mut pair = Pair::new(NONE);
    let id = pair.open();
    pair.dialer.send_head(id, &answer()).unwrap();
    let mut data = Bytes::from(vec![7; 200_000]);
    pair.dialer.write(id, &mut data).unwrap();
    pair.dialer.cut_short(id, ResetCode::Truncated);
    pair.settle();
    assert!(pair.acceptor.stats().buffered > 200_000);
    pair.acceptor.stop(id, ResetCode::Cancelled);
    pair.settle();
    let reset = |event: &Event| matches!(event, Event::Reset(_, ResetCode::Truncated));
    assert!(events(&mut pair.acceptor).iter().any(reset));
    let read = pair.acceptor.read(id, pair.now).map(drop);
    assert_eq!(read, Err(StreamError::Reset(ResetCode::Truncated)));
    assert_eq!(pair.acceptor.stats().buffered, 0, "nothing waits any more");
}

#[test]
fn a_stop_ends_one_half_and_leaves_the_other() {
    let mut pair = Pair::new(NONE);
    let id = pair.open();
    pair.acceptor
        .write(id, &mut Bytes::from(vec![0; 100_000]))
        .unwrap();
    pair.settle();
    pair.dialer.stop(id, ResetCode::NotNeeded);
    pair.settle();
    let stopped = StreamError::Stopped(ResetCode::NotNeeded);
    assert_eq!(
        pair.acceptor.write(id, &mut Bytes::from_static(b"x")),
        Err(stopped)
    );
    pair.dialer.send_head(id, &answer()).unwrap();
    pair.dialer.finish(id).unwrap();
    pair.settle();
    let (items, error) = drain(&mut pair.acceptor, id, pair.now);
    assert_eq!((items.len(), error), (2, None));
}

#[test]
fn a_dropped_handle_cancels_what_was_not_finished() {
    let mut pair = Pair::new(NONE);
    let id = pair.open();
    pair.acceptor.release_send(id);
    pair.acceptor.release_recv(id);
    pair.settle();
    assert_eq!(
        drain(&mut pair.dialer, id, pair.now).1,
        Some(StreamError::Reset(ResetCode::Cancelled))
    );
    assert_eq!(pair.acceptor.stats().streams, 0);
}

#[test]
fn a_stream_that_was_aborted_before_it_was_sent_is_never_sent() {
    let mut pair = Pair::new(NONE);
    pair.settle();
    let id = pair
        .acceptor
        .open(&call_head(), Bytes::new(), true)
        .unwrap();
    pair.acceptor.reset(id, ResetCode::Cancelled);
    pair.acceptor.release_send(id);
    pair.acceptor.release_recv(id);
    assert!(transmit(&mut pair.acceptor, pair.now).is_empty());
    assert_eq!(pair.acceptor.stats().streams, 0);
    let next = pair.open();
    assert!(next > id, "ids are never used twice");
}

#[test]
fn late_frames_of_a_forgotten_stream_are_harmless() {
    let mut pair = Pair::new(Duration::from_millis(75));
    let id = pair.open();
    pair.dialer.send_head(id, &answer()).unwrap();
    pair.dialer
        .write(id, &mut Bytes::from(vec![1; 10_000]))
        .unwrap();
    pair.acceptor.release_send(id);
    pair.acceptor.release_recv(id);
    pair.settle();
    assert_eq!(pair.acceptor.stats().streams, 0);
    assert!(!pair.acceptor.is_closed());
    pair.open();
}

#[test]
fn the_peers_stream_limit_is_kept_and_freed_again() {
    let mut small = config(Side::Dialer);
    small.hello.max_streams = 2;
    let mut pair = Pair::with(small, config(Side::Acceptor), NONE);
    let first = pair.open();
    pair.open();
    let full = pair.acceptor.open(&call_head(), Bytes::new(), true);
    assert_eq!(full, Err(OpenError::TooManyStreams));
    pair.acceptor.reset(first, ResetCode::Cancelled);
    // The RESET goes ahead of the OPEN: the peer's count never exceeds its limit.
    let next = pair
        .acceptor
        .open(&call_head(), Bytes::new(), true)
        .unwrap();
    pair.settle();
    assert_eq!(pair.dialer.accept().unwrap().0, next);
}

const QUEUE: usize = 16;

#[test]
fn control_messages_arrive_in_order_and_the_queue_is_bounded() {
    let mut pair = Pair::new(NONE);
    pair.settle();
    let notice = |n: usize| Control::Notice {
        code: None,
        text: n.to_string(),
    };
    for n in 0..QUEUE {
        pair.dialer.send_control(&notice(n)).unwrap();
    }
    assert_eq!(
        pair.dialer.send_control(&notice(99)),
        Err(ControlError::Full)
    );
    pair.settle();
    let texts: Vec<_> = events(&mut pair.acceptor)
        .into_iter()
        .filter_map(|event| match event {
            Event::Control(Control::Notice { text, .. }) => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(texts, (0..QUEUE).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn the_round_trip_is_measured() {
    let mut pair = Pair::new(Duration::from_millis(75));
    pair.advance(Duration::from_secs(1));
    pair.advance(Duration::from_secs(1));
    assert_eq!(pair.dialer.rtt(), Some(Duration::from_millis(150)));
    assert_eq!(pair.acceptor.rtt(), Some(Duration::from_millis(150)));
}

#[test]
fn pings_keep_an_idle_session_alive_for_hours() {
    let mut pair = Pair::new(Duration::from_millis(75));
    for _ in 0..10_000 {
        pair.advance(Duration::from_secs(1));
    }
    assert!(!pair.dialer.is_closed() && !pair.acceptor.is_closed());
}

/// Of bytes that nobody answers there may be more on a line than it takes in the time in which a peer is
/// given up; the other side hears of them all the while, and has nothing to say.
#[test]
fn a_long_queue_in_one_direction_is_no_dead_peer() {
    let mut pair = Pair::new(NONE);
    let second = Duration::from_secs(1);
    for seconds in 0..300 {
        // It takes in twice what it takes away, until it is full.
        pair.line(Side::Acceptor).queue = second * seconds.min(40) / 2;
        pair.advance(second);
    }
    assert!(!pair.dialer.is_closed() && !pair.acceptor.is_closed());
    let rtt = [pair.dialer.rtt(), pair.acceptor.rtt()];
    assert!(rtt.iter().all(|rtt| *rtt > Some(19 * second)), "{rtt:?}");
}

#[test]
fn a_silent_peer_is_known_to_be_dead_within_fifteen_seconds_and_every_stream_knows() {
    let now = start();
    let mut mux = greeted(Side::Acceptor, now);
    let id = mux.open(&call_head(), Bytes::new(), true).unwrap();
    assert!(matches!(mux.read(id, now), Ok(None)));
    let mut at = now;
    while let Some(next) = mux.poll_timeout() {
        at = next;
        if mux.handle_timeout(at).is_err() {
            break;
        }
        transmit(&mut mux, at);
    }
    assert_eq!(at - now, Duration::from_secs(14));
    assert!(matches!(mux.read(id, at), Err(StreamError::SessionLost)));
    assert!(matches!(
        events(&mut mux).last(),
        Some(Event::Closed(SessionError::Timeout(_)))
    ));
}

#[test]
fn a_peer_that_does_not_greet_is_given_up() {
    let now = start();
    let mut mux = Mux::new(config(Side::Dialer), now);
    assert_eq!(
        mux.open(&call_head(), Bytes::new(), true),
        Err(OpenError::NotReady)
    );
    let ends = mux.poll_timeout().unwrap();
    assert_eq!(ends - now, Duration::from_secs(10));
    assert!(mux.handle_timeout(ends).is_err());
}

#[test]
fn close_says_goodbye_once_and_the_peer_knows_why() {
    let mut pair = Pair::new(NONE);
    pair.settle();
    pair.dialer.close(GoawayCode::Replaced, "a newer session");
    let goodbye = transmit(&mut pair.dialer, pair.now);
    assert_eq!(frames(&goodbye), [Kind::Goaway]);
    assert!(transmit(&mut pair.dialer, pair.now).is_empty());
    assert!(pair.dialer.is_closed());
    let told = SessionError::Closed {
        code: GoawayCode::Replaced,
        reason: "a newer session".into(),
    };
    let error = pair.acceptor.handle_message(goodbye, pair.now);
    assert_eq!(error, Err(told.clone()));
    let last = events(&mut pair.acceptor).pop();
    assert!(matches!(last, Some(Event::Closed(error)) if error == told));
    assert!(transmit(&mut pair.acceptor, pair.now).is_empty());
}

#[test]
fn a_writer_that_waits_is_told_that_the_session_is_over() {
    let mut pair = Pair::new(NONE);
    let id = pair.open();
    while pair
        .acceptor
        .write(id, &mut Bytes::from(vec![0; 100_000]))
        .unwrap()
        > 0
    {}
    pair.acceptor.close(GoawayCode::Drain, "");
    let told = |event: &Event| matches!(event, Event::Writable(writer) if *writer == id);
    assert!(events(&mut pair.acceptor).iter().any(told));
    let lost = pair.acceptor.write(id, &mut Bytes::from_static(b"x"));
    assert_eq!(lost, Err(StreamError::SessionLost));
}

#[test]
fn few_pings_wait_for_their_answers() {
    let now = start();
    let mut mux = Mux::new(config(Side::Dialer), now);
    let greeting = transmit(&mut Mux::new(config(Side::Acceptor), now), now);
    mux.handle_message(greeting, now).unwrap();
    assert_eq!(frames(&transmit(&mut mux, now)), [Kind::Hello, Kind::Ping]);
    let mut later = now;
    let mut sent = |mux: &mut Mux| {
        later += Duration::from_secs(4);
        // Something else of the peer: it lives.
        let mut ping = BytesMut::new();
        put_frame(&mut ping, Kind::Ping, 0, 0, &9u64.to_be_bytes());
        mux.handle_message(ping.freeze(), later).unwrap();
        later += Duration::from_secs(1);
        mux.handle_timeout(later).unwrap();
        let sent = frames(&transmit(mux, later));
        (sent.contains(&Kind::Ping), later)
    };
    let answer = |mux: &mut Mux, number: u64, later| {
        let mut pong = BytesMut::new();
        put_frame(&mut pong, Kind::Pong, 0, 0, &number.to_be_bytes());
        mux.handle_message(pong.freeze(), later)
    };
    assert!(sent(&mut mux).0 && sent(&mut mux).0);
    let (ping, later) = sent(&mut mux);
    assert!(!ping, "three wait for their answers");
    answer(&mut mux, 1, later).unwrap();
    assert_eq!(mux.rtt(), Some(Duration::from_secs(15)));
    let (ping, later) = sent(&mut mux);
    assert!(ping);
    let early = answer(&mut mux, 3, later);
    assert!(early.is_err(), "the second one is still to be answered");
}

#[test]
fn what_a_configuration_has_out_of_range_is_brought_into_it() {
    let mut config = config(Side::Dialer);
    (config.hello.min_version, config.hello.max_version) = (0, 9);
    (config.hello.features, config.hello.initial_window) = (u64::MAX, 1);
    let limits = &mut config.limits;
    (limits.send_queue, limits.batch, limits.max_message) = (0, 0, 0);
    limits.max_window = u32::MAX;
    let mut mux = Mux::new(config, start());
    let mut greeting = transmit(&mut mux, start());
    let greeting = crate::frame::next(&mut greeting).unwrap().unwrap();
    let hello = crate::controls::decode_hello(greeting.payload).unwrap();
    assert_eq!((hello.min_version, hello.max_version), (VERSION, VERSION));
    assert_eq!(
        (hello.features, hello.initial_window),
        (FEATURES, MIN_WINDOW)
    );
    let limits = mux.limits;
    assert_eq!((limits.send_queue, limits.max_window), (1, MAX_WINDOW));
    assert!(limits.batch >= 4096 && limits.max_message >= MAX_CALL_HEAD);
}
