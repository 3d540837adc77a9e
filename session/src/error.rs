//! Why a session ended.

use std::io;
use std::sync::Arc;

use culvert_proto::mux;

/// Why a session ended. Every handle of the session gets the same one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionError {
    /// It was ended with a word: by this side, by the peer, or because the peer broke the rules
    /// or fell silent.
    #[error(transparent)]
    Protocol(#[from] mux::SessionError),
    /// The peer closed the connection in an orderly way without saying why.
    #[error("the peer closed the connection")]
    Disconnected,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(Arc<io::Error>),
    /// The peer broke the rules of WebSocket (RFC 6455), or sent what a session never sends: a
    /// text message, a message over the limit, a flood of pings.
    #[error("the peer broke the WebSocket protocol: {0}")]
    WebSocket(Arc<str>),
    /// The driver was dropped: the runtime shuts down.
    #[error("the session's driver was stopped")]
    Aborted,
}
