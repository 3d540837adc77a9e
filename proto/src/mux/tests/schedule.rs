//! Who is served when, and how batches are filled.

use super::floods::refusing;
use super::hostile::open;
use super::pair::{Pair, drain};
use super::*;
use crate::frame::{self, Frame};
use crate::limits::{FRAME, MAX_HEADER_LIST};
use crate::mux::stream::Stream;
use crate::priority::Priority;

fn frames(batch: Bytes) -> Vec<Frame> {
    let mut batch = batch;
    std::iter::from_fn(|| frame::next(&mut batch).unwrap()).collect()
}

/// One batch.
fn batch(mux: &mut Mux, now: Instant) -> Bytes {
    let mut batch = BytesMut::new();
    mux.poll_transmit(&mut batch, now);
    batch.freeze()
}

fn kilobytes(count: usize) -> Bytes {
    Bytes::from(vec![0; count * 1024])
}

#[test]
fn a_batch_stays_within_its_limit_and_holds_whole_frames() {
    let mut pair = Pair::new(Duration::ZERO);
    let ids: Vec<StreamId> = (0..5).map(|_| pair.open()).collect();
    for id in ids {
        pair.acceptor.write(id, &mut kilobytes(200)).unwrap();
    }
    for _ in 0..10 {
        let batch = batch(&mut pair.acceptor, pair.now);
        assert!(batch.len() <= Limits::default().batch);
        assert!(batch.len() > Limits::default().batch - 2048, "and is full");
        for frame in frames(batch) {
            assert!(frame.payload.len() <= FRAME);
        }
    }
}

#[test]
fn streams_share_by_bytes() {
    let mut pair = Pair::new(Duration::ZERO);
    let ids: Vec<StreamId> = (0..3).map(|_| pair.open()).collect();
    for id in &ids {
        pair.acceptor.write(*id, &mut kilobytes(200)).unwrap();
    }
    let mut sent = std::collections::HashMap::new();
    for _ in 0..6 {
        for frame in frames(batch(&mut pair.acceptor, pair.now)) {
            *sent.entry(frame.stream).or_insert(0) += frame.payload.len();
        }
    }
    let shares: Vec<usize> = ids.iter().map(|id| sent[&id.0]).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= 2 * FRAME, "{shares:?}");
}

#[test]
fn a_small_call_goes_before_bulk_that_has_been_sending() {
    let mut pair = Pair::new(Duration::ZERO);
    let bulk: Vec<StreamId> = (0..4).map(|_| pair.open()).collect();
    for id in &bulk {
        pair.acceptor.write(*id, &mut kilobytes(200)).unwrap();
    }
    batch(&mut pair.acceptor, pair.now);
    batch(&mut pair.acceptor, pair.now);
    let small = pair
        .acceptor
        .open(&call_head(), Bytes::from_static(b"x"), true)
        .unwrap();
    let first = &frames(batch(&mut pair.acceptor, pair.now))[0];
    assert_eq!((first.kind, first.stream), (Kind::Open, small.0));
}

#[test]
fn a_class_that_is_set_decides_who_gets_how_much() {
    let mut pair = Pair::new(Duration::ZERO);
    let (bulk, normal) = (pair.open(), pair.open());
    for (id, priority) in [(bulk, Priority::Bulk), (normal, Priority::Normal)] {
        pair.acceptor.set_priority(id, Some(priority));
        pair.acceptor.write(id, &mut kilobytes(200)).unwrap();
    }
    let mut sent = std::collections::HashMap::new();
    for _ in 0..3 {
        for frame in frames(batch(&mut pair.acceptor, pair.now)) {
            *sent.entry(frame.stream).or_insert(0) += frame.payload.len();
        }
    }
    let (bulk, normal) = (sent[&bulk.0], sent[&normal.0]);
    assert!(2 * bulk <= normal + FRAME, "{bulk} beside {normal}");
    assert!(3 * bulk >= normal - FRAME, "{bulk} beside {normal}");
}

#[test]
fn an_open_leaves_in_its_order_whatever_class_is_set() {
    let mut pair = Pair::new(Duration::ZERO);
    let classes = [Priority::Bulk, Priority::Interactive, Priority::Normal];
    let ids: Vec<u32> = (0..30)
        .map(|n| {
            let mux = &mut pair.acceptor;
            let id = mux.open(&call_head(), kilobytes(40), true).unwrap();
            mux.set_priority(id, Some(classes[n % 3]));
            id.0
        })
        .collect();
    let sent = frames(transmit(&mut pair.acceptor, pair.now));
    let opens = sent
        .iter()
        .filter(|frame| frame.kind == Kind::Open)
        .map(|frame| frame.stream);
    assert_eq!(opens.collect::<Vec<_>>(), ids);
}

#[test]
fn newcomers_without_end_do_not_starve_bulk() {
    let mut pair = Pair::new(Duration::ZERO);
    let bulk = pair.open();
    pair.acceptor.write(bulk, &mut kilobytes(200)).unwrap();
    batch(&mut pair.acceptor, pair.now);
    let (mut served, mut total) = (0, 0);
    for _ in 0..5 {
        for _ in 0..8 {
            pair.acceptor
                .open(&call_head(), kilobytes(15), true)
                .unwrap();
        }
        for frame in frames(batch(&mut pair.acceptor, pair.now)) {
            total += frame.payload.len();
            if frame.stream == bulk.0 {
                served += frame.payload.len();
            }
        }
    }
    assert!(served * 8 >= total, "{served} of {total}");
}

#[test]
fn opens_leave_in_the_order_of_their_ids_whatever_their_size() {
    let mut pair = Pair::new(Duration::ZERO);
    let mut ids = Vec::new();
    for round in 0..300 {
        let body = Bytes::from(vec![0; (round * 7919) % 30_000]);
        ids.push(
            pair.acceptor
                .open(&call_head(), body, round % 2 == 0)
                .unwrap()
                .0,
        );
    }
    let sent = frames(transmit(&mut pair.acceptor, pair.now));
    let opens = sent
        .iter()
        .filter(|frame| frame.kind == Kind::Open)
        .map(|frame| frame.stream);
    assert_eq!(opens.collect::<Vec<_>>(), ids);
}

#[test]
fn credit_resets_and_pings_go_before_data() {
    let mut pair = Pair::new(Duration::ZERO);
    let (read, reset, bulk) = (pair.open(), pair.open(), pair.open());
    pair.dialer.write(read, &mut kilobytes(200)).unwrap();
    pair.settle();
    pair.acceptor.write(bulk, &mut kilobytes(200)).unwrap();
    batch(&mut pair.acceptor, pair.now);
    drain(&mut pair.acceptor, read, pair.now);
    pair.acceptor.reset(reset, ResetCode::Cancelled);
    pair.now += Duration::from_secs(5);
    pair.acceptor.handle_timeout(pair.now).unwrap();
    let notice = Control::Notice {
        code: None,
        text: "hello".into(),
    };
    pair.acceptor.send_control(&notice).unwrap();
    let kinds: Vec<Kind> = frames(batch(&mut pair.acceptor, pair.now))
        .iter()
        .map(|frame| frame.kind)
        .collect();
    let before: Vec<Kind> = kinds
        .iter()
        .take_while(|kind| **kind != Kind::Data)
        .copied()
        .collect();
    for kind in [Kind::Ping, Kind::Window, Kind::Reset, Kind::Notice] {
        assert!(before.contains(&kind), "{kinds:?}");
    }
}

#[test]
fn the_end_of_a_stream_goes_before_the_one_that_takes_its_place() {
    let mut few = config(Side::Dialer);
    few.hello.max_streams = 600;
    let mut small = config(Side::Acceptor);
    small.limits.batch = 4 * 1024;
    let mut pair = Pair::with(few, small, Duration::ZERO);
    let open = |pair: &mut Pair| {
        pair.acceptor
            .open(&call_head(), Bytes::new(), true)
            .unwrap()
    };
    let first: Vec<StreamId> = (0..600).map(|_| open(&mut pair)).collect();
    pair.settle();
    for id in first {
        pair.acceptor.reset(id, ResetCode::Cancelled);
    }
    // More RESETs than a batch holds, and more new calls than there may be beside the old ones.
    for _ in 0..600 {
        open(&mut pair);
    }
    pair.settle();
    assert_eq!(pair.dialer.stats().refused, 0);
    assert_eq!(pair.dialer.stream_count(), 600);
}

#[test]
fn a_head_larger_than_a_batch_is_sent_whole_and_soon() {
    let mut config_ = config(Side::Acceptor);
    config_.limits.batch = 8 * 1024;
    let mut pair = Pair::with(config(Side::Dialer), config_, Duration::ZERO);
    let bulk = pair.open();
    pair.acceptor.write(bulk, &mut kilobytes(200)).unwrap();
    let mut call = call_head();
    let value = "v".repeat(MAX_HEADER_LIST / 2);
    call.headers.insert("x-large", value.parse().unwrap());
    let large = pair.acceptor.open(&call, Bytes::new(), true).unwrap();
    for _ in 0..3 {
        let frames = frames(batch(&mut pair.acceptor, pair.now));
        if frames
            .iter()
            .any(|frame| frame.kind == Kind::Open && frame.stream == large.0)
        {
            return;
        }
    }
    panic!("it waits behind bulk");
}

#[test]
fn a_large_head_goes_beside_any_number_of_small_frames() {
    let mut victim = refusing();
    victim.mux.limits.batch = 8 * 1024;
    let mut call = call_head();
    let value = "v".repeat(MAX_HEADER_LIST / 2);
    call.headers.insert("x-large", value.parse().unwrap());
    victim.mux.open(&call, Bytes::new(), true).unwrap();
    for round in 0..3 {
        // Each is refused, by a frame that goes before the turn of streams.
        let calls = (0..250).map(|n| open(1 + 2 * (250 * round + n), frame::FIN, b""));
        victim.take(&calls.collect::<Vec<_>>()).unwrap();
        let frames = frames(batch(&mut victim.mux, victim.now));
        if frames.iter().any(|frame| frame.kind == Kind::Open) {
            return;
        }
    }
    panic!("it waits for a moment without them");
}

#[test]
fn small_writes_leave_as_one_frame() {
    let mut pair = Pair::new(Duration::ZERO);
    let id = pair.open();
    for _ in 0..1000 {
        pair.acceptor
            .write(id, &mut Bytes::from_static(b"ten bytes."))
            .unwrap();
    }
    let sent = frames(batch(&mut pair.acceptor, pair.now));
    assert_eq!(
        sent.iter()
            .map(|frame| frame.payload.len())
            .collect::<Vec<_>>(),
        [10_000]
    );
}

#[test]
fn the_end_travels_with_the_last_bytes() {
    let mut pair = Pair::new(Duration::ZERO);
    let id = pair.open();
    pair.dialer.send_head(id, &answer()).unwrap();
    pair.dialer.finish(id).unwrap();
    let sent = frames(batch(&mut pair.dialer, pair.now));
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].kind, sent[0].flags), (Kind::Head, frame::FIN));
    // Said too late for that, it travels alone.
    let id = pair
        .acceptor
        .open(&call_head(), Bytes::new(), false)
        .unwrap();
    batch(&mut pair.acceptor, pair.now);
    pair.acceptor.finish(id).unwrap();
    let sent = frames(batch(&mut pair.acceptor, pair.now));
    assert_eq!(
        sent.iter().map(|frame| frame.kind).collect::<Vec<_>>(),
        [Kind::Finish]
    );
}

#[test]
fn an_idle_session_holds_next_to_nothing() {
    let mut pair = Pair::new(Duration::ZERO);
    for _ in 0..500 {
        pair.acceptor
            .open(&call_head(), kilobytes(1), true)
            .unwrap();
    }
    pair.settle();
    while let Some((id, _)) = pair.dialer.accept() {
        drain(&mut pair.dialer, id, pair.now);
        pair.dialer.finish(id).unwrap();
        pair.dialer.release_send(id);
        pair.dialer.release_recv(id);
        pair.acceptor.release_send(id);
        pair.acceptor.release_recv(id);
    }
    pair.settle();
    for mux in [&mut pair.dialer, &mut pair.acceptor] {
        events(mux);
        assert_eq!(mux.stats().streams, 0);
        assert!(mux.streams.capacity() <= 64, "{}", mux.streams.capacity());
        assert!(!mux.has_transmit());
    }
    assert!(size_of::<Mux>() < 2048);
    assert!(size_of::<Stream>() < 512);
}
