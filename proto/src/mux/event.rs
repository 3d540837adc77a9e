//! What comes out of a [`Mux`](crate::mux::Mux) besides bytes.

use std::time::Duration;

use bytes::Bytes;

use crate::code::{GoawayCode, ResetCode};
use crate::control::Control;
use crate::frame::StreamId;
use crate::head::Head;
use crate::mux::error::SessionError;

/// Something that happened. At most one of each kind and stream waits, however much happens.
#[derive(Debug, Clone)]
pub enum Event {
    /// Both sides have greeted: [`open`](crate::mux::Mux::open) works.
    Ready,
    /// [`accept`](crate::mux::Mux::accept) has a call.
    Incoming,
    /// A `read` that gave nothing gives something now.
    Readable(StreamId),
    /// A `write` that took nothing takes something now.
    Writable(StreamId),
    /// The peer wants no more of our data; `write` fails from now on. It may come before the call
    /// is accepted: [`stopped`](crate::mux::Mux::stopped) tells of it later.
    Stopped(StreamId, ResetCode),
    /// The peer aborted the stream; whatever half was not over fails from now on.
    Reset(StreamId, ResetCode),
    /// A control message, in order.
    Control(Control),
    /// New streams must be opened elsewhere; those that exist go on.
    Draining {
        /// Why.
        code: GoawayCode,
        /// When the peer may be asked again.
        retry_after: Duration,
    },
    /// The session is over. The last event.
    Closed(SessionError),
}

/// What a stream's receiving half gives, in order.
#[derive(Debug, Clone)]
pub enum Item {
    /// A head.
    Head(Head),
    /// Bytes of the body; never empty.
    Data(Bytes),
    /// The end, in good order. Every further read gives it again.
    Finished,
}

/// What a session holds now and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Streams that exist, both sides'.
    pub streams: usize,
    /// Calls that wait to be accepted.
    pub backlog: usize,
    /// Bytes that wait to be sent.
    pub queued: usize,
    /// Bytes received that nobody has read yet.
    pub buffered: usize,
    /// Most that may ever be buffered by the streams that exist: their windows, in bytes.
    pub granted: u64,
    /// Streams that this side opened.
    pub opened: u64,
    /// Streams that the peer opened and this side took.
    pub accepted: u64,
    /// Calls of the peer that were refused.
    pub refused: u64,
    /// Bytes put into batches.
    pub sent: u64,
    /// Bytes of messages taken.
    pub received: u64,
}
