//! A simple model beside two real ends: what was written, read and ended, and what must follow.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::pair::Pair;
use super::*;
use crate::frame;
use crate::growth::GrowthBudget;
use crate::head::Refusal;
use crate::mux::stream::RecvState;

/// One step of a conversation. `usize`s pick among what there is.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Open { side: Side, body: usize, end: bool },
    Accept(Side),
    Write { handle: usize, bytes: usize },
    Answer { handle: usize, refuse: bool },
    Finish(usize),
    Read { handle: usize, items: usize },
    Reset(usize),
    Stop(usize),
    ReleaseSend(usize),
    ReleaseRecv(usize),
    Send,
    Advance(u64),
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Dialer), Just(Side::Acceptor)]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let pick = any::<usize>();
    let bytes = prop_oneof![1..200usize, 1..40_000usize, 100_000..400_000usize];
    prop_oneof![
        3 => (side(), 0..5000usize, any::<bool>())
            .prop_map(|(side, body, end)| Step::Open { side, body, end }),
        3 => side().prop_map(Step::Accept),
        8 => (pick, bytes).prop_map(|(handle, bytes)| Step::Write { handle, bytes }),
        2 => (pick, prop::bool::weighted(0.1))
            .prop_map(|(handle, refuse)| Step::Answer { handle, refuse }),
        2 => pick.prop_map(Step::Finish),
        8 => (pick, 1..40usize).prop_map(|(handle, items)| Step::Read { handle, items }),
        1 => pick.prop_map(Step::Reset),
        1 => pick.prop_map(Step::Stop),
        1 => pick.prop_map(Step::ReleaseSend),
        1 => pick.prop_map(Step::ReleaseRecv),
        8 => Just(Step::Send),
        8 => (0..200u64).prop_map(Step::Advance),
    ]
}

/// What the model knows of one end of a stream.
#[derive(Debug)]
struct Handle {
    side: Side,
    id: StreamId,
    opener: bool,
    written: usize,
    finished: bool,
    /// The send half was ended by something else than `finish`.
    broken: bool,
    read: usize,
    ended: bool,
    sends: bool,
    receives: bool,
    /// A write took nothing, and no event came since.
    blocked: bool,
    /// A read gave nothing, and no event came since.
    waiting: bool,
}

impl Handle {
    fn new(side: Side, id: StreamId, opener: bool) -> Self {
        Self {
            side,
            id,
            opener,
            written: 0,
            finished: false,
            broken: false,
            read: 0,
            ended: false,
            sends: true,
            receives: true,
            blocked: false,
            waiting: false,
        }
    }
}

pub(super) struct World {
    pair: Pair,
    handles: Vec<Handle>,
    budget: GrowthBudget,
}

/// Byte `at` of what `side` sends on a stream.
fn byte(id: StreamId, side: Side, at: usize) -> u8 {
    (at.wrapping_mul(31) ^ id.0 as usize ^ (side as usize * 85)) as u8
}

fn bytes(id: StreamId, side: Side, from: usize, length: usize) -> Bytes {
    (from..from + length).map(|at| byte(id, side, at)).collect()
}

fn other(side: Side) -> Side {
    match side {
        Side::Dialer => Side::Acceptor,
        Side::Acceptor => Side::Dialer,
    }
}

impl World {
    /// `growth`: bytes by which windows of both sides together may grow.
    pub(super) fn new(delay: u64, growth: u64) -> Self {
        let budget = GrowthBudget::new(growth);
        let [dialer, acceptor] = [Side::Dialer, Side::Acceptor].map(|side| {
            let mut config = config(side);
            config.limits.growth = budget.clone();
            config
        });
        Self {
            pair: Pair::with(dialer, acceptor, Duration::from_millis(delay)),
            handles: Vec::new(),
            budget,
        }
    }

    pub(super) fn step(&mut self, step: &Step) {
        let count = self.handles.len().max(1);
        match *step {
            Step::Open { side, body, end } => self.open(side, body, end),
            Step::Accept(side) => {
                if let Some((id, _)) = self.pair.end(side).accept() {
                    self.handles.push(Handle::new(side, id, false));
                }
            }
            Step::Write { handle, bytes } => self.write(handle % count, bytes),
            Step::Answer { handle, refuse } => self.answer(handle % count, refuse),
            Step::Finish(handle) => self.finish(handle % count),
            Step::Read { handle, items } => self.read(handle % count, items),
            Step::Reset(handle) => self.with(handle % count, |mux, handle| {
                handle.broken = true;
                mux.reset(handle.id, ResetCode::Cancelled);
            }),
            Step::Stop(handle) => self.with(handle % count, |mux, handle| {
                mux.stop(handle.id, ResetCode::NotNeeded);
            }),
            Step::ReleaseSend(handle) => self.release(handle % count, true, false),
            Step::ReleaseRecv(handle) => self.release(handle % count, false, true),
            Step::Send => {
                self.pair.send();
            }
            Step::Advance(time) => self.pair.advance(Duration::from_millis(time)),
        }
        self.events();
        self.check();
    }

    fn with(&mut self, index: usize, act: impl FnOnce(&mut Mux, &mut Handle)) {
        if let Some(handle) = self.handles.get_mut(index) {
            act(self.pair.end(handle.side), handle);
        }
    }

    fn open(&mut self, side: Side, body: usize, end: bool) {
        let next = match side {
            Side::Dialer => self.pair.dialer.streams.next_id_is(),
            Side::Acceptor => self.pair.acceptor.streams.next_id_is(),
        };
        let data = bytes(next, side, 0, body);
        let id = self.pair.end(side).open(&call_head(), data, end).unwrap();
        assert_eq!(id, next);
        let handle = Handle {
            written: body,
            finished: end,
            ..Handle::new(side, id, true)
        };
        self.handles.push(handle);
    }

    fn write(&mut self, index: usize, length: usize) {
        self.with(index, |mux, handle| {
            let mut data = bytes(handle.id, handle.side, handle.written, length);
            match mux.write(handle.id, &mut data) {
                Ok(taken) => {
                    assert!(!handle.finished && handle.sends);
                    handle.blocked = taken == 0;
                    handle.written += taken;
                }
                Err(StreamError::Finished) => assert!(handle.finished),
                Err(StreamError::Reset(_) | StreamError::Stopped(_)) => handle.broken = true,
                Err(StreamError::Unknown) => assert!(!handle.sends),
                Err(error) => panic!("{error}"),
            }
        });
    }

    fn answer(&mut self, index: usize, refuse: bool) {
        self.with(index, |mux, handle| {
            if handle.opener || handle.written > 0 {
                return;
            }
            let head = if refuse {
                Head::Refusal(Refusal {
                    code: crate::code::ErrorCode::PolicyDenied,
                    detail: "no".into(),
                    rule: None,
                    soap: false,
                })
            } else {
                answer()
            };
            // A second answer is a defect, and resets the stream.
            handle.broken |= mux.send_head(handle.id, &head).is_err() || refuse;
        });
    }

    fn finish(&mut self, index: usize) {
        self.with(index, |mux, handle| match mux.finish(handle.id) {
            Ok(()) => {
                handle.finished = true;
                handle.blocked = false;
            }
            Err(_) => handle.broken = true,
        });
    }

    fn read(&mut self, index: usize, items: usize) {
        let now = self.pair.now;
        let mut ended = None;
        self.with(index, |mux, handle| {
            for _ in 0..items {
                match mux.read(handle.id, now) {
                    Ok(Some(Item::Data(data))) => {
                        let want = bytes(handle.id, other(handle.side), handle.read, data.len());
                        assert!(data == want, "bytes arrive in order and unchanged");
                        handle.read += data.len();
                    }
                    Ok(Some(Item::Head(head))) => {
                        assert!(handle.read == 0 || matches!(head, Head::Trailers(_)));
                    }
                    Ok(Some(Item::Finished)) => {
                        handle.ended = true;
                        ended = Some((handle.id, handle.read));
                        return;
                    }
                    Ok(None) => {
                        handle.waiting = true;
                        return;
                    }
                    Err(_) => {
                        assert!(!handle.ended || !handle.receives, "an end stays the end");
                        return;
                    }
                }
            }
        });
        // An end in good order means that all of it arrived.
        let Some((id, read)) = ended else { return };
        let side = self.handles[index].side;
        let peer = self
            .handles
            .iter()
            .find(|handle| handle.id == id && handle.side != side);
        if let Some(peer) = peer {
            assert!(peer.finished, "an end that nobody made");
            assert_eq!(peer.written, read);
        }
    }

    fn release(&mut self, index: usize, send: bool, recv: bool) {
        self.with(index, |mux, handle| {
            if send {
                handle.sends = false;
                handle.blocked = false;
                handle.broken |= !handle.finished;
                mux.release_send(handle.id);
            }
            if recv {
                handle.receives = false;
                handle.waiting = false;
                mux.release_recv(handle.id);
            }
        });
    }

    fn events(&mut self) {
        for side in [Side::Dialer, Side::Acceptor] {
            while let Some(event) = self.pair.end(side).poll_event() {
                let mut about = |id: StreamId, reads: bool, writes: bool| {
                    for handle in &mut self.handles {
                        if handle.id == id && handle.side == side {
                            handle.waiting &= !reads;
                            handle.blocked &= !writes;
                        }
                    }
                };
                match event {
                    Event::Readable(id) => about(id, true, false),
                    Event::Writable(id) | Event::Stopped(id, _) => about(id, false, true),
                    Event::Reset(id, _) => about(id, true, true),
                    Event::Closed(error) => panic!("{error}"),
                    _ => {}
                }
            }
        }
    }

    /// What is true after every step.
    fn check(&mut self) {
        for side in [Side::Dialer, Side::Acceptor] {
            let mux = self.pair.end(side);
            let (mut queued, mut buffered, mut granted) = (0, 0, 0);
            for (_, stream) in mux.streams.iter() {
                let heads = 300;
                assert!(stream.send.queued <= mux.limits.send_queue + heads);
                assert!(stream.recv.window.buffered() as u64 <= stream.recv.window.size().into());
                queued += stream.send.queued;
                buffered += stream.recv.window.buffered();
                granted += u64::from(stream.recv.window.size());
            }
            let stats = mux.stats();
            assert_eq!(
                (stats.queued, stats.buffered, stats.granted),
                (queued, buffered, granted)
            );
        }
        assert!(self.budget.used() <= self.budget.total());
        self.check_credit(Side::Dialer, Side::Acceptor);
        self.check_credit(Side::Acceptor, Side::Dialer);
    }

    /// Credit is conserved: what the sender has, what is on the line in either form, and what
    /// the receiver holds make up the receiver's window.
    fn check_credit(&mut self, from: Side, to: Side) {
        let mut flying: BTreeMap<StreamId, usize> = BTreeMap::new();
        for message in self.pair.line_to(to) {
            let mut message = message.clone();
            while let Some(frame) = frame::next(&mut message).unwrap() {
                *flying.entry(StreamId(frame.stream)).or_default() += match frame.kind {
                    Kind::Data | Kind::Head => frame.payload.len(),
                    Kind::Open => {
                        let mut payload = frame.payload.clone();
                        let head = crate::wire::take_length(&mut payload).unwrap();
                        payload.len() - head
                    }
                    _ => 0,
                };
            }
        }
        for message in self.pair.line_to(from) {
            let mut message = message.clone();
            while let Some(frame) = frame::next(&mut message).unwrap() {
                if frame.kind == Kind::Window {
                    let credit = u32::from_be_bytes(frame.payload.as_ref().try_into().unwrap());
                    *flying.entry(StreamId(frame.stream)).or_default() += credit as usize;
                }
            }
        }
        let sender = |id| {
            self.pair
                .ends(from)
                .streams
                .find(id)
                .map(|s| s.send.window.available())
        };
        for (id, stream) in self.pair.ends(to).streams.iter() {
            let Some(available) = sender(id) else {
                continue;
            };
            let window = &stream.recv.window;
            let sum = available
                + flying.get(&id).copied().unwrap_or_default()
                + window.buffered()
                + window.owed() as usize;
            assert_eq!(sum, window.size() as usize, "credit of stream {id}");
        }
    }

    /// Lets everything happen that can happen without commands.
    fn settle(&mut self) {
        self.pair.settle();
        self.events();
        for side in [Side::Dialer, Side::Acceptor] {
            let mux = self.pair.end(side);
            for (id, stream) in mux.streams.iter() {
                assert!(
                    !stream.send.has_work(),
                    "stream {id} could be served and is not"
                );
            }
        }
        let now = self.pair.now;
        for handle in &mut self.handles {
            let mux = match handle.side {
                Side::Dialer => &mut self.pair.dialer,
                Side::Acceptor => &mut self.pair.acceptor,
            };
            if handle.waiting {
                let read = mux.read(handle.id, now);
                assert!(matches!(read, Ok(None)), "nobody was told of {read:?}");
            }
            if handle.blocked {
                let send = &mux.streams.find(handle.id).unwrap().send;
                let half = mux.limits.send_queue / 2;
                assert!(
                    send.writable().is_ok() && send.queued > half,
                    "nobody was told of room"
                );
            }
        }
    }

    /// Everybody drains, finishes, reads to the end and lets go: nothing must be left.
    pub(super) fn end(&mut self) {
        for side in [Side::Dialer, Side::Acceptor] {
            self.pair.end(side).drain(Duration::ZERO);
        }
        self.settle();
        for side in [Side::Dialer, Side::Acceptor] {
            while let Some((id, _)) = self.pair.end(side).accept() {
                self.handles.push(Handle::new(side, id, false));
            }
        }
        for index in 0..self.handles.len() {
            self.finish(index);
        }
        let mut progress = true;
        while progress {
            self.settle();
            let before: usize = self.handles.iter().map(|handle| handle.read).sum();
            for index in 0..self.handles.len() {
                self.read(index, usize::MAX);
                self.events();
                self.check();
            }
            progress = before != self.handles.iter().map(|handle| handle.read).sum();
        }
        for handle in &self.handles {
            let peer = self
                .handles
                .iter()
                .find(|h| h.id == handle.id && h.side != handle.side);
            let whole = |handle: &Handle| !handle.broken && handle.sends && handle.receives;
            if let Some(peer) = peer
                && whole(peer)
                && whole(handle)
                && peer.finished
                && self
                    .pair
                    .ends(handle.side)
                    .streams
                    .find(handle.id)
                    .is_some_and(|stream| stream.recv.state == RecvState::Open)
            {
                assert!(handle.ended, "{handle:?} of {peer:?}");
            }
        }
        for index in 0..self.handles.len() {
            self.release(index, true, true);
        }
        self.settle();
        for side in [Side::Dialer, Side::Acceptor] {
            let stats = self.pair.end(side).stats();
            assert_eq!(
                (stats.streams, stats.queued, stats.buffered),
                (0, 0, 0),
                "{stats:?}"
            );
            assert_eq!((stats.granted, self.budget.used()), (0, 0));
            assert_eq!(self.pair.end(side).stream_count(), 0);
        }
    }
}
