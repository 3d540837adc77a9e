//! The driver: the one task that moves bytes between a session's core and its socket.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_proto::code::GoawayCode;
use culvert_proto::websocket::{MAX_HEADER, Received};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use crate::error::SessionError;
use crate::shared::Shared;
use crate::websocket::WebSocketIo;

/// Largest batch that is worth it: 64 KiB moves bulk no faster and makes small frames wait
/// longer; 16 KiB costs a quarter more processor time. With its header it fills two TLS records:
/// a byte more would need a third.
pub(crate) const MAX_BATCH: usize = 32 * 1024 - MAX_HEADER;

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
/// it, fire its timer and fill one batch ([`Shared::turn`]); wake whom that concerns; write the
/// batch. A slow stream is no reason to stop reading: credit bounds what it can be sent.
pub(crate) struct Driver<IO> {
    shared: Arc<Shared>,
    socket: WebSocketIo<IO>,
    /// Messages of this turn.
    inbox: Vec<Bytes>,
    /// Wakers of this turn.
    wakes: Vec<Waker>,
    /// Wakes us for the core's deadline, or before it: re-armed only when that is needed.
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    pings: PingBudget,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    pub(crate) fn new(shared: Arc<Shared>, socket: WebSocketIo<IO>) -> Self {
        let now = tokio::time::Instant::now();
        Self {
            shared,
            socket,
            inbox: Vec::new(),
            wakes: Vec::new(),
            timer: Box::pin(tokio::time::sleep_until(now)),
            armed: None,
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
    async fn disconnect(&mut self) -> Result<(), SessionError> {
        let now = tokio::time::Instant::now().into_std();
        loop {
            poll_fn(|cx| self.socket.poll_flush(cx)).await?;
            let batch = self.socket.batch();
            self.shared.lock().mux.poll_transmit(batch, now);
            if !self.socket.send()? {
                break;
            }
        }
        self.socket.send_close()?;
        poll_fn(|cx| self.socket.poll_flush(cx)).await?;
        while let Ok(received) = poll_fn(|cx| self.socket.poll_receive(cx)).await {
            if received == Received::Close {
                break;
            }
        }
        poll_fn(|cx| self.socket.poll_shutdown(cx)).await
    }

    /// Takes what the socket has, up to the budget. An error counts after the messages before it.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), SessionError> {
        let mut budget = TURN_BYTES;
        for _ in 0..TURN_MESSAGES {
            let Poll::Ready(received) = self.socket.poll_receive(cx) else {
                return Ok(());
            };
            match received? {
                Received::Message(message) => {
                    budget = budget.saturating_sub(message.len());
                    self.inbox.push(message);
                }
                Received::Ping(_) | Received::Pong => self.pings.spend(now)?,
                Received::Close => return Err(SessionError::Disconnected),
            }
            if budget == 0 {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Pushes out what was written before; `true` if all of it is gone. Only then is the next
    /// batch filled: what waits, waits in the core, where it is scheduled.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, SessionError> {
        match self.socket.poll_flush(cx) {
            Poll::Ready(flushed) => flushed.map(|()| true),
            Poll::Pending => Ok(false),
        }
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
        let socket = matches!(flushed, Ok(true)).then_some(&mut self.socket);
        let turn = self
            .shared
            .turn(cx, now, &mut self.inbox, socket, &mut self.wakes);
        self.wakes.drain(..).for_each(Waker::wake);
        turn.end.map_or(Ok(()), Err)?;
        received?;
        if flushed? {
            self.socket.send()?;
        }
        let flushed = self.flush(cx)?;
        if turn.idle {
            self.socket.release();
        } else if flushed {
            // Nobody else wakes a driver that is not idle, unless its socket is full.
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
