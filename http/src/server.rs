//! Serving one connection: HTTP/1.1 or HTTP/2, as ALPN says, within the limits of time.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Either;
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::frames::FrameGuard;
use crate::grip::StreamGrip;
use crate::guard::head::MAX_HEAD;
use crate::guard::io::Guard;
use crate::long_heads::LongHeads;
use crate::pace::{Deadline, Pace, PacedIo, Patience};
use crate::peeked::Peeked;
use crate::progress::{Carried, Progress};
use crate::traffic::Traffic;

/// What hyper may buffer of one HTTP/1 connection, in either direction.
const HTTP1_BUFFER: usize = 2 * MAX_HEAD;

/// Windows of HTTP/2: what a caller may have in flight towards us. The connection's has room for
/// those of many streams, or an upload that nobody takes would hold up all others.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// What h2 may buffer of one answer.
const SEND_BUFFER: usize = 128 * 1024;
/// h2 answers longer header lists by itself with a bare 431. The service refuses from 64 KiB on,
/// with a reason; the room between is for that.
const MAX_HEADER_LIST: u32 = 96 * 1024;
/// Streams that a caller reset before they reached the service, and streams that it made h2
/// reset: more end the connection (rapid reset, MadeYouReset).
const MAX_PENDING_RESETS: usize = 20;
const MAX_PROVOKED_RESETS: usize = 100;
/// A caller that vanished without a word is noticed by a ping after so long.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle HTTP/1.1 connection stays for its next call when it is to end. The answer says that
/// the connection ends, and nothing is lost; one that is closed while a call is on its way loses the
/// call, which a caller must not send again if it is a write. So the fewer are closed, the better: those
/// that are in use have their next call within seconds.
pub const LAST_CALL: Duration = Duration::from_secs(5);
/// How long an HTTP/2 connection without a call so far stays for its first one when it is to end. Told to
/// go before, many clients fail the call that they opened it for.
const FIRST_CALL: Duration = Duration::from_secs(1);
/// How long a caller that was told that its HTTP/2 connection ends may take to say that it has heard:
/// until then calls that it has begun are taken. Others wait no longer for its word.
const LAST_STREAMS: Duration = Duration::from_secs(1);
/// How long an idle HTTP/2 connection that was told to go may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// What callers may speak within TLS, in order of preference.
pub const ALPN: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];

/// What is spoken on a connection, chosen by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1; also without ALPN.
    Http1,
    /// HTTP/2.
    H2,
}

/// How connections are served: hyper's settings and the timers, made once.
#[derive(Debug)]
pub struct Server {
    http1: http1::Builder,
    streams: u32,
    pace: Pace,
    long_heads: LongHeads,
    carried: Arc<Carried>,
}

impl Server {
    /// A server whose connections keep this pace; `streams` is how many calls one of HTTP/2 may have
    /// in flight. The bytes of all bodies are counted in `carried`.
    pub fn new(pace: Pace, streams: u32, carried: Arc<Carried>) -> Self {
        let mut http1 = http1::Builder::new();
        // The guard has the timers: hyper's does not tell an idle connection from a slow head.
        http1
            .header_read_timeout(None)
            .half_close(false)
            .max_buf_size(HTTP1_BUFFER);
        Self {
            http1,
            streams,
            pace,
            long_heads: LongHeads::default(),
            carried,
        }
    }

    fn http2(&self, executor: StreamExecutor) -> http2::Builder<StreamExecutor> {
        let mut http2 = http2::Builder::new(executor);
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams)
            .enable_connect_protocol()
            .max_header_list_size(MAX_HEADER_LIST)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_PROVOKED_RESETS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        http2
    }

    /// Serves a connection whose TLS is established, to its end, and to the end of what goes on there
    /// when HTTP has ended ([`Traffic::leave_afterwards`]). A cancelled `drain` lets the calls in
    /// flight go on and takes no further ones.
    ///
    /// `answer` is given each request as a call begins: `traffic` counts it from here on, and whoever
    /// holds the call must say its end ([`Traffic::on_end`]), however it ends. First of all it must
    /// look at [`Traffic::refused`]: what it is given in place of a refused request is to be answered
    /// with why.
    ///
    /// Cancel safe: dropping the future breaks the connection and everything on it.
    pub fn serve<IO, S, F, B>(
        &self,
        io: IO,
        alpn: Alpn,
        traffic: &Arc<Traffic>,
        drain: &CancellationToken,
        answer: S,
    ) -> impl Future<Output = hyper::Result<()>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Request<Incoming>, Arc<Progress>) -> F,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + 'static,
    {
        let io = PacedIo::new(io, self.pace.stall).of_traffic(traffic);
        match alpn {
            Alpn::Http1 => Either::Left(self.serve_http1(io, traffic, drain, answer)),
            Alpn::H2 => Either::Right(self.serve_either(io, traffic, drain, answer)),
        }
    }

    /// Serves a caller that has asked for HTTP/2, and a proxy's that has not looked at what it got: Go's
    /// clients offer it to a proxy as well, and then send a CONNECT of HTTP/1.1 whatever was chosen.
    async fn serve_either<IO, S, F, B>(
        &self,
        io: IO,
        traffic: &Arc<Traffic>,
        drain: &CancellationToken,
        answer: S,
    ) -> hyper::Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Request<Incoming>, Arc<Progress>) -> F,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + 'static,
    {
        // In a box, for it is moved on: an async block has room twice for that.
        let mut io = Peeked::new(Box::new(io));
        let first = async {
            tokio::select! {
                first = timeout(self.pace.head, io.first()) => first.ok(),
                () = async { drain.cancelled().await; sleep(FIRST_CALL).await } => None,
            }
        };
        match first.await {
            Some(Ok(Some(b'C'))) => self.serve_http1(io, traffic, drain, answer).await,
            Some(Ok(Some(_))) => self.serve_http2(io, traffic, drain, answer).await,
            // It said nothing.
            Some(Ok(None) | Err(_)) | None => Ok(()),
        }
    }

    fn serve_http1<IO, S, F, B>(
        &self,
        io: IO,
        traffic: &Arc<Traffic>,
        drain: &CancellationToken,
        answer: S,
    ) -> impl Future<Output = hyper::Result<()>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Request<Incoming>, Arc<Progress>) -> F,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + 'static,
    {
        let guard = Guard::new(io, traffic.clone(), self.pace, self.long_heads.clone());
        // The guard has counted the call already: it holds the next one back.
        let (carried, ending) = (self.carried.clone(), Arc::new(drain.clone()));
        let service = service_fn(move |request| {
            let progress = Arc::new(Progress::new(carried.clone(), ending.clone()));
            traffic.leave_progress(&progress);
            answer(request, progress).map(whole)
        });
        let served = self.http1.serve_connection(TokioIo::new(guard), service);
        // In a box: an async block has room twice for what is moved into it.
        let mut served = Box::pin(served.with_upgrades());
        async move {
            let mut drained = pin!(drain.cancelled());
            let mut last_call = Deadline::default();
            let mut leaving = false;
            let ended = poll_fn(|cx| {
                let mut ended = traffic.work(|| served.as_mut().poll(cx));
                if ended.is_pending()
                    && !leaving
                    && (last_call.is_set() || drained.as_mut().poll(cx).is_ready())
                {
                    if !last_call.is_set() {
                        last_call.set(Instant::now() + LAST_CALL);
                    }
                    if traffic.is_busy() || last_call.poll(cx).is_ready() {
                        leaving = true;
                        served.as_mut().graceful_shutdown();
                        ended = served.as_mut().poll(cx);
                    }
                }
                if ended.is_pending() && traffic.is_stuck() {
                    return Poll::Ready(Ok(()));
                }
                ended
            });
            let ended = ended.await;
            if let Some(passing) = traffic.take_afterwards() {
                passing.await;
            }
            ended
        }
    }

    fn serve_http2<IO, S, F, B>(
        &self,
        io: IO,
        traffic: &Arc<Traffic>,
        drain: &CancellationToken,
        answer: S,
    ) -> impl Future<Output = hyper::Result<()>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Request<Incoming>, Arc<Progress>) -> F,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + 'static,
    {
        let guard = FrameGuard::new(io, traffic.clone(), self.pace, self.long_heads.clone());
        let (carried, ending) = (self.carried.clone(), Arc::new(drain.clone()));
        let service = service_fn(move |request| {
            let progress = Arc::new(Progress::new(carried.clone(), ending.clone()));
            traffic.on_begin();
            traffic.leave_progress(&progress);
            answer(request, progress).map(whole)
        });
        let executor = StreamExecutor {
            traffic: traffic.clone(),
            stall: self.pace.stall,
        };
        let served = self
            .http2(executor)
            .serve_connection(TokioIo::new(guard), service);
        let mut served = Box::pin(served);
        let mut drained = Box::pin(drain.cancelled());
        let mut first_call = Deadline::default();
        let mut last_streams = Deadline::default();
        let mut idle = Idle::new(self.pace.keep_alive);
        let mut leaving = false;
        poll_fn(move |cx| {
            loop {
                if let Poll::Ready(ended) = served.as_mut().poll(cx) {
                    return Poll::Ready(ended);
                }
                let expired = idle.poll(cx, traffic.begun(), traffic.poll_busy(cx.waker()));
                if leaving {
                    let is_over = traffic.is_winding_up() || last_streams.poll(cx).is_ready();
                    if is_over && !traffic.is_taking_no_more() {
                        traffic.take_no_more();
                        continue;
                    }
                    return expired.map(Ok);
                }
                if expired.is_pending() && !traffic.is_winding_up() {
                    if !first_call.is_set() {
                        if drained.as_mut().poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                        first_call.set(Instant::now() + FIRST_CALL);
                    }
                    if traffic.begun() == 0 && first_call.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                leaving = true;
                last_streams.set(Instant::now() + LAST_STREAMS);
                idle = Idle::new(FAREWELL);
                served.as_mut().graceful_shutdown();
            }
        })
    }
}

/// A service of ours always has an answer.
fn whole<B>(response: Response<B>) -> Result<Response<B>, Infallible> {
    Ok(response)
}

/// The silence of an HTTP/2 connection without calls.
struct Idle {
    span: Duration,
    begun: usize,
    deadline: Deadline,
}

impl Idle {
    fn new(span: Duration) -> Self {
        Self {
            span,
            begun: 0,
            deadline: Deadline::default(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, begun: usize, busy: bool) -> Poll<()> {
        if busy {
            self.deadline.clear();
            return Poll::Pending;
        }
        if !self.deadline.is_set() || begun != self.begun {
            self.begun = begun;
            self.deadline.set(Instant::now() + self.span);
        }
        self.deadline.poll(cx)
    }
}

/// Runs each call of an HTTP/2 connection as a task of its own, as long as its caller takes the
/// answer: a stuck stream is reset, and the others go on.
#[derive(Debug, Clone)]
struct StreamExecutor {
    traffic: Arc<Traffic>,
    stall: Duration,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        // What is left after the answer of a call that is no HTTP any more.
        if let Some(grip) = StreamGrip::take() {
            tokio::spawn(grip.hold(call));
            return;
        }
        // hyper makes a call and executes it in one go, so what was left is this call's.
        let progress = self.traffic.take_progress().unwrap_or_default();
        tokio::spawn(TakenCall {
            call,
            progress,
            taken: 0,
            patience: Patience::new(self.stall),
        });
    }
}

pin_project! {
    /// A call that ends when its caller does not take the answer.
    struct TakenCall<F> {
        #[pin]
        call: F,
        progress: Arc<Progress>,
        taken: u64,
        patience: Patience,
    }
}

impl<F: Future<Output = ()>> Future for TakenCall<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let ended = this.call.poll(cx);
        // A hand that nobody took belongs to nobody else.
        let _ = StreamGrip::take();
        if ended.is_ready() {
            return Poll::Ready(());
        }
        if !this.progress.handed.load(Ordering::Relaxed) {
            this.patience.reset();
            return Poll::Pending;
        }
        // hyper holds a piece of the answer for which the caller has not given room.
        if this.progress.is_stuck() {
            return Poll::Ready(());
        }
        let sent = this.progress.carried().sent();
        let fresh = usize::try_from(sent - *this.taken).unwrap_or(usize::MAX);
        *this.taken = sent;
        if fresh > 0 {
            this.patience.on_progress(fresh);
        }
        let untaken = ready!(this.patience.poll_untaken(cx));
        let _ = this.progress.untaken.set(untaken);
        Poll::Ready(())
    }
}
