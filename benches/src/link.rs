//! A link in user space: a TCP forwarder that adds what a long or narrow line adds.
//!
//! Each direction is a queue of chunks with the time at which they may leave: delay and rate are
//! exact, order is kept, and no byte is lost: what a TCP connection makes of a lost packet is a
//! stall, and so it is here. The queue is bounded, so that senders feel back-pressure as they would
//! on a real line. TCP's own reaction to loss, its window, is not here; the packets of
//! [`wire`](crate::wire) have it.
//!
//! Threads and not tasks: the runtime's timers are a millisecond coarse, which on a short line
//! is more than the line itself.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// What the line is like. One value serves both directions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    /// One way; half of what the line adds to the RTT.
    pub delay: Duration,
    /// Bytes per second each way, of all connections together; `None`: as fast as the machine
    /// copies.
    pub rate: Option<u64>,
    /// The chance, 0 to 1, that a packet of [`PACKET`] bytes has to be sent again: it and all that
    /// is behind it on its connection come an RTT later.
    pub loss: f64,
}

/// Bytes of a packet, where loss counts packets: what TCP carries in 1500 bytes.
pub const PACKET: usize = 1448;

/// Most bytes of a chunk.
const CHUNK: usize = 64 << 10;

/// Most chunks in one direction's queue: 64 MiB, what 150 ms at 4 Gbit/s hold.
const QUEUE: usize = 1024;

/// What may wait for a line that is busy, in time: a round trip, and so much at least. Then nothing
/// more is taken, as a router's queue of that length would not.
const SHORTEST_QUEUE: Duration = Duration::from_millis(10);

/// Bytes that the kernel may hold for a line with a rate, beside that queue.
const RECEIVE_BUFFER: usize = 128 << 10;

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
    /// Until when each direction is busy with what it has taken.
    busy: [Mutex<Instant>; 2],
    /// When bytes move again.
    stalled: Mutex<Option<Instant>>,
    resumed: Condvar,
    connections: Mutex<Vec<Arc<Connection>>>,
    refusing: AtomicBool,
    ended: AtomicBool,
    taken: AtomicU64,
    carried: AtomicU64,
}

/// One connection over the link: its two halves.
#[derive(Debug)]
struct Connection {
    near: TcpStream,
    far: TcpStream,
    /// Whatever is sent on it vanishes.
    swallowing: AtomicBool,
    /// The directions that still run.
    running: AtomicU64,
}

impl Link {
    /// Listens on a free loopback port and forwards each connection to `to`.
    pub fn start(to: SocketAddr, line: Line) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            to,
            line: Mutex::new(line),
            busy: [(); 2].map(|()| Mutex::new(Instant::now())),
            stalled: Mutex::new(None),
            resumed: Condvar::new(),
            connections: Mutex::new(Vec::new()),
            refusing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            carried: AtomicU64::new(0),
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
        *locked(&self.state.line) = line;
    }

    /// Nothing leaves the link for `time`, counted from now; what comes meanwhile waits and leaves
    /// afterwards, in order: a burst of loss, up to a retransmission timeout. Zero ends a stall.
    pub fn stall(&self, time: Duration) {
        *locked(&self.state.stalled) = Some(Instant::now() + time);
        self.state.resumed.notify_all();
    }

    /// Closes every present connection at once; new ones are taken.
    pub fn cut(&self) {
        for connection in locked(&self.state.connections).drain(..) {
            let _ = connection.near.shutdown(Shutdown::Both);
            let _ = connection.far.shutdown(Shutdown::Both);
        }
    }

    /// Loses every present connection without telling anybody, as a NAT does that forgets: nothing
    /// is closed, what is sent vanishes. New connections are carried.
    pub fn black_hole(&self) {
        for connection in locked(&self.state.connections).iter() {
            connection.swallowing.store(true, Ordering::Relaxed);
        }
    }

    /// Whether new connections are closed as soon as they are made. Present ones go on.
    pub fn refuse(&self, refuse: bool) {
        self.state.refusing.store(refuse, Ordering::Relaxed);
    }

    /// Bytes that entered the link so far, both directions.
    pub fn taken(&self) -> u64 {
        self.state.taken.load(Ordering::Relaxed)
    }

    /// Bytes that left it, both directions.
    pub fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        // The accepting thread waits for a connection: this is one.
        let _ = TcpStream::connect(self.address);
        self.cut();
        self.stall(Duration::ZERO);
    }
}

impl State {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while let Ok((near, _)) = listener.accept() {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            if self.refusing.load(Ordering::Relaxed) {
                continue;
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
        let connection = Arc::new(Connection {
            near: near.try_clone()?,
            far: far.try_clone()?,
            swallowing: AtomicBool::new(false),
            running: AtomicU64::new(2),
        });
        locked(&self.connections).push(connection.clone());
        if self.line().rate.is_some() {
            for socket in [&near, &far] {
                SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
            }
        }
        let ways = [(near.try_clone()?, far.try_clone()?), (far, near)];
        for (way, (from, to)) in ways.into_iter().enumerate() {
            let (sender, receiver) = sync_channel(QUEUE);
            let (reading, writing) = (self.clone(), self.clone());
            let connection = connection.clone();
            thread::spawn(move || reading.read(from, &sender, way));
            thread::spawn(move || {
                writing.write(to, &receiver, &connection);
                writing.forget(&connection);
            });
        }
        Ok(())
    }

    fn line(&self) -> Line {
        *locked(&self.line)
    }

    /// Stamps what arrives with the time at which it may leave. The end is an empty chunk.
    fn read(&self, mut from: TcpStream, queue: &SyncSender<(Instant, Vec<u8>)>, way: usize) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            self.taken.fetch_add(read as u64, Ordering::Relaxed);
            let line = self.line();
            let taken = line.rate.map_or(Duration::ZERO, |rate| {
                Duration::from_secs_f64(read as f64 / rate as f64)
            });
            let free = {
                let mut busy = locked(&self.busy[way]);
                *busy = (*busy).max(Instant::now()) + taken;
                *busy
            };
            let mut due = free + line.delay;
            if fastrand::f64() < lost(read, line.loss) {
                // What follows is due earlier and still leaves later: the queue keeps its order.
                due += 2 * line.delay;
            }
            let sent = queue.send((due, buffer[..read].to_vec()));
            if read == 0 || sent.is_err() {
                return;
            }
            let longest = (2 * line.delay).max(SHORTEST_QUEUE);
            thread::sleep(
                free.saturating_duration_since(Instant::now())
                    .saturating_sub(longest),
            );
        }
    }

    /// Writes each chunk at its time. Whatever fails, the other direction ends by itself.
    fn write(
        &self,
        mut to: TcpStream,
        queue: &Receiver<(Instant, Vec<u8>)>,
        connection: &Connection,
    ) {
        for (due, chunk) in queue {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.wait_while_stalled();
            if connection.swallowing.load(Ordering::Relaxed) {
                if chunk.is_empty() {
                    return;
                }
                continue;
            }
            if chunk.is_empty() || to.write_all(&chunk).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            self.carried
                .fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    }

    fn wait_while_stalled(&self) {
        let mut stalled = locked(&self.stalled);
        while let Some(until) = *stalled {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                *stalled = None;
                return;
            }
            let waited = self.resumed.wait_timeout(stalled, left);
            stalled = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A connection whose directions have both ended keeps no sockets here.
    fn forget(&self, connection: &Arc<Connection>) {
        if connection.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            locked(&self.connections).retain(|other| !Arc::ptr_eq(other, connection));
        }
    }
}

/// The chance that at least one packet of `bytes` is lost.
fn lost(bytes: usize, loss: f64) -> f64 {
    1.0 - (1.0 - loss).powf(bytes.div_ceil(PACKET) as f64)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
