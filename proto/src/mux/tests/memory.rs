//! What waits takes bounded memory: for a stream, and for all sessions of a process.

use super::pair::{Pair, bytes_of, drain};
use super::*;
use crate::growth::GrowthBudget;
use crate::limits::{FLOOR, FRAME};
use crate::mux::stream::Received;
use crate::mux::streams::FREE;

const KIB: usize = 1024;

/// Two ends of which the acceptor (and, if so, the dialer) has only so much memory.
fn pair(acceptor: &GrowthBudget, dialer: Option<&GrowthBudget>) -> Pair {
    let mut configs = [config(Side::Dialer), config(Side::Acceptor)];
    configs[1].limits.waiting = acceptor.clone();
    if let Some(dialer) = dialer {
        configs[0].limits.waiting = dialer.clone();
    }
    let [dialer, acceptor] = configs;
    Pair::with(dialer, acceptor, Duration::ZERO)
}

fn write(mux: &mut Mux, id: StreamId, bytes: usize) -> usize {
    let mut data = Bytes::from(vec![7; bytes]);
    mux.write(id, &mut data).unwrap()
}

#[test]
fn small_pieces_take_hardly_more_memory_than_their_bytes() {
    let mut pair = Pair::new(Duration::ZERO);
    let id = pair.open();
    for byte in 0..100_000u32 {
        let mut message = BytesMut::new();
        put_frame(&mut message, Kind::Data, 0, id.0, &[byte as u8]);
        pair.acceptor
            .handle_message(message.freeze(), pair.now)
            .unwrap();
    }
    let queue = &pair.acceptor.streams.find(id).unwrap().recv.queue;
    assert_eq!(queue.len(), 100_000usize.div_ceil(FRAME));
    let held: usize = queue
        .iter()
        .map(|received| match received {
            Received::Gathered(data) => data.capacity(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(held <= 200_000, "{held}");
    let (items, _) = drain(&mut pair.acceptor, id, pair.now);
    let sent: Vec<u8> = (0..100_000u32).map(|byte| byte as u8).collect();
    assert!(bytes_of(&items) == sent, "in order and unchanged");
}

#[test]
fn a_session_with_little_waiting_leaves_the_budget_alone() {
    let budget = GrowthBudget::new(1 << 30);
    let mut pair = pair(&budget, None);
    let id = pair.open();
    for _ in 0..100 {
        assert_eq!(write(&mut pair.dialer, id, 60 * KIB), 60 * KIB);
        pair.settle();
        assert_eq!(budget.used(), 0);
        drain(&mut pair.acceptor, id, pair.now);
        pair.settle();
    }
}

#[test]
fn writers_wait_for_memory_but_every_stream_moves_on() {
    let budget = GrowthBudget::new(100 * KIB as u64);
    let mut pair = pair(&budget, None);
    let (greedy, other) = (pair.open(), pair.open());
    let taken = write(&mut pair.acceptor, greedy, 256 * KIB);
    assert_eq!(taken, FLOOR, "there is no memory for the whole");
    let mut taken = taken;
    while let more @ 1.. = write(&mut pair.acceptor, greedy, 16 * KIB) {
        taken += more;
    }
    assert!(taken < 256 * KIB, "{taken}");
    assert!(budget.used() <= budget.total());
    assert_eq!(write(&mut pair.acceptor, other, 64 * KIB), FLOOR);
    assert_eq!(
        write(&mut pair.acceptor, other, 1),
        0,
        "it is told when it can go on"
    );
    pair.settle();
    let told = events(&mut pair.acceptor);
    for id in [greedy, other] {
        let writable = |event: &Event| matches!(event, Event::Writable(of) if *of == id);
        assert!(told.iter().any(writable), "{told:?}");
    }
    assert_eq!(write(&mut pair.acceptor, other, 64 * KIB), 64 * KIB);
}

#[test]
fn without_memory_a_stream_that_nobody_reads_is_broken_off_and_those_that_are_read_go_on() {
    let budget = GrowthBudget::new(100 * KIB as u64);
    let mut pair = pair(&budget, None);
    let (stuck, read) = (pair.open(), pair.open());
    let piece = || Bytes::from(vec![7; 16 * KIB]);
    let mut sent = 0;
    while pair.dialer.write(stuck, &mut piece()).is_ok() {
        pair.settle();
        sent += 16;
        assert!(sent <= 256, "{sent} KiB wait");
    }
    assert!(
        sent > 100,
        "{sent} KiB may wait: 64 are free, the budget has 100"
    );
    let stats = pair.acceptor.stats();
    assert_eq!(stats.buffered, 0, "what waited of it is gone");
    assert_eq!(budget.used(), 0, "and its memory is free again");
    let overloaded = Err(StreamError::Reset(ResetCode::Overloaded));
    assert_eq!(pair.acceptor.read(stuck, pair.now).map(drop), overloaded);
    let mut nothing = Bytes::from_static(b"x");
    assert_eq!(pair.dialer.write(stuck, &mut nothing).map(drop), overloaded);

    let mut arrived = 0;
    for _ in 0..100 {
        assert_eq!(write(&mut pair.dialer, read, 16 * KIB), 16 * KIB);
        pair.settle();
        arrived += bytes_of(&drain(&mut pair.acceptor, read, pair.now).0).len();
        pair.settle();
    }
    assert_eq!(arrived, 1600 * KIB);
}

#[test]
fn heads_that_nobody_reads_take_no_more_memory_than_data_does() {
    const STREAMS: usize = 20;
    let budget = GrowthBudget::new(100 * KIB as u64);
    let mut pair = pair(&budget, None);
    let Head::Response(mut hints) = answer() else {
        unreachable!()
    };
    hints.status = StatusCode::EARLY_HINTS;
    hints
        .headers
        .insert("link", "x".repeat(60 * KIB).parse().unwrap());
    let hints = Head::Interim(hints);
    let ids: Vec<StreamId> = (0..STREAMS).map(|_| pair.open()).collect();
    for _ in 0..4 {
        for id in &ids {
            // Those that were broken off take no more.
            let _ = pair.dialer.send_head(*id, &hints);
            pair.settle();
            let buffered = pair.acceptor.stats().buffered;
            let most = FREE + 100 * KIB + STREAMS * FLOOR;
            assert!(buffered <= most, "{buffered} bytes wait of {most}");
        }
    }
    let broken_off = |id: &&StreamId| {
        let result = pair.dialer.send_head(**id, &hints);
        result == Err(StreamError::Reset(ResetCode::Overloaded))
    };
    assert!(ids.iter().filter(broken_off).count() > 0);
}

#[test]
fn memory_that_a_busy_session_had_is_given_back_when_it_is_idle() {
    let budget = GrowthBudget::new(1 << 30);
    let mut pair = pair(&budget, Some(&budget));
    let ids = [(); 8].map(|()| pair.open());
    for id in ids {
        write(&mut pair.dialer, id, 256 * KIB);
    }
    pair.settle();
    assert!(budget.used() >= (8 * 256 - 64) as u64 * KIB as u64);
    for id in ids {
        drain(&mut pair.acceptor, id, pair.now);
    }
    pair.advance(Duration::from_secs(6));
    assert_eq!(budget.used(), 0);
}
