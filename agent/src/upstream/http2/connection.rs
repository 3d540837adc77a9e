//! One HTTP/2 connection, driven by a task of its own.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::time::{Instant, sleep, timeout};

use super::super::error::{BadAnswer, Phase, UpstreamError};
use super::super::transport::{Noted, Seen, Transport};
use super::{CONNECTION_WINDOW, MAX_HEAD, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW};

/// Silence after which an upstream with calls in progress is asked whether it still lives. The
/// kernel's keep-alive notices a dead network much sooner; this notices a frozen process. More
/// often than every five minutes is taken for abuse by gRPC servers (`too_many_pings`).
const SILENCE: Duration = Duration::from_secs(310);

/// How long the answer to that may take.
const PONG: Duration = Duration::from_secs(20);

/// An open connection. Dropped, it ends once the calls on it have ended.
#[derive(Debug)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    life: Arc<Life>,
}

/// What the driver and the calls of a connection know of each other.
#[derive(Debug)]
struct Life {
    seen: Arc<Seen>,
    ended: AtomicBool,
    calls: Mutex<Calls>,
}

#[derive(Debug)]
struct Calls {
    count: usize,
    /// When the last one ended.
    since: Instant,
}

impl Connection {
    /// Begins HTTP/2 on a transport and waits, `limit` at most, until the upstream has done so
    /// too: then its limits are known, and nothing was asked of a server that speaks another
    /// protocol. Needs a tokio runtime, on which the connection's task goes on.
    pub(crate) async fn open(
        transport: Transport,
        limit: Duration,
    ) -> Result<Arc<Self>, UpstreamError> {
        let seen = Arc::new(Seen::default());
        let io = Noted::new(transport, seen.clone());
        let begin = async {
            let (requests, mut connection) = Builder::new()
                .enable_push(false)
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(MAX_HEAD)
                .max_send_buffer_size(SEND_BUFFER)
                .max_concurrent_streams(0)
                .handshake(io)
                .await?;
            let mut pings = connection.ping_pong().expect("it is taken once");
            pings.send_ping(Ping::opaque())?;
            tokio::select! {
                biased;
                ended = &mut connection => {
                    return Err(ended.err().unwrap_or_else(|| h2::Reason::NO_ERROR.into()));
                }
                pong = poll_fn(|cx| pings.poll_pong(cx)) => pong?,
            };
            Ok((requests, connection, pings))
        };
        let begun = timeout(limit, begin).await;
        let (requests, connection, pings) = begun
            .map_err(|_| UpstreamError::Timeout {
                phase: Phase::Http2,
                limit,
            })?
            .map_err(|error| UpstreamError::http2(error, &seen))?;
        if requests.current_max_send_streams() == 0 {
            return Err(UpstreamError::Answer(BadAnswer::NoStreams));
        }
        let life = Arc::new(Life {
            seen,
            ended: AtomicBool::new(false),
            calls: Mutex::new(Calls {
                count: 0,
                since: Instant::now(),
            }),
        });
        tokio::spawn(drive(connection, pings, life.clone()));
        Ok(Arc::new(Self { requests, life }))
    }

    /// Whether new calls can begin here: neither side has ended it, or said that it will.
    pub(crate) fn is_open(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !self.life.ended.load(Ordering::Relaxed)
            && !matches!(
                self.requests.clone().poll_ready(&mut cx),
                Poll::Ready(Err(_))
            )
    }

    /// Since when there is no call on it.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let calls = self.life.calls();
        (calls.count == 0).then_some(calls.since)
    }

    /// A place for a call, where there is one.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let most = self.requests.current_max_send_streams().min(MAX_STREAMS);
        let mut calls = self.life.calls();
        let has_room = calls.count < most;
        calls.count += usize::from(has_room);
        has_room.then(|| self.place(false))
    }

    /// A place for the call that opened the connection.
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        self.life.calls().count += 1;
        self.place(true)
    }

    fn place(self: &Arc<Self>, is_first: bool) -> Place {
        Place {
            requests: self.requests.clone(),
            life: self.life.clone(),
            is_first,
        }
    }
}

impl Life {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for one call on a connection. Dropped, it is free again.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) requests: SendRequest<Bytes>,
    life: Arc<Life>,
    /// The connection was opened for this call.
    pub(crate) is_first: bool,
}

impl Place {
    /// An error of a call here, with what the transport knows of its cause.
    pub(super) fn error(&self, error: h2::Error) -> UpstreamError {
        UpstreamError::http2(error, &self.life.seen)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut calls = self.life.calls();
        calls.count -= 1;
        calls.since = Instant::now();
    }
}

/// Moves the bytes of a connection until it ends; its calls learn the reason by themselves.
async fn drive(
    connection: h2::client::Connection<Noted, Bytes>,
    mut pings: PingPong,
    life: Arc<Life>,
) {
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a connection to an upstream ended");
        },
        () = frozen(&mut pings, &life) => {
            tracing::warn!("an upstream answers no pings: its connection is closed");
        }
    }
    life.ended.store(true, Ordering::Relaxed);
}

/// Completes when nothing has come for [`SILENCE`] while calls are in progress, and no answer to
/// a ping either.
async fn frozen(pings: &mut PingPong, life: &Life) {
    loop {
        life.seen.forget();
        sleep(SILENCE).await;
        if life.seen.anything() || life.calls().count == 0 {
            continue;
        }
        // An error is the connection's end, of which its future tells.
        if pings.send_ping(Ping::opaque()).is_err() {
            std::future::pending::<()>().await;
        }
        match timeout(PONG, poll_fn(|cx| pings.poll_pong(cx))).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => std::future::pending::<()>().await,
            Err(_) => return,
        }
    }
}
