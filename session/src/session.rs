//! The handles of a session: to open streams, to accept them, to talk about the session itself.

use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::GoawayCode;
use culvert_proto::control::{Control, Hello};
use culvert_proto::head::CallHead;
use culvert_proto::mux::{self, ControlError, Mux, OpenError, Stats};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::driver::{Driver, MAX_BATCH};
use crate::error::SessionError;
use crate::lanes::{self, JoinError, Lanes};
use crate::shared::{Shared, State};
use crate::stream::Stream;
use crate::websocket::WebSocketIo;

/// A claim on a running connection. It ends when the last one of all its handles, streams
/// included, is dropped.
pub(crate) struct Handle {
    shared: Arc<Shared>,
    /// Halves of streams that have moved much.
    pub(crate) bulk: AtomicUsize,
}

impl Deref for Handle {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.with(|core| core.close(GoawayCode::Drain, "nobody needs this session any more"));
    }
}

/// One session: an authenticated, multiplexed conversation with a peer, over one connection and
/// those that [joined](Self::join) it.
///
/// Cheap to clone; all clones speak of the same session.
#[derive(Clone)]
pub struct Session {
    /// The first connection. What is not said of streams is said of it.
    handle: Arc<Handle>,
    lanes: Arc<Lanes>,
    /// Where the driver runs; none under an executor that is not tokio.
    runtime: Option<tokio::runtime::Handle>,
}

impl Session {
    /// Takes a connection whose WebSocket handshake is done and spawns the task that drives it.
    ///
    /// Must be called within a tokio runtime with timers.
    pub fn spawn<IO>(io: WebSocketIo<IO>, config: mux::Config) -> (Self, Incoming, Controls)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (session, incoming, controls, driver) = Self::start(io, config);
        tokio::spawn(driver.run());
        (session, incoming, controls)
    }

    /// The handles of a session and what drives it, for an executor that is not tokio.
    #[cfg(feature = "interleavings")]
    pub fn undriven<IO>(
        io: WebSocketIo<IO>,
        config: mux::Config,
    ) -> (Self, Incoming, Controls, impl Future<Output = ()>)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (session, incoming, controls, driver) = Self::start(io, config);
        (session, incoming, controls, driver.run())
    }

    /// The handles of a session whose driver is yet to be run.
    fn start<IO>(
        io: WebSocketIo<IO>,
        mut config: mux::Config,
    ) -> (Self, Incoming, Controls, Driver<IO>)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        config.limits.batch = config.limits.batch.min(MAX_BATCH);
        let mux = Mux::new(config, tokio::time::Instant::now().into_std());
        let shared = Arc::new(Shared::new(mux));
        let driver = Driver::new(shared.clone(), io);
        let handle = Arc::new(Handle {
            shared,
            bulk: AtomicUsize::new(0),
        });
        let session = Self {
            handle: handle.clone(),
            lanes: Arc::default(),
            runtime: tokio::runtime::Handle::try_current().ok(),
        };
        (
            session,
            Incoming {
                handle: handle.clone(),
            },
            Controls { handle },
            driver,
        )
    }

    /// Waits until both sides have greeted; gives the peer's greeting.
    pub async fn ready(&self) -> Result<Hello, SessionError> {
        let mut state = self.handle.state.subscribe();
        let state = state
            .wait_for(|state| !matches!(state, State::Opening))
            .await;
        match state.as_deref() {
            Ok(State::Ready(hello)) => Ok(hello.clone()),
            Ok(State::Ended(error)) => Err(error.clone()),
            Ok(State::Opening) | Err(_) => Err(SessionError::Aborted),
        }
    }

    /// The optional features that both sides have; none before the greeting.
    pub fn features(&self) -> u64 {
        self.handle.lock().mux.features()
    }

    /// Makes another connection, on which both sides have greeted, a lane of this session: new
    /// streams of this side go where there is the least to do, and [`drain`](Self::drain),
    /// [`close`](Self::close) and the end of this session are the lane's too. The lane leaves by
    /// itself when it ends. `most`: how many connections the session may have, this one included.
    ///
    /// Calls that the peer opens on the lane come to the lane's own [`Incoming`]. A stream on the
    /// lane keeps the lane from being dropped, not this session.
    ///
    /// # Errors
    /// The lane is as it was.
    pub fn join(&self, lane: &Self, most: usize) -> Result<(), JoinError> {
        self.lanes.join(&self.handle, &lane.handle, most)
    }

    /// How many connections the session has.
    pub fn lanes(&self) -> usize {
        1 + self.lanes.len()
    }

    /// Opens a stream for a call: its head and the first bytes of its body leave together.
    ///
    /// With `end` the body is complete. Never waits: what exceeds the peer's credit is queued.
    pub fn open(&self, head: &CallHead, body: Bytes, end: bool) -> Result<Stream, OpenError> {
        self.lanes.open(&self.handle, head, body, end)
    }

    /// Sends a control message, in order and without loss while the session lives.
    pub fn send_control(&self, control: &Control) -> Result<(), ControlError> {
        self.handle.with(|core| core.mux.send_control(control))
    }

    /// Begins a graceful end: once the peer has heard so, it opens no more streams here
    /// ([`is_drained`](Self::is_drained)); those that exist go on. `retry_after` is the time after
    /// which the peer may come back.
    pub fn drain(&self, retry_after: Duration) {
        self.lanes
            .drain(&self.handle, GoawayCode::Drain, retry_after);
    }

    /// Begins the same end because a newer session has taken this one's place; the peer is told so.
    pub fn make_way(&self) {
        self.lanes
            .drain(&self.handle, GoawayCode::Replaced, Duration::ZERO);
    }

    /// Ends the session now, with every stream on it. The peer is told `code` and `reason`.
    pub fn close(&self, code: GoawayCode, reason: &str) {
        self.lanes.close(&self.handle, code, reason);
    }

    /// Waits until the session has ended; says why.
    pub async fn closed(&self) -> SessionError {
        lanes::ended(&mut self.handle.state.subscribe()).await
    }

    /// Whether the session has not ended.
    pub fn is_open(&self) -> bool {
        !self.handle.lock().has_ended()
    }

    /// The runtime that the session is driven by: work that has much to do with it costs least there.
    pub fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.runtime.as_ref()
    }

    /// Whether either side has asked to open no more streams.
    pub fn is_draining(&self) -> bool {
        self.handle.lock().mux.is_draining()
    }

    /// Whether the peer has heard of a drain of this side, so that no stream of its comes any more; or
    /// the session is over.
    pub fn is_drained(&self) -> bool {
        self.lanes.is_drained(&self.handle)
    }

    /// The round trip time to the peer on the first connection, once measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.handle.lock().mux.rtt()
    }

    /// What the session holds and has moved.
    pub fn stats(&self) -> Stats {
        self.lanes.stats(&self.handle)
    }

    /// Streams that exist.
    pub fn stream_count(&self) -> usize {
        self.lanes.stream_count(&self.handle)
    }
}

/// The calls that the peer opens. While it is not asked, calls wait in the session, up to
/// [`Limits::backlog`](culvert_proto::limits::Limits::backlog). Dropped: every further call is refused.
pub struct Incoming {
    handle: Arc<Handle>,
}

impl Incoming {
    /// The next call; `None` when the session is over. Cancel safe.
    pub async fn accept(&mut self) -> Option<(CallHead, Stream)> {
        let (id, head) = poll_fn(|cx| self.handle.with(|core| core.poll_accept(cx))).await?;
        Some((head, Stream::new(self.handle.clone(), id)))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.handle.with(|core| core.drop_incoming());
    }
}

/// What the peer says about the session itself.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// A control message.
    Control(Control),
    /// The peer asks to open no more streams here.
    Draining {
        /// Why.
        code: GoawayCode,
        /// How long to wait before coming back to the same peer.
        retry_after: Duration,
    },
}

/// The control messages of the peer. At most 16 wait; a peer that sends more ends the session.
/// Dropped: they are thrown away.
pub struct Controls {
    handle: Arc<Handle>,
}

impl Controls {
    /// The next message; `None` when the session is over. Cancel safe.
    pub async fn recv(&mut self) -> Option<SessionEvent> {
        poll_fn(|cx| self.handle.with(|core| core.poll_control(cx))).await
    }
}

impl Drop for Controls {
    fn drop(&mut self) {
        self.handle.with(|core| core.drop_controls());
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("streams", &self.stream_count())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls").finish_non_exhaustive()
    }
}
