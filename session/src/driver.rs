//! The driver: the one task that moves bytes between a session's core and its socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use culvert_proto::code::GoawayCode;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::error::SessionError;
use crate::shared::Shared;
use crate::websocket::WebSocketIo;

/// Largest batch that is worth it: 64 KiB moves bulk no faster and, since both sides' WebSocket
/// buffers grow to it and stay so, costs an idle session twice the memory; 16 KiB costs a quarter
/// more processor time.
pub(crate) const MAX_BATCH: usize = 32 * 1024;

/// What one turn takes from the socket at most; then other tasks get their turn. Together with
/// the largest message this bounds what the driver itself holds.
const TURN_MESSAGES: usize = 32;
const TURN_BYTES: usize = 128 * 1024;

/// WebSocket pings and pongs that a peer may send in [`PING_PERIOD`]. Sessions measure with
/// their own PING; only something in between may send these now and then.
const MAX_PINGS: u32 = 100;
const PING_PERIOD: Duration = Duration::from_secs(10);

/// How long a connection may take to end once the session has.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Drives one session. As a future it completes when the session is over, and says why.
///
/// Each poll is one turn: read what is ready, up to a budget; under the lock let the core take
/// it, fire its timer and fill one batch; wake whom that concerns; write the batch. A slow
/// stream is no reason to stop reading: credit bounds what it can be sent.
pub(crate) struct Driver<IO> {
    shared: Arc<Shared>,
    socket: WebSocketStream<IO>,
    /// Messages of this turn.
    inbox: Vec<Bytes>,
    /// The batch of this turn.
    batch: BytesMut,
    /// Wakers of this turn.
    wakes: Vec<Waker>,
    /// Wakes us for the core's deadline, or before it: re-armed only when that is needed.
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    /// Something was written and not yet flushed to the end.
    unflushed: bool,
    pings: PingBudget,
}

/// What came of a turn under the lock.
struct Turn {
    end: Option<SessionError>,
    deadline: Option<Instant>,
    /// The core has nothing more to send, and the socket would take it.
    idle: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    pub(crate) fn new(shared: Arc<Shared>, io: WebSocketIo<IO>) -> Self {
        let now = tokio::time::Instant::now();
        Self {
            shared,
            socket: io.0,
            inbox: Vec::new(),
            batch: BytesMut::new(),
            wakes: Vec::new(),
            timer: Box::pin(tokio::time::sleep_until(now)),
            armed: None,
            unflushed: false,
            pings: PingBudget {
                since: now.into_std(),
                seen: 0,
            },
        }
    }

    /// The task: drives the session to its end, tells the handles, then ends the connection.
    pub(crate) async fn run(mut self) {
        let error = (&mut self).await;
        tracing::debug!(%error, "session ended");
        if let SessionError::WebSocket(reason) = &error {
            self.shared.lock().mux.close(GoawayCode::Protocol, reason);
        }
        let connected = !matches!(error, SessionError::Io(_));
        self.shared.end(error);
        if connected {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.disconnect()).await;
        }
    }

    /// Sends the core's last word (GOAWAY) and closes: WebSocket first, then the transport.
    /// Whatever fails here, the connection is dropped next.
    async fn disconnect(&mut self) {
        let now = tokio::time::Instant::now().into_std();
        loop {
            // The last turn may have left a batch.
            self.shared.lock().mux.poll_transmit(&mut self.batch, now);
            let message = Message::Binary(self.batch.split().freeze());
            if message.is_empty() || self.socket.send(message).await.is_err() {
                break;
            }
        }
        let _ = self.socket.close(None).await;
        while let Some(Ok(_)) = self.socket.next().await {}
        let _ = self.socket.get_mut().shutdown().await;
    }

    /// Takes what the socket has, up to the budget. An error counts after the messages before it.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), SessionError> {
        let mut budget = TURN_BYTES;
        for _ in 0..TURN_MESSAGES {
            let Poll::Ready(next) = Pin::new(&mut self.socket).poll_next(cx) else {
                return Ok(());
            };
            match next
                .ok_or(SessionError::Disconnected)?
                .map_err(socket_error)?
            {
                Message::Binary(message) => {
                    budget = budget.saturating_sub(message.len());
                    self.inbox.push(message);
                }
                Message::Ping(_) | Message::Pong(_) => self.pings.spend(now)?,
                Message::Close(_) => return Err(SessionError::Disconnected),
                Message::Text(_) | Message::Frame(_) => {
                    return Err(SessionError::WebSocket(
                        "a message that is not binary".into(),
                    ));
                }
            }
            if budget == 0 {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Pushes out what was written before. Only when all of it is gone is the next batch filled:
    /// what waits, waits in the core, where it is scheduled.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, SessionError> {
        if self.unflushed {
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Ready(flushed) => flushed.map_err(socket_error)?,
                Poll::Pending => return Ok(false),
            }
            self.unflushed = false;
        }
        Ok(true)
    }

    /// The part of a turn under the lock.
    fn think(&mut self, cx: &mut Context<'_>, now: Instant, writable: bool) -> Turn {
        let mut core = self.shared.lock();
        core.set_driver(cx);
        let mut result = Ok(());
        for message in self.inbox.drain(..) {
            result = result.and_then(|()| core.mux.handle_message(message, now));
        }
        if core
            .mux
            .poll_timeout()
            .is_some_and(|deadline| deadline <= now)
        {
            result = result.and_then(|()| core.mux.handle_timeout(now));
        }
        if writable && result.is_ok() {
            core.mux.poll_transmit(&mut self.batch, now);
        }
        // After the batch, since what left made room for writers.
        core.dispatch(&self.shared.state);
        let end = result
            .err()
            .map(SessionError::from)
            .or_else(|| core.closing.clone());
        // While the socket is full or more is to be sent, we run again without being asked.
        let idle = writable && !core.mux.has_transmit();
        core.driver_idle = idle;
        core.take_wakes(&mut self.wakes);
        Turn {
            end,
            deadline: core.mux.poll_timeout(),
            idle,
        }
    }

    /// Hands the batch to the socket.
    fn send(&mut self, idle: bool) -> Result<(), SessionError> {
        if !self.batch.is_empty() {
            let message = Message::Binary(self.batch.split().freeze());
            self.unflushed = true;
            Pin::new(&mut self.socket)
                .start_send(message)
                .map_err(socket_error)?;
        }
        if idle {
            // A busy session fills the same memory again; an idle one keeps none.
            self.batch = BytesMut::new();
        }
        Ok(())
    }

    fn arm(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if self.armed.is_none_or(|armed| deadline < armed) || self.timer.is_elapsed() {
            self.armed = Some(deadline);
            self.timer.as_mut().reset(deadline.into());
            if self.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), SessionError> {
        let now = tokio::time::Instant::now().into_std();
        let received = self.receive(cx, now);
        let flushed = self.flush(cx);
        let turn = self.think(cx, now, matches!(flushed, Ok(true)));
        self.wakes.drain(..).for_each(Waker::wake);
        turn.end.map_or(Ok(()), Err)?;
        received?;
        flushed?;
        self.send(turn.idle)?;
        // Nobody else wakes a driver that is not idle, unless its socket is full.
        if self.flush(cx)? && !turn.idle {
            cx.waker().wake_by_ref();
        }
        self.arm(cx, turn.deadline);
        Ok(())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Driver<IO> {
    type Output = SessionError;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SessionError> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }
}

impl<IO> Drop for Driver<IO> {
    /// However the task ends, the handles learn of it.
    fn drop(&mut self) {
        self.shared.end(SessionError::Aborted);
    }
}

/// Counts pings and pongs in periods.
struct PingBudget {
    since: Instant,
    seen: u32,
}

impl PingBudget {
    fn spend(&mut self, now: Instant) -> Result<(), SessionError> {
        if now - self.since > PING_PERIOD {
            *self = Self {
                since: now,
                seen: 0,
            };
        }
        self.seen += 1;
        if self.seen > MAX_PINGS {
            return Err(SessionError::WebSocket("a flood of pings".into()));
        }
        Ok(())
    }
}

fn socket_error(error: tungstenite::Error) -> SessionError {
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    match error {
        tungstenite::Error::Io(error) => SessionError::Io(Arc::new(error)),
        tungstenite::Error::Protocol(ResetWithoutClosingHandshake) => {
            SessionError::Io(Arc::new(io::ErrorKind::UnexpectedEof.into()))
        }
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            SessionError::Disconnected
        }
        other => SessionError::WebSocket(other.to_string().into()),
    }
}
