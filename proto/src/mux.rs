//! The multiplexer: one session's streams, credit and schedule, as a pure state machine.

mod error;
mod ping;
mod receive;
mod stream;
mod transmit;
mod window;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

pub use self::error::{ControlError, Event, Item, OpenError, SessionError, StreamError};
use self::ping::Pings;
use self::stream::{Half, Outgoing, Received, Stream};
use crate::code::{GoawayCode, ResetCode};
use crate::control::{Control, Hello};
use crate::controls::{Goaway, encode_control, encode_hello};
pub use crate::frame::StreamId;
use crate::frame::{Kind, MAX_PAYLOAD, put_header};
use crate::head::{CallHead, Head};
use crate::heads::{encode_call, encode_head};
use crate::limits::{Limits, MAX_CONTROLS, MAX_HEAD, MAX_REASON};

/// The protocol version that this crate speaks.
pub const VERSION: u16 = 1;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It dialled: its streams have odd ids.
    Dialer,
    /// It accepted: its streams have even ids.
    Acceptor,
}

/// What a session starts with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which end this is.
    pub side: Side,
    /// Our greeting; the versions in it are set by the core.
    pub hello: Hello,
    /// What the session may hold.
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Open,
    Closed,
}

/// Stream ids are dense and chosen within known bounds; they need no keyed hash, only one that a
/// peer cannot make collide: ids rise one by one, and a multiplication spreads them.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Numbers of a session, for status and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Streams that are not forgotten yet.
    pub streams: usize,
    /// Bytes of bodies sent so far.
    pub sent: u64,
    /// Bytes of bodies and heads received so far.
    pub received: u64,
    /// Bytes that writers queued and that are not sent.
    pub queued: usize,
    /// Bytes that arrived and were not read.
    pub buffered: usize,
}

/// One session.
///
/// To be driven like this, in a loop: [`handle_message`](Self::handle_message) for what arrived
/// and [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) is
/// reached; any commands; [`poll_event`](Self::poll_event) until there is none;
/// [`poll_transmit`](Self::poll_transmit) while the socket takes more. Time is an argument, so
/// that tests move it.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    limits: Limits,
    hello: Hello,
    peer: Option<Hello>,
    phase: Phase,
    greeting_ends: Instant,
    streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    next_id: u32,
    highest_peer: u32,
    /// Streams of ours, and of the peer, that count against the opener's limit.
    our_open: u32,
    peer_open: u32,
    backlog: VecDeque<(StreamId, CallHead)>,
    events: VecDeque<Event>,
    session_out: BytesMut,
    controls_queued: usize,
    goaway: Option<Goaway>,
    flagged: VecDeque<u32>,
    opens: VecDeque<u32>,
    active: VecDeque<u32>,
    pings: Pings,
    draining: bool,
    peer_draining: bool,
    flood_since: Instant,
    flood_seen: u32,
    sent: u64,
    received: u64,
}

impl Mux {
    /// A new session; its greeting is the first thing that it sends.
    pub fn new(config: Config, now: Instant) -> Self {
        let Config {
            side,
            mut hello,
            limits,
        } = config;
        hello.min_version = VERSION;
        hello.max_version = VERSION;
        let mut payload = BytesMut::new();
        encode_hello(&hello, &mut payload);
        let mut session_out = BytesMut::new();
        put_header(&mut session_out, Kind::Hello, 0, payload.len(), 0);
        session_out.extend_from_slice(&payload);
        Self {
            side,
            hello,
            peer: None,
            phase: Phase::Greeting,
            greeting_ends: now + limits.hello_timeout,
            streams: HashMap::default(),
            next_id: if side == Side::Dialer { 1 } else { 2 },
            highest_peer: 0,
            our_open: 0,
            peer_open: 0,
            backlog: VecDeque::new(),
            events: VecDeque::new(),
            session_out,
            controls_queued: 0,
            goaway: None,
            flagged: VecDeque::new(),
            opens: VecDeque::new(),
            active: VecDeque::new(),
            pings: Pings::new(limits.ping_interval, limits.dead_after, now),
            draining: false,
            peer_draining: false,
            flood_since: now,
            flood_seen: 0,
            sent: 0,
            received: 0,
            limits,
        }
    }

    /// What time brings: pings, a peer that does not greet or is dead.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        let silent = match self.phase {
            Phase::Closed => None,
            Phase::Greeting => (now >= self.greeting_ends).then_some(self.limits.hello_timeout),
            Phase::Open => self.pings.on_timeout(now).then_some(self.limits.dead_after),
        };
        match silent {
            Some(time) => {
                self.fail(SessionError::Timeout(time));
                Err(SessionError::Timeout(time))
            }
            None => Ok(()),
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closed => None,
            Phase::Greeting => Some(self.greeting_ends),
            Phase::Open => Some(self.pings.timeout()),
        }
    }

    /// The next thing that somebody has to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Opens a stream: its head, the body's first bytes, and whether that is all of it.
    pub fn open(&mut self, head: &CallHead, body: Bytes, end: bool) -> Result<StreamId, OpenError> {
        let peer = match (self.phase, &self.peer) {
            (Phase::Closed, _) => return Err(OpenError::Closed),
            (Phase::Open, Some(peer)) => peer,
            _ => return Err(OpenError::NotReady),
        };
        if self.draining || self.peer_draining || self.next_id > u32::MAX - 2 {
            return Err(OpenError::Draining);
        }
        if self.our_open >= peer.max_streams {
            return Err(OpenError::TooManyStreams);
        }
        let mut encoded = BytesMut::with_capacity(512);
        encode_call(head, &mut encoded);
        if encoded.len() > MAX_HEAD {
            return Err(OpenError::HeadTooLarge);
        }
        let mut stream = Stream::new(peer.initial_window, self.hello.initial_window);
        stream.opening = Some(encoded.freeze());
        if !body.is_empty() {
            stream.send.push(Outgoing::Data(body));
        }
        if end {
            stream.send.half = Half::Finished;
        }
        let id = self.next_id;
        self.next_id += 2;
        self.our_open += 1;
        self.streams.insert(id, stream);
        self.opens.push_back(id);
        Ok(StreamId(id))
    }

    /// A stream that the peer opened.
    pub fn accept(&mut self) -> Option<(StreamId, CallHead)> {
        self.backlog.pop_front()
    }

    /// Queues a head.
    pub fn send_head(&mut self, id: StreamId, head: &Head) -> Result<(), StreamError> {
        let send = &mut self.writable(id)?.send;
        let mut encoded = BytesMut::with_capacity(256);
        encode_head(head, &mut encoded);
        if encoded.len() > MAX_HEAD {
            return Err(StreamError::HeadTooLarge);
        }
        send.push(Outgoing::Head(encoded.freeze()));
        self.schedule(id.0);
        Ok(())
    }

    /// Takes as much of `data` as the send queue has room for. 0: [`Event::Writable`] follows.
    pub fn write(&mut self, id: StreamId, data: &mut Bytes) -> Result<usize, StreamError> {
        let most = self.limits.send_queue;
        let send = &mut self.writable(id)?.send;
        let taken = data.len().min(most.saturating_sub(send.queued));
        if taken == 0 {
            send.blocked = !data.is_empty();
            return Ok(0);
        }
        send.push(Outgoing::Data(data.split_to(taken)));
        self.schedule(id.0);
        Ok(taken)
    }

    /// Ends our half behind what is queued.
    pub fn finish(&mut self, id: StreamId) -> Result<(), StreamError> {
        self.writable(id)?.send.half = Half::Finished;
        self.schedule(id.0);
        Ok(())
    }

    /// Aborts both halves.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        self.abort(id.0, code);
    }

    /// Asks the peer to send no more; what is on its way is dropped.
    pub fn stop(&mut self, id: StreamId, code: ResetCode) {
        let Some(stream) = self.streams.get_mut(&id.0) else {
            return;
        };
        if stream.recv.half == Half::Open {
            stream.recv.half = Half::Reset(code);
            stream.recv.queue = VecDeque::new();
            stream.pending_stop = Some(code);
            self.flag(id.0);
            self.settle(id.0);
        }
    }

    /// The next head or bytes, and credit back to the peer. `None`: [`Event::Readable`] follows.
    pub fn read(&mut self, id: StreamId, _now: Instant) -> Result<Option<Item>, StreamError> {
        let Some(stream) = self.streams.get_mut(&id.0) else {
            return Err(self.gone());
        };
        let recv = &mut stream.recv;
        let item = match recv.queue.pop_front() {
            Some(Received::Head(head, length)) => {
                recv.window.consume(length);
                Item::Head(head)
            }
            Some(Received::Data(data)) => {
                recv.window.consume(data.len());
                Item::Data(data)
            }
            None => {
                return match recv.half {
                    Half::Finished => Ok(Some(Item::Finished)),
                    Half::Reset(code) => Err(StreamError::Reset(code)),
                    Half::Open => {
                        recv.waiting = true;
                        Ok(None)
                    }
                };
            }
        };
        if recv.half == Half::Open && recv.window.due().is_some() {
            self.flag(id.0);
        }
        Ok(Some(item))
    }

    /// The sending handle is gone: a half that is not finished is aborted.
    pub fn release_send(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id.0) else {
            return;
        };
        stream.send.released = true;
        if stream.send.half == Half::Open {
            self.abort(id.0, ResetCode::Cancelled);
        }
        self.settle(id.0);
    }

    /// The receiving handle is gone: the peer is asked to stop.
    pub fn release_recv(&mut self, id: StreamId) {
        self.stop(id, ResetCode::Cancelled);
        if let Some(stream) = self.streams.get_mut(&id.0) {
            stream.recv.released = true;
            stream.recv.queue = VecDeque::new();
        }
        self.settle(id.0);
    }

    /// Queues a control message.
    pub fn send_control(&mut self, control: &Control) -> Result<(), ControlError> {
        if self.phase == Phase::Closed {
            return Err(ControlError::Closed);
        }
        if self.controls_queued >= MAX_CONTROLS {
            return Err(ControlError::Full);
        }
        let mut payload = BytesMut::new();
        let kind = encode_control(control, &mut payload);
        if payload.len() > MAX_PAYLOAD {
            return Err(ControlError::TooLarge);
        }
        put_header(&mut self.session_out, kind, 0, payload.len(), 0);
        self.session_out.extend_from_slice(&payload);
        self.controls_queued += 1;
        Ok(())
    }

    /// No new streams either way; those that are open go on.
    pub fn drain(&mut self, retry_after: Duration) {
        if self.draining || self.phase == Phase::Closed {
            return;
        }
        self.draining = true;
        self.goaway = Some(Goaway {
            code: GoawayCode::Drain,
            last: self.highest_peer,
            retry_after: retry_after.as_millis().try_into().unwrap_or(u32::MAX),
            reason: String::new(),
        });
    }

    /// Ends the session: the last thing that it sends is a GOAWAY.
    pub fn close(&mut self, code: GoawayCode, reason: &str) {
        if self.phase != Phase::Closed {
            self.say_goodbye(code, reason);
            self.end(SessionError::Local(code));
        }
    }

    /// The smoothed round trip time, once it was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.pings.rtt()
    }

    /// Numbers of this session.
    pub fn stats(&self) -> Stats {
        Stats {
            streams: self.streams.len(),
            sent: self.sent,
            received: self.received,
            queued: self.streams.values().map(|stream| stream.send.queued).sum(),
            buffered: self
                .streams
                .values()
                .map(|stream| stream.recv.window.buffered())
                .sum(),
        }
    }

    /// The peer's greeting.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// Whether either side takes no new streams.
    pub fn is_draining(&self) -> bool {
        self.draining || self.peer_draining
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Streams that are open on the wire.
    pub fn stream_count(&self) -> usize {
        (self.our_open + self.peer_open) as usize
    }

    fn is_ours(&self, id: u32) -> bool {
        (id % 2 == 1) == (self.side == Side::Dialer)
    }

    fn gone(&self) -> StreamError {
        if self.phase == Phase::Closed {
            StreamError::SessionLost
        } else {
            StreamError::Unknown
        }
    }

    fn writable(&mut self, id: StreamId) -> Result<&mut Stream, StreamError> {
        let gone = self.gone();
        let stream = self.streams.get_mut(&id.0).ok_or(gone)?;
        match (stream.send.half, stream.send.stopped) {
            (_, Some(code)) => Err(StreamError::Stopped(code)),
            (Half::Reset(code), None) => Err(StreamError::Reset(code)),
            (Half::Finished, None) => Err(StreamError::Finished),
            (Half::Open, None) => Ok(stream),
        }
    }

    /// Aborts a stream and tells the peer, if it ever heard of it.
    fn abort(&mut self, id: u32, code: ResetCode) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.is_over() {
            return;
        }
        stream.reset(code);
        if stream.opening.take().is_none() {
            stream.pending_reset = Some(code);
            self.flag(id);
        }
        self.settle(id);
    }

    fn release(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.released = true;
            stream.recv.released = true;
        }
        self.settle(id);
    }

    fn flag(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.flagged
        {
            stream.flagged = true;
            self.flagged.push_back(id);
        }
    }

    /// Takes a stream off its opener's count once it is over, and forgets it once nobody needs
    /// it. The peer knows that it is over from frames that go before any later OPEN, so both
    /// sides count alike.
    fn settle(&mut self, id: u32) {
        let ours = self.is_ours(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.is_over() && !stream.uncounted {
            stream.uncounted = true;
            if ours {
                self.our_open -= 1;
            } else {
                self.peer_open -= 1;
            }
        }
        if stream.is_done() {
            self.streams.remove(&id);
        }
    }

    fn say_goodbye(&mut self, code: GoawayCode, reason: &str) {
        let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
        let reason = reason[..reason.floor_char_boundary(MAX_REASON)].to_owned();
        self.goaway = Some(Goaway {
            code,
            last: self.highest_peer,
            retry_after: 0,
            reason,
        });
    }

    /// The peer did wrong: it is told so, and the session is over.
    fn fail(&mut self, error: SessionError) {
        self.say_goodbye(error.code(), &error.to_string());
        self.end(error);
    }

    fn end(&mut self, error: SessionError) {
        self.phase = Phase::Closed;
        self.streams.clear();
        self.backlog.clear();
        self.active.clear();
        self.opens.clear();
        self.flagged.clear();
        self.our_open = 0;
        self.peer_open = 0;
        self.events.push_back(Event::Closed(error));
    }
}

#[cfg(test)]
mod tests;
