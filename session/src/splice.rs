//! Bytes both ways between a stream and a connection, until both directions have ended.
//!
//! For calls that are no HTTP any more (WebSocket, CONNECT), on either side of the tunnel.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use culvert_proto::code::ResetCode;
use culvert_proto::mux::{Item, StreamError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::stream::{RecvStream, SendStream};

/// Bytes that are read from the connection at once, and held while the tunnel has no room.
const PIECE: usize = 16 * 1024;

/// The same where the last read has filled a piece: more is waiting. Pieces of the stream are gathered
/// until there are so many bytes of them: a system call for each would be most of what a transfer costs.
const LARGE_PIECE: usize = 64 * 1024;

/// Most pieces of the stream that are written at once. Peers of ours send 16 KiB in each.
const TOGETHER: usize = 4;

/// Silence after a [cut](Cut::Ends): who is gone altogether should not keep the other side for long.
const AFTER_CUT: Duration = Duration::from_secs(10);

/// How long a connection that has all of the stream may go on sending what nobody wants. Closed while it
/// sends, it would be reset, and could lose what it has not read yet.
const HEAR_OUT: Duration = Duration::from_secs(2);

/// What a peer says that has ended its own direction in good order, and reads no further: it is not gone.
const NOT_NEEDED: StreamError = StreamError::Stopped(ResetCode::NotNeeded);

/// What it means if the connection ends without TLS's close_notify (RFC 8446, 6.1). Programs that exit
/// end so, and anybody on the way can make it look so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The connection broke: nothing else would tell the reader that there may have been more.
    Breaks,
    /// It ended, as with OpenSSL's `SSL_OP_IGNORE_UNEXPECTED_EOF`: what is carried says itself where it
    /// ends (TLS within, WebSocket), and all that came before is passed on. The other direction goes
    /// on, but silence in it for 10 s is a break then.
    Ends,
}

impl Cut {
    /// What it is on a connection that has switched to `protocol`, a token of HTTP's Upgrade. Nothing
    /// is known of any but `websocket`.
    pub fn of_protocol(protocol: &str) -> Self {
        match protocol {
            "websocket" => Self::Ends,
            _ => Self::Breaks,
        }
    }
}

/// Why the two were parted before both directions had ended.
#[derive(Debug, thiserror::Error)]
pub enum SpliceError {
    /// The connection broke; the peer was told with [`ResetCode::Truncated`].
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The stream was broken off. The connection is left as it is: drop it.
    #[error("the stream was broken off: {0}")]
    Stream(#[from] StreamError),
    /// Nothing has moved for so long; the peer was told with [`ResetCode::Timeout`].
    #[error("nothing has moved for {0:?}")]
    Idle(Duration),
}

impl SpliceError {
    /// Whether all that the peer had sent before was written to the connection first.
    pub fn is_behind_data(&self) -> bool {
        matches!(self, Self::Stream(why) if is_behind_data(why))
    }
}

/// What a splice has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes from the stream into the connection.
    Out(usize),
    /// So many bytes from the connection into the stream.
    In(usize),
    /// The end of the stream, about which the connection is told next.
    OutEnd,
}

/// Passes bytes on both ways. Each direction ends for itself: the end of what the connection sends
/// finishes the stream's half, and the other way round. Returns when both have ended, or as soon as
/// either side breaks, or when nothing has moved for `idle`. `cut` says what the end of a TLS
/// connection without goodbye is. `moved` is told of every piece.
///
/// A peer that stops the stream is gone, unless it says [`ResetCode::NotNeeded`]: then all that it sends
/// is still passed on, and what the connection sends is read and thrown away, until it ends or for 2 s
/// more than the peer's direction takes.
///
/// Holds at most 64 KiB of the connection's, and of the stream's 64 KiB and one piece, and reads no
/// further than they are taken; next to nothing while the connection is idle.
/// Cancel safe as far as the halves of the stream are dropped too, which cancels the call.
pub async fn splice<IO>(
    send: &mut SendStream,
    recv: &mut RecvStream,
    io: IO,
    cut: Cut,
    idle: Duration,
    mut moved: impl FnMut(Moved),
) -> Result<(), SpliceError>
where
    IO: AsyncRead + AsyncWrite,
{
    let mut io = pin!(io);
    let (mut inward, mut outward) = (Inward::new(cut), Outward::default());
    let mut last_move = Instant::now();
    let mut over_at = None;
    let mut timer = pin!(sleep_until(last_move + idle));
    let spliced = poll_fn(|cx| {
        let mut any = false;
        let mut note = |piece| {
            any = true;
            moved(piece);
        };
        let stopped = match inward.ended {
            true => Poll::Pending,
            false => send.poll_stopped(cx),
        };
        inward.unwanted |= stopped == Poll::Ready(NOT_NEEDED);
        let came = inward.poll(cx, io.as_mut(), send, &mut note);
        let went = outward.poll(cx, io.as_mut(), recv, &mut note);
        // The connection has all, and nobody wants what it still sends.
        let is_over = went.is_ready() && inward.unwanted;
        // What the peer sent before it broke off is on its way out, and the same error comes behind it.
        let comes_again = |why: &StreamError| went.is_pending() && is_behind_data(why);
        let ended = match came {
            Poll::Ready(Err(SpliceError::Stream(why))) if comes_again(&why) => false,
            Poll::Ready(Err(SpliceError::Io(_))) if is_over => true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            came => came.is_ready(),
        };
        match went {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if ended => return Poll::Ready(Ok(())),
            _ => {}
        }
        // A peer that wants no more of what the connection sends is gone.
        if !ended
            && let Poll::Ready(why) = stopped
            && why != NOT_NEEDED
            && !comes_again(&why)
        {
            return Poll::Ready(Err(why.into()));
        }
        if any {
            last_move = Instant::now();
        }
        let due = match inward.cut_at {
            _ if is_over => *over_at.get_or_insert_with(Instant::now) + HEAR_OUT,
            Some(at) => at.max(last_move) + idle.min(AFTER_CUT),
            None => last_move + idle,
        };
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(match is_over {
                    true => Ok(()),
                    false => Err(inward.silence(idle)),
                });
            }
            timer.as_mut().reset(due);
        }
    });
    let spliced = spliced.await;
    match &spliced {
        Ok(()) => {}
        Err(SpliceError::Io(_)) => send.cut_short(ResetCode::Truncated),
        Err(SpliceError::Idle(_)) => send.reset(ResetCode::Timeout),
        Err(SpliceError::Stream(_)) => send.reset(ResetCode::Cancelled),
    }
    spliced
}

/// Whether a stream that ended so still gives what came before.
fn is_behind_data(why: &StreamError) -> bool {
    match why {
        StreamError::Reset(code) => code.keeps_data(),
        why => *why == StreamError::SessionLost,
    }
}

/// From the connection into the stream.
struct Inward {
    cut: Cut,
    /// When the connection ended without goodbye, where that is an end.
    cut_at: Option<Instant>,
    buffer: BytesMut,
    /// The last read has filled what there was room for.
    filled: bool,
    /// What the tunnel has not taken yet.
    piece: Bytes,
    /// Nobody takes it any more: what comes is thrown away.
    unwanted: bool,
    ended: bool,
}

impl Inward {
    fn new(cut: Cut) -> Self {
        Self {
            cut,
            cut_at: None,
            buffer: BytesMut::new(),
            filled: false,
            piece: Bytes::new(),
            unwanted: false,
            ended: false,
        }
    }

    /// What it is that nothing has moved for too long.
    fn silence(&self, idle: Duration) -> SpliceError {
        if self.cut_at.is_some() {
            return io::Error::from(io::ErrorKind::UnexpectedEof).into();
        }
        SpliceError::Idle(idle)
    }

    fn poll<IO: AsyncRead>(
        &mut self,
        cx: &mut Context<'_>,
        mut io: Pin<&mut IO>,
        send: &mut SendStream,
        moved: &mut impl FnMut(Moved),
    ) -> Poll<Result<(), SpliceError>> {
        while !self.ended {
            while !self.piece.is_empty() && !self.unwanted {
                match ready!(send.poll_write_bytes(cx, &mut self.piece)) {
                    Ok(taken) => moved(Moved::In(taken)),
                    Err(NOT_NEEDED) => self.unwanted = true,
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            let wanted = if self.filled { LARGE_PIECE } else { PIECE };
            self.buffer.reserve(wanted);
            let Poll::Ready(read) = pin!(io.read_buf(&mut self.buffer)).poll(cx) else {
                self.buffer = BytesMut::new();
                self.filled = false;
                return Poll::Pending;
            };
            let read = match read {
                // Of what nobody wants, no more may have come.
                Err(error)
                    if error.kind() == io::ErrorKind::UnexpectedEof
                        && (self.cut == Cut::Ends || self.unwanted) =>
                {
                    self.cut_at = Some(Instant::now());
                    0
                }
                read => read?,
            };
            if read == 0 {
                self.ended = true;
                match send.finish() {
                    Ok(()) => {}
                    Err(NOT_NEEDED) => self.unwanted = true,
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            self.filled = read >= wanted;
            self.piece = self.buffer.split().freeze();
        }
        Poll::Ready(Ok(()))
    }
}

/// From the stream into the connection.
#[derive(Default)]
struct Outward {
    /// What the connection has not taken yet.
    pieces: VecDeque<Bytes>,
    /// Written, but perhaps not under way.
    unflushed: bool,
    finished: bool,
    /// Why nothing more comes, once what came before is written.
    broken: Option<SpliceError>,
    ended: bool,
}

impl Outward {
    /// Whether one more piece may be gathered.
    fn has_room(&self) -> bool {
        let bytes: usize = self.pieces.iter().map(Bytes::len).sum();
        self.pieces.len() < TOGETHER && bytes < LARGE_PIECE
    }

    /// Writes what it can of the pieces.
    fn poll_write<IO: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        io: Pin<&mut IO>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); TOGETHER];
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        let written = ready!(io.poll_write_vectored(cx, &slices[..self.pieces.len()]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        let mut left = written;
        while let Some(piece) = self.pieces.front_mut() {
            let part = left.min(piece.len());
            piece.advance(part);
            left -= part;
            if piece.has_remaining() {
                break;
            }
            self.pieces.pop_front();
        }
        Poll::Ready(Ok(written))
    }

    fn poll<IO: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut io: Pin<&mut IO>,
        recv: &mut RecvStream,
        moved: &mut impl FnMut(Moved),
    ) -> Poll<Result<(), SpliceError>> {
        while !self.ended {
            while self.has_room() && !self.finished && self.broken.is_none() {
                match recv.poll_item(cx) {
                    Poll::Ready(Ok(Item::Data(data))) => self.pieces.push_back(data),
                    Poll::Ready(Ok(Item::Finished)) => {
                        self.finished = true;
                        moved(Moved::OutEnd);
                    }
                    Poll::Ready(Ok(Item::Head(_))) => {
                        let error = "a head where only bytes are expected";
                        let error = io::Error::new(io::ErrorKind::InvalidData, error);
                        self.broken = Some(error.into());
                    }
                    Poll::Ready(Err(error)) => self.broken = Some(error.into()),
                    Poll::Pending => break,
                }
            }
            if !self.pieces.is_empty() {
                let written = ready!(self.poll_write(cx, io.as_mut()))?;
                moved(Moved::Out(written));
                continue;
            }
            if self.unflushed {
                ready!(io.as_mut().poll_flush(cx))?;
                self.unflushed = false;
            }
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Err(error));
            }
            if self.finished {
                // Nothing is lost with a goodbye that nobody hears.
                let _ = ready!(io.as_mut().poll_shutdown(cx));
                self.ended = true;
                break;
            }
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}
