//! A link in user space: a TCP forwarder that adds what a long or narrow line adds.
//!
//! Each direction is a queue of chunks with the time at which they may leave: delay and rate are
//! exact, order is kept, nothing is lost (a TCP connection that loses packets only stalls). The
//! queue is bounded by what the line itself would hold (its bandwidth-delay product), so that
//! senders feel back-pressure as they would on a real one.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What the line is like. One value serves both directions.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// One way; half of what the line adds to the RTT.
    pub delay: Duration,
    /// Bytes per second; `None`: as fast as the machine copies.
    pub rate: Option<u64>,
    /// Whether bytes move at all; `false` stalls the line without closing anything.
    pub flowing: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            rate: None,
            flowing: true,
        }
    }
}

/// Most bytes in one direction's queue: 150 ms at about 4 Gbit/s.
const QUEUE: usize = 64 << 20;

/// A running forwarder; it ends when dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    line: watch::Sender<Line>,
    cut: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// Listens on a free loopback port and forwards each connection to `to`.
    pub async fn start(to: SocketAddr, line: Line) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (sender, receiver) = watch::channel(line);
        let cut = Arc::new(Notify::new());
        let task = tokio::spawn(accept(listener, to, receiver, cut.clone()));
        Ok(Self {
            address,
            line: sender,
            cut,
            task,
        })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the line for every connection, present and future.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Closes every present connection at once; new ones are taken.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    line: watch::Receiver<Line>,
    cut: Arc<Notify>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                let (line, cut) = (line.clone(), cut.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = cut.notified() => {}
                        _ = carry(near, to, line) => {}
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(near: TcpStream, to: SocketAddr, line: watch::Receiver<Line>) -> io::Result<()> {
    // The handshake crosses the line too: SYN there, SYN-ACK back.
    let delay = line.borrow().delay;
    tokio::time::sleep(2 * delay).await;
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::try_join!(
        direction(near_read, far_write, line.clone()),
        direction(far_read, near_write, line)
    )?;
    Ok(())
}

/// One direction: a reader that stamps chunks and a writer that waits for their time.
async fn direction(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
) -> io::Result<()> {
    let mut queue: VecDeque<(Instant, Bytes)> = VecDeque::new();
    let mut queued = 0;
    let mut ended = false;
    let mut line_free = Instant::now();
    let mut buffer = BytesMut::with_capacity(256 << 10);
    loop {
        let now = *line.borrow_and_update();
        if queue.is_empty() && ended {
            return to.shutdown().await;
        }
        let head = queue.front().map(|(due, _)| *due);
        tokio::select! {
            read = from.read_buf(&mut buffer), if !ended && queued < QUEUE => {
                let read = read?;
                ended = read == 0;
                if read > 0 {
                    let start = line_free.max(Instant::now());
                    let taken = now.rate.map_or(Duration::ZERO, |rate| {
                        Duration::from_secs_f64(read as f64 / rate as f64)
                    });
                    line_free = start + taken;
                    queue.push_back((line_free + now.delay, buffer.split().freeze()));
                    queued += read;
                    buffer.reserve(256 << 10);
                }
            }
            () = tokio::time::sleep_until(head.unwrap_or_else(Instant::now)),
                if head.is_some() && now.flowing =>
            {
                while let Some((due, _)) = queue.front() && *due <= Instant::now() {
                    if let Some((_, chunk)) = queue.pop_front() {
                        queued -= chunk.len();
                        to.write_all(&chunk).await?;
                    }
                }
            }
            changed = line.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
