//! What must be true after every step, once everything has settled, and at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use super::handle::Handle;
use super::world::{RETRY_AFTER, World};
use super::{SIDES, other};
use crate::code::ResetCode;
use crate::frame::{self, Kind};
use crate::limits::{FLOOR, KEPT_BACK};
use crate::mux::accounts::{AccountId, FREE};
use crate::mux::drain::Drain;
use crate::mux::stream::{Chunk, RecvState, Sending, Stream};
use crate::mux::{Side, StreamId};

/// Largest amount of bytes that heads with the largest filling and a call head have.
fn heads_of(send: &Sending) -> usize {
    let heads = send.queue.iter().map(|chunk| match chunk {
        Chunk::Open(head) | Chunk::Head(head) => head.len(),
        Chunk::Data(_) | Chunk::Gathered(_) => 0,
    });
    heads.sum()
}

impl World {
    /// What is true after every step.
    pub(super) fn check(&mut self) {
        let mut grown = 0;
        for side in SIDES {
            grown += self.check_side(side);
        }
        assert_eq!(self.budget.used(), grown, "growth is counted");
        assert!(grown <= self.budget.total());
        let cover = SIDES.map(|side| self.pair.ends(side).streams.accounts.cover());
        assert_eq!(self.waiting.used(), cover.iter().sum(), "cover is counted");
        assert!(self.waiting.used() <= self.waiting.total());
        let waits: usize = SIDES.map(|side| self.beyond_the_floor(side)).iter().sum();
        let most = self.setup.waiting.saturating_add(2 * FREE as u64);
        assert!(waits as u64 <= most, "{waits} bytes wait of {most}");
        let ended = SIDES.map(|side| self.pair.ends(side).ended.is_some());
        if !self.pair.is_cut() && ended == [false; 2] {
            self.check_credit(Side::Dialer, Side::Acceptor);
            self.check_credit(Side::Acceptor, Side::Dialer);
        }
    }

    /// Bytes that wait on a side beyond what each stream may hold however short memory is.
    fn beyond_the_floor(&self, side: Side) -> usize {
        let streams = self.pair.ends(side).streams.iter();
        let beyond = |(_, stream): (StreamId, &Stream)| {
            let sent = stream
                .send
                .queued
                .saturating_sub(FLOOR + heads_of(&stream.send));
            sent + stream.recv.window.buffered().saturating_sub(FLOOR)
        };
        streams.map(beyond).sum()
    }

    /// The sums and bounds of one side; gives the bytes by which its windows have grown.
    fn check_side(&mut self, side: Side) -> u64 {
        let mux = self.pair.ends(side);
        let (mut queued, mut buffered, mut granted, mut grown) = (0, 0, 0, 0);
        let (mut ours, mut theirs, mut calls) = (0, 0, 0);
        for (id, stream) in mux.streams.iter() {
            let (send, window) = (&stream.send, &stream.recv.window);
            assert!(send.queued <= mux.limits.send_queue + heads_of(send));
            let initial = stream.recv.initial;
            assert!((initial..=mux.limits.max_window.max(initial)).contains(&window.size()));
            assert!(window.buffered() <= window.size() as usize);
            queued += send.queued;
            buffered += window.buffered();
            granted += u64::from(window.size());
            grown += u64::from(window.size() - initial);
            if stream.counted {
                *(if mux.streams.is_ours(id) {
                    &mut ours
                } else {
                    &mut theirs
                }) += 1;
            }
            calls += usize::from(stream.call.is_some());
        }
        self.check_accounts(side, queued + buffered);
        let stats = mux.stats();
        assert_eq!(
            (stats.queued, stats.buffered, stats.granted, stats.backlog),
            (queued, buffered, granted, calls)
        );
        let counts = (mux.streams.ours_open, mux.streams.theirs_open);
        assert_eq!(counts, (ours, theirs), "open streams are counted");
        assert!(ours.max(theirs) <= self.setup.streams);
        assert!(calls <= self.setup.backlog);
        assert!(mux.controls.len() <= mux.limits.control_queue);
        if mux.ended.is_some() {
            for handle in self.handles.iter().filter(|handle| handle.side == side) {
                assert!(
                    !handle.waiting && !handle.blocked,
                    "whoever waits learns at once that the session is over: {handle:?}"
                );
            }
        } else if self.setup.backlog >= self.setup.streams as usize
            && !matches!(mux.drain, Drain::Done)
        {
            // Both sides count alike: no call comes that the limit of streams does not allow.
            assert_eq!(stats.refused, 0, "a call was refused for no reason");
        }
        grown
    }

    /// Each stream has its tenant's account, which counts what waits on it, and there is no other.
    fn check_accounts(&self, side: Side, waits: usize) {
        let mux = self.pair.ends(side);
        let mut sums: BTreeMap<AccountId, (Option<String>, usize, usize)> = BTreeMap::new();
        for (id, stream) in mux.streams.iter() {
            let tenant = (self.setup.tenants > 1).then(|| self.setup.tenant_of(id));
            let sum = sums.entry(stream.account).or_default();
            assert!(sum.1 == 0 || sum.0 == tenant, "tenants share an account");
            sum.0 = tenant;
            sum.1 += 1;
            sum.2 += stream.send.queued + stream.recv.window.buffered();
        }
        let accounts = &mux.streams.accounts;
        assert_eq!(accounts.waits(), waits);
        if self.setup.tenants > 1 {
            assert_eq!(accounts.len(), sums.len());
        }
        for (id, (tenant, streams, waits)) in sums {
            let account = accounts.look(id);
            assert_eq!(account.0.map(|tenant| tenant.to_string()), tenant);
            assert!(tenant.is_none() || account.1 == streams);
            assert_eq!(account.2, waits);
        }
    }

    /// Credit is conserved: what the sender has, what is on the line in either form, and what
    /// the receiver holds make up the receiver's window.
    fn check_credit(&self, from: Side, to: Side) {
        let mut flying: BTreeMap<u32, usize> = BTreeMap::new();
        for message in self.pair.line_to(to) {
            let mut message = message.clone();
            while let Some(frame) = frame::next(&mut message).expect("we send frames") {
                let bytes = match frame.kind {
                    Kind::Data | Kind::Head => frame.payload.len(),
                    Kind::Open => {
                        let mut payload = frame.payload;
                        let head = crate::wire::take_length(&mut payload);
                        payload.len() - head.expect("we send lengths")
                    }
                    _ => continue,
                };
                *flying.entry(frame.stream).or_default() += bytes;
            }
        }
        for message in self.pair.line_to(from) {
            let mut message = message.clone();
            while let Some(frame) = frame::next(&mut message).expect("we send frames") {
                if frame.kind == Kind::Window {
                    let credit = frame.payload.as_ref().try_into().map(u32::from_be_bytes);
                    *flying.entry(frame.stream).or_default() +=
                        credit.expect("we send numbers") as usize;
                }
            }
        }
        let sender = &self.pair.ends(from).streams;
        for (id, stream) in self.pair.ends(to).streams.iter() {
            let Some(peer) = sender.find(id) else {
                continue;
            };
            let window = &stream.recv.window;
            let sum = peer.send.window.available()
                + flying.get(&id.0).copied().unwrap_or_default()
                + window.buffered()
                + window.owed() as usize;
            assert_eq!(sum, window.size() as usize, "credit of stream {id}");
        }
    }

    /// A stream breaks off with a code that the other side gave.
    pub(super) fn check_code(&mut self, side: Side, id: StreamId, code: ResetCode) {
        let drains = self.side(other(side)).drains
            || self.side(other(side)).exhausted
            || self.side(side).exhausted
            || self.pair.ends(other(side)).ended.is_some();
        let find = |side| {
            let same = |handle: &&Handle| handle.side == side && handle.id == id;
            self.handles.iter().find(same)
        };
        if code == ResetCode::Overloaded {
            assert!(self.setup.waiting < u64::MAX, "there is memory");
        } else if code == ResetCode::Refused {
            let opener = find(side).is_none_or(|handle| handle.opener);
            let full = self.setup.backlog < self.setup.streams as usize;
            assert!(opener && (drains || full), "refused for no reason");
        } else if let Some(peer) = find(other(side)) {
            assert!(peer.codes.contains(&code), "nobody said {code}: {peer:?}");
        }
    }

    /// Lets everything happen that can happen without commands; then nobody waits for what has
    /// already happened, and nothing is kept that nobody needs.
    pub(super) fn settle(&mut self) {
        for side in SIDES {
            self.pair.line(side).stuck = false;
        }
        self.pair.settle();
        self.events();
        for side in SIDES {
            self.check_served(side);
        }
        self.check_woken();
        let ended = SIDES.map(|side| self.pair.ends(side).ended.is_some());
        if !self.pair.is_cut() && ended == [false; 2] {
            for side in SIDES {
                let unheard = &self.side(side).notices;
                assert!(unheard.is_empty(), "control messages got lost: {unheard:?}");
                let (here, there) = (self.pair.ends(side), self.pair.ends(other(side)));
                let counts = (here.streams.ours_open, there.streams.theirs_open);
                assert_eq!(counts.0, counts.1, "both sides count alike");
                assert_eq!(here.is_draining(), there.is_draining());
            }
        }
        self.forget();
    }

    /// What could be sent was sent, and what is over and of no use to anybody is forgotten.
    fn check_served(&self, side: Side) {
        let mux = self.pair.ends(side);
        assert!(!mux.has_transmit() || self.pair.is_cut());
        for (id, stream) in mux.streams.iter() {
            if mux.ended.is_none() {
                assert!(!stream.send.has_work(), "stream {id} is not served");
            }
            let released = stream.send.released && stream.recv.released;
            let over = stream.is_over() || mux.ended.is_some();
            let useless = released && over && !stream.kept_back;
            assert!(!useless, "stream {id} is kept for nobody");
        }
    }

    fn check_woken(&mut self) {
        let now = self.pair.now;
        for handle in &self.handles {
            let mux = self.pair.end(handle.side);
            if handle.waiting {
                let read = mux.read(handle.id, now);
                assert!(matches!(read, Ok(None)), "nobody was told of {read:?}");
            }
            if handle.blocked {
                let send = &mux.streams.find(handle.id).expect("it is blocked").send;
                // Half of the queue, or as much as there is memory for at the worst.
                let half = (mux.limits.send_queue / 2).min(FLOOR - 1);
                assert!(
                    send.writable().is_ok() && send.queued > half,
                    "nobody was told of room"
                );
            }
        }
        for side in SIDES {
            if self.side(side).accepting {
                let calls = self.pair.ends(side).stats().backlog;
                assert_eq!(calls, 0, "nobody was told of a call");
            }
        }
    }

    /// Forgets handles that are gone, once both ends have forgotten their stream.
    fn forget(&mut self) {
        let pair = &self.pair;
        self.handles.retain(|handle| {
            handle.sends
                || handle.receives
                || SIDES
                    .iter()
                    .any(|side| pair.ends(*side).streams.find(handle.id).is_some())
        });
    }

    /// Everybody drains, finishes, reads to the end and lets go: nothing must be left.
    pub(in crate::mux) fn end(&mut self) {
        for handle in &mut self.handles {
            handle.dozes = false;
        }
        for side in SIDES {
            self.side(side).drains = true;
            self.pair.end(side).drain(RETRY_AFTER);
        }
        self.settle();
        if self.pair.is_cut() {
            // Long enough for both to notice.
            self.pair.advance(Duration::from_secs(20));
            self.settle();
            assert!(self.is_over(), "both have noticed that the other is gone");
        }
        for side in SIDES {
            while !self.side(side).accepting || self.pair.ends(side).stats().backlog > 0 {
                self.accept(side);
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
            }
            self.events();
            self.check();
            progress = before != self.handles.iter().map(|handle| handle.read).sum();
        }
        for handle in &self.handles {
            self.check_whole(handle);
        }
        for index in 0..self.handles.len() {
            self.release(index, true, true);
        }
        self.settle();
        if self.setup.patient {
            self.pair.advance(KEPT_BACK);
            self.settle();
        }
        for side in SIDES {
            let stats = self.pair.ends(side).stats();
            let left = (stats.streams, stats.queued, stats.buffered, stats.granted);
            assert_eq!(left, (0, 0, 0, 0), "{stats:?}");
            assert_eq!(self.pair.ends(side).stream_count(), 0);
        }
        assert_eq!((self.budget.used(), self.waiting.used()), (0, 0));
    }

    /// What was finished, and that nobody broke off, has arrived whole.
    fn check_whole(&self, handle: &Handle) {
        let same = |peer: &&Handle| peer.id == handle.id && peer.side != handle.side;
        let Some(peer) = self.handles.iter().find(same) else {
            return;
        };
        let whole = |handle: &Handle| !handle.broken && handle.sends && handle.receives;
        let mux = self.pair.ends(handle.side);
        let open = mux
            .streams
            .find(handle.id)
            .is_some_and(|stream| stream.recv.state == RecvState::Open);
        if whole(peer) && whole(handle) && peer.finished && open && mux.ended.is_none() {
            assert!(handle.ended, "{handle:?} of {peer:?}");
        }
    }
}
