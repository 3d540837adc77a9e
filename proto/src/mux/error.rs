//! What can go wrong with a session, a stream, or a command.

use std::time::Duration;

use crate::code::{GoawayCode, ResetCode};
use crate::control::Control;
use crate::head::Head;
use crate::mux::StreamId;

/// Why a session is over. Final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// The peer sent beyond its credit, or granted none or too much.
    #[error("the peer broke flow control: {0}")]
    FlowControl(&'static str),
    /// The peer sent too much of something that is cheap for it.
    #[error("the peer sent too many frames without content")]
    Flood,
    /// The peer speaks no version that we speak.
    #[error("the peer speaks versions {min} to {max}; this side speaks {ours}")]
    Version {
        /// Its lowest.
        min: u16,
        /// Its highest.
        max: u16,
        /// Ours.
        ours: u16,
    },
    /// Nothing came from the peer for too long.
    #[error("the peer was silent for {0:?}")]
    Timeout(Duration),
    /// The peer ended the session.
    #[error("the peer ended the session ({code}): {reason}")]
    Closed {
        /// Why.
        code: GoawayCode,
        /// Its words.
        reason: String,
    },
    /// This side ended the session.
    #[error("this side ended the session ({0})")]
    Local(GoawayCode),
}

impl SessionError {
    /// What the peer is told.
    pub(crate) fn code(&self) -> GoawayCode {
        match self {
            Self::Protocol(_) => GoawayCode::Protocol,
            Self::FlowControl(_) => GoawayCode::FlowControl,
            Self::Flood => GoawayCode::Flood,
            Self::Version { .. } => GoawayCode::Version,
            Self::Timeout(_) => GoawayCode::Timeout,
            Self::Closed { code, .. } | Self::Local(code) => *code,
        }
    }
}

/// Why a stream was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The greetings are not exchanged yet.
    #[error("the session is not ready yet")]
    NotReady,
    /// One of the sides drains the session.
    #[error("the session takes no new streams")]
    Draining,
    /// The peer's limit of open streams is reached.
    #[error("the peer takes no more streams at once")]
    TooManyStreams,
    /// The head is longer than [`crate::limits::MAX_HEAD`].
    #[error("the head is too long")]
    HeadTooLarge,
    /// The session is over.
    #[error("the session is over")]
    Closed,
}

/// Why a stream cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// One of the sides aborted it.
    #[error("the stream was reset ({0})")]
    Reset(ResetCode),
    /// The peer wants no more of it; reading may go on.
    #[error("the peer stopped the stream ({0})")]
    Stopped(ResetCode),
    /// The session is over.
    #[error("the session is over")]
    SessionLost,
    /// A write behind the end.
    #[error("the stream was finished already")]
    Finished,
    /// A head longer than [`crate::limits::MAX_HEAD`].
    #[error("the head is too long")]
    HeadTooLarge,
    /// There is no such stream (any more).
    #[error("there is no such stream")]
    Unknown,
}

/// Why a control message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// [`crate::limits::MAX_CONTROLS`] wait already.
    #[error("too many control messages are waiting")]
    Full,
    /// The encoded message is too long for a frame.
    #[error("the control message is too long")]
    TooLarge,
    /// The session is over.
    #[error("the session is over")]
    Closed,
}

/// What a read gives.
#[derive(Debug, Clone)]
pub enum Item {
    /// A head.
    Head(Head),
    /// Bytes of the body; never empty.
    Data(bytes::Bytes),
    /// The peer finished; so says every further read.
    Finished,
}

/// What the driver has to know.
#[derive(Debug, Clone)]
pub enum Event {
    /// The greetings are exchanged: `open` works.
    Ready,
    /// `accept` has something.
    Incoming,
    /// A read that got nothing may be tried again.
    Readable(StreamId),
    /// A write that got nothing may be tried again.
    Writable(StreamId),
    /// The peer wants no more of our bytes.
    Stopped(StreamId, ResetCode),
    /// The peer aborted the stream.
    Reset(StreamId, ResetCode),
    /// A control message.
    Control(Control),
    /// The peer takes no new streams: open a replacement session elsewhere.
    Draining {
        /// Why.
        code: GoawayCode,
        /// How long to wait before that.
        retry_after: Duration,
    },
    /// The session is over; every stream of it has failed.
    Closed(SessionError),
}
