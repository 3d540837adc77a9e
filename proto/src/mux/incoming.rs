//! Calls of the peer: whether each is taken, on which account, and how it waits to be accepted.

use std::time::Instant;

use bytes::Bytes;

use super::accounts::AccountId;
use super::drain::Drain;
use super::error::{Flood, SessionError, Violation};
use super::receive::{compact, is_small, wrong};
use super::stream::Stream;
use super::transmit::Refused;
use super::{Mux, StreamId};
use crate::code::ResetCode;
use crate::frame::Kind;
use crate::head::CallHead;
use crate::heads::decode_call;
use crate::limits::{FLOOR, MAX_CALL_HEAD};
use crate::wire::{Malformed, malformed, take_bytes, take_length};

impl Mux {
    /// The frame OPEN.
    pub(super) fn on_open(
        &mut self,
        id: StreamId,
        mut payload: Bytes,
        whole: usize,
        fin: bool,
        now: Instant,
    ) -> Result<(), SessionError> {
        if self.streams.is_ours(id) || id.0 <= self.streams.highest {
            return Err(Violation::OpenId(id).into());
        }
        self.streams.highest = id.0;
        let head = split_head(&mut payload).map_err(|what| wrong(Kind::Open, what))?;
        let head = compact(head, whole);
        let head_length = head.len();
        let send_window = self.peer.as_ref().map_or(0, |peer| peer.initial_window);
        let mut stream = Stream::new(false, send_window, self.hello.initial_window);
        let body = payload.len();
        stream
            .recv
            .window
            .receive(body)
            .or(Err(SessionError::FlowControl(id)))?;
        stream.recv.ended = fin;
        let call = match self.admit(head, body) {
            Ok((call, account)) => {
                stream.account = account;
                call
            }
            Err(code) => {
                let credit = if fin { 0 } else { stream.recv.window.credit() };
                return self.refuse(id, code, credit, now);
            }
        };
        stream.call = Some((Box::new(call), head_length));
        stream.opened = Some(now);
        if body > 0 {
            // Cannot fail: data may begin a direction.
            let _ = stream.recv.order.on_data();
            let small = is_small(payload.len(), whole);
            stream.recv.push_data(payload, small);
        }
        self.streams.insert(id, stream);
        let waits = |id| {
            self.streams
                .find(id)
                .is_some_and(|stream| stream.call.is_some())
        };
        self.backlog.push(id, head_length, waits);
        self.news.incoming = true;
        Ok(())
    }

    /// Whether a call is taken, on which account, or why not; so much of its `body` came with it.
    fn admit(&mut self, head: Bytes, body: usize) -> Result<(CallHead, AccountId), ResetCode> {
        let full = self.streams.theirs_open >= self.hello.max_streams
            || self.backlog.len() >= self.limits.backlog
            || self.backlog.bytes() + head.len() > self.limits.backlog_bytes;
        if full || matches!(self.drain, Drain::Done) {
            return Err(ResetCode::Refused);
        }
        let call = decode_call(head).or(Err(ResetCode::Protocol))?;
        let accounts = &mut self.streams.accounts;
        let account = accounts.enter(&call.caller.tenant);
        if body > FLOOR && !accounts.has_memory(account, body) {
            accounts.leave(account);
            return Err(ResetCode::Refused);
        }
        Ok((call, account))
    }

    /// Turns a call away without keeping anything of it but its number.
    fn refuse(
        &mut self,
        id: StreamId,
        code: ResetCode,
        credit: u32,
        now: Instant,
    ) -> Result<(), SessionError> {
        self.cancels.spend(now)?;
        if self.refused.len() >= self.limits.cancel_burst as usize {
            return Err(Flood::Cancels.into());
        }
        self.counts.refused += 1;
        self.streams.late.on_stream();
        self.streams.late.on_forgotten(credit);
        self.refused.push_back(Refused { id, code });
        Ok(())
    }

    /// The next call of the peer, after [`Event::Incoming`](super::Event::Incoming). There may be
    /// more than one.
    pub fn accept(&mut self) -> Option<(StreamId, CallHead)> {
        while let Some(id) = self.backlog.pop() {
            // A call that was cancelled meanwhile is forgotten already.
            if let Some(stream) = self.streams.find_mut(id)
                && let Some((head, length)) = stream.call.take()
            {
                self.backlog.on_taken(length);
                self.counts.accepted += 1;
                return Some((id, *head));
            }
        }
        None
    }
}

/// Takes the call head off an OPEN; what is left is the body's beginning.
fn split_head(payload: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = take_length(payload)?;
    if length > MAX_CALL_HEAD {
        return malformed("a call head that is too long");
    }
    take_bytes(payload, length)
}
