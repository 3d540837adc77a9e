//! A WebSocket connection with every buffer bounded: reads messages, writes batches.
//!
//! What it holds: of the message under way no more than has come and the room for its next
//! 64 KiB; of what is to be sent one batch and one pong. When nothing is under
//! way it holds nothing.

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use culvert_proto::mux::Side;
use culvert_proto::websocket::{self, Decoder, MAX_HEADER, Opcode, Received};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::error::SessionError;

/// Largest message that is taken, in bytes; a larger one ends the session before it is buffered.
/// Far above what a peer of ours sends at once (a batch, or one large head), so that both may
/// grow.
pub const MAX_MESSAGE: usize = 512 * 1024;

/// Bytes that are read while it is not known how long the next frame is: several small messages.
const READ_AHEAD: usize = 4 * 1024;

/// Most bytes that are made room for at once, whatever length a frame announces: what a peer has
/// not sent costs nothing beyond.
const READ_AT_ONCE: usize = 64 * 1024;

/// A connection whose WebSocket handshake is done.
pub struct WebSocketIo<IO> {
    io: IO,
    side: Side,
    decoder: Decoder,
    /// What was read and not decoded yet.
    input: BytesMut,
    /// What is appended to the frame to be.
    batch: BytesMut,
    /// The rest of the frame that is being written.
    output: BytesMut,
    /// Something was written and not yet flushed to the end.
    unflushed: bool,
    /// The answer to the peer's last ping (RFC 6455, 5.5.3: earlier ones need none).
    pong: Option<Bytes>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> WebSocketIo<IO> {
    /// The acceptor's end of a connection that HTTP has just upgraded (the answer 101 is sent).
    pub fn acceptor(io: IO) -> Self {
        Self::new(io, Vec::new(), Side::Acceptor)
    }

    /// The dialer's end, with the bytes that came along with the answer.
    pub fn dialer(io: IO, received: Vec<u8>) -> Self {
        Self::new(io, received, Side::Dialer)
    }

    fn new(io: IO, received: Vec<u8>, side: Side) -> Self {
        let peer = match side {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        };
        Self {
            io,
            side,
            decoder: Decoder::new(peer, MAX_MESSAGE),
            input: Bytes::from(received).into(),
            batch: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            pong: None,
        }
    }

    /// The next message or control frame. Pings are answered with the next
    /// [`poll_flush`](Self::poll_flush).
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Received, SessionError>> {
        loop {
            let received = self
                .decoder
                .decode(&mut self.input)
                .map_err(|violation| SessionError::WebSocket(violation.to_string().into()))?;
            if let Some(received) = received {
                if let Received::Ping(payload) = &received {
                    self.pong = Some(Bytes::copy_from_slice(payload));
                }
                return Poll::Ready(Ok(received));
            }
            if ready!(self.poll_read(cx)).map_err(broken)? == 0 {
                return Poll::Ready(Err(broken(io::ErrorKind::UnexpectedEof.into())));
            }
        }
    }

    /// Reads more input: of a long frame as far as its end, so that the message has a buffer of
    /// its own size, and the next one begins in another.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let missing = self.decoder.missing(&self.input).unwrap_or_default();
        let wanted = missing.clamp(READ_AHEAD, READ_AT_ONCE);
        if self.input.is_empty() {
            // The buffer before may be held by messages that wait: it is theirs.
            self.input = BytesMut::with_capacity(wanted);
        } else {
            self.input.reserve(wanted);
        }
        let mut room = (&mut self.input).limit(wanted);
        // `read_buf` holds no state between polls, and fills memory without zeroing it first.
        let read = pin!(self.io.read_buf(&mut room)).poll(cx);
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        read
    }

    /// The batch to append to; [`send`](Self::send) takes it.
    pub(crate) fn batch(&mut self) -> &mut BytesMut {
        if self.batch.is_empty() {
            // The same memory for one frame after the other.
            if self.output.is_empty() {
                self.batch = std::mem::take(&mut self.output);
                self.batch.clear();
            }
            websocket::leave_room(&mut self.batch);
        }
        &mut self.batch
    }

    /// Makes one message of the [`batch`](Self::batch), if anything was appended to it, for
    /// [`poll_flush`](Self::poll_flush) to write. To be called when that has written everything
    /// before. `false`: there is nothing.
    pub(crate) fn send(&mut self) -> Result<bool, SessionError> {
        let something = self.batch.len() > MAX_HEADER;
        if something {
            self.seal(Opcode::Binary)?;
        }
        Ok(something)
    }

    /// Ends our sending, when all that was sent is written.
    pub(crate) fn send_close(&mut self) -> Result<(), SessionError> {
        self.batch();
        self.seal(Opcode::Close)
    }

    /// Makes a frame of the batch.
    fn seal(&mut self, opcode: Opcode) -> Result<(), SessionError> {
        debug_assert!(self.output.is_empty());
        let key = match self.side {
            Side::Dialer => {
                let mut key = [0; 4];
                aws_lc_rs::rand::fill(&mut key)
                    .map_err(|_| broken(io::Error::other("the system has no random numbers")))?;
                Some(key)
            }
            Side::Acceptor => None,
        };
        websocket::seal(&mut self.batch, opcode, key);
        self.output = std::mem::take(&mut self.batch);
        Ok(())
    }

    /// Writes what is to be written, the answer to a ping behind it, and pushes it out.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        loop {
            while !self.output.is_empty() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output));
                match written.map_err(broken)? {
                    0 => return Poll::Ready(Err(broken(io::ErrorKind::WriteZero.into()))),
                    written => self.output.advance(written),
                }
                self.unflushed = true;
            }
            let Some(payload) = self.pong.take() else {
                break;
            };
            // What was appended for the next message waits until this is on its way.
            let waiting = std::mem::take(&mut self.batch);
            self.batch().extend_from_slice(&payload);
            self.seal(Opcode::Pong)?;
            self.batch = waiting;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx)).map_err(broken)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the transport's sending half.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        Pin::new(&mut self.io).poll_shutdown(cx).map_err(broken)
    }

    /// Gives back the memory of batches: a busy session fills the same again, an idle one keeps
    /// none.
    pub(crate) fn release(&mut self) {
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
        if self.batch.len() <= MAX_HEADER {
            self.batch = BytesMut::new();
        }
    }
}

fn broken(error: io::Error) -> SessionError {
    let error = match error.kind() {
        // What TLS says of it names a page of its documentation.
        kind @ io::ErrorKind::UnexpectedEof => io::Error::new(kind, "it ended without a goodbye"),
        _ => error,
    };
    SessionError::Io(std::sync::Arc::new(error))
}

impl<IO> fmt::Debug for WebSocketIo<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketIo").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn an_end_without_a_goodbye_is_told_in_words_of_ours() {
        let (near, far) = tokio::io::duplex(64);
        drop(far);
        let mut socket = WebSocketIo::acceptor(near);
        let error = poll_fn(|cx| socket.poll_receive(cx)).await.unwrap_err();
        let words = "the connection broke: it ended without a goodbye";
        assert_eq!(error.to_string(), words);
    }
}
