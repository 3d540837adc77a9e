//! Output: what is sent next, and how it is put into a batch.
//!
//! First what is about the session (greeting, pongs, pings), then what is about streams (RESET,
//! STOP, WINDOW: numbers, never queues), then control messages, then the streams by schedule.
//! Streams get their turn only when everything before them is in the batch, so that a RESET
//! always goes before the OPEN that takes its place.

use std::time::Instant;

use bytes::{Buf, BufMut, BytesMut};

use super::drain::{Drain, EVERY};
use super::stream::{Chunk, SendState, Sending};
use super::{Mux, StreamId};
use crate::code::ResetCode;
use crate::controls::encode_goaway;
use crate::frame::{CLOSE, FIN, HEADER, Kind, put_frame, put_header};
use crate::limits::FRAME;
use crate::wire::{length_of_length, put_length};

/// A call that was turned away.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) id: StreamId,
    pub(super) code: ResetCode,
}

/// Least piece of data that is worth a frame at the end of a batch.
const CRUMB: usize = 1024;

/// The part of a batch that is left.
#[derive(Debug, Clone, Copy)]
struct Room {
    start: usize,
    limit: usize,
}

impl Room {
    fn used(self, batch: &BytesMut) -> usize {
        batch.len() - self.start
    }

    fn left(self, batch: &BytesMut) -> usize {
        self.limit.saturating_sub(self.used(batch))
    }

    /// Whether a frame fits. One of more than half a batch may go beyond its end behind three
    /// quarters of one: what is said before the turn of streams takes less, so that such a frame, and
    /// all that wait for their turn behind it, never waits for a batch with less in it.
    fn fits(self, batch: &BytesMut, frame: usize) -> bool {
        let early = self.used(batch) <= self.limit / 4 * 3;
        frame <= self.left(batch) || early && frame > self.limit / 2
    }
}

impl Mux {
    /// Appends a batch of whole frames: at most [`Limits::batch`](super::Limits::batch) bytes,
    /// but always room for one large head or control message (at most
    /// [`MAX_CALL_HEAD`](crate::limits::MAX_CALL_HEAD), 122 KiB, or 64 KiB, behind at most three
    /// quarters of `batch`). `true` if it appended anything.
    pub fn poll_transmit(&mut self, batch: &mut BytesMut, now: Instant) -> bool {
        self.now = self.now.max(now);
        let start = batch.len();
        if let Some(greeting) = self.greeting.take() {
            put_frame(batch, Kind::Hello, 0, 0, &greeting);
        }
        if self.ended.is_some() {
            self.put_farewell(batch);
        } else if self.peer.is_some() {
            let expected = self.streams.queued + 32 * self.streams.due.len() + 64;
            batch.reserve(expected.min(self.limits.batch));
            self.put_pongs(batch);
            let half = self.limits.batch / 2;
            let all = self.put_notes(batch, Room { start, limit: half });
            self.put_ping(batch, now, all);
            if all {
                self.put_controls(batch, Room { start, limit: half });
                self.put_streams(
                    batch,
                    Room {
                        start,
                        limit: self.limits.batch,
                    },
                );
            }
        }
        self.counts.sent += (batch.len() - start) as u64;
        batch.len() > start
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has something to append.
    pub fn has_transmit(&self) -> bool {
        if self.greeting.is_some() || self.farewell.is_some() {
            return true;
        }
        self.ended.is_none()
            && self.peer.is_some()
            && (self.liveness.has_transmit()
                || !self.refused.is_empty()
                || !self.streams.due.is_empty()
                || !self.controls.is_empty()
                || self.drain.has_transmit()
                || !self.schedule.is_empty())
    }

    fn put_farewell(&mut self, batch: &mut BytesMut) {
        if let Some(goaway) = self.farewell.take() {
            let mut payload = BytesMut::new();
            encode_goaway(&goaway, &mut payload);
            put_frame(batch, Kind::Goaway, CLOSE, 0, &payload);
        }
    }

    fn put_pongs(&mut self, batch: &mut BytesMut) {
        for number in self.liveness.take_pongs() {
            put_frame(batch, Kind::Pong, 0, 0, &number.to_be_bytes());
        }
    }

    /// `all`: no RESET is left to be sent after it.
    fn put_ping(&mut self, batch: &mut BytesMut, now: Instant, all: bool) {
        if let Some(number) = self.liveness.take_ping(now) {
            put_frame(batch, Kind::Ping, 0, 0, &number.to_be_bytes());
            if all {
                self.streams.late.on_ping_sent(number);
            }
        }
    }

    /// What is to be said about streams; `true` if all of it is in the batch.
    fn put_notes(&mut self, batch: &mut BytesMut, room: Room) -> bool {
        while let Some(refused) = self.refused.front() {
            if !room.fits(batch, HEADER + 4) {
                return false;
            }
            put_word(batch, Kind::Reset, refused.id, refused.code.number());
            self.refused.pop_front();
        }
        while let Some(id) = self.streams.due.front().copied() {
            if !room.fits(batch, 2 * (HEADER + 4)) {
                return false;
            }
            self.streams.due.pop_front();
            self.put_stream_notes(batch, id);
        }
        true
    }

    /// Control messages, as long as less than half of the batch is used, and a GOAWAY.
    fn put_controls(&mut self, batch: &mut BytesMut, room: Room) {
        while room.left(batch) > 0 {
            let Some((kind, payload)) = self.controls.pop_front() else {
                break;
            };
            put_frame(batch, kind, 0, 0, &payload);
        }
        self.put_goaway(batch);
    }

    /// What a drain of ours has to say now.
    fn put_goaway(&mut self, batch: &mut BytesMut) {
        let (mut goaway, first) = match std::mem::replace(&mut self.drain, Drain::Done) {
            Drain::Due(goaway) => (goaway, true),
            Drain::Heard(goaway) => (goaway, false),
            other => {
                self.drain = other;
                return;
            }
        };
        // Known only now: what was accepted until this frame.
        goaway.last = if first { EVERY } else { self.streams.highest };
        let mut payload = BytesMut::new();
        encode_goaway(&goaway, &mut payload);
        put_frame(batch, Kind::Goaway, 0, 0, &payload);
        if first {
            self.drain = Drain::Announced(goaway, self.liveness.ask());
        } else {
            self.accepted_last = Some(goaway.last);
        }
    }

    fn put_stream_notes(&mut self, batch: &mut BytesMut, id: StreamId) {
        let Some(stream) = self.streams.find_mut(id) else {
            return;
        };
        stream.listed = false;
        if stream.kept_back {
            return;
        }
        if let Some(code) = stream.reset_due.take() {
            put_word(batch, Kind::Reset, id, code.number());
        } else {
            if let Some(code) = stream.stop_due.take() {
                put_word(batch, Kind::Stop, id, code.number());
            }
            if stream.recv.wants_credit() && stream.recv.window.is_due() {
                put_word(batch, Kind::Window, id, stream.recv.window.grant());
            }
        }
        self.streams.settle(id);
    }

    fn put_streams(&mut self, batch: &mut BytesMut, room: Room) {
        while let Some(id) = self.schedule.front() {
            let Some(stream) = self.streams.find_mut(id) else {
                self.schedule.drop_front();
                continue;
            };
            let send = &mut stream.send;
            if !send.has_work() {
                self.schedule.on_idle(&mut send.turn, send.queue.is_empty());
                continue;
            }
            if !self.schedule.is_turn(&mut send.turn) {
                continue;
            }
            let least = least_frame(send);
            if !room.fits(batch, least) {
                return;
            }
            let (before, account) = ((batch.len(), send.queued), stream.account);
            put_next(batch, send, id, room.left(batch));
            self.schedule
                .on_sent(&mut send.turn, batch.len() - before.0);
            if send.has_work() {
                self.schedule.on_more(&mut send.turn);
            } else {
                self.schedule.on_idle(&mut send.turn, send.queue.is_empty());
            }
            let sent = before.1 - send.queued;
            self.streams.on_sent(account, sent);
            self.streams.late.on_frame_sent();
            self.after_frame(id);
        }
        self.schedule.on_all_idle();
    }

    /// Wakes a writer once half of the queue is free, says what could not be said before OPEN,
    /// and forgets what is done.
    fn after_frame(&mut self, id: StreamId) {
        let Some(stream) = self.streams.find_mut(id) else {
            return;
        };
        let room = stream.send.queued <= self.limits.send_queue / 2;
        let stop_due = stream.stop_due.is_some();
        // Rare, and to look for it costs what finding the stream does.
        let cut_short = matches!(stream.send.state, SendState::CutShort(_));
        if !std::mem::replace(&mut stream.send.on_wire, true) {
            stream.opened = Some(self.now);
            self.streams.sent = id.0;
            if stop_due {
                self.cancel_due(id);
            }
        }
        if room {
            self.streams.wake_writer(id);
        }
        if cut_short {
            self.end_cut_short(id);
        }
        self.streams.settle(id);
    }
}

/// Appends a frame whose payload is one number.
fn put_word(batch: &mut BytesMut, kind: Kind, id: StreamId, word: u32) {
    put_header(batch, kind, 0, 4, id.0);
    batch.put_u32(word);
}

/// Size of the smallest frame with which a stream that has work can go on.
fn least_frame(send: &Sending) -> usize {
    HEADER
        + match send.queue.front() {
            Some(Chunk::Open(head)) => length_of_length(head.len()) + head.len(),
            Some(Chunk::Head(head)) => head.len(),
            Some(Chunk::Data(_) | Chunk::Gathered(_)) => send.data_ready(0, CRUMB),
            None => 0,
        }
}

/// Appends the next frame of a stream that has work, at most about `room` bytes.
fn put_next(batch: &mut BytesMut, send: &mut Sending, id: StreamId, room: usize) {
    let start = batch.len();
    match send.queue.pop_front() {
        Some(Chunk::Open(head)) => {
            let length = length_of_length(head.len()) + head.len();
            let most = FRAME
                .min(room.saturating_sub(HEADER))
                .saturating_sub(length);
            let body = send.data_ready(0, most);
            put_header(batch, Kind::Open, 0, length + body, id.0);
            put_length(batch, head.len());
            batch.put_slice(&head);
            send.queued -= head.len();
            put_data(batch, send, body);
        }
        Some(Chunk::Head(head)) => {
            put_frame(batch, Kind::Head, 0, id.0, &head);
            send.queued -= head.len();
            send.window.spend(head.len());
        }
        Some(data) => {
            send.queue.push_front(data);
            let length = send.data_ready(0, FRAME.min(room.saturating_sub(HEADER)));
            put_header(batch, Kind::Data, 0, length, id.0);
            put_data(batch, send, length);
        }
        None => put_header(batch, Kind::Finish, 0, 0, id.0),
    }
    let ends = matches!(send.state, SendState::Finishing | SendState::Stopped(_));
    if ends && send.queue.is_empty() {
        send.fin_sent = true;
        // FINISH needs no flag; in all others it is the upper half of the second byte.
        if batch[start] != Kind::Finish as u8 {
            batch[start + 1] |= FIN << 4;
        }
    }
}

/// Moves `length` bytes of data from the queue's front into the batch.
fn put_data(batch: &mut BytesMut, send: &mut Sending, length: usize) {
    send.window.spend(length);
    send.queued -= length;
    let mut left = length;
    while left > 0 {
        let rest = match send.queue.front_mut() {
            Some(Chunk::Data(data)) => move_bytes(batch, data, &mut left),
            Some(Chunk::Gathered(data)) => move_bytes(batch, data, &mut left),
            Some(Chunk::Open(_) | Chunk::Head(_)) | None => return,
        };
        if rest == 0 {
            send.queue.pop_front();
        }
    }
}

fn move_bytes(batch: &mut BytesMut, data: &mut impl Buf, left: &mut usize) -> usize {
    let part = data.remaining().min(*left);
    batch.put(data.take(part));
    *left -= part;
    data.remaining()
}
