//! A conversation of two real ends, and beside it what was written, read, said and ended: each
//! step's outcome is foretold from that, and compared.

use std::collections::VecDeque;
use std::time::Duration;

use http::HeaderMap;

use super::handle::{Handle, bytes};
use super::pair::Pair;
use super::seen::Seen;
use super::step::{HeadKind, Setup, Step};
use super::{answer, call_of, config};
use crate::code::{ErrorCode, GoawayCode, ResetCode};
use crate::control::Control;
use crate::growth::{GrowthBudget, TenantBudgets};
use crate::head::{BodyLength, Head, Refusal, ResponseHead};
use crate::mux::budget::Budget;
use crate::mux::{ControlError, Flood, Mux, OpenError, SessionError, Side, StreamError};

/// Control messages of each side in one conversation: the peer's budget for them is not exceeded.
const MAX_NOTICES: usize = 200;

/// What the model knows of one end of the session.
#[derive(Debug, Default)]
pub(super) struct SideModel {
    /// Notices that were sent and have not arrived.
    pub(super) notices: VecDeque<String>,
    notices_sent: usize,
    /// It asked for a drain.
    pub(super) drains: bool,
    /// It was told of one.
    pub(super) told_to_drain: bool,
    /// Its ids are used up.
    pub(super) exhausted: bool,
    /// `accept` gave nothing, and no event came since.
    pub(super) accepting: bool,
    /// Why it was told that the session is over.
    pub(super) closed: Option<SessionError>,
}

/// Two ends and the model beside them.
pub(in crate::mux) struct World {
    pub(super) setup: Setup,
    pub(super) pair: Pair,
    pub(super) handles: Vec<Handle>,
    pub(super) dialer: SideModel,
    pub(super) acceptor: SideModel,
    pub(super) budget: GrowthBudget,
    pub(super) waiting: GrowthBudget,
    pub(in crate::mux) seen: Seen,
}

impl World {
    pub(in crate::mux) fn new(setup: Setup) -> Self {
        let budget = GrowthBudget::new(setup.growth);
        let waiting = GrowthBudget::new(setup.waiting);
        let config = |side| {
            let mut config = config(side);
            config.hello.max_streams = setup.streams;
            config.hello.initial_window = setup.window;
            let limits = &mut config.limits;
            limits.growth = budget.clone();
            limits.waiting = waiting.clone();
            if setup.tenants > 1 {
                let (all, room) = (waiting.clone(), setup.tenants > 2);
                limits.waiting_of = Some(TenantBudgets::new(move |tenant| {
                    let part = all.of_tenant(tenant.as_str());
                    if room { part.leaving_room() } else { part }
                }));
            }
            limits.max_window = setup.max_window;
            limits.backlog = setup.backlog;
            limits.send_queue = setup.send_queue;
            limits.batch = setup.batch;
            config
        };
        let delay = Duration::from_millis(setup.delay);
        let mut pair = Pair::with(config(Side::Dialer), config(Side::Acceptor), delay);
        for (side, last) in [(Side::Dialer, u32::MAX), (Side::Acceptor, u32::MAX - 1)] {
            pair.line(side).capacity = setup.capacity;
            if setup.patient {
                let now = pair.now;
                pair.end(side).own_cancels = Budget::new(Flood::Cancels, 1, 1, now);
            }
            if let Some(ids) = setup.ids {
                pair.end(side).streams.skip_to(last - 2 * ids);
            }
        }
        Self {
            setup,
            pair,
            handles: Vec::new(),
            dialer: SideModel::default(),
            acceptor: SideModel::default(),
            budget,
            waiting,
            seen: Seen::default(),
        }
    }

    pub(super) fn side(&mut self, side: Side) -> &mut SideModel {
        match side {
            Side::Dialer => &mut self.dialer,
            Side::Acceptor => &mut self.acceptor,
        }
    }

    /// Both sides know that the session is over.
    pub(in crate::mux) fn is_over(&self) -> bool {
        self.dialer.closed.is_some() && self.acceptor.closed.is_some()
    }

    pub(in crate::mux) fn step(&mut self, step: &Step) {
        let count = self.handles.len().max(1);
        match *step {
            Step::Open { side, body, end } => self.open(side, body, end),
            Step::Accept(side) => self.accept(side),
            Step::Write { handle, bytes } => self.write(handle % count, bytes),
            Step::Head {
                handle,
                kind,
                filling,
            } => self.head(handle % count, kind, filling),
            Step::Finish(handle) => self.finish(handle % count),
            Step::Read { handle, items } => self.read(handle % count, items),
            Step::Bulk { handle, rounds } => self.bulk(handle % count, rounds),
            Step::Doze(handle) => self.with(handle % count, |_, handle| handle.dozes ^= true),
            Step::Reset { handle, code } => self.with(handle % count, |mux, handle| {
                handle.broken = true;
                handle.cut_short = false;
                handle.codes.push(code);
                mux.reset(handle.id, code);
            }),
            Step::CutShort(handle) => self.with(handle % count, |mux, handle| {
                // Said again, it changes nothing.
                handle.cut_short |= !handle.opener && !handle.broken;
                handle.broken = true;
                handle.codes.push(ResetCode::Truncated);
                mux.cut_short(handle.id, ResetCode::Truncated);
            }),
            Step::Stop { handle, code } => self.with(handle % count, |mux, handle| {
                handle.codes.push(code);
                mux.stop(handle.id, code);
            }),
            Step::ReleaseSend(handle) => self.release(handle % count, true, false),
            Step::ReleaseRecv(handle) => self.release(handle % count, false, true),
            Step::Release(handle) => self.release(handle % count, true, true),
            Step::Notice { side, bytes } => self.notice(side, bytes),
            Step::Send => {
                self.pair.send();
            }
            Step::Advance(time) => self.pair.advance(Duration::from_millis(time)),
            Step::Settle => self.settle(),
            Step::Stick(side) => self.pair.line(side).stuck ^= true,
            Step::Drain(side) => {
                self.side(side).drains = true;
                self.pair.end(side).drain(RETRY_AFTER);
            }
            Step::Close { side, reason } => {
                let code = [GoawayCode::Drain, GoawayCode::Revoked, GoawayCode::Internal];
                self.pair.end(side).close(code[reason % 3], "enough");
            }
            Step::Cut => self.pair.cut(),
        }
        self.seen.steps += 1;
        self.events();
        self.check();
    }

    fn with(&mut self, index: usize, act: impl FnOnce(&mut Mux, &mut Handle)) {
        if let Some(handle) = self.handles.get_mut(index) {
            act(self.pair.end(handle.side), handle);
        }
    }

    fn open(&mut self, side: Side, body: usize, end: bool) {
        let setup = self.setup;
        let model = self.side(side);
        let drains = model.drains || model.told_to_drain || model.exhausted;
        let mux = self.pair.end(side);
        let (next, over) = (mux.streams.next_id_is(), mux.ended.is_some());
        let full = mux.streams.ours_open >= mux.peer().map_or(0, |peer| peer.max_streams);
        let data = bytes(next, side, 0, body);
        match mux.open(&call_of(&setup.tenant_of(next)), data, end) {
            Ok(id) => {
                assert!(!over && !drains && !full);
                assert_eq!(id, next);
                let handle = Handle {
                    written: body,
                    finished: end,
                    ..Handle::new(side, id, true)
                };
                self.handles.push(handle);
            }
            Err(OpenError::Closed) => assert!(over),
            Err(OpenError::TooManyStreams) => {
                assert!(!drains && full);
                self.seen.full_sessions += 1;
            }
            Err(OpenError::Draining) if drains => {}
            Err(OpenError::Draining) => {
                assert!(self.setup.ids.is_some(), "nobody drains");
                self.seen.ids_used_up += 1;
                self.side(side).exhausted = true;
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn accept(&mut self, side: Side) {
        match self.pair.end(side).accept() {
            Some((id, _)) => {
                self.seen.calls += 1;
                self.handles.push(Handle::new(side, id, false));
            }
            None => self.side(side).accepting = true,
        }
    }

    fn write(&mut self, index: usize, length: usize) {
        let mut blocked = false;
        self.with(index, |mux, handle| {
            let mut data = bytes(handle.id, handle.side, handle.written, length);
            match mux.write(handle.id, &mut data) {
                Ok(taken) => {
                    assert!(!handle.finished && handle.sends);
                    handle.blocked = taken == 0;
                    blocked = taken == 0;
                    handle.written += taken;
                }
                Err(StreamError::Finished) => assert!(handle.finished),
                // Behind trailers or a refusal, or before an answer: a defect, and the end.
                Err(StreamError::Reset(ResetCode::Internal)) => {
                    handle.broken = true;
                    handle.codes.push(ResetCode::Internal);
                }
                Err(StreamError::Reset(_) | StreamError::Stopped(_)) => handle.broken = true,
                Err(StreamError::Unknown) => assert!(!handle.sends),
                Err(StreamError::SessionLost) => {
                    assert!(mux.ended.is_some());
                    handle.broken = true;
                }
                Err(error) => panic!("{error}"),
            }
        });
        self.seen.blocked_writes += u64::from(blocked);
    }

    fn head(&mut self, index: usize, kind: HeadKind, filling: usize) {
        let suits = |handle: &Handle| {
            let place = match kind {
                HeadKind::Trailers => handle.written > 0,
                _ => !handle.opener && handle.written == 0 && handle.heads.len() < 4,
            };
            place && handle.sends && !handle.finished && !handle.broken
        };
        // Now and then one where none can be.
        let index = match self.from(index, suits) {
            Some(index) if filling % 32 != 1 => index,
            _ => index,
        };
        self.with(index, |mux, handle| {
            let head = make_head(kind, filling);
            match mux.send_head(handle.id, &head) {
                Ok(()) => handle.heads.push((handle.written, kind)),
                // A head where none can be is a defect, and the end.
                Err(StreamError::Reset(ResetCode::Internal)) => {
                    handle.broken = true;
                    handle.codes.push(ResetCode::Internal);
                }
                Err(StreamError::Finished) => assert!(handle.finished),
                Err(_) => handle.broken = true,
            }
        });
    }

    fn bulk(&mut self, index: usize, rounds: usize) {
        let suits = |handle: &Handle| handle.sends && !handle.finished && !handle.broken;
        let Some(index) = self.from(index, suits) else {
            return;
        };
        let Some(reader) = self.peer_of(index) else {
            return;
        };
        for _ in 0..rounds {
            for _ in 0..4 {
                self.write(index, 300_000);
                self.pair.send();
            }
            self.pair
                .advance(Duration::from_millis(2 * self.setup.delay));
            self.events();
            self.read(reader, usize::MAX);
        }
    }

    /// The first handle from `index` on, all around, that suits.
    fn from(&self, index: usize, suits: impl Fn(&Handle) -> bool) -> Option<usize> {
        let count = self.handles.len();
        (index..index + count)
            .map(|at| at % count)
            .find(|at| suits(&self.handles[*at]))
    }

    /// Where the other end of a handle's stream is, if it is there.
    pub(super) fn peer_of(&self, index: usize) -> Option<usize> {
        let handle = self.handles.get(index)?;
        let other = |peer: &Handle| peer.id == handle.id && peer.side != handle.side;
        self.handles.iter().position(other)
    }

    pub(super) fn finish(&mut self, index: usize) {
        self.with(index, |mux, handle| match mux.finish(handle.id) {
            Ok(()) => {
                handle.finished = true;
                handle.blocked = false;
            }
            Err(_) => handle.broken = true,
        });
    }

    pub(super) fn release(&mut self, index: usize, send: bool, recv: bool) {
        self.with(index, |mux, handle| {
            if send {
                handle.sends = false;
                handle.blocked = false;
                handle.broken |= !handle.finished;
                handle.codes.push(ResetCode::Cancelled);
                mux.release_send(handle.id);
            }
            if recv {
                handle.receives = false;
                handle.waiting = false;
                handle.codes.push(ResetCode::Cancelled);
                mux.release_recv(handle.id);
            }
        });
    }

    fn notice(&mut self, side: Side, length: usize) {
        let mux = self.pair.end(side);
        let (waiting, most) = (mux.controls.len(), mux.limits.control_queue);
        let over = mux.ended.is_some();
        let model = match side {
            Side::Dialer => &mut self.dialer,
            Side::Acceptor => &mut self.acceptor,
        };
        if model.notices_sent == MAX_NOTICES {
            return;
        }
        let text = format!(
            "{:0length$}",
            model.notices_sent,
            length = length.clamp(4, 1000)
        );
        let control = Control::Notice {
            code: None,
            text: text.clone(),
        };
        match mux.send_control(&control) {
            Ok(()) => {
                model.notices_sent += 1;
                model.notices.push_back(text);
            }
            Err(ControlError::Full) => assert!(waiting >= most),
            Err(ControlError::Closed) => assert!(over),
            Err(error) => panic!("{error}"),
        }
    }
}

/// When a side that drains says it may be asked again.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(1234);

fn make_head(kind: HeadKind, filling: usize) -> Head {
    let mut headers = HeaderMap::new();
    if filling > 0 {
        let value = "x".repeat(filling).parse();
        headers.insert("x-filling", value.expect("a value of letters"));
    }
    match kind {
        HeadKind::Taken => Head::Taken,
        HeadKind::Interim => Head::Interim(ResponseHead {
            status: http::StatusCode::PROCESSING,
            phrase: None,
            headers,
            body: BodyLength::Unknown,
        }),
        HeadKind::Answer => match answer() {
            Head::Response(head) => Head::Response(ResponseHead { headers, ..head }),
            head => head,
        },
        HeadKind::Refusal => Head::Refusal(Refusal {
            code: ErrorCode::PolicyDenied,
            detail: "no".into(),
            rule: None,
            soap: false,
        }),
        HeadKind::Trailers => Head::Trailers(headers),
    }
}
