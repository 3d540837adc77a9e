//! The multiplexer core of one session.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

mod error;
mod event;

pub use crate::frame::StreamId;
pub use crate::limits::Limits;
pub use error::{
    ControlError, Flood, OpenError, SessionError, Silence, StreamError, Violation,
};
pub use event::{Event, Item, Stats};

use crate::code::{GoawayCode, ResetCode};
use crate::control::{Control, Hello};
use crate::head::{CallHead, Head};

/// Which end of the connection this is. The dialer opens odd streams, the acceptor even ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Made the connection: an agent, or a relay towards another.
    Dialer,
    /// Took the connection: a relay.
    Acceptor,
}

/// What a [`Mux`] starts from.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which end this is.
    pub side: Side,
    /// Our greeting. Its `max_streams` and `initial_window` are set from `limits`.
    pub hello: Hello,
    /// What the session may hold and do.
    pub limits: Limits,
}

/// The multiplexer core of one session.
#[derive(Debug)]
pub struct Mux {
    config: Config,
}

#[allow(missing_docs, unused_variables, clippy::unused_self)]
impl Mux {
    pub fn new(config: Config, now: Instant) -> Self {
        Self { config }
    }
    pub fn handle_message(&mut self, message: Bytes, now: Instant) -> Result<(), SessionError> {
        Ok(())
    }
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        Ok(())
    }
    pub fn open(&mut self, head: &CallHead, body: Bytes, end: bool) -> Result<StreamId, OpenError> {
        Err(OpenError::NotReady)
    }
    pub fn accept(&mut self) -> Option<(StreamId, CallHead)> {
        None
    }
    pub fn send_head(&mut self, id: StreamId, head: &Head) -> Result<(), StreamError> {
        Err(StreamError::Unknown)
    }
    pub fn write(&mut self, id: StreamId, data: &mut Bytes) -> Result<usize, StreamError> {
        Err(StreamError::Unknown)
    }
    pub fn finish(&mut self, id: StreamId) -> Result<(), StreamError> {
        Err(StreamError::Unknown)
    }
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {}
    pub fn stop(&mut self, id: StreamId, code: ResetCode) {}
    pub fn read(&mut self, id: StreamId, now: Instant) -> Result<Option<Item>, StreamError> {
        Err(StreamError::Unknown)
    }
    pub fn release_send(&mut self, id: StreamId) {}
    pub fn release_recv(&mut self, id: StreamId) {}
    pub fn send_control(&mut self, control: &Control) -> Result<(), ControlError> {
        Err(ControlError::Closed)
    }
    pub fn drain(&mut self, retry_after: Duration) {}
    pub fn close(&mut self, code: GoawayCode, reason: &str) {}
    pub fn poll_transmit(&mut self, batch: &mut BytesMut, now: Instant) -> bool {
        false
    }
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    pub fn has_transmit(&self) -> bool {
        false
    }
    pub fn rtt(&self) -> Option<Duration> {
        None
    }
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    pub fn peer(&self) -> Option<&Hello> {
        None
    }
    pub fn is_draining(&self) -> bool {
        false
    }
    pub fn is_closed(&self) -> bool {
        false
    }
    pub fn stream_count(&self) -> usize {
        0
    }
}
