//! Commands: what handles do with streams and the session.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::drain::Drain;
use super::error::{ControlError, OpenError, SessionError, StreamError};
use super::event::Item;
use super::stream::{Chunk, Received, RecvState, SendState, Stream};
use super::{CALLER_TOKENS, Mux, StreamId};
use crate::code::{GoawayCode, ResetCode};
use crate::control::Control;
use crate::controls::{Goaway, encode_control};
use crate::head::{CallHead, Head};
use crate::heads::{encode_call, encode_call_without_token, encode_head};
use crate::limits::{FLOOR, MAX_REASON};
use crate::priority::Priority;
use crate::wire::plain;

impl Mux {
    /// Opens a stream for a call. Its OPEN carries the head and as much of `body` as credit and
    /// frame size allow; the rest follows. `end`: that is the whole body.
    ///
    /// # Errors
    /// Nothing was sent, and the call may go elsewhere.
    pub fn open(&mut self, head: &CallHead, body: Bytes, end: bool) -> Result<StreamId, OpenError> {
        if self.ended.is_some() {
            return Err(OpenError::Closed);
        }
        let peer = self.peer.as_ref().ok_or(OpenError::NotReady)?;
        if self.is_draining() {
            return Err(OpenError::Draining);
        }
        if self.streams.ours_open >= peer.max_streams.min(self.limits.max_opened) {
            return Err(OpenError::TooManyStreams);
        }
        let mut encoded = BytesMut::with_capacity(512);
        let written = if self.features() & CALLER_TOKENS == 0 {
            encode_call_without_token(head, &mut encoded)
        } else {
            encode_call(head, &mut encoded)
        };
        written.or(Err(OpenError::HeadTooLarge))?;
        let Some(id) = self.streams.next_id() else {
            self.exhausted();
            return Err(OpenError::Draining);
        };
        let mut stream = Stream::new(true, peer.initial_window, self.hello.initial_window);
        let length = encoded.len();
        stream.send.push(Chunk::Open(encoded.freeze()), length);
        if !body.is_empty() {
            // Cannot fail: data may begin a direction.
            let _ = stream.send.order.on_data();
            stream.send.push_data(body);
        }
        if end {
            stream.send.state = SendState::Finishing;
        }
        stream.account = self.streams.accounts.enter(&head.caller.tenant);
        self.streams.insert(id, stream);
        self.counts.opened += 1;
        self.schedule(id);
        Ok(id)
    }

    /// Why the peer wants no more of our data on a stream, if it has stopped it. It may have done so
    /// before the call was accepted, when nobody knew the stream that
    /// [`Event::Stopped`](super::Event::Stopped) was about.
    pub fn stopped(&self, id: StreamId) -> Option<ResetCode> {
        match self.streams.find(id)?.send.state {
            SendState::Stopped(code) => Some(code),
            SendState::Open
            | SendState::Finishing
            | SendState::CutShort(_)
            | SendState::Reset(_) => None,
        }
    }

    /// Queues a head. Heads do not wait for room: a stream has few.
    ///
    /// # Errors
    /// A head where none may be (a second answer, trailers before the answer) is a defect of the
    /// caller's and resets the stream with [`ResetCode::Internal`].
    pub fn send_head(&mut self, id: StreamId, head: &Head) -> Result<(), StreamError> {
        let stream = self.writable(id)?;
        let mut encoded = BytesMut::with_capacity(256);
        encode_head(head, &mut encoded).or(Err(StreamError::HeadTooLarge))?;
        if stream.send.order.on_head(head).is_err() {
            return Err(self.misused(id));
        }
        let length = encoded.len();
        stream.send.push(Chunk::Head(encoded.freeze()), length);
        let account = stream.account;
        self.streams.on_queued(account, length);
        self.schedule(id);
        Ok(())
    }

    /// Takes as much of `data` as there is room for in the stream's queue, and memory in
    /// [`Limits::waiting`](super::Limits::waiting), without copying it
    /// (small pieces are gathered). 0 for data that is not empty:
    /// [`Event::Writable`](super::Event::Writable) follows.
    ///
    /// # Errors
    /// Data behind trailers or between heads is a defect of the caller's and resets the stream
    /// with [`ResetCode::Internal`].
    pub fn write(&mut self, id: StreamId, data: &mut Bytes) -> Result<usize, StreamError> {
        let most = self.limits.send_queue;
        let stream = self.writable(id)?;
        if data.is_empty() {
            return Ok(0);
        }
        if stream.send.order.on_data().is_err() {
            return Err(self.misused(id));
        }
        let (queued, account) = (stream.send.queued, stream.account);
        let mut taken = data.len().min(most.saturating_sub(queued));
        if !self.streams.accounts.has_memory(account, taken) {
            taken = taken.min(FLOOR.saturating_sub(queued));
        }
        let stream = self.writable(id)?;
        if taken == 0 {
            stream.send.blocked = true;
            return Ok(0);
        }
        stream.send.push_data(data.split_to(taken));
        self.streams.on_queued(account, taken);
        self.schedule(id);
        Ok(taken)
    }

    /// Sets how urgent what we send on a stream is; `None`, as at first: the stream earns its
    /// class by what it sends. It counts from the stream's next turn on.
    pub fn set_priority(&mut self, id: StreamId, priority: Option<Priority>) {
        if let Some(stream) = self.streams.find_mut(id) {
            stream.send.turn.set(priority);
        }
    }

    /// Ends our half in good order, behind what is queued. Doing so again changes nothing.
    ///
    /// # Errors
    /// The half was stopped or reset before.
    pub fn finish(&mut self, id: StreamId) -> Result<(), StreamError> {
        match self.writable(id) {
            Ok(stream) => stream.send.state = SendState::Finishing,
            Err(StreamError::Finished) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.schedule(id);
        Ok(())
    }

    /// The next head or data, and credit for more back to the peer. `None`:
    /// [`Event::Readable`](super::Event::Readable) follows.
    ///
    /// What came before the session was lost can still be read.
    pub fn read(&mut self, id: StreamId, now: Instant) -> Result<Option<Item>, StreamError> {
        let rtt = self.liveness.least_rtt();
        let lost = self.ended.is_some();
        let stream = self.streams.find_mut(id).ok_or(StreamError::Unknown)?;
        let (recv, account) = (&mut stream.recv, stream.account);
        match recv.state {
            _ if recv.released => return Err(StreamError::Unknown),
            RecvState::Reset(code) => return Err(StreamError::Reset(code)),
            RecvState::Stopped(code) => return Err(StreamError::Stopped(code)),
            RecvState::CutShort(code) if recv.queue.is_empty() => {
                return Err(StreamError::Reset(code));
            }
            RecvState::Open | RecvState::CutShort(_) => {}
        }
        let (item, length) = match recv.queue.pop_front() {
            Some(Received::Head(head, length)) => (Item::Head(*head), length),
            Some(Received::Data(data)) => {
                let length = data.len();
                (Item::Data(data), length)
            }
            Some(Received::Gathered(data)) => {
                let length = data.len();
                (Item::Data(data.freeze()), length)
            }
            None if recv.ended => return Ok(Some(Item::Finished)),
            None if lost => return Err(StreamError::SessionLost),
            None => {
                recv.waiting = true;
                return Ok(None);
            }
        };
        recv.window.read(length);
        let shrunk = recv.window.shrink();
        let (mut growth, mut due) = (0, false);
        if recv.wants_credit() && !lost {
            let most = self.limits.max_window.saturating_sub(recv.window.size());
            growth = recv.window.growth(length, now, rtt, most);
            due = growth > 0 || recv.window.is_due();
        }
        self.streams.on_read(account, length, shrunk);
        if growth > 0 {
            self.streams.grow(id, growth);
        }
        if due {
            self.streams.list_due(id);
        }
        Ok(Some(item))
    }

    /// The sending handle is gone. A half that was not finished aborts the stream, so that the
    /// peer does not take a part for the whole.
    pub fn release_send(&mut self, id: StreamId) {
        let Some(stream) = self.streams.find_mut(id) else {
            return;
        };
        stream.send.blocked = false;
        if stream.send.state == SendState::Open {
            self.reset(id, ResetCode::Cancelled);
        }
        if let Some(stream) = self.streams.find_mut(id) {
            stream.send.released = true;
        }
        self.let_go(id);
    }

    /// The receiving handle is gone. The peer is asked to stop, if it has not finished.
    pub fn release_recv(&mut self, id: StreamId) {
        let Some(stream) = self.streams.find_mut(id) else {
            return;
        };
        stream.recv.waiting = false;
        if !stream.recv.ended {
            self.stop(id, ResetCode::Cancelled);
        }
        if let Some(stream) = self.streams.find_mut(id) {
            stream.recv.released = true;
        }
        self.streams.clear_recv(id);
        self.let_go(id);
    }

    /// Queues a control message. It is sent in order once both sides have greeted, without loss
    /// while the session lives.
    pub fn send_control(&mut self, control: &Control) -> Result<(), ControlError> {
        if self.ended.is_some() {
            return Err(ControlError::Closed);
        }
        if self.controls.len() >= self.limits.control_queue {
            return Err(ControlError::Full);
        }
        let mut payload = BytesMut::new();
        let kind = encode_control(control, &mut payload).or(Err(ControlError::TooLarge))?;
        self.controls.push_back((kind, payload.freeze()));
        Ok(())
    }

    /// Begins a graceful end: the peer is asked to open no more streams here. What it opens before it
    /// has heard so is taken ([`is_drained`](Self::is_drained)), and later streams are refused. This
    /// side opens none either. Streams that exist go on.
    pub fn drain(&mut self, retry_after: Duration) {
        self.drain_as(GoawayCode::Drain, retry_after);
    }

    /// Like [`drain`](Self::drain), for another reason.
    pub fn drain_as(&mut self, code: GoawayCode, retry_after: Duration) {
        if !self.drain.is_begun() && self.ended.is_none() {
            self.announce(code, retry_after);
        }
    }

    /// Ends the session now, with every stream on it. The peer is told `code` and `reason` (at
    /// most 1 KiB of plain text); once that was sent, [`is_closed`](Self::is_closed).
    pub fn close(&mut self, code: GoawayCode, reason: &str) {
        if self.ended.is_none() {
            self.say_farewell(code, plain(reason, MAX_REASON));
            self.end(SessionError::Local(code));
        }
    }

    fn announce(&mut self, code: GoawayCode, retry_after: Duration) {
        let retry_after = retry_after.as_millis().try_into().unwrap_or(u32::MAX);
        self.drain = Drain::Due(Goaway {
            code,
            last: 0,
            retry_after,
            reason: String::new(),
        });
    }

    /// Ids are used up: both sides need a new session.
    fn exhausted(&mut self) {
        if !self.drain.is_begun() {
            self.announce(GoawayCode::Exhausted, Duration::ZERO);
            self.news.draining = Some((GoawayCode::Exhausted, Duration::ZERO));
        }
    }

    fn writable(&mut self, id: StreamId) -> Result<&mut Stream, StreamError> {
        let lost = self.ended.is_some();
        let stream = self.streams.find_mut(id).ok_or(StreamError::Unknown)?;
        match stream.send.writable() {
            Ok(()) if lost => Err(StreamError::SessionLost),
            Ok(()) => Ok(stream),
            Err(error) => Err(error),
        }
    }

    fn misused(&mut self, id: StreamId) -> StreamError {
        self.reset(id, ResetCode::Internal);
        StreamError::Reset(ResetCode::Internal)
    }

    /// Forgets a stream whose handles are both gone, as soon as it is over; at once if the
    /// session is.
    fn let_go(&mut self, id: StreamId) {
        let ours = self.streams.is_ours(id);
        let stream = match self.streams.find_mut(id) {
            Some(stream) if stream.send.released && stream.recv.released => stream,
            _ => return,
        };
        if self.ended.is_some() {
            self.streams.forget(id);
            return;
        }
        if !stream.send.on_wire {
            // The peer has not heard of it, and need not.
            self.reset(id, ResetCode::Cancelled);
        } else if ours {
            stream.left_alone = Some(self.now);
        }
        self.streams.settle(id);
    }

    /// Puts a stream that can send into the schedule.
    pub(super) fn schedule(&mut self, id: StreamId) {
        let streams = &self.streams;
        self.schedule
            .sweep(streams.len(), |id| streams.find(id).is_some());
        if let Some(stream) = self.streams.find_mut(id)
            && stream.send.has_work()
        {
            self.schedule.wake(id, &mut stream.send.turn);
        }
    }
}
