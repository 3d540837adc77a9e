//! A link in user space: a TCP forwarder that adds what a long or narrow line adds.
//!
//! Each direction is a queue of chunks with the time at which they may leave: delay and rate are
//! exact, order is kept, nothing is lost (a TCP connection that loses packets only stalls). The
//! queue is bounded, so that senders feel back-pressure as they would on a real line.
//!
//! Threads and not tasks: the runtime's timers are a millisecond coarse, which on a short line
//! is more than the line itself.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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

/// Most bytes of a chunk.
const CHUNK: usize = 64 << 10;

/// Most chunks in one direction's queue: 64 MiB, what 150 ms at 4 Gbit/s hold.
const QUEUE: usize = 1024;

/// A running forwarder; it ends when dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    to: SocketAddr,
    line: Mutex<Line>,
    changed: Condvar,
    /// Both ends of every connection.
    sockets: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
}

impl Link {
    /// Listens on a free loopback port and forwards each connection to `to`.
    pub fn start(to: SocketAddr, line: Line) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            to,
            line: Mutex::new(line),
            changed: Condvar::new(),
            sockets: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
        });
        let accepting = state.clone();
        thread::spawn(move || accepting.accept(&listener));
        Ok(Self { address, state })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the line for every connection, present and future.
    pub fn set(&self, line: Line) {
        *self
            .state
            .line
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = line;
        self.state.changed.notify_all();
    }

    /// Closes every present connection at once; new ones are taken.
    pub fn cut(&self) {
        let mut sockets = self
            .state
            .sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for socket in sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        // The accepting thread waits for a connection: this is one.
        let _ = TcpStream::connect(self.address);
        self.cut();
    }
}

impl State {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while let Ok((near, _)) = listener.accept() {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let state = self.clone();
            // A connection that fails ends like one that was cut.
            thread::spawn(move || state.carry(near));
        }
    }

    fn carry(self: Arc<Self>, near: TcpStream) -> io::Result<()> {
        // The handshake crosses the line too: SYN there, SYN-ACK back.
        thread::sleep(2 * self.line().delay);
        let far = TcpStream::connect(self.to)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        {
            let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            sockets.push(near.try_clone()?);
            sockets.push(far.try_clone()?);
        }
        for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            let (sender, receiver) = sync_channel(QUEUE);
            let (reading, writing) = (self.clone(), self.clone());
            thread::spawn(move || reading.read(from, &sender));
            thread::spawn(move || writing.write(to, &receiver));
        }
        Ok(())
    }

    fn line(&self) -> Line {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stamps what arrives with the time at which it may leave. The end is an empty chunk.
    fn read(&self, mut from: TcpStream, queue: &SyncSender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; CHUNK];
        let mut line_free = Instant::now();
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            let line = self.line();
            let taken = line.rate.map_or(Duration::ZERO, |rate| {
                Duration::from_secs_f64(read as f64 / rate as f64)
            });
            line_free = line_free.max(Instant::now()) + taken;
            let sent = queue.send((line_free + line.delay, buffer[..read].to_vec()));
            if read == 0 || sent.is_err() {
                return;
            }
        }
    }

    /// Writes each chunk at its time. Whatever fails, the other direction ends by itself.
    fn write(&self, mut to: TcpStream, queue: &Receiver<(Instant, Vec<u8>)>) {
        for (due, chunk) in queue {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.changed.wait_while(line, |line| !line.flowing));
            if chunk.is_empty() || to.write_all(&chunk).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}
