//! What the driver and the handles of one session share: the multiplexer core and who waits
//! for it, under one lock that is held for moments and never across an await.

use std::collections::{HashMap, VecDeque};
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

#[cfg(feature = "interleavings")]
use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(feature = "interleavings"))]
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use culvert_proto::code::{GoawayCode, ResetCode};
use culvert_proto::control::Hello;
use culvert_proto::head::CallHead;
use culvert_proto::mux::{Event, Mux, StreamError, StreamId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::error::SessionError;
use crate::session::SessionEvent;
use crate::websocket::WebSocketIo;

/// Control messages that wait for [`Controls`](crate::session::Controls); one more ends the
/// session. A peer that keeps to the protocol has a handful under way.
const MAX_CONTROLS: usize = 16;

/// Room in the table of streams that is worth giving back once no stream is left.
const SHRINK_ABOVE: usize = 64;

/// The life of a session as its handles see it.
#[derive(Debug, Clone)]
pub(crate) enum State {
    Opening,
    Ready(Hello),
    Ended(SessionError),
}

/// The part of a session that its handles and its driver have in common.
pub(crate) struct Shared {
    core: Mutex<Core>,
    pub(crate) state: watch::Sender<State>,
}

/// Everything under the lock.
pub(crate) struct Core {
    pub(crate) mux: Mux,
    /// Who waits for which stream; an entry lives as long as a handle of its stream.
    streams: HashMap<StreamId, Waiting>,
    incoming: Waiter,
    controls: Waiter,
    control_queue: VecDeque<SessionEvent>,
    driver: Option<Waker>,
    /// The driver sleeps and nothing but us would wake it for new work.
    driver_idle: bool,
    /// Asks the driver to end the session.
    pub(crate) closing: Option<SessionError>,
    /// The session is over.
    ended: Option<SessionError>,
    /// Collected under the lock, woken after it.
    wakes: Vec<Waker>,
}

/// Who waits for one stream, by what they wait for.
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
    stop: Option<Waker>,
    /// The peer wants no more of our data, and why.
    stopped: Option<StreamError>,
    /// Handles that exist: two, one, then the entry goes.
    halves: u8,
}

/// A place for one waiting task of a handle that may be dropped.
#[derive(Default)]
struct Waiter {
    waker: Option<Waker>,
    dropped: bool,
}

/// What came of the driver's turn.
pub(crate) struct Turn {
    /// Why the session is over, if it is.
    pub(crate) end: Option<SessionError>,
    /// When the core wants the next turn at the latest.
    pub(crate) deadline: Option<Instant>,
    /// The core has nothing more to send, and the socket would take it: whoever brings work
    /// wakes the driver.
    pub(crate) idle: bool,
}

impl Shared {
    pub(crate) fn new(mux: Mux) -> Self {
        let core = Core {
            mux,
            streams: HashMap::new(),
            incoming: Waiter::default(),
            controls: Waiter::default(),
            control_queue: VecDeque::new(),
            driver: None,
            driver_idle: false,
            closing: None,
            ended: None,
            wakes: Vec::new(),
        };
        Self {
            core: Mutex::new(core),
            state: watch::Sender::new(State::Opening),
        }
    }

    /// Lets a handle act on the core, then wakes whom that concerns, the driver included.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.lock();
        let result = act(&mut core);
        core.dispatch(&self.state);
        if core.driver_idle && core.mux.has_transmit() {
            core.wake_driver();
        }
        let wakes = std::mem::take(&mut core.wakes);
        drop(core);
        wakes.into_iter().for_each(Waker::wake);
        result
    }

    /// The lock as the driver takes it: it dispatches events itself.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver's turn, as far as it is under the lock: the core takes `inbox`, its timer
    /// fires, it fills the socket's batch, if there is anything to send (`None`: the socket does
    /// not take more yet). `wakes`, empty, gets whom to wake.
    pub(crate) fn turn<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        cx: &Context<'_>,
        now: Instant,
        inbox: &mut Vec<Bytes>,
        socket: Option<&mut WebSocketIo<IO>>,
        wakes: &mut Vec<Waker>,
    ) -> Turn {
        let mut core = self.lock();
        park(&mut core.driver, cx);
        let mut result = Ok(());
        for message in inbox.drain(..) {
            result = result.and_then(|()| core.mux.handle_message(message, now));
        }
        let deadline = core.mux.poll_timeout();
        if deadline.is_some_and(|deadline| deadline <= now) {
            result = result.and_then(|()| core.mux.handle_timeout(now));
        }
        let writable = socket.is_some();
        if let Some(socket) = socket
            && result.is_ok()
            && core.mux.has_transmit()
        {
            core.mux.poll_transmit(socket.batch(), now);
        }
        // After the batch, since what left made room for writers.
        core.dispatch(&self.state);
        let end = result
            .err()
            .map(SessionError::from)
            .or_else(|| core.closing.clone());
        // While the socket is full or more is to be sent, the driver runs again unasked.
        core.driver_idle = writable && !core.mux.has_transmit();
        std::mem::swap(&mut core.wakes, wakes);
        Turn {
            end,
            deadline: core.mux.poll_timeout(),
            idle: core.driver_idle,
        }
    }

    /// Tells every handle that the session is over. The first reason stays.
    pub(crate) fn end(&self, error: SessionError) {
        self.with(|core| {
            if core.ended.is_none() {
                core.ended = Some(error.clone());
                core.driver = None;
                core.wake_everyone();
                self.state.send_replace(State::Ended(error));
            }
        });
    }
}

impl Core {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Wakes the driver whether or not it has anything to send.
    fn wake_driver(&mut self) {
        self.driver_idle = false;
        self.wakes.extend(self.driver.clone());
    }

    /// Turns the core's events into wake-ups.
    fn dispatch(&mut self, state: &watch::Sender<State>) {
        while let Some(event) = self.mux.poll_event() {
            match event {
                Event::Ready => {
                    if let Some(hello) = self.mux.peer() {
                        state.send_replace(State::Ready(hello.clone()));
                    }
                }
                Event::Incoming if self.incoming.dropped => self.refuse_incoming(),
                Event::Incoming => self.wakes.extend(self.incoming.waker.take()),
                Event::Readable(id) => self.on_stream(id, |waiting| waiting.reader.take()),
                Event::Writable(id) => self.on_stream(id, |waiting| waiting.writer.take()),
                Event::Stopped(id, code) => self.on_stopped(id, StreamError::Stopped(code)),
                Event::Reset(id, code) => {
                    self.on_reset(id, code);
                }
                Event::Control(control) => self.on_control(SessionEvent::Control(control)),
                Event::Draining { code, retry_after } => {
                    self.on_control(SessionEvent::Draining { code, retry_after });
                }
                Event::Closed(error) => {
                    self.closing.get_or_insert(error.into());
                }
            }
        }
    }

    fn on_stream(&mut self, id: StreamId, whom: impl FnOnce(&mut Waiting) -> Option<Waker>) {
        if let Some(waiting) = self.streams.get_mut(&id) {
            self.wakes.extend(whom(waiting));
        }
    }

    fn on_stopped(&mut self, id: StreamId, why: StreamError) {
        if let Some(waiting) = self.streams.get_mut(&id) {
            waiting.stopped = Some(why);
            self.wakes.extend(waiting.writer.take());
            self.wakes.extend(waiting.stop.take());
        }
    }

    /// A stream was aborted, here or there.
    fn on_reset(&mut self, id: StreamId, code: ResetCode) {
        self.on_stopped(id, StreamError::Reset(code));
        self.on_stream(id, |waiting| waiting.reader.take());
    }

    fn on_control(&mut self, event: SessionEvent) {
        if self.controls.dropped {
            return;
        }
        if self.control_queue.len() == MAX_CONTROLS {
            self.close(GoawayCode::Flood, "too many control messages at once");
            return;
        }
        self.control_queue.push_back(event);
        self.wakes.extend(self.controls.waker.take());
    }

    /// Ends the session from this side; the first reason stays.
    pub(crate) fn close(&mut self, code: GoawayCode, reason: &str) {
        if self.closing.is_none() && self.ended.is_none() {
            self.mux.close(code, reason);
            self.wake_driver();
        }
    }

    /// The next call of the peer.
    pub(crate) fn poll_accept(&mut self, cx: &Context<'_>) -> Poll<Option<(StreamId, CallHead)>> {
        if self.ended.is_some() {
            return Poll::Ready(None);
        }
        let Some((id, head)) = self.mux.accept() else {
            park(&mut self.incoming.waker, cx);
            return Poll::Pending;
        };
        self.add_stream(id);
        Poll::Ready(Some((id, head)))
    }

    /// The next control message of the peer; those that came before the end are still given.
    pub(crate) fn poll_control(&mut self, cx: &Context<'_>) -> Poll<Option<SessionEvent>> {
        let event = self.control_queue.pop_front();
        if event.is_some() || self.ended.is_some() {
            return Poll::Ready(event);
        }
        park(&mut self.controls.waker, cx);
        Poll::Pending
    }

    /// Nobody will accept calls any more: those that come are refused.
    pub(crate) fn drop_incoming(&mut self) {
        self.incoming = Waiter {
            waker: None,
            dropped: true,
        };
        self.refuse_incoming();
    }

    /// Nobody will read control messages any more: those that come are dropped.
    pub(crate) fn drop_controls(&mut self) {
        self.controls = Waiter {
            waker: None,
            dropped: true,
        };
        self.control_queue = VecDeque::new();
    }

    fn refuse_incoming(&mut self) {
        while let Some((id, _)) = self.mux.accept() {
            self.mux.reset(id, ResetCode::Refused);
            self.mux.release_send(id);
            self.mux.release_recv(id);
        }
    }

    /// Begins to keep track of a stream that has two handles. The peer may have stopped it before,
    /// and tells that once.
    pub(crate) fn add_stream(&mut self, id: StreamId) {
        let waiting = Waiting {
            reader: None,
            writer: None,
            stop: None,
            stopped: self.mux.stopped(id).map(StreamError::Stopped),
            halves: 2,
        };
        self.streams.insert(id, waiting);
    }

    /// One of a stream's two handles is gone; that may have aborted the other half.
    pub(crate) fn drop_half(&mut self, id: StreamId) {
        self.on_stream(id, |waiting| waiting.reader.take());
        if let Some(waiting) = self.streams.get_mut(&id) {
            waiting.halves -= 1;
            if waiting.halves == 0 {
                self.streams.remove(&id);
            }
            if self.streams.is_empty() && self.streams.capacity() > SHRINK_ABOVE {
                self.streams = HashMap::new();
            }
        }
    }

    /// Aborts a stream in both directions and tells its other half.
    pub(crate) fn reset(&mut self, id: StreamId, code: ResetCode) {
        self.mux.reset(id, code);
        self.on_reset(id, code);
    }

    /// The same, behind what was written.
    pub(crate) fn cut_short(&mut self, id: StreamId, code: ResetCode) {
        self.mux.cut_short(id, code);
        self.on_reset(id, code);
    }

    pub(crate) fn wait_readable(&mut self, id: StreamId, cx: &Context<'_>) {
        if let Some(waiting) = self.streams.get_mut(&id) {
            park(&mut waiting.reader, cx);
        }
    }

    pub(crate) fn wait_writable(&mut self, id: StreamId, cx: &Context<'_>) {
        if let Some(waiting) = self.streams.get_mut(&id) {
            park(&mut waiting.writer, cx);
        }
    }

    /// Why the peer wants no more of a stream's data; registers the task while it does.
    pub(crate) fn poll_stopped(&mut self, id: StreamId, cx: &Context<'_>) -> Poll<StreamError> {
        if self.ended.is_some() {
            return Poll::Ready(StreamError::SessionLost);
        }
        let Some(waiting) = self.streams.get_mut(&id) else {
            return Poll::Pending;
        };
        if let Some(why) = waiting.stopped {
            return Poll::Ready(why);
        }
        park(&mut waiting.stop, cx);
        Poll::Pending
    }

    fn wake_everyone(&mut self) {
        for waiting in self.streams.values_mut() {
            self.wakes.extend(waiting.reader.take());
            self.wakes.extend(waiting.writer.take());
            self.wakes.extend(waiting.stop.take());
        }
        self.wakes.extend(self.incoming.waker.take());
        self.wakes.extend(self.controls.waker.take());
    }
}

/// Remembers the current task in a slot, without a new waker where it is the same task.
fn park(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}
