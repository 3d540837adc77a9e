//! Windows that grow on a long line, out of a budget that sessions and tenants share.

use super::pair::{Pair, bytes_of, drain};
use super::*;
use crate::growth::{GrowthBudget, Share};
use crate::mux::stream::Stream;

/// One way of the long line.
const DELAY: Duration = Duration::from_millis(75);

const MEGABYTE: u64 = 1024 * 1024;

/// What a window begins with.
const FIRST: u64 = 256 * 1024;

/// A transfer from dialer to acceptor over a long line, read as it comes.
struct Transfer {
    pair: Pair,
    id: StreamId,
    moved: usize,
}

impl Transfer {
    fn new(delay: Duration, budget: &GrowthBudget) -> Self {
        let mut acceptor = config(Side::Acceptor);
        acceptor.limits.growth = budget.clone();
        let mut pair = Pair::with(config(Side::Dialer), acceptor, delay);
        // A round trip is measured.
        pair.advance(Duration::from_secs(1));
        let id = pair.open();
        Self { pair, id, moved: 0 }
    }

    /// A millisecond in which as much is written as the queue takes.
    fn step(&mut self) {
        let bytes = Bytes::from(vec![0; 256 * 1024]);
        while self.pair.dialer.write(self.id, &mut bytes.clone()).unwrap() > 0 {
            while self.pair.send() {}
        }
        self.pass();
    }

    /// A millisecond in which nothing is written.
    fn pass(&mut self) {
        self.pair.advance(Duration::from_millis(1));
        let (items, _) = drain(&mut self.pair.acceptor, self.id, self.pair.now);
        self.moved += bytes_of(&items).len();
        events(&mut self.pair.dialer);
        events(&mut self.pair.acceptor);
    }

    fn granted(&self) -> u64 {
        self.pair.acceptor.stats().granted
    }

    fn end(&mut self) {
        for mux in [&mut self.pair.dialer, &mut self.pair.acceptor] {
            mux.release_send(self.id);
            mux.release_recv(self.id);
        }
        self.pair.settle();
    }
}

/// What one stream moves in `time`.
fn moved(time: Duration, budget: &GrowthBudget) -> usize {
    let mut transfer = Transfer::new(DELAY, budget);
    for _ in 0..time.as_millis() {
        transfer.step();
    }
    transfer.moved
}

#[test]
fn a_window_is_worth_nearly_its_whole_size_every_round_trip() {
    let time = Duration::from_secs(6);
    let windows = moved(time, &GrowthBudget::default()) as f64 / FIRST as f64;
    let trips = time.as_secs_f64() / (2.0 * DELAY.as_secs_f64());
    assert!(
        windows > 0.9 * (trips - 2.0),
        "{windows} windows in {trips} round trips"
    );
    assert!(windows <= trips + 1.0, "and never more");
}

#[test]
fn a_window_that_may_grow_fills_a_long_line() {
    let time = Duration::from_secs(3);
    let fixed = moved(time, &GrowthBudget::default());
    let grown = moved(time, &GrowthBudget::new(8 * MEGABYTE));
    assert!(grown > 5 * fixed, "{grown} against {fixed}");
}

#[test]
fn grown_windows_give_back_their_budget_when_their_streams_end() {
    let budget = GrowthBudget::new(MEGABYTE);
    let mut transfer = Transfer::new(DELAY, &budget);
    for _ in 0..3 {
        for _ in 0..2000 {
            transfer.step();
        }
        assert_eq!(
            transfer.granted(),
            FIRST + MEGABYTE,
            "the budget is a bound"
        );
        transfer.end();
        assert_eq!((transfer.granted(), budget.used()), (0, 0));
        transfer.id = transfer.pair.open();
    }
}

#[test]
fn a_window_that_was_idle_shrinks_to_its_first_size_as_it_is_used_again() {
    let budget = GrowthBudget::new(4 * MEGABYTE);
    let mut transfer = Transfer::new(DELAY, &budget);
    for _ in 0..3000 {
        transfer.step();
    }
    assert_eq!(transfer.granted(), FIRST + 4 * MEGABYTE);
    // Longer than two pings: what was read last counts as use until the first.
    for _ in 0..11_000 {
        transfer.pass();
    }
    // The peer keeps the credit that it has, but gets no new one for what it uses of it.
    let bytes = Bytes::from(vec![0; 16 * 1024]);
    for millisecond in 0..15_000 {
        if millisecond % 50 == 0 {
            let mux = &mut transfer.pair.dialer;
            mux.write(transfer.id, &mut bytes.clone()).unwrap();
        }
        transfer.pass();
    }
    assert_eq!((transfer.granted(), budget.used()), (FIRST, 0));
}

#[test]
fn as_many_windows_shrink_as_make_up_what_a_session_holds_too_much() {
    const KIB: u32 = 1024;
    let budget = GrowthBudget::new(MEGABYTE);
    let greedy = Accounts::new(GrowthBudget::default(), None);
    let mut streams = Streams::new(Side::Acceptor, budget.of_tenant("greedy"), greedy);
    for id in (1..17).step_by(2).map(StreamId) {
        streams.insert(id, Stream::new(false, MIN_WINDOW, MIN_WINDOW));
        streams.grow(id, 112 * KIB);
    }
    assert_eq!(budget.used(), 8 * 112 * 1024);
    let mut newcomer = Share::new(budget.of_tenant("newcomer"));
    newcomer.take(512 * KIB);
    streams.rebalance();
    // Half of the budget is its part: 384 KiB too much, in halves of what windows have grown by.
    let mut cuts: Vec<u32> = (1..17)
        .step_by(2)
        .map(|id| {
            let window = &mut streams.find_mut(StreamId(id)).unwrap().recv.window;
            window.receive(window.credit() as usize).unwrap();
            window.read(window.buffered());
            window.shrink()
        })
        .collect();
    cuts.sort_unstable();
    assert_eq!(cuts, [[0].as_slice(), &[56 * KIB; 7]].concat());
}

#[test]
fn a_newcomer_tenant_gets_its_equal_part_soon_from_one_whose_bulk_holds_everything() {
    let budget = GrowthBudget::new(4 * MEGABYTE);
    let (many, one) = (budget.of_tenant("many"), budget.of_tenant("one"));
    let mut first: Vec<_> = (0..3).map(|_| Transfer::new(DELAY, &many)).collect();
    let all = |transfers: &mut [Transfer]| transfers.iter_mut().for_each(Transfer::step);
    for _ in 0..8000 {
        all(&mut first);
    }
    let rounding = 8;
    assert!(
        budget.used() + rounding >= budget.total(),
        "they have everything"
    );
    let mut late = Transfer::new(DELAY, &one);
    // Two rounds of pings: in the first it is seen to claim its part, in the second what an
    // uneven start has left over is settled.
    for _ in 0..11_000 {
        all(&mut first);
        late.step();
    }
    let held = late.granted() - FIRST;
    assert!(
        held + rounding >= 2 * MEGABYTE,
        "{held} of half, however many sessions the other has"
    );
    for transfer in &first {
        let held = transfer.granted() - FIRST;
        assert!(held * 2 >= MEGABYTE / 3 * 2, "{held} of an equal part");
    }
}
