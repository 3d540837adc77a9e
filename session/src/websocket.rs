//! The seam to tungstenite: a WebSocket with every buffer bounded.

use std::fmt;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Largest message that is taken, in bytes; a larger one ends the session before it is buffered.
/// Far above what a peer of ours sends at once (a batch), so that batches may grow.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// Bytes read at a time. tungstenite zeroes so many before every read, and an idle connection
/// holds them: one TLS record, no more.
const READ_BUFFER: usize = 16 * 1024;

/// Most bytes that wait inside tungstenite for a blocked socket: one batch, which the driver
/// writes only when the one before is gone, and the answers to a few pings. (The default is
/// unlimited: a peer that pings and never reads would take all memory.)
const MAX_WRITE_BUFFER: usize = MAX_MESSAGE + 64 * 1024;

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // Every message goes straight to the socket: the driver has gathered it already.
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .accept_unmasked_frames(false)
}

/// A connection whose WebSocket handshake is done.
pub struct WebSocketIo<IO>(pub(crate) WebSocketStream<IO>);

impl<IO: AsyncRead + AsyncWrite + Unpin> WebSocketIo<IO> {
    /// The acceptor's end of a connection that HTTP has just upgraded (the answer 101 is sent).
    pub fn acceptor(io: IO) -> Self {
        Self::new(io, Vec::new(), Role::Server)
    }

    /// The dialer's end, with the bytes that came along with the answer.
    pub fn dialer(io: IO, received: Vec<u8>) -> Self {
        Self::new(io, received, Role::Client)
    }

    fn new(io: IO, received: Vec<u8>, role: Role) -> Self {
        let wrap = WebSocketStream::from_partially_read(io, received, role, Some(limits()));
        Self(
            wrap.now_or_never()
                .expect("wrapping an upgraded connection waits for nothing"),
        )
    }
}

impl<IO> fmt::Debug for WebSocketIo<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketIo").finish_non_exhaustive()
    }
}
