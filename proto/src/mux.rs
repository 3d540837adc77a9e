//! The multiplexer core of one session.

mod abort;
mod accounts;
mod backlog;
mod budget;
mod commands;
mod drain;
mod error;
mod event;
mod incoming;
mod liveness;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod order;
mod receive;
mod schedule;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod transmit;
mod window;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

pub use self::error::{
    ControlError, Flood, OpenError, SessionError, Silence, StreamError, Violation,
};
pub use self::event::{Event, Item, Stats};
pub use crate::frame::StreamId;
pub use crate::limits::Limits;

use self::accounts::Accounts;
use self::backlog::Backlog;
use self::budget::Budget;
use self::drain::Drain;
use self::liveness::Liveness;
use self::schedule::Schedule;
use self::streams::Streams;
use self::transmit::Refused;
use crate::code::GoawayCode;
use crate::control::{Control, Hello};
use crate::controls::{Goaway, encode_hello};
use crate::frame::Kind;
use crate::limits::{MAX_CALL_HEAD, MAX_WINDOW, MIN_WINDOW};

/// The protocol version that this crate speaks.
pub const VERSION: u16 = 1;

/// The optional feature of sessions over several connections, each a lane.
pub const LANES: u64 = 0x1;

/// The optional feature of calls that carry their caller's token: who names it wants to have
/// them, or, on the side that opens calls, is ready to pass them on.
pub const CALLER_TOKENS: u64 = 0x2;

/// The optional features that this crate knows.
pub const FEATURES: u64 = LANES | CALLER_TOKENS;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// It made the connection; its streams have odd ids.
    Dialer,
    /// It took the connection; its streams have even ids.
    Acceptor,
}

/// What a [`Mux`] starts with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which end this is.
    pub side: Side,
    /// Our greeting. It says what we allow the peer: `max_streams`, `initial_window` (brought
    /// into the range of [`crate::limits`]). Versions are set by the core, and features that it
    /// does not know are taken out.
    pub hello: Hello,
    /// What the session may hold and do.
    pub limits: Limits,
}

/// One session: streams, credit, schedule, liveness. It does no I/O and knows no clock.
///
/// # How it is driven
///
/// One driver owns the connection. In each of its turns, in this order:
/// 1. [`handle_message`](Self::handle_message) for every message that has come, with one `now`
///    for the turn; [`handle_timeout`](Self::handle_timeout) if
///    [`poll_timeout`](Self::poll_timeout) is reached.
/// 2. [`poll_event`](Self::poll_event) until there is none, and wake whom that concerns.
/// 3. [`poll_transmit`](Self::poll_transmit) once, if the socket takes more, and send the batch
///    as one message. What is not sent waits here, where it is scheduled.
/// 4. Sleep until a message comes, `poll_timeout` is reached, or a command leaves something to
///    send ([`has_transmit`](Self::has_transmit)).
///
/// Handles give commands at any time in between: [`open`](Self::open), [`accept`](Self::accept),
/// [`send_head`](Self::send_head), [`write`](Self::write), [`read`](Self::read) and so on.
/// After a command, 2 and 4 apply.
///
/// ```
/// use bytes::BytesMut;
/// use culvert_proto::code::GoawayCode;
/// use culvert_proto::control::{Control, Hello};
/// use culvert_proto::mux::{Config, Event, Limits, Mux, Side, VERSION};
///
/// let now = std::time::Instant::now();
/// let end = |side, name: &str| {
///     let hello = Hello {
///         min_version: VERSION,
///         max_version: VERSION,
///         features: 0,
///         name: name.into(),
///         instance: [0; 16],
///         software: String::new(),
///         max_streams: 100,
///         initial_window: 256 * 1024,
///         lane: None,
///         slot: None,
///     };
///     Mux::new(Config { side, hello, limits: Limits::default() }, now)
/// };
/// let (mut agent, mut relay) = (end(Side::Dialer, "agent"), end(Side::Acceptor, "relay"));
///
/// // The line between them: each takes what the other has to send.
/// let pass = |from: &mut Mux, to: &mut Mux| {
///     let mut batch = BytesMut::new();
///     while from.poll_transmit(&mut batch, now) {
///         let _ = to.handle_message(batch.split().freeze(), now);
///     }
/// };
/// pass(&mut agent, &mut relay);
/// pass(&mut relay, &mut agent);
/// assert!(matches!(agent.poll_event(), Some(Event::Ready)));
/// assert_eq!(agent.peer().unwrap().name, "relay");
///
/// let notice = Control::Notice { code: None, text: "good morning".into() };
/// relay.send_control(&notice).unwrap();
/// pass(&mut relay, &mut agent);
/// assert!(matches!(agent.poll_event(), Some(Event::Control(said)) if said == notice));
///
/// agent.close(GoawayCode::Drain, "that is all");
/// pass(&mut agent, &mut relay);
/// assert!(matches!(relay.poll_event(), Some(Event::Ready)));
/// assert!(matches!(relay.poll_event(), Some(Event::Closed(_))));
/// ```
///
/// # What it promises
///
/// - After a `read` that gave nothing, an event comes as soon as that changes, for whatever
///   reason; after a `write` that took nothing, once half of the stream's queue is free or the
///   stream fails. Nothing needs polling.
/// - What a stream buffers never exceeds the credit that it was granted, and what it queues never
///   exceeds [`Limits::send_queue`], its heads and what `open` was given. Everything else that a
///   peer can make grow has a number in [`crate::limits`].
/// - Any input ends in a typed outcome, never in a panic. An error of a session is final: every
///   stream fails, one GOAWAY that says why is left to send, and further input is ignored.
#[derive(Debug)]
pub struct Mux {
    limits: Limits,
    hello: Hello,
    /// Our greeting, until it is sent.
    greeting: Option<Bytes>,
    peer: Option<Hello>,
    greeting_ends: Instant,
    streams: Streams,
    /// When windows are looked over; a ping's timer comes by.
    rebalance_at: Instant,
    schedule: Schedule,
    liveness: Liveness,
    backlog: Backlog,
    /// Calls that were refused and whose RESET is to be sent.
    refused: VecDeque<Refused>,
    /// Encoded control messages that wait to be sent.
    controls: VecDeque<(Kind, Bytes)>,
    /// How far a drain of ours is.
    drain: Drain,
    /// The last stream of the peer's that our GOAWAY accepts. A later one may not accept more.
    accepted_last: Option<u32>,
    /// The last stream that the peer's GOAWAY accepts.
    peer_goaway: Option<u32>,
    news: SessionNews,
    /// What the clock said when it was last heard.
    now: Instant,
    pings: Budget,
    control_budget: Budget,
    /// The peer's cancels of young calls, and ours.
    cancels: Budget,
    own_cancels: Budget,
    /// Streams of ours whose RESET or STOP is kept back, and until when, in this order. At most as
    /// many as are opened meanwhile.
    kept_back: VecDeque<(Instant, StreamId)>,
    /// Why the session is over.
    ended: Option<SessionError>,
    /// The last thing to send.
    farewell: Option<Goaway>,
    counts: Counts,
}

/// What happened to the session and was not told yet.
#[derive(Debug, Default)]
struct SessionNews {
    ready: bool,
    incoming: bool,
    controls: VecDeque<Control>,
    draining: Option<(GoawayCode, Duration)>,
    closed: bool,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Counts {
    opened: u64,
    accepted: u64,
    refused: u64,
    sent: u64,
    received: u64,
}

/// PINGs that a peer may send at once, and per second. One in five seconds is usual.
const PINGS: (u32, u32) = (20, 2);

/// Control messages that a peer may send at once, and per second. A few in a session's life are
/// usual.
const CONTROLS: (u32, u32) = (256, 10);

impl Mux {
    /// A new session. Its greeting is the first thing that it sends.
    pub fn new(config: Config, now: Instant) -> Self {
        let Config {
            side,
            mut hello,
            mut limits,
        } = config;
        (hello.min_version, hello.max_version) = (VERSION, VERSION);
        hello.features &= FEATURES;
        hello.initial_window = hello.initial_window.clamp(MIN_WINDOW, MAX_WINDOW);
        limits.send_queue = limits.send_queue.max(1);
        limits.max_window = limits.max_window.min(MAX_WINDOW);
        limits.batch = limits.batch.max(4 * 1024);
        limits.max_message = limits.max_message.max(2 * MAX_CALL_HEAD);
        // A load balancer that dies takes every caller at once, and callers come and go in
        // proportion to how many there may be.
        limits.cancel_burst = limits.cancel_burst.max(hello.max_streams);
        limits.cancel_rate = limits.cancel_rate.max(hello.max_streams / 8);
        let mut greeting = BytesMut::new();
        encode_hello(&hello, &mut greeting);
        Self {
            greeting: Some(greeting.freeze()),
            peer: None,
            greeting_ends: now + limits.hello_timeout,
            streams: Streams::new(
                side,
                limits.growth.clone(),
                Accounts::new(limits.waiting.clone(), limits.waiting_of.clone()),
            ),
            rebalance_at: now + limits.ping_interval,
            schedule: Schedule::default(),
            liveness: Liveness::new(&limits, now),
            backlog: Backlog::default(),
            refused: VecDeque::new(),
            controls: VecDeque::new(),
            drain: Drain::None,
            accepted_last: None,
            peer_goaway: None,
            news: SessionNews::default(),
            now,
            pings: Budget::new(Flood::Pings, PINGS.0, PINGS.1, now),
            control_budget: Budget::new(Flood::Control, CONTROLS.0, CONTROLS.1, now),
            cancels: Budget::new(Flood::Cancels, limits.cancel_burst, limits.cancel_rate, now),
            own_cancels: Budget::own_cancels(0, now),
            kept_back: VecDeque::new(),
            ended: None,
            farewell: None,
            counts: Counts::default(),
            hello,
            limits,
        }
    }

    /// What time brings: a ping, a peer that does not greet or is dead.
    ///
    /// # Errors
    /// [`SessionError::Timeout`]; final.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        self.now = self.now.max(now);
        let silence = if self.peer.is_none() {
            (now >= self.greeting_ends).then_some(Silence::Hello(self.limits.hello_timeout))
        } else {
            if now >= self.rebalance_at {
                self.rebalance_at = now + self.limits.ping_interval;
                self.streams.rebalance();
                self.reset_left_alone();
            }
            self.release_kept_back();
            self.liveness
                .on_timeout(now)
                .then(|| Silence::Dead(self.liveness.dead_after()))
        };
        match silence {
            Some(silence) => Err(self.fail(SessionError::Timeout(silence))),
            None => Ok(()),
        }
    }

    /// Cancels that were kept back long enough are to be sent.
    fn release_kept_back(&mut self) {
        while let Some((_, id)) = self.kept_back.pop_front_if(|(at, _)| *at <= self.now) {
            if let Some(stream) = self.streams.find_mut(id) {
                stream.kept_back = false;
                self.streams.list_due(id);
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (&self.ended, &self.peer) {
            (Some(_), _) => None,
            (None, None) => Some(self.greeting_ends),
            (None, Some(_)) => {
                let kept_back = self.kept_back.front().map(|(at, _)| *at);
                let liveness = self.liveness.timeout();
                Some(kept_back.map_or(liveness, |at| at.min(liveness)))
            }
        }
    }

    /// The next thing that somebody should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        let news = &mut self.news;
        if std::mem::take(&mut news.ready) {
            return Some(Event::Ready);
        }
        if let Some(control) = news.controls.pop_front() {
            return Some(Event::Control(control));
        }
        if let Some((code, retry_after)) = news.draining.take() {
            return Some(Event::Draining { code, retry_after });
        }
        if std::mem::take(&mut news.incoming) {
            return Some(Event::Incoming);
        }
        while let Some(id) = self.streams.news.front().copied() {
            if let Some(event) = self.stream_event(id) {
                return Some(event);
            }
            self.streams.news.pop_front();
        }
        if std::mem::take(&mut self.news.closed) {
            return self.ended.clone().map(Event::Closed);
        }
        None
    }

    fn stream_event(&mut self, id: StreamId) -> Option<Event> {
        let news = &mut self.streams.find_mut(id)?.news;
        if let Some(code) = news.reset.take() {
            return Some(Event::Reset(id, code));
        }
        if let Some(code) = news.stopped.take() {
            return Some(Event::Stopped(id, code));
        }
        if std::mem::take(&mut news.readable) {
            return Some(Event::Readable(id));
        }
        if std::mem::take(&mut news.writable) {
            return Some(Event::Writable(id));
        }
        news.listed = false;
        None
    }

    /// The smoothed round trip time, once one was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.liveness.rtt()
    }

    /// What the session holds and has done.
    pub fn stats(&self) -> Stats {
        Stats {
            streams: self.streams.len(),
            backlog: self.backlog.len(),
            queued: self.streams.queued,
            buffered: self.streams.buffered,
            granted: self.streams.granted,
            opened: self.counts.opened,
            accepted: self.counts.accepted,
            refused: self.counts.refused,
            sent: self.counts.sent,
            received: self.counts.received,
        }
    }

    /// The peer's greeting, once it came.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// The optional features that both sides have; none before the greeting.
    pub fn features(&self) -> u64 {
        self.peer
            .as_ref()
            .map_or(0, |peer| peer.features & self.hello.features)
    }

    /// Whether either side has asked to open no more streams.
    pub fn is_draining(&self) -> bool {
        self.drain.is_begun() || self.peer_goaway.is_some()
    }

    /// Whether a drain of ours is known to the peer, and no stream of its comes any more.
    pub fn is_drained(&self) -> bool {
        matches!(self.drain, Drain::Done) || self.ended.is_some()
    }

    /// Whether the session is over and its GOAWAY was sent.
    pub fn is_closed(&self) -> bool {
        self.ended.is_some() && self.farewell.is_none()
    }

    /// Streams that are open on the wire, both sides'.
    pub fn stream_count(&self) -> usize {
        (self.streams.ours_open + self.streams.theirs_open) as usize
    }

    /// The peer did wrong, or is gone: it is told so, and the session is over.
    fn fail(&mut self, error: SessionError) -> SessionError {
        if self.ended.is_none() {
            self.say_farewell(error.code(), error.to_string());
            self.end(error.clone());
        }
        error
    }

    fn say_farewell(&mut self, code: GoawayCode, reason: String) {
        let last = self.accepted_last.unwrap_or(self.streams.highest);
        self.farewell = Some(Goaway {
            code,
            last,
            retry_after: 0,
            reason,
        });
    }

    /// The session is over: whoever waits is woken, and nothing more is sent but a farewell.
    fn end(&mut self, error: SessionError) {
        self.ended = Some(error);
        self.news.closed = true;
        self.controls = VecDeque::new();
        self.refused = VecDeque::new();
        self.backlog = Backlog::default();
        self.schedule = Schedule::default();
        self.streams.due = VecDeque::new();
        self.kept_back = VecDeque::new();
        for id in self.streams.ids() {
            self.streams.clear_send(id);
            self.streams.wake_reader(id);
            self.streams.wake_writer(id);
            if let Some(stream) = self.streams.find_mut(id) {
                stream.reset_due = None;
                stream.stop_due = None;
                // A call that nobody took has no handles that could let go of it; others have let
                // go, and only the peer was waited for.
                let released = stream.send.released && stream.recv.released;
                if stream.call.take().is_some() || released {
                    self.streams.forget(id);
                }
            }
        }
    }
}
