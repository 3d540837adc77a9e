//! Why a session ended, why a stream broke, why a command was not taken.

use std::time::Duration;

use crate::code::{GoawayCode, ResetCode};
use crate::frame::{Kind, StreamId};

/// A rule of the protocol that the peer broke. Each ends the session: only a broken or hostile
/// multiplexer does this, never a call that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message without a frame.
    #[error("an empty message")]
    EmptyMessage,
    /// A message larger than [`Limits::max_message`](crate::limits::Limits::max_message).
    #[error("a message of {0} bytes")]
    MessageTooLarge(usize),
    /// A header or a payload that goes beyond its message.
    #[error("a frame that goes beyond its message")]
    CutShort,
    /// A type that this version does not know and may not skip.
    #[error("a frame of the unknown type {0:#04x}")]
    UnknownFrame(u8),
    /// Flags that this kind of frame does not have.
    #[error("{0} with unknown flags")]
    Flags(Kind),
    /// A session's frame with a stream id, or a stream's without.
    #[error("{0} with a stream id where there is none, or without one")]
    StreamNumber(Kind),
    /// A payload that is not what its kind says.
    #[error("{frame}: {what}")]
    Malformed {
        /// The frame.
        frame: Kind,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The first frame is not HELLO.
    #[error("{0} before HELLO")]
    BeforeHello(Kind),
    /// A second HELLO.
    #[error("a second HELLO")]
    SecondHello,
    /// OPEN with an id of this side's parity, or not above all earlier ones.
    #[error("OPEN with the id {0}, which is not a new one of the sender's")]
    OpenId(StreamId),
    /// A frame on a stream that was never opened.
    #[error("{0} on the stream {1}, which was never opened")]
    NeverOpened(Kind, StreamId),
    /// OPEN, HEAD, DATA or FINISH after the sender's own end of the stream.
    #[error("{0} on the stream {1} after its end")]
    AfterEnd(Kind, StreamId),
    /// DATA without bytes and without an end.
    #[error("empty DATA on the stream {0}")]
    EmptyData(StreamId),
    /// WINDOW with no credit, or with more than a stream can have.
    #[error("WINDOW of {1} on the stream {0}")]
    Credit(StreamId, u32),
    /// A PONG that answers no PING.
    #[error("a PONG that answers no PING")]
    Pong,
    /// A GOAWAY that takes back what an earlier one gave up.
    #[error("a GOAWAY that accepts more streams than the one before")]
    GoawayRises,
}

/// A bounded resource that the peer tried to exhaust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    /// More PINGs than measuring needs.
    #[error("pings")]
    Pings,
    /// Calls opened and cancelled, refused or broken faster than the limit.
    #[error("cancelled calls")]
    Cancels,
    /// Control messages faster than the limit, or more than are taken.
    #[error("control messages")]
    Control,
    /// More frames without effect on a call than traffic can explain.
    #[error("frames without effect")]
    Idle,
}

/// What did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// The greeting.
    #[error("the peer did not greet within {0:?}")]
    Hello(Duration),
    /// Anything at all: the peer is dead or cut off.
    #[error("nothing came from the peer for {0:?}")]
    Dead(Duration),
}

/// Why a session ended. Says whose doing it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer broke a rule of the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] Violation),
    /// The peer sent more on a stream than it had credit for.
    #[error("the peer sent beyond its credit on the stream {0}")]
    FlowControl(StreamId),
    /// The peer floods.
    #[error("the peer floods: {0}")]
    Flood(#[from] Flood),
    /// The peer speaks other versions only.
    #[error("no version in common: the peer speaks {min} to {max}")]
    Version {
        /// The peer's lowest.
        min: u16,
        /// The peer's highest.
        max: u16,
    },
    /// The peer is silent.
    #[error("{0}")]
    Timeout(Silence),
    /// The peer ended the session and said why.
    #[error("the peer ended the session ({code}): {reason}")]
    Closed {
        /// Its code.
        code: GoawayCode,
        /// Its words; at most 1 KiB, free of control characters.
        reason: String,
    },
    /// This side ended the session ([`Mux::close`](crate::mux::Mux::close)), with this code.
    #[error("this side ended the session ({0})")]
    Local(GoawayCode),
}

impl SessionError {
    /// What the peer is told in GOAWAY; for a session that the peer ended, what it told us.
    pub fn code(&self) -> GoawayCode {
        match self {
            Self::Protocol(_) => GoawayCode::Protocol,
            Self::FlowControl(_) => GoawayCode::FlowControl,
            Self::Flood(_) => GoawayCode::Flood,
            Self::Version { .. } => GoawayCode::Version,
            Self::Timeout(_) => GoawayCode::Timeout,
            Self::Closed { code, .. } | Self::Local(code) => *code,
        }
    }
}

/// Why a stream cannot be opened. Nothing was sent: the call may go elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer has not greeted yet.
    #[error("the session is not ready")]
    NotReady,
    /// The peer takes no new streams, or the ids are used up.
    #[error("the session takes no new streams")]
    Draining,
    /// As many streams are open as the peer allows.
    #[error("the session has as many streams as it may")]
    TooManyStreams,
    /// The head breaks a limit of the protocol (see [`crate::limits`]).
    #[error("the call's head is too large or not valid")]
    HeadTooLarge,
    /// The session is over.
    #[error("the session is over")]
    Closed,
}

/// Why a stream, or one half of it, is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Either side aborted it.
    #[error("the stream was reset ({0})")]
    Reset(ResetCode),
    /// Sending: the peer wants no more. Receiving: this side has said so.
    #[error("the stream was stopped ({0})")]
    Stopped(ResetCode),
    /// The session ended.
    #[error("the session was lost")]
    SessionLost,
    /// Sending after `finish`.
    #[error("the stream was finished")]
    Finished,
    /// The head breaks a limit of the protocol (see [`crate::limits`]); it was not sent.
    #[error("the head is too large or not valid")]
    HeadTooLarge,
    /// There is no such stream, or its half was released.
    #[error("there is no such stream")]
    Unknown,
}

/// Why a control message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// As many wait as may; the peer does not read.
    #[error("too many control messages wait")]
    Full,
    /// The message breaks a limit of the protocol (see [`crate::limits`]).
    #[error("the control message is too large or not valid")]
    TooLarge,
    /// The session is over.
    #[error("the session is over")]
    Closed,
}
