//! Input: what each frame does. `docs/protocol.md` has the outcomes as a table.
//!
//! Two kinds of wrong are told apart. What only a broken or hostile multiplexer does (framing,
//! ids, credit, order of frames) ends the session. What a defect above the multiplexer can cause
//! (a malformed head, heads out of order) resets the stream and leaves the others alone.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::Budget;
use super::error::{Flood, SessionError, Violation};
use super::stream::{Received, Stream};
use super::{Mux, StreamId, VERSION};
use crate::code::ResetCode;
use crate::controls::{decode_control, decode_goaway, decode_hello, decode_versions};
use crate::frame::{self, CLOSE, FIN, Frame, Kind};
use crate::heads::decode_head;
use crate::limits::{FLOOR, MAX_CONTROL, MAX_HEAD, MAX_WINDOW, MIN_WINDOW};
use crate::wire::{Malformed, array};

/// Payloads below this size, or below a quarter of their message, are copied out of it, so that
/// a few waiting bytes do not hold on to a large buffer: what waits holds at most four times its
/// own size. (A message may itself be a part of the transport's read buffer.)
const COPY_BELOW: usize = 4 * 1024;

impl Mux {
    /// Takes one message: one or more whole frames.
    ///
    /// # Errors
    /// Why the session is over; final. Every further call gives it again, except after
    /// [`close`](Self::close), where input is silently ignored.
    pub fn handle_message(&mut self, mut message: Bytes, now: Instant) -> Result<(), SessionError> {
        match &self.ended {
            Some(SessionError::Local(_)) => return Ok(()),
            Some(error) => return Err(error.clone()),
            None => {}
        }
        self.now = self.now.max(now);
        self.liveness.on_heard(now);
        let whole = message.len();
        self.counts.received += whole as u64;
        let result = if whole == 0 {
            Err(Violation::EmptyMessage.into())
        } else if whole > self.limits.max_message {
            Err(Violation::MessageTooLarge(whole).into())
        } else {
            self.on_frames(&mut message, whole, now)
        };
        result.map_err(|error| self.fail(error))
    }

    fn on_frames(
        &mut self,
        message: &mut Bytes,
        whole: usize,
        now: Instant,
    ) -> Result<(), SessionError> {
        while let Some(frame) = frame::next(message)? {
            self.on_frame(frame, whole, now)?;
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame, whole: usize, now: Instant) -> Result<(), SessionError> {
        if self.peer.is_none() && frame.kind != Kind::Hello {
            return Err(Violation::BeforeHello(frame.kind).into());
        }
        let (kind, id, fin) = (frame.kind, StreamId(frame.stream), frame.flags & FIN != 0);
        match kind {
            Kind::Hello => self.on_hello(frame.payload, now),
            Kind::Ping => {
                self.pings.spend(now)?;
                Ok(self.liveness.on_ping(number(kind, &frame.payload)?)?)
            }
            Kind::Pong => {
                let number = number(kind, &frame.payload)?;
                self.liveness.on_pong(number, now)?;
                self.streams.late.on_pong(number);
                self.drain.on_pong(number);
                Ok(())
            }
            Kind::Goaway => self.on_goaway(frame, now),
            Kind::Register | Kind::Registered | Kind::Auth | Kind::Notice => {
                self.on_control(kind, frame.payload, now)
            }
            Kind::Open => self.on_open(id, frame.payload, whole, fin, now),
            Kind::Head => self.on_head(id, compact(frame.payload, whole), fin, now),
            Kind::Data if frame.payload.is_empty() && !fin => Err(Violation::EmptyData(id).into()),
            Kind::Data => self.on_data(id, frame.payload, whole, fin, now),
            Kind::Finish => {
                if !frame.payload.is_empty() {
                    return Err(wrong(kind, Malformed("a payload where there is none")));
                }
                self.on_data(id, Bytes::new(), whole, true, now)
            }
            Kind::Reset => {
                self.on_reset(id, ResetCode::from_number(word(kind, &frame.payload)?), now)
            }
            Kind::Stop => {
                self.on_stop(id, ResetCode::from_number(word(kind, &frame.payload)?), now)
            }
            Kind::Window => self.on_window(id, word(kind, &frame.payload)?),
        }
    }

    fn on_hello(&mut self, payload: Bytes, now: Instant) -> Result<(), SessionError> {
        if self.peer.is_some() {
            return Err(Violation::SecondHello.into());
        }
        let wrong = |what| wrong(Kind::Hello, what);
        let (min, max) = decode_versions(payload.clone()).map_err(wrong)?;
        if !(min..=max).contains(&VERSION) {
            return Err(SessionError::Version { min, max });
        }
        let hello = decode_hello(payload).map_err(wrong)?;
        if !(MIN_WINDOW..=MAX_WINDOW).contains(&hello.initial_window) {
            return Err(wrong(Malformed(
                "an initial window that is too small or too large",
            )));
        }
        self.own_cancels = Budget::own_cancels(hello.max_streams, now);
        self.peer = Some(hello);
        self.news.ready = true;
        self.liveness.start(now);
        Ok(())
    }

    fn on_control(&mut self, kind: Kind, payload: Bytes, now: Instant) -> Result<(), SessionError> {
        self.control_budget.spend(now)?;
        if payload.len() > MAX_CONTROL {
            return Err(wrong(kind, Malformed("a control message that is too long")));
        }
        if self.news.controls.len() >= self.limits.control_queue {
            return Err(Flood::Control.into());
        }
        let control = decode_control(kind, payload).map_err(|what| wrong(kind, what))?;
        self.news.controls.push_back(control);
        Ok(())
    }

    fn on_goaway(&mut self, frame: Frame, now: Instant) -> Result<(), SessionError> {
        self.control_budget.spend(now)?;
        let goaway = decode_goaway(frame.payload).map_err(|what| wrong(Kind::Goaway, what))?;
        let before = self.peer_goaway.replace(goaway.last);
        if before.is_some_and(|before| goaway.last > before) {
            return Err(Violation::GoawayRises.into());
        }
        // Streams that the peer did not look at may go elsewhere.
        for id in self.streams.ids() {
            if self.streams.is_ours(id) && id.0 > goaway.last {
                self.on_aborted(id, ResetCode::Refused);
            }
        }
        if frame.flags & CLOSE != 0 {
            let error = SessionError::Closed {
                code: goaway.code,
                reason: goaway.reason,
            };
            self.end(error.clone());
            return Err(error);
        }
        if before.is_none() {
            let retry_after = Duration::from_millis(goaway.retry_after.into());
            self.news.draining = Some((goaway.code, retry_after));
        }
        Ok(())
    }

    fn on_head(
        &mut self,
        id: StreamId,
        payload: Bytes,
        fin: bool,
        now: Instant,
    ) -> Result<(), SessionError> {
        let length = payload.len();
        if length > MAX_HEAD {
            return Err(wrong(Kind::Head, Malformed("a head that is too long")));
        }
        let Some(stream) = self.on_bytes(Kind::Head, id, length)? else {
            self.on_received(id, 0, fin);
            return Ok(());
        };
        let head = match decode_head(payload) {
            Ok(head) if stream.recv.order.on_head(&head).is_ok() => head,
            Ok(_) | Err(Malformed(_)) => return self.broken(id, length, now),
        };
        let received = Received::Head(Box::new(head), length);
        if let Some(stream) = self.with_memory(id, length) {
            stream.recv.queue.push_back(received);
            self.on_received(id, length, fin);
        }
        Ok(())
    }

    fn on_data(
        &mut self,
        id: StreamId,
        data: Bytes,
        whole: usize,
        fin: bool,
        now: Instant,
    ) -> Result<(), SessionError> {
        let length = data.len();
        if length == 0 {
            self.streams.late.spend_idle()?;
        }
        let kind = if length == 0 {
            Kind::Finish
        } else {
            Kind::Data
        };
        match self.on_bytes(kind, id, length)? {
            Some(stream) if length > 0 => {
                if stream.recv.order.on_data().is_err() {
                    return self.broken(id, length, now);
                }
                if let Some(stream) = self.with_memory(id, length) {
                    stream.recv.push_data(data, is_small(length, whole));
                    self.on_received(id, length, fin);
                }
            }
            _ => self.on_received(id, 0, fin),
        }
        Ok(())
    }

    /// Counts bytes of a stream against its credit. `None`: nobody wants them.
    fn on_bytes(
        &mut self,
        kind: Kind,
        id: StreamId,
        length: usize,
    ) -> Result<Option<&mut Stream>, SessionError> {
        if !self.streams.was_opened(id) {
            return Err(Violation::NeverOpened(kind, id).into());
        }
        let known = self.streams.find(id).is_some();
        if !known && !self.streams.late.spend_bytes(length) {
            return Err(Violation::AfterEnd(kind, id).into());
        }
        let Some(stream) = self.streams.find_mut(id) else {
            return Ok(None);
        };
        if stream.recv.ended {
            return Err(Violation::AfterEnd(kind, id).into());
        }
        stream
            .recv
            .window
            .receive(length)
            .or(Err(SessionError::FlowControl(id)))?;
        if stream.recv.discards() {
            stream.recv.window.read(length);
            return Ok(None);
        }
        Ok(Some(stream))
    }

    /// The stream whose next `length` bytes are to be queued, which the session counts now as its
    /// window does already. `None`: there is no memory for them, and it is broken off.
    fn with_memory(&mut self, id: StreamId, length: usize) -> Option<&mut Stream> {
        let stream = self.streams.find(id)?;
        let (account, beyond) = (stream.account, stream.recv.window.buffered() > FLOOR);
        if beyond && !self.streams.accounts.has_memory(account, length) {
            self.break_off(id, length, ResetCode::Overloaded);
            return None;
        }
        self.streams.on_received(account, length);
        self.streams.find_mut(id)
    }

    /// Something was put into a stream's queue, or its end has come.
    fn on_received(&mut self, id: StreamId, length: usize, fin: bool) {
        if fin && let Some(stream) = self.streams.find_mut(id) {
            stream.recv.ended = true;
            // There is nothing left to stop, and nothing to reset if our end was sent: the peer
            // counts the stream no more and may open another one.
            stream.stop_due = None;
            if stream.send.fin_sent {
                stream.reset_due = None;
            }
        }
        if length > 0 || fin {
            self.streams.wake_reader(id);
        }
        if fin {
            self.streams.settle(id);
        }
    }

    fn on_window(&mut self, id: StreamId, credit: u32) -> Result<(), SessionError> {
        if credit == 0 {
            return Err(Violation::Credit(id, credit).into());
        }
        if let Some(stream) = self.known(Kind::Window, id)? {
            stream
                .send
                .window
                .grant(credit)
                .or(Err(Violation::Credit(id, credit)))?;
            self.schedule(id);
        }
        Ok(())
    }

    /// The stream of a frame without bytes, which is counted. `None`: the stream is forgotten,
    /// and the frame is late and means nothing any more.
    pub(super) fn known(
        &mut self,
        kind: Kind,
        id: StreamId,
    ) -> Result<Option<&mut Stream>, SessionError> {
        if !self.streams.was_opened(id) {
            return Err(Violation::NeverOpened(kind, id).into());
        }
        self.streams.late.spend_idle()?;
        Ok(self.streams.find_mut(id))
    }
}

pub(super) fn wrong(frame: Kind, Malformed(what): Malformed) -> SessionError {
    Violation::Malformed { frame, what }.into()
}

fn word(kind: Kind, payload: &Bytes) -> Result<u32, SessionError> {
    array(payload, "a payload that has not four bytes")
        .map(u32::from_be_bytes)
        .map_err(|what| wrong(kind, what))
}

fn number(kind: Kind, payload: &Bytes) -> Result<u64, SessionError> {
    array(payload, "a payload that has not eight bytes")
        .map(u64::from_be_bytes)
        .map_err(|what| wrong(kind, what))
}

/// Whether a payload is to be copied out of its message of `whole` bytes.
pub(super) fn is_small(payload: usize, whole: usize) -> bool {
    payload < COPY_BELOW || payload < whole / 4
}

/// The payload, copied out of its message of `whole` bytes if it is small.
pub(super) fn compact(payload: Bytes, whole: usize) -> Bytes {
    if is_small(payload.len(), whole) {
        Bytes::copy_from_slice(&payload)
    } else {
        payload
    }
}
