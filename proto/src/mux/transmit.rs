//! Output: what is sent next.
//!
//! Session frames first, then what is said about streams (RESET, STOP, WINDOW), then new streams,
//! then bodies by deficit round robin: each stream in turn may send a quantum of bytes, in frames
//! of at most [`MAX_DATA`], so that nobody waits longer than a quantum of each other stream.

use std::time::Instant;

use bytes::{BufMut, BytesMut};

use super::stream::{Half, Outgoing, Sending};
use super::{Event, Mux, Phase, StreamId};
use crate::controls::encode_goaway;
use crate::frame::{FIN, HEADER, Kind, put_header};
use crate::limits::MAX_DATA;

/// Bytes that a stream may send in its turn.
const QUANTUM: usize = 16 * 1024;

impl Mux {
    /// Appends whole frames to `batch` until about `limits.batch` bytes; `true` if any were.
    pub fn poll_transmit(&mut self, batch: &mut BytesMut, now: Instant) -> bool {
        let start = batch.len();
        self.transmit_session(batch, now);
        if self.phase == Phase::Open {
            self.transmit_flags(batch);
            self.transmit_opens(batch, start);
            self.transmit_bodies(batch, start);
        }
        batch.len() > start
    }

    /// Whether `poll_transmit` would append anything.
    pub fn has_transmit(&self) -> bool {
        if self.goaway.is_some() || !self.session_out.is_empty() {
            return true;
        }
        match self.phase {
            Phase::Closed => false,
            Phase::Greeting => self.pings.pong.is_some(),
            Phase::Open => {
                self.pings.has_transmit()
                    || !self.flagged.is_empty()
                    || !self.opens.is_empty()
                    || !self.active.is_empty()
            }
        }
    }

    fn transmit_session(&mut self, batch: &mut BytesMut, now: Instant) {
        batch.extend_from_slice(&self.session_out);
        self.session_out.clear();
        self.controls_queued = 0;
        if let Some(pong) = self.pings.pong.take() {
            put_header(batch, Kind::Pong, 0, 8, 0);
            batch.put_slice(&pong);
        }
        if self.phase == Phase::Open
            && let Some(ping) = self.pings.transmit(now)
        {
            put_header(batch, Kind::Ping, 0, 8, 0);
            batch.put_slice(&ping);
        }
        if let Some(goaway) = self.goaway.take() {
            put_header(batch, Kind::Goaway, 0, 12 + goaway.reason.len(), 0);
            encode_goaway(&goaway, batch);
        }
    }

    /// Four bytes each: all of them go, so that credit never waits behind bodies.
    fn transmit_flags(&mut self, batch: &mut BytesMut) {
        while let Some(id) = self.flagged.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.flagged = false;
            let mut put = |kind, number: u32| {
                put_header(batch, kind, 0, 4, id);
                batch.put_u32(number);
            };
            if let Some(code) = stream.pending_reset.take() {
                put(Kind::Reset, code.number());
            } else {
                if let Some(code) = stream.pending_stop.take() {
                    put(Kind::Stop, code.number());
                }
                if stream.recv.half == Half::Open
                    && let Some(credit) = stream.recv.window.due()
                {
                    stream.recv.window.granted(credit);
                    put(Kind::Window, credit);
                }
            }
            self.settle(id);
        }
    }

    fn transmit_opens(&mut self, batch: &mut BytesMut, start: usize) {
        while batch.len() - start < self.limits.batch {
            let Some(id) = self.opens.pop_front() else {
                return;
            };
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            let Some(head) = stream.opening.take() else {
                continue;
            };
            let send = &mut stream.send;
            let body = next_data(send, MAX_DATA);
            put_header(batch, Kind::Open, 0, 4 + head.len() + body, id);
            let header = batch.len() - HEADER;
            batch.put_u32(head.len() as u32);
            batch.put_slice(&head);
            copy_data(send, body, batch);
            self.sent += body as u64;
            if send.half == Half::Finished && send.queue.is_empty() {
                set_fin(batch, header);
                send.fin_sent = true;
            }
            self.after_send(id);
        }
    }

    fn transmit_bodies(&mut self, batch: &mut BytesMut, start: usize) {
        while batch.len() - start < self.limits.batch {
            let Some(id) = self.active.pop_front() else {
                return;
            };
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            let send = &mut stream.send;
            send.scheduled = false;
            send.deficit += QUANTUM;
            while send.has_work() && send.deficit > 0 && batch.len() - start < self.limits.batch {
                let sent = put_next(send, id, batch);
                send.deficit = send.deficit.saturating_sub(sent);
                self.sent += sent as u64;
            }
            if send.has_work() {
                send.scheduled = true;
                if send.deficit > 0 {
                    // The batch is full in the middle of its turn, which goes on next time.
                    send.deficit = send.deficit.saturating_sub(QUANTUM);
                    self.active.push_front(id);
                } else {
                    self.active.push_back(id);
                }
            } else {
                send.deficit = 0;
            }
            self.after_send(id);
        }
    }

    /// Tells a blocked writer that there is room, schedules what is left, forgets what is done.
    fn after_send(&mut self, id: u32) {
        let room = self.limits.send_queue / 2;
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.send.blocked
            && stream.send.queued <= room
        {
            stream.send.blocked = false;
            self.events.push_back(Event::Writable(StreamId(id)));
        }
        self.schedule(id);
        self.settle(id);
    }

    /// Puts a stream that can send into the scheduler's queue, once.
    pub(super) fn schedule(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.opening.is_none()
            && !stream.send.scheduled
            && stream.send.has_work()
        {
            stream.send.scheduled = true;
            self.active.push_back(id);
        }
    }
}

/// One frame of a stream that has work; returns what counts against its turn.
fn put_next(send: &mut Sending, id: u32, batch: &mut BytesMut) -> usize {
    if matches!(send.queue.front(), Some(Outgoing::Head(_)))
        && let Some(Outgoing::Head(head)) = send.queue.pop_front()
    {
        send.queued -= head.len();
        send.window.spend(head.len());
        let fin = send.half == Half::Finished && send.queue.is_empty();
        send.fin_sent |= fin;
        put_header(batch, Kind::Head, if fin { FIN } else { 0 }, head.len(), id);
        batch.put_slice(&head);
        return head.len() + HEADER;
    }
    let length = next_data(send, MAX_DATA);
    if length == 0 {
        send.fin_sent = true;
        put_header(batch, Kind::Finish, 0, 0, id);
        return HEADER;
    }
    put_header(batch, Kind::Data, 0, length, id);
    let header = batch.len() - HEADER;
    copy_data(send, length, batch);
    if send.half == Half::Finished && send.queue.is_empty() {
        set_fin(batch, header);
        send.fin_sent = true;
    }
    length + HEADER
}

/// How many bytes of body the next frame can have: what is queued before the next head, within
/// the credit.
fn next_data(send: &Sending, most: usize) -> usize {
    let most = most.min(send.window.available());
    let mut length = 0;
    for item in &send.queue {
        match item {
            Outgoing::Data(data) if length < most => length += data.len(),
            _ => break,
        }
    }
    length.min(most)
}

fn copy_data(send: &mut Sending, length: usize, batch: &mut BytesMut) {
    send.window.spend(length);
    send.queued -= length;
    let mut left = length;
    while left > 0 {
        let Some(Outgoing::Data(data)) = send.queue.front_mut() else {
            return;
        };
        let part = data.split_to(data.len().min(left));
        batch.put_slice(&part);
        left -= part.len();
        if data.is_empty() {
            send.queue.pop_front();
        }
    }
}

/// The flag bits are the upper half of the header's second byte.
fn set_fin(batch: &mut BytesMut, header: usize) {
    batch[header + 1] |= FIN << 4;
}
