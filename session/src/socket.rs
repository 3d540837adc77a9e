//! TCP sockets as the tunnel wants them, and the read-ahead that TLS wants below it.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that the kernel may hold unsent on a tunnel (`TCP_NOTSENT_LOWAT`). Beyond it the socket
/// is not writable, so that a queue forms in the multiplexer, where small frames overtake bulk,
/// and not in the kernel, where nothing does. Smaller values cost wake-ups, larger ones latency.
pub const NOT_SENT_LOW_WATER: u32 = 128 * 1024;

/// Quiet time after which the kernel asks whether the peer is still there. The session's own
/// PING is quicker; this frees sockets of connections that never became a session.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Sets the options of a tunnel's socket: `TCP_NODELAY`, keep-alive and, on Linux,
/// `TCP_NOTSENT_LOWAT`. What the platform refuses is logged and otherwise ignored: the options
/// make a tunnel quicker, none makes it right.
pub fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    let log = |option: &str, result: io::Result<()>| {
        if let Err(error) = result {
            tracing::debug!(option, %error, "socket option refused");
        }
    };
    log("TCP_NODELAY", socket.set_tcp_nodelay(true));
    log("SO_KEEPALIVE", socket.set_tcp_keepalive(&keepalive));
    #[cfg(any(target_os = "linux", target_os = "android"))]
    log(
        "TCP_NOTSENT_LOWAT",
        socket.set_tcp_notsent_lowat(NOT_SENT_LOW_WATER),
    );
}

/// A TLS record at its longest: header, and what may be added to 16 KiB (RFC 8446, 5.2).
const RECORD: usize = 5 + 16 * 1024 + 256;

/// Bytes that [`ReadAhead`] asks the socket for at once: two full TLS records, as a batch of the
/// tunnel has. A few bytes less would take a second system call for the end of each.
const READ_AHEAD: usize = 2 * RECORD;

/// A socket that is read in large pieces, for readers that ask for small ones.
///
/// rustls reads 4 KiB at a time; below it this saves most system calls of a bulk transfer.
/// The buffer (33 KiB) is held only while there are bytes in it: an idle connection has none, and
/// one thread's connections pass theirs on, since the allocator takes long for pieces of that size.
#[derive(Debug)]
pub struct ReadAhead<IO> {
    io: IO,
    buffer: BytesMut,
}

thread_local! {
    /// The last buffer that a connection of this thread had no more need of.
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

impl<IO> ReadAhead<IO> {
    /// Wraps a socket.
    pub fn new(io: IO) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
        }
    }

    /// The socket.
    pub fn io(&self) -> &IO {
        &self.io
    }

    /// The socket, to be changed.
    pub fn io_mut(&mut self) -> &mut IO {
        &mut self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            if out.remaining() >= READ_AHEAD {
                return Pin::new(&mut this.io).poll_read(cx, out);
            }
            if this.buffer.capacity() == 0 {
                this.buffer = SPARE.take().unwrap_or_default();
            }
            this.buffer.reserve(READ_AHEAD);
            // `read_buf` holds no state between polls, and fills memory without zeroing it first.
            let read = pin!(this.io.read_buf(&mut this.buffer)).poll(cx);
            if !matches!(read, Poll::Ready(Ok(1..))) {
                SPARE.set(Some(std::mem::take(&mut this.buffer)));
            }
            ready!(read)?;
        }
        let length = out.remaining().min(this.buffer.len());
        out.put_slice(&this.buffer[..length]);
        this.buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_tuned_socket_has_its_options() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        tune(&stream);
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOT_SENT_LOW_WATER);
    }

    /// Counts how often it is asked.
    struct Counting<IO>(IO, usize);

    impl<IO: AsyncRead + Unpin> AsyncRead for Counting<IO> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_read(cx, out)
        }
    }

    #[tokio::test]
    async fn small_reads_are_served_from_one_large_one_and_nothing_is_held_when_idle() {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let sent: Vec<u8> = (0..30_000u32).map(|i| i as u8).collect();
        near.write_all(&sent).await.unwrap();
        let mut ahead = ReadAhead::new(Counting(far, 0));
        let mut received = vec![0; sent.len()];
        for chunk in received.chunks_mut(1000) {
            ahead.read_exact(chunk).await.unwrap();
        }
        assert_eq!(received, sent);
        assert_eq!(ahead.io.1, 1);

        let mut byte = [0];
        assert!(ahead.read(&mut byte).now_or_never().is_none());
        assert_eq!(ahead.buffer.capacity(), 0);
        drop(near);
        assert_eq!(
            ahead.read(&mut byte).await.unwrap(),
            0,
            "the end passes through"
        );
    }
}
