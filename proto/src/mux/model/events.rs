//! What both ends tell, compared with what must be told.

use super::handle::Handle;
use super::world::{RETRY_AFTER, World};
use super::{SIDES, other};
use crate::code::{GoawayCode, ResetCode};
use crate::control::Control;
use crate::mux::{Event, SessionError, Side, StreamId};

impl World {
    /// Takes note of what both ends have to tell.
    pub(super) fn events(&mut self) {
        for side in SIDES {
            while let Some(event) = self.pair.end(side).poll_event() {
                assert!(self.side(side).closed.is_none(), "{event:?} after the last");
                self.event(side, event);
            }
        }
    }

    fn event(&mut self, side: Side, event: Event) {
        match event {
            Event::Readable(id) => self.about(side, id, true, false),
            Event::Writable(id) => self.about(side, id, false, true),
            Event::Stopped(id, code) => {
                self.seen.stops += 1;
                self.about(side, id, false, true);
                self.check_code(side, id, code);
            }
            Event::Reset(id, code) => {
                self.seen.resets += 1;
                self.seen.refusals += u64::from(code == ResetCode::Refused);
                if code == ResetCode::Overloaded {
                    self.seen.overloads += 1;
                    self.seen.overloads_of_tenants += u64::from(self.setup.tenants > 1);
                }
                self.about(side, id, true, true);
                self.check_code(side, id, code);
            }
            Event::Incoming => self.side(side).accepting = false,
            Event::Control(control) => {
                let sent = self.side(other(side)).notices.pop_front();
                let text = sent.expect("a control message that nobody sent");
                assert_eq!(control, Control::Notice { code: None, text });
                self.seen.notices += 1;
            }
            Event::Draining { code, retry_after } => {
                let by_peer = self.side(other(side));
                match code {
                    GoawayCode::Drain => {
                        assert!(by_peer.drains && retry_after == RETRY_AFTER);
                    }
                    GoawayCode::Exhausted => {
                        assert!(by_peer.exhausted || self.side(side).exhausted);
                    }
                    code => panic!("nobody drains with {code}"),
                }
                self.seen.drains += 1;
                self.side(side).told_to_drain = true;
            }
            Event::Closed(error) => {
                let here = |handle: &&Handle| handle.side == side && handle.receives;
                let lost = self
                    .handles
                    .iter()
                    .filter(here)
                    .filter(|handle| !handle.ended);
                self.seen.lost_in_mid_air += lost.count() as u64;
                self.seen.closed += 1;
                self.seen.dead_peers += u64::from(matches!(error, SessionError::Timeout(_)));
                self.side(side).closed = Some(error);
            }
            Event::Ready => panic!("ready again"),
        }
    }

    fn about(&mut self, side: Side, id: StreamId, reads: bool, writes: bool) {
        for handle in &mut self.handles {
            if handle.id == id && handle.side == side {
                handle.waiting &= !reads;
                handle.blocked &= !writes;
            }
        }
    }
}
