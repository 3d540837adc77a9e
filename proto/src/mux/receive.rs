//! Input: what each frame does.

use std::time::Instant;

use bytes::{Buf, Bytes};

use super::stream::{Half, Received, Stream};
use super::{Event, Mux, Phase, SessionError, StreamId, VERSION};
use crate::code::{GoawayCode, ResetCode};
use crate::controls::{decode_control, decode_goaway, decode_hello};
use crate::frame::{self, FIN, Frame, Kind};
use crate::head::Head;
use crate::heads::{decode_call, decode_head};
use crate::limits::{MAX_HEAD, MAX_INTERIM};
use crate::wire::{malformed, number};

/// A payload this much smaller than the message that it came in is copied out of it, so that a
/// few waiting bytes do not hold a whole message.
const COPY_BELOW: usize = 4;

impl Mux {
    /// Takes one WebSocket message: one or more whole frames.
    ///
    /// # Errors
    /// Whatever the peer did wrong. Final: every stream has failed, a GOAWAY with the code is
    /// queued, and further input is ignored.
    pub fn handle_message(&mut self, mut message: Bytes, now: Instant) -> Result<(), SessionError> {
        if self.phase == Phase::Closed {
            return Ok(());
        }
        self.pings.on_message(now);
        let whole = message.len();
        let result = if whole == 0 {
            self.spend_flood(now)
        } else {
            loop {
                match frame::next(&mut message) {
                    Ok(None) => break Ok(()),
                    Ok(Some(frame)) => match self.on_frame(frame, whole, now) {
                        Ok(()) if self.phase == Phase::Closed => break Ok(()),
                        Ok(()) => {}
                        Err(error) => break Err(error),
                    },
                    Err(error) => break Err(error),
                }
            }
        };
        result.inspect_err(|error| self.fail(error.clone()))
    }

    fn on_frame(&mut self, frame: Frame, whole: usize, now: Instant) -> Result<(), SessionError> {
        let greeted = self.peer.is_some();
        match (frame.kind, frame.stream) {
            (Kind::Hello, 0) if !greeted => self.on_hello(frame.payload),
            (Kind::Goaway, 0) => self.on_goaway(frame.payload),
            _ if !greeted => malformed("the first frame is not HELLO"),
            (Kind::Ping, 0) => {
                self.spend_flood(now)?;
                self.pings.pong = Some(number(&frame.payload, "a PING has eight bytes")?);
                Ok(())
            }
            (Kind::Pong, 0) => {
                self.spend_flood(now)?;
                self.pings
                    .on_pong(number(&frame.payload, "a PONG has eight bytes")?, now);
                Ok(())
            }
            (Kind::Register | Kind::Registered | Kind::Auth | Kind::Notice, 0) => {
                self.spend_flood(now)?;
                let control = decode_control(frame.kind, frame.payload)?;
                self.events.push_back(Event::Control(control));
                Ok(())
            }
            (Kind::Open, id) if id > 0 => self.on_open(frame, whole, now),
            (Kind::Head, id) if id > 0 => self.on_head(frame, whole),
            (Kind::Data, id) if id > 0 => self.on_data(frame, whole, now),
            (Kind::Finish, id) if id > 0 && frame.payload.is_empty() => match self.known(id)? {
                Some(stream) if stream.recv.is_over() && !stream.discards() => {
                    malformed("FINISH behind the end")
                }
                Some(_) => {
                    self.on_fin(id);
                    Ok(())
                }
                None => Ok(()),
            },
            (Kind::Reset, id) if id > 0 => {
                self.spend_flood(now)?;
                let code = u32::from_be_bytes(number(&frame.payload, "a RESET has four bytes")?);
                self.on_reset(id, ResetCode::from_number(code))
            }
            (Kind::Stop, id) if id > 0 => {
                self.spend_flood(now)?;
                let code = u32::from_be_bytes(number(&frame.payload, "a STOP has four bytes")?);
                self.on_stop(id, ResetCode::from_number(code))
            }
            (Kind::Window, id) if id > 0 => {
                let credit = u32::from_be_bytes(number(&frame.payload, "a WINDOW has four bytes")?);
                self.on_window(id, credit)
            }
            _ => malformed("a frame on a stream where it does not belong"),
        }
    }

    fn on_hello(&mut self, payload: Bytes) -> Result<(), SessionError> {
        let hello = decode_hello(payload)?;
        if hello.min_version > VERSION || hello.max_version < VERSION {
            let (min, max) = (hello.min_version, hello.max_version);
            return Err(SessionError::Version {
                min,
                max,
                ours: VERSION,
            });
        }
        if (hello.initial_window as usize) < MAX_HEAD {
            return malformed("the initial window is smaller than a head");
        }
        if u64::from(hello.initial_window) > super::window::MAX_CREDIT {
            return Err(SessionError::FlowControl("the initial window is too large"));
        }
        self.peer = Some(hello);
        self.phase = Phase::Open;
        self.events.push_back(Event::Ready);
        Ok(())
    }

    fn on_goaway(&mut self, payload: Bytes) -> Result<(), SessionError> {
        let goaway = decode_goaway(payload)?;
        if !matches!(goaway.code, GoawayCode::Drain | GoawayCode::Exhausted) {
            let error = SessionError::Closed {
                code: goaway.code,
                reason: goaway.reason,
            };
            self.end(error);
            return Ok(());
        }
        if !self.peer_draining {
            self.peer_draining = true;
            let retry_after = std::time::Duration::from_millis(goaway.retry_after.into());
            self.events.push_back(Event::Draining {
                code: goaway.code,
                retry_after,
            });
        }
        let mut refused: Vec<u32> = self
            .streams
            .keys()
            .copied()
            .filter(|id| self.is_ours(*id) && *id > goaway.last)
            .collect();
        refused.sort_unstable();
        for id in refused {
            self.on_reset(id, ResetCode::Refused)?;
        }
        Ok(())
    }

    fn on_open(&mut self, frame: Frame, whole: usize, now: Instant) -> Result<(), SessionError> {
        let id = frame.stream;
        if self.is_ours(id) {
            return malformed("OPEN with an id of the wrong side");
        }
        if id <= self.highest_peer {
            return malformed("OPEN with an id that was used");
        }
        if self.peer_open >= self.hello.max_streams {
            return malformed("more streams than were agreed on");
        }
        let mut payload = compact(frame.payload, whole);
        if payload.len() < 4 {
            return malformed("an OPEN is cut short");
        }
        let head = payload.get_u32() as usize;
        if head > MAX_HEAD || head > payload.len() {
            return malformed("an OPEN's head is too long");
        }
        let head = decode_call(payload.split_to(head))?;
        self.highest_peer = id;
        let window = self.peer.as_ref().map_or(0, |peer| peer.initial_window);
        let mut stream = Stream::new(window, self.hello.initial_window);
        if !stream.recv.window.receive(payload.len()) {
            return Err(SessionError::FlowControl("an OPEN has more than a window"));
        }
        let fin = frame.flags & FIN != 0;
        if payload.is_empty() && !fin {
            self.spend_flood(now)?;
        }
        if !payload.is_empty() {
            stream.recv.queue.push_back(Received::Data(payload));
        }
        if fin {
            stream.recv.half = Half::Finished;
        }
        self.peer_open += 1;
        let refuse = self.draining || self.backlog.len() >= self.limits.backlog;
        self.streams.insert(id, stream);
        if refuse {
            self.abort(id, ResetCode::Refused);
            self.release(id);
        } else {
            self.backlog.push_back((StreamId(id), head));
            self.events.push_back(Event::Incoming);
        }
        Ok(())
    }

    fn on_head(&mut self, frame: Frame, whole: usize) -> Result<(), SessionError> {
        let (id, length) = (frame.stream, frame.payload.len());
        let ours = self.is_ours(id);
        let head = decode_head(compact(frame.payload, whole))?;
        let Some(stream) = self.known(id)? else {
            return Ok(());
        };
        let recv = &mut stream.recv;
        if !recv.window.receive(length) {
            return Err(SessionError::FlowControl("a HEAD beyond the credit"));
        }
        if recv.half == Half::Finished || recv.trailers {
            return malformed("a HEAD behind the end");
        }
        match &head {
            Head::Trailers(_) if !ours || recv.final_head => recv.trailers = true,
            Head::Interim(_) if ours && !recv.final_head => recv.interim_heads += 1,
            Head::Response(_) | Head::Refusal(_) if ours && !recv.final_head => {
                recv.final_head = true;
            }
            _ => return malformed("a HEAD out of order"),
        }
        if recv.interim_heads > MAX_INTERIM {
            return malformed("too many interim heads");
        }
        self.enqueue(
            id,
            Received::Head(head, length),
            length,
            frame.flags & FIN != 0,
        );
        Ok(())
    }

    fn on_data(&mut self, frame: Frame, whole: usize, now: Instant) -> Result<(), SessionError> {
        let (id, length, fin) = (frame.stream, frame.payload.len(), frame.flags & FIN != 0);
        if length == 0 {
            self.spend_flood(now)?;
        }
        let ours = self.is_ours(id);
        let Some(stream) = self.known(id)? else {
            return Ok(());
        };
        let recv = &mut stream.recv;
        if !recv.window.receive(length) {
            return Err(SessionError::FlowControl("DATA beyond the credit"));
        }
        if recv.half == Half::Finished || recv.trailers && length > 0 {
            return malformed("DATA behind the end");
        }
        if ours && !recv.final_head && length > 0 {
            return malformed("DATA before the head");
        }
        let data = compact(frame.payload, whole);
        self.enqueue(id, Received::Data(data), length, fin);
        Ok(())
    }

    /// Queues what arrived, or drops it if nobody will read it.
    fn enqueue(&mut self, id: u32, item: Received, length: usize, fin: bool) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let recv = &mut stream.recv;
        if recv.half != Half::Open || recv.released {
            // Stopped or released: what was in flight is dropped. No credit: the peer is told to
            // stop.
            recv.window.consume(length);
        } else if length > 0 {
            recv.queue.push_back(item);
            self.received += length as u64;
            if std::mem::take(&mut recv.waiting) {
                self.events.push_back(Event::Readable(StreamId(id)));
            }
        }
        if fin {
            self.on_fin(id);
        }
    }

    fn on_fin(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.recv.half == Half::Open {
            stream.recv.half = Half::Finished;
            if std::mem::take(&mut stream.recv.waiting) {
                self.events.push_back(Event::Readable(StreamId(id)));
            }
        }
        self.settle(id);
    }

    fn on_reset(&mut self, id: u32, code: ResetCode) -> Result<(), SessionError> {
        let Some(stream) = self.known(id)? else {
            return Ok(());
        };
        if stream.is_over() {
            return Ok(());
        }
        stream.reset(code);
        self.events.push_back(Event::Reset(StreamId(id), code));
        self.settle(id);
        Ok(())
    }

    fn on_stop(&mut self, id: u32, code: ResetCode) -> Result<(), SessionError> {
        let Some(stream) = self.known(id)? else {
            return Ok(());
        };
        if stream.send.is_over() {
            return Ok(());
        }
        stream.send.stopped = Some(code);
        stream.send.half = Half::Reset(code);
        stream.send.clear();
        self.events.push_back(Event::Stopped(StreamId(id), code));
        self.settle(id);
        Ok(())
    }

    fn on_window(&mut self, id: u32, credit: u32) -> Result<(), SessionError> {
        let Some(stream) = self.known(id)? else {
            return Ok(());
        };
        if !stream.send.window.grant(credit) {
            return Err(SessionError::FlowControl(
                "a WINDOW of nothing, or of too much",
            ));
        }
        self.schedule(id);
        Ok(())
    }

    /// The stream of a frame. `None`: it was forgotten, and the frame is late. An id that never
    /// was is an error.
    fn known(&mut self, id: u32) -> Result<Option<&mut Stream>, SessionError> {
        let was = if self.is_ours(id) {
            id < self.next_id
        } else {
            id <= self.highest_peer
        };
        if !was {
            return malformed("a frame on a stream that was never opened");
        }
        Ok(self.streams.get_mut(&id))
    }

    /// Counts a frame that costs its sender nothing.
    fn spend_flood(&mut self, now: Instant) -> Result<(), SessionError> {
        if now.saturating_duration_since(self.flood_since) >= self.limits.flood_period {
            self.flood_since = now;
            self.flood_seen = 0;
        }
        self.flood_seen += 1;
        if self.flood_seen > self.limits.flood_frames {
            Err(SessionError::Flood)
        } else {
            Ok(())
        }
    }
}

fn compact(payload: Bytes, whole: usize) -> Bytes {
    if payload.len() * COPY_BELOW < whole {
        Bytes::copy_from_slice(&payload)
    } else {
        payload
    }
}
