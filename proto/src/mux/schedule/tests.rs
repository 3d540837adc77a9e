//! The schedule alone: who is served after how much, whatever comes and goes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A stream as the schedule sees it: bytes that it can send, in frames of a length of its own.
#[derive(Debug, Default)]
struct Source {
    turn: Turn,
    queued: usize,
    frame: usize,
    /// It waits for credit.
    held: bool,
    sent: usize,
    /// Bytes of others since it could send, or last did.
    waited: i64,
}

impl Source {
    fn can_send(&self) -> bool {
        self.queued > 0 && !self.held
    }
}

/// A schedule and its streams. Ids rise and are never used again.
#[derive(Debug, Default)]
struct Line {
    schedule: Schedule,
    sources: BTreeMap<u32, Source>,
    next: u32,
    /// Most streams at once, and the longest frame, so far.
    most: usize,
    longest: usize,
}

impl Line {
    fn open(&mut self, frame: usize, bytes: usize, set: Option<Priority>) -> u32 {
        let id = self.next;
        self.next += 1;
        let source = Source {
            frame,
            ..Source::default()
        };
        self.sources.insert(id, source);
        self.most = self.most.max(self.sources.len());
        self.longest = self.longest.max(frame);
        self.write(id, bytes);
        self.set(id, set);
        id
    }

    fn set(&mut self, id: u32, set: Option<Priority>) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.turn.set(set);
        }
    }

    fn write(&mut self, id: u32, bytes: usize) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.queued += bytes;
            if source.can_send() {
                self.schedule.wake(StreamId(id), &mut source.turn);
            }
        }
    }

    fn hold(&mut self, id: u32, held: bool) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.held = held;
            if source.can_send() {
                self.schedule.wake(StreamId(id), &mut source.turn);
            } else {
                source.waited = 0;
            }
        }
    }

    /// Sends the next frame, as the multiplexer does; says whose it is.
    fn send(&mut self) -> Option<u32> {
        loop {
            let Some(id) = self.schedule.front() else {
                self.schedule.on_all_idle();
                return None;
            };
            let Some(source) = self.sources.get_mut(&id.0) else {
                self.schedule.drop_front();
                continue;
            };
            if !source.can_send() {
                self.schedule.on_idle(&mut source.turn, source.queued == 0);
                continue;
            }
            if !self.schedule.is_turn(&mut source.turn) {
                continue;
            }
            let bytes = source.queued.min(source.frame);
            source.queued -= bytes;
            source.sent += bytes;
            source.waited = 0;
            self.schedule.on_sent(&mut source.turn, bytes);
            if source.can_send() {
                self.schedule.on_more(&mut source.turn);
            } else {
                self.schedule.on_idle(&mut source.turn, source.queued == 0);
            }
            self.check(id.0, bytes);
            return Some(id.0);
        }
    }

    /// Whoever could have been served was not kept waiting for too long.
    fn check(&mut self, served: u32, bytes: usize) {
        let most = longest_wait(self.most, self.longest);
        for (id, source) in &mut self.sources {
            if *id != served && source.can_send() {
                source.waited += bytes as i64;
                assert!(source.waited <= most, "{id} waited for {}", source.waited);
            }
        }
    }

    fn sent(&self, id: u32) -> usize {
        self.sources[&id].sent
    }

    fn class(&self, id: u32) -> Priority {
        self.sources[&id].turn.class()
    }
}

/// As much as anybody can send.
const ENDLESS: usize = usize::MAX / 2;

#[derive(Debug, Clone)]
enum Step {
    Open(usize, usize, Option<Priority>),
    Write(prop::sample::Index, usize),
    Hold(prop::sample::Index, bool),
    Set(prop::sample::Index, Option<Priority>),
    Close(prop::sample::Index),
    Send(usize),
}

fn class() -> impl Strategy<Value = Option<Priority>> {
    prop::option::of(prop::sample::select(Priority::ALL.to_vec()))
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    let frame = prop_oneof![4 => Just(FRAME + 9), 2 => 100..FRAME, 1 => FRAME..110_000usize];
    let bytes = prop_oneof![3 => 1..2000usize, 2 => 1..500_000usize, 1 => Just(ENDLESS / 1000)];
    prop_oneof![
        2 => (frame, bytes.clone(), class()).prop_map(|(f, b, c)| Step::Open(f, b, c)),
        4 => (which(), bytes).prop_map(|(i, b)| Step::Write(i, b)),
        1 => (which(), any::<bool>()).prop_map(|(i, held)| Step::Hold(i, held)),
        1 => (which(), class()).prop_map(|(i, c)| Step::Set(i, c)),
        1 => which().prop_map(Step::Close),
        6 => (1..500usize).prop_map(Step::Send),
    ]
}

proptest! {
    #[test]
    fn whoever_can_send_is_served_within_the_bound_whatever_comes(
        longest in prop_oneof![3 => Just(FRAME + 9), 1 => Just(110_000usize)],
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut line = Line::default();
        for step in steps {
            let pick = |line: &Line, index: prop::sample::Index| {
                let ids: Vec<u32> = line.sources.keys().copied().collect();
                if ids.is_empty() { 0 } else { *index.get(&ids) }
            };
            match step {
                // Few at once, so that the bound is one that a defect would break.
                Step::Open(frame, bytes, set) => {
                    if line.sources.len() < 6 {
                        line.open(frame.min(longest), bytes, set);
                    }
                }
                Step::Write(index, bytes) => line.write(pick(&line, index), bytes),
                Step::Hold(index, held) => line.hold(pick(&line, index), held),
                Step::Set(index, set) => {
                    let id = pick(&line, index);
                    line.set(id, set);
                }
                Step::Close(index) => {
                    let id = pick(&line, index);
                    line.sources.remove(&id);
                }
                Step::Send(frames) => {
                    for _ in 0..frames {
                        line.send();
                    }
                }
            }
        }
    }

    #[test]
    fn long_transfers_of_one_class_get_equal_shares_at_any_moment(
        frames in prop::collection::vec(1000..=FRAME + 9, 2..8),
        set in class(),
        newcomers in prop::collection::vec(1..40_000usize, 0..50),
    ) {
        let mut line = Line::default();
        let ids: Vec<u32> = frames.iter().map(|frame| line.open(*frame, ENDLESS, set)).collect();
        // Until all of them are where they belong.
        while line.sources.values().any(|source| source.sent < 2 * BULK_FROM as usize) {
            line.send();
        }
        let before: Vec<usize> = ids.iter().map(|id| line.sent(*id)).collect();
        let mut newcomers = newcomers.into_iter();
        for turn in 0..2000 {
            if turn % 3 == 0 && let Some(bytes) = newcomers.next() {
                line.open(FRAME, bytes, None);
            }
            line.send();
            let moved = ids.iter().zip(&before).map(|(id, before)| line.sent(*id) - before);
            let (least, most) = (moved.clone().min().unwrap(), moved.max().unwrap());
            // What is known of deficit round robin: a quantum, and a frame at either end.
            let allowed = QUANTUM as usize + 2 * line.longest;
            prop_assert!(most - least <= allowed, "{} to {}", least, most);
        }
    }

    #[test]
    fn classes_share_by_their_weights_while_each_has_something_to_send(
        counts in prop::array::uniform3(1..5usize),
        frames in 1..=4000usize,
    ) {
        let mut line = Line::default();
        for (priority, count) in Priority::ALL.into_iter().zip(counts) {
            for _ in 0..count {
                line.open(FRAME / 2 + frames, ENDLESS, Some(priority));
            }
        }
        let mut total = 0;
        while total < 50_000_000 {
            let id = line.send().unwrap();
            total += line.sources[&id].frame;
        }
        for (priority, weight) in Priority::ALL.into_iter().zip(WEIGHTS) {
            let of_class = |source: &&Source| source.turn.set == Some(priority);
            let sent: usize = line.sources.values().filter(of_class).map(|s| s.sent).sum();
            let share = sent as f64 / total as f64;
            prop_assert!((share - weight as f64 / 7.0).abs() < 0.01, "{priority}: {share}");
        }
    }
}

#[test]
fn a_stream_that_keeps_its_queue_full_goes_down_and_comes_back_after_a_rest() {
    let mut line = Line::default();
    let other = line.open(FRAME, ENDLESS, None);
    let id = line.open(FRAME, 100, None);
    assert_eq!(line.class(id), Priority::Interactive);
    line.write(id, 3 * FRAME);
    while line.sent(id) <= 2 * FRAME {
        line.send();
    }
    assert_eq!(line.class(id), Priority::Normal);
    line.write(id, 4 * BULK_FROM as usize);
    while line.sources[&id].queued > 0 {
        line.send();
    }
    assert_eq!(line.class(id), Priority::Bulk);
    // A short pause does not change that, a long one does.
    let rest = |line: &mut Line, bytes: usize| {
        let end = line.sent(other) + bytes;
        while line.sent(other) < end {
            line.send();
        }
        line.write(id, 1);
    };
    rest(&mut line, 200_000);
    assert_eq!(line.class(id), Priority::Bulk);
    while line.sources[&id].queued > 0 {
        line.send();
    }
    rest(&mut line, 1_000_000);
    assert_eq!(line.class(id), Priority::Normal);
    while line.sources[&id].queued > 0 {
        line.send();
    }
    rest(&mut line, 1_000_000);
    assert_eq!(line.class(id), Priority::Interactive);
}

#[test]
fn many_small_messages_stay_interactive_on_a_line_that_is_never_full() {
    let mut line = Line::default();
    let id = line.open(FRAME, 100, None);
    for _ in 0..100_000 {
        line.write(id, 1000);
        assert_eq!(line.class(id), Priority::Interactive);
        while line.send().is_some() {}
    }
}

#[test]
fn small_messages_stay_interactive_beside_bulk_and_go_first() {
    let mut line = Line::default();
    let bulk: Vec<u32> = (0..4).map(|_| line.open(FRAME, ENDLESS, None)).collect();
    while line.class(bulk[3]) != Priority::Bulk {
        line.send();
    }
    let small = line.open(FRAME, 1, None);
    for _ in 0..10_000 {
        while line.sources[&small].queued > 0 {
            assert_eq!(line.send(), Some(small));
        }
        for _ in 0..4 {
            line.send();
        }
        line.write(small, 1000);
        assert_eq!(line.class(small), Priority::Interactive);
    }
}

#[test]
fn a_transfer_in_pieces_that_empty_its_queue_is_not_interactive_for_long() {
    let mut line = Line::default();
    let bulk = line.open(FRAME, ENDLESS, Some(Priority::Bulk));
    let pieces = line.open(FRAME, 1, None);
    let mut sent = 0;
    while sent < 40_000_000 {
        line.write(pieces, FRAME);
        while line.sources[&pieces].queued > 0 {
            let id = line.send().unwrap();
            sent += if id == bulk || id == pieces { FRAME } else { 0 };
        }
    }
    assert_eq!(line.class(pieces), Priority::Bulk);
    let (least, most) = (line.sent(bulk), line.sent(pieces));
    assert!(2 * least > most, "{least} against {most}");
}

#[test]
fn a_stream_that_waits_for_credit_does_not_rest() {
    let mut line = Line::default();
    line.open(FRAME, ENDLESS, None);
    let id = line.open(FRAME, ENDLESS, None);
    while line.class(id) != Priority::Bulk {
        line.send();
    }
    line.hold(id, true);
    for _ in 0..1000 {
        line.send();
    }
    line.hold(id, false);
    assert_eq!(line.class(id), Priority::Bulk);
}

#[test]
fn a_class_that_is_set_counts_after_the_first_turn_and_until_it_is_earned_again() {
    let mut line = Line::default();
    let first = line.open(FRAME, 10, Some(Priority::Bulk));
    let second = line.open(FRAME, 10, None);
    // OPENs leave in order, whatever they are to become.
    assert_eq!((line.send(), line.send()), (Some(first), Some(second)));
    line.write(first, 10);
    line.write(second, 10);
    assert_eq!((line.send(), line.send()), (Some(second), Some(first)));
    line.set(first, None);
    line.write(first, 10);
    line.write(second, 10);
    assert_eq!((line.send(), line.send()), (Some(first), Some(second)));
}
