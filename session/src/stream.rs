//! The handles of one stream: a half to send, a half to receive.
//!
//! Both take part in tokio's cooperative scheduling: a task that always finds data still lets
//! others run every 256 KiB.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use culvert_proto::code::ResetCode;
use culvert_proto::head::Head;
use culvert_proto::mux::{Item, StreamError, StreamId};
use culvert_proto::priority::Priority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

use crate::lanes::Moved;
use crate::session::Handle;

/// Most bytes that one `poll_write` copies: a frame's worth.
const MAX_COPY: usize = 16 * 1024;

/// Bytes that cost a task as much of its turn as any other step does. tokio gives a task 128 steps
/// before others have theirs: 256 KiB. By pieces of 16 KiB, whatever the piece, it would be 2 MiB,
/// for which a small call in the same process would wait.
const STEP: usize = 2 * 1024;

/// Counts the size of a piece that was moved against the task's turn.
fn charge(cx: &mut Context<'_>, bytes: usize) {
    for _ in 0..bytes / STEP {
        match poll_proceed(cx) {
            Poll::Ready(step) => step.made_progress(),
            // The turn is over with this piece.
            Poll::Pending => break,
        }
    }
}

/// One stream: an ordered, half-closable flow of heads and bytes that carries one call.
///
/// As `AsyncRead + AsyncWrite` it is a plain byte stream, whose shutdown finishes the sending
/// half.
#[derive(Debug)]
pub struct Stream {
    /// Towards the peer.
    pub send: SendStream,
    /// From the peer.
    pub recv: RecvStream,
}

impl Stream {
    pub(crate) fn new(handle: Arc<Handle>, id: StreamId) -> Self {
        Self {
            send: SendStream {
                handle: handle.clone(),
                id,
                moved: Moved::default(),
            },
            recv: RecvStream {
                handle,
                id,
                moved: Moved::default(),
                rest: Bytes::new(),
            },
        }
    }

    /// The stream's id within its session, for logs.
    pub fn id(&self) -> StreamId {
        self.send.id
    }

    /// The two halves, for two tasks.
    pub fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }
}

/// The half of a stream that sends. Dropped before [`finish`](Self::finish), it resets the
/// stream with [`ResetCode::Cancelled`]: the peer never takes a broken-off body for a whole one.
/// Where it is a panic that drops it, the code is [`ResetCode::Internal`].
pub struct SendStream {
    handle: Arc<Handle>,
    id: StreamId,
    moved: Moved,
}

impl SendStream {
    /// Sends a head: an answer, an interim one, a refusal, or trailers.
    pub async fn send_head(&mut self, head: &Head) -> Result<(), StreamError> {
        self.handle.with(|core| {
            if core.has_ended() {
                return Err(StreamError::SessionLost);
            }
            core.mux.send_head(self.id, head)
        })
    }

    /// Sets how urgent what is sent here is against the session's other streams; `None`, as at
    /// first: the stream earns its class by what it sends.
    pub fn set_priority(&mut self, priority: Option<Priority>) {
        self.handle
            .with(|core| core.mux.set_priority(self.id, priority));
    }

    /// Takes as much of `data` as the stream has room for, at least one byte; waits while there
    /// is none. Gives the number of bytes taken; nothing is copied.
    pub fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<usize, StreamError>> {
        let turn = ready!(poll_proceed(cx));
        let taken = self.handle.with(|core| {
            if core.has_ended() {
                return Poll::Ready(Err(StreamError::SessionLost));
            }
            match core.mux.write(self.id, data) {
                Ok(0) if !data.is_empty() => {
                    core.wait_writable(self.id, cx);
                    Poll::Pending
                }
                taken => Poll::Ready(taken),
            }
        });
        if let Poll::Ready(result) = &taken {
            let bytes = *result.as_ref().unwrap_or(&0);
            turn.made_progress();
            charge(cx, bytes);
            self.moved.add(&self.handle, bytes);
        }
        taken
    }

    /// Sends `data`, waiting for the peer's credit where it must. If the future is dropped, a
    /// part of the data may have been sent.
    pub async fn write_bytes(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        loop {
            poll_fn(|cx| self.poll_write_bytes(cx, &mut data)).await?;
            if data.is_empty() {
                return Ok(());
            }
        }
    }

    /// Ends this direction in good order, after everything written. Further calls do nothing.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.handle.with(|core| {
            if core.has_ended() {
                return Err(StreamError::SessionLost);
            }
            core.mux.finish(self.id)
        })
    }

    /// Aborts the stream in both directions.
    pub fn reset(&mut self, code: ResetCode) {
        self.handle.with(|core| core.reset(self.id, code));
    }

    /// Aborts the stream in both directions, this one behind what was written: its reader gets all that
    /// there is and then the error, where `code` [keeps data](ResetCode::keeps_data) and the peer opened
    /// the stream.
    pub fn cut_short(&mut self, code: ResetCode) {
        self.handle.with(|core| core.cut_short(self.id, code));
    }

    /// Waits until the peer wants no more of this direction: it stopped or reset the stream, or
    /// the session was lost. A peer that is content never completes this. Cancel safe.
    pub async fn stopped(&mut self) -> StreamError {
        poll_fn(|cx| self.poll_stopped(cx)).await
    }

    /// Like [`stopped`](Self::stopped), for use within another future.
    pub fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.handle.with(|core| core.poll_stopped(self.id, cx))
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.moved.end(&self.handle);
        self.handle.with(|core| {
            if std::thread::panicking() {
                // Not that nobody wants it any more: the peer is to know whose fault it is.
                core.reset(self.id, ResetCode::Internal);
            }
            core.mux.release_send(self.id);
            core.drop_half(self.id);
        });
    }
}

/// The half of a stream that receives. Dropped before [`Item::Finished`], it asks the peer to
/// stop with [`ResetCode::Cancelled`].
pub struct RecvStream {
    handle: Arc<Handle>,
    id: StreamId,
    moved: Moved,
    /// What an `AsyncRead` has not taken of the last data.
    rest: Bytes,
}

impl RecvStream {
    /// The next head or piece of data, or the end in good order; a stream that was broken off
    /// gives an error instead, never [`Item::Finished`]. Taking data gives the peer credit for
    /// more. Cancel safe.
    pub async fn item(&mut self) -> Result<Item, StreamError> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// Like [`item`](Self::item), for use within another future.
    pub fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<Item, StreamError>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Item::Data(std::mem::take(&mut self.rest))));
        }
        let turn = ready!(poll_proceed(cx));
        let now = tokio::time::Instant::now().into_std();
        let item = self.handle.with(|core| match core.mux.read(self.id, now) {
            Ok(Some(item)) => Poll::Ready(Ok(item)),
            Ok(None) if core.has_ended() => Poll::Ready(Err(StreamError::SessionLost)),
            Ok(None) => {
                core.wait_readable(self.id, cx);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        });
        if let Poll::Ready(result) = &item {
            turn.made_progress();
            if let Ok(Item::Data(data)) = result {
                charge(cx, data.len());
                self.moved.add(&self.handle, data.len());
            }
        }
        item
    }

    /// Asks the peer to send no more.
    pub fn stop(&mut self, code: ResetCode) {
        self.handle.with(|core| core.mux.stop(self.id, code));
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.moved.end(&self.handle);
        self.handle.with(|core| {
            core.mux.release_recv(self.id);
            core.drop_half(self.id);
        });
    }
}

/// An I/O error that holds the stream's error.
fn io_error(error: StreamError) -> io::Error {
    let kind = match error {
        StreamError::Reset(_) => io::ErrorKind::ConnectionReset,
        StreamError::Stopped(_) => io::ErrorKind::BrokenPipe,
        StreamError::SessionLost => io::ErrorKind::ConnectionAborted,
        StreamError::Finished | StreamError::Unknown => io::ErrorKind::NotConnected,
        StreamError::HeadTooLarge => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, error)
}

impl AsyncRead for RecvStream {
    /// Reads data. A head is an error here: whoever reads bytes has taken the head before.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(this.poll_item(cx)).map_err(io_error)? {
                Item::Data(data) => this.rest = data,
                Item::Finished => return Poll::Ready(Ok(())),
                Item::Head(_) => {
                    let error = "a head where only bytes are expected";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
        }
        let length = out.remaining().min(this.rest.len());
        out.put_slice(&this.rest[..length]);
        this.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut data = Bytes::copy_from_slice(&bytes[..bytes.len().min(MAX_COPY)]);
        self.get_mut()
            .poll_write_bytes(cx, &mut data)
            .map_err(io_error)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut gathered = BytesMut::with_capacity(total.min(MAX_COPY));
        for slice in slices {
            let room = MAX_COPY - gathered.len();
            gathered.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.get_mut()
            .poll_write_bytes(cx, &mut gathered.freeze())
            .map_err(io_error)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing to do: what is written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().finish().map_err(io_error))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, out)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

impl fmt::Debug for SendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendStream")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvStream")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
