//! Streams that end before their time: what either side resets, stops or cuts short, and what that
//! costs whoever does so all the time.

use std::time::Instant;

use super::error::SessionError;
use super::stream::{RecvState, SendState};
use super::{Mux, StreamId};
use crate::code::ResetCode;
use crate::frame::Kind;
use crate::limits::{KEPT_BACK, LEFT_ALONE, RAPID};

impl Mux {
    /// Aborts both halves, as far as they are not over.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        if self.ended.is_some() || !self.abort(id, code, false) {
            return;
        }
        self.reset_due(id, code);
    }

    /// Aborts both halves like [`reset`](Self::reset), but ours behind what is queued: what was written
    /// before something broke may be all that there will ever be, and the peer's reader gets it before
    /// the error, where `code` [says so](ResetCode::keeps_data). What the peer sends is dropped from now
    /// on. Only answers are worth that: on a stream that this side opened it is a reset. Said again, it
    /// changes nothing.
    pub fn cut_short(&mut self, id: StreamId, code: ResetCode) {
        let ours = self.streams.is_ours(id);
        let Some(stream) = self.streams.find_mut(id) else {
            return;
        };
        if matches!(stream.send.state, SendState::CutShort(_)) {
            return;
        }
        let unsent = matches!(stream.send.state, SendState::Open | SendState::Finishing)
            && !stream.send.queue.is_empty();
        if ours || !unsent || self.ended.is_some() {
            return self.reset(id, code);
        }
        stream.send.state = SendState::CutShort(code);
        stream.stop_due = None;
        if !stream.recv.is_over() {
            stream.recv.state = RecvState::Reset(code);
            self.streams.clear_recv(id);
        }
        self.streams.wake_reader(id);
        self.streams.wake_writer(id);
    }

    /// Every few seconds: resets streams of ours that nobody here holds any more, where the peer goes on
    /// with an answer that nobody wants, or does not take the rest of a request for which there is no
    /// memory. It could have as many of them lie here as it lets us open, beside the calls that are
    /// counted. Its own streams are as many as we let it have, and answers on them have a reader there.
    pub(super) fn reset_left_alone(&mut self) {
        for (id, since) in self.streams.left_alone() {
            let Some(stream) = self.streams.find(id) else {
                continue;
            };
            let unwanted = !stream.recv.is_over();
            let late = self.now.saturating_duration_since(since) >= LEFT_ALONE;
            let (account, waits) = (stream.account, stream.send.queued > 0);
            if unwanted && late || waits && !self.streams.accounts.has_memory(account, 0) {
                self.reset(id, ResetCode::Cancelled);
            }
        }
    }

    /// Sends the RESET of a half that was cut short, once nothing is left to go before it.
    pub(super) fn end_cut_short(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.find_mut(id)
            && let SendState::CutShort(code) = stream.send.state
            && stream.send.queue.is_empty()
        {
            stream.send.state = SendState::Reset(code);
            self.reset_due(id, code);
        }
    }

    /// Asks the peer to send no more. What it has sent is dropped, what is on its way will be.
    pub fn stop(&mut self, id: StreamId, code: ResetCode) {
        let Some(stream) = self.streams.find_mut(id) else {
            return;
        };
        let recv = &stream.recv;
        if let RecvState::CutShort(code) = recv.state {
            stream.recv.state = RecvState::Reset(code);
            return self.streams.clear_recv(id);
        }
        if recv.state != RecvState::Open || recv.ended && recv.queue.is_empty() {
            return;
        }
        stream.recv.state = RecvState::Stopped(code);
        if !stream.recv.ended && self.ended.is_none() {
            stream.stop_due = Some(code);
            if stream.send.on_wire {
                self.cancel_due(id);
            }
        }
        self.streams.clear_recv(id);
        self.streams.wake_reader(id);
    }

    /// The frame RESET.
    pub(super) fn on_reset(
        &mut self,
        id: StreamId,
        code: ResetCode,
        now: Instant,
    ) -> Result<(), SessionError> {
        let Some(stream) = self.known(Kind::Reset, id)? else {
            return Ok(());
        };
        if !stream.is_over() {
            self.count_cancel(id, now)?;
            self.on_aborted(id, code);
        } else if stream.reset_due.take().is_some() {
            // Both sides reset it at once. The peer counts it no more and may open another one,
            // so we must not count it until our RESET, which it does not need, is sent.
            stream.reset_here = false;
            self.streams.settle(id);
        }
        Ok(())
    }

    /// The frame STOP.
    pub(super) fn on_stop(
        &mut self,
        id: StreamId,
        code: ResetCode,
        now: Instant,
    ) -> Result<(), SessionError> {
        let Some(stream) = self.known(Kind::Stop, id)? else {
            return Ok(());
        };
        if stream.send.is_over() || matches!(stream.send.state, SendState::Stopped(_)) {
            return Ok(());
        }
        if matches!(stream.send.state, SendState::CutShort(_)) {
            // What was to go before the RESET is not wanted.
            self.count_cancel(id, now)?;
            self.streams.clear_send(id);
            self.end_cut_short(id);
            return Ok(());
        }
        stream.send.state = SendState::Stopped(code);
        stream.news.stopped = Some(code);
        self.count_cancel(id, now)?;
        self.streams.list_news(id);
        self.streams.clear_send(id);
        self.streams.wake_writer(id);
        self.schedule(id);
        Ok(())
    }

    /// The peer aborted a stream.
    pub(super) fn on_aborted(&mut self, id: StreamId, code: ResetCode) {
        let keeps = self.streams.is_ours(id) && code.keeps_data();
        let aborted = self.abort(id, code, keeps);
        let Some(stream) = self.streams.find_mut(id) else {
            return;
        };
        stream.reset_due = None;
        stream.stop_due = None;
        if let Some((_, length)) = stream.call.take() {
            // Nobody has taken the call: nobody needs to know.
            self.backlog.on_taken(length);
            self.streams.forget(id);
            return;
        }
        if aborted {
            stream.news.reset = Some(code);
            self.streams.list_news(id);
        }
        self.streams.settle(id);
    }

    /// Puts both halves into Reset, as far as they are not over. `false`: both were. `keeps`: what has
    /// come can still be read.
    fn abort(&mut self, id: StreamId, code: ResetCode, keeps: bool) -> bool {
        let Some(stream) = self.streams.find_mut(id) else {
            return false;
        };
        if stream.is_over() {
            return false;
        }
        if !stream.send.is_over() {
            stream.send.state = SendState::Reset(code);
            self.streams.clear_send(id);
        }
        if let Some(stream) = self.streams.find_mut(id)
            && !stream.recv.is_over()
        {
            if keeps && stream.recv.state == RecvState::Open {
                stream.recv.state = RecvState::CutShort(code);
            } else {
                stream.recv.state = RecvState::Reset(code);
                self.streams.clear_recv(id);
            }
        }
        self.streams.wake_reader(id);
        self.streams.wake_writer(id);
        true
    }

    /// The peer is to be told of a stream that was aborted here, if it has heard of it.
    fn reset_due(&mut self, id: StreamId, code: ResetCode) {
        if let Some(stream) = self.streams.find_mut(id) {
            stream.stop_due = None;
            if stream.send.on_wire {
                stream.reset_here = true;
                stream.reset_due = Some(code);
                self.cancel_due(id);
            }
        }
        self.streams.settle(id);
    }

    /// RESET or STOP is to be sent: now, or later if it is one of too many for calls that were opened
    /// a moment ago. The peer would take these for a flood and end the session with everybody's
    /// calls. A stream whose RESET is kept back counts as open: who gives up early uses up room.
    pub(super) fn cancel_due(&mut self, id: StreamId) {
        let ours = self.streams.is_ours(id);
        let Some(stream) = self.streams.find_mut(id).filter(|_| ours) else {
            return self.streams.list_due(id);
        };
        if stream.take_young(KEPT_BACK, self.now) && self.own_cancels.spend(self.now).is_err() {
            stream.kept_back = true;
            self.kept_back.push_back((self.now + KEPT_BACK, id));
        } else if !stream.kept_back {
            self.streams.list_due(id);
        }
    }

    /// A stream on which the peer's side above the multiplexer made a mistake: it is reset, and
    /// our side is told as if the peer had done so. `bytes` are thrown away.
    pub(super) fn broken(
        &mut self,
        id: StreamId,
        bytes: usize,
        now: Instant,
    ) -> Result<(), SessionError> {
        self.count_cancel(id, now)?;
        self.break_off(id, bytes, ResetCode::Protocol);
        Ok(())
    }

    /// Resets a stream, and tells our side as if the peer had done so. `bytes`, which its window
    /// counts already, are thrown away.
    pub(super) fn break_off(&mut self, id: StreamId, bytes: usize, code: ResetCode) {
        let Some(stream) = self.streams.find_mut(id) else {
            return;
        };
        stream.recv.window.read(bytes);
        if let Some((_, length)) = stream.call.take() {
            // Nobody has taken the call: nobody will let go of it.
            self.backlog.on_taken(length);
            (stream.send.released, stream.recv.released) = (true, true);
        } else {
            stream.news.reset = Some(code);
            self.streams.list_news(id);
        }
        self.reset(id, code);
    }

    /// A stream of the peer's that ends soon after it began costs it something, once, or opening
    /// and cancelling would be a way to make us work for nothing. One that has been open for a
    /// while is free: the limit of streams bounds how many of these there are in that time.
    fn count_cancel(&mut self, id: StreamId, now: Instant) -> Result<(), SessionError> {
        if self.streams.is_ours(id) {
            return Ok(());
        }
        let stream = self.streams.find_mut(id);
        if stream.is_some_and(|stream| stream.take_young(RAPID, now)) {
            self.cancels.spend(now)?;
        }
        Ok(())
    }
}
