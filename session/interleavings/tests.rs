//! No wake-up is lost, whichever way handles and drivers interleave at the lock.
//!
//! The real driver, handles and framing run on [shuttle](https://docs.rs/shuttle), which decides
//! at every lock and every wake-up who runs next: thousands of schedules, seeded, and a schedule
//! that leaves everybody waiting fails as a deadlock, with what replays it. Only the connection
//! (a small pipe, so that writes block and come in parts) is a model. No timer ever fires, so
//! that none can cover up for a lost wake-up.
//!
//! ```text
//! cargo test --workspace --test interleavings
//! ```
//! `SHUTTLE_SCHEDULES` sets how many schedules each test explores.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use culvert_proto::code::{GoawayCode, ResetCode};
use culvert_proto::control::{Control, Hello};
use culvert_proto::head::{BodyLength, CallHead, CallId, Mode};
use culvert_proto::limits::Limits;
use culvert_proto::mux::{self, Item, Side, StreamError};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use culvert_session_interleavings::{
    Controls, Incoming, RecvStream, SendStream, Session, SessionEvent, Stream, WebSocketIo,
};
use shuttle::future::{JoinHandle, block_on, spawn};
use shuttle::sync::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that one direction of the connection holds.
const PIPE: usize = 1000;

/// Bytes of a body: several queues and pipes full, each way.
const BODY: usize = 7000;

/// One direction of the connection.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of the connection.
struct End {
    from: Arc<Mutex<Pipe>>,
    to: Arc<Mutex<Pipe>>,
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = self.from.lock().unwrap();
        if pipe.bytes.is_empty() && !pipe.closed {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = out.remaining().min(pipe.bytes.len());
        let bytes: Vec<u8> = pipe.bytes.drain(..length).collect();
        out.put_slice(&bytes);
        let writer = pipe.writer.take();
        drop(pipe);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.to.lock().unwrap();
        if pipe.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = bytes.len().min(PIPE - pipe.bytes.len());
        if length == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.bytes.extend(&bytes[..length]);
        let reader = pipe.reader.take();
        drop(pipe);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for pipe in [&self.from, &self.to] {
            let mut pipe = pipe.lock().unwrap();
            pipe.closed = true;
            let waiting = [pipe.reader.take(), pipe.writer.take()];
            drop(pipe);
            waiting.into_iter().flatten().for_each(Waker::wake);
        }
    }
}

type Handles = (Session, Incoming, Controls);

/// The tasks of both drivers.
struct Drivers([JoinHandle<()>; 2]);

impl Drivers {
    /// Waits for both to end, as they do once no handle is left: also that wakes somebody up.
    async fn end(self) {
        for driver in self.0 {
            driver.await.unwrap();
        }
    }
}

/// Dialer and acceptor, each with its driver as a task, both greeted.
async fn pair() -> (Handles, Handles, Drivers) {
    let [one, other]: [Arc<Mutex<Pipe>>; 2] = Default::default();
    let near = End {
        from: one.clone(),
        to: other.clone(),
    };
    let far = End {
        from: other,
        to: one,
    };
    let (dialer, one) = start(WebSocketIo::dialer(near, Vec::new()), Side::Dialer);
    let (acceptor, other) = start(WebSocketIo::acceptor(far), Side::Acceptor);
    dialer.0.ready().await.unwrap();
    acceptor.0.ready().await.unwrap();
    (dialer, acceptor, Drivers([one, other]))
}

fn start(io: WebSocketIo<End>, side: Side) -> (Handles, JoinHandle<()>) {
    let config = mux::Config {
        side,
        hello: Hello {
            min_version: mux::VERSION,
            max_version: mux::VERSION,
            features: 0,
            name: "test".into(),
            instance: [1; 16],
            software: String::new(),
            max_streams: 100,
            initial_window: 256 * 1024,
            lane: None,
            slot: None,
        },
        limits: Limits {
            // Two full queues make more than one batch.
            send_queue: 3000,
            batch: 4096,
            ..Limits::default()
        },
    };
    let (session, incoming, controls, driver) = Session::undriven(io, config);
    let driver = spawn(driver);
    ((session, incoming, controls), driver)
}

fn call_head() -> CallHead {
    CallHead {
        call: CallId([9; 16]),
        endpoint: "api".parse().unwrap(),
        mode: Mode::Tcp,
        method: http::Method::GET,
        target: Bytes::from_static(b"a:1"),
        headers: http::HeaderMap::new(),
        body: BodyLength::Unknown,
        upgrade: None,
        authority: Bytes::from_static(b"a"),
        source: None,
        caller: Principal {
            tenant: "acme".parse().unwrap(),
            subject: "c".into(),
            scopes: Vec::new(),
            kind: PrincipalKind::Caller,
            expires: 2_000_000_000,
            proof: Proof::Jwt,
        },
        token: None,
    }
}

/// Explores schedules of `test`: random ones, and ones with few but nasty preemptions.
fn explore<F: Future<Output = ()> + Send + 'static>(test: fn() -> F) {
    let schedules = std::env::var("SHUTTLE_SCHEDULES")
        .ok()
        .and_then(|number| number.parse().ok())
        .unwrap_or(1000);
    // Timers can be made, but nobody drives them. Leaked: its end would wake tasks of a schedule
    // that failed.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _context = Box::leak(Box::new(runtime)).enter();
    shuttle::check_random(move || block_on(test()), schedules);
    shuttle::check_pct(move || block_on(test()), schedules, 3);
}

/// Writes a body in pieces, then ends the half.
async fn send_body(send: &mut SendStream) {
    for piece in vec![7; BODY].chunks(3500) {
        send.write_bytes(Bytes::copy_from_slice(piece))
            .await
            .unwrap();
    }
    send.finish().unwrap();
}

async fn recv_body(recv: &mut RecvStream) {
    let mut bytes = 0;
    loop {
        match recv.item().await.unwrap() {
            Item::Data(data) => bytes += data.len(),
            Item::Finished => break,
            Item::Head(head) => panic!("{head:?}"),
        }
    }
    assert_eq!(bytes, BODY);
}

async fn echo(mut stream: Stream) {
    recv_body(&mut stream.recv).await;
    send_body(&mut stream.send).await;
}

#[test]
fn calls_that_fill_every_queue_complete() {
    explore(|| async {
        let (dialer, acceptor, drivers) = pair().await;
        let serving = spawn(async move {
            let (_dialer, mut incoming, _controls) = dialer;
            let mut calls = Vec::new();
            while let Some((_, stream)) = incoming.accept().await {
                calls.push(spawn(echo(stream)));
            }
            for call in calls {
                call.await.unwrap();
            }
        });
        let callers = [(), ()].map(|()| {
            let session = acceptor.0.clone();
            spawn(async move {
                let stream = session.open(&call_head(), Bytes::new(), false).unwrap();
                let (mut send, mut recv) = stream.split();
                let sending = spawn(async move { send_body(&mut send).await });
                recv_body(&mut recv).await;
                sending.await.unwrap();
            })
        });
        for caller in callers {
            caller.await.unwrap();
        }
        acceptor.0.close(GoawayCode::Drain, "done");
        serving.await.unwrap();
        drop(acceptor);
        drivers.end().await;
    });
}

#[test]
fn everybody_who_waits_learns_that_the_session_ended() {
    explore(|| async {
        let (dialer, acceptor, drivers) = pair().await;
        let (session, incoming, mut controls) = acceptor;
        let stream = session.open(&call_head(), Bytes::new(), false).unwrap();
        let (mut send, mut recv) = stream.split();
        let reader = spawn(async move { recv.item().await.map(drop) });
        // Nobody accepts: what is written waits for the peer's reader in the end.
        let writer = spawn(async move {
            loop {
                if let Err(error) = send.write_bytes(Bytes::from(vec![0; 50_000])).await {
                    return error;
                }
            }
        });
        let controls = spawn(async move { while controls.recv().await.is_some() {} });
        let closer = spawn(async move {
            dialer.0.close(GoawayCode::Drain, "enough");
            dialer.0.closed().await;
            drop(dialer);
        });
        session.closed().await;
        // Refused, where the peer had not looked at the call when it closed.
        let expected = [
            StreamError::SessionLost,
            StreamError::Reset(ResetCode::Refused),
        ];
        assert!(expected.contains(&reader.await.unwrap().unwrap_err()));
        assert!(expected.contains(&writer.await.unwrap()));
        controls.await.unwrap();
        closer.await.unwrap();
        drop((session, incoming));
        drivers.end().await;
    });
}

#[test]
fn a_reset_reaches_both_halves_of_the_peer_whatever_they_wait_for() {
    explore(|| async {
        let (dialer, acceptor, drivers) = pair().await;
        let mut stream = acceptor.0.open(&call_head(), Bytes::new(), false).unwrap();
        let peer = spawn(async move {
            let (_dialer, mut incoming, _controls) = dialer;
            let (_, stream) = incoming.accept().await.unwrap();
            let (mut send, mut recv) = stream.split();
            send.write_bytes(Bytes::from_static(b"x")).await.unwrap();
            let stopped = spawn(async move { send.stopped().await });
            let read = recv.item().await.map(drop);
            (read, stopped.await.unwrap())
        });
        // A stream that the peer has not heard of would be reset without a word.
        assert!(matches!(stream.recv.item().await, Ok(Item::Data(_))));
        stream.send.reset(ResetCode::Cancelled);
        let reset = StreamError::Reset(ResetCode::Cancelled);
        assert_eq!(peer.await.unwrap(), (Err(reset), reset));
        drop((stream, acceptor));
        drivers.end().await;
    });
}

#[test]
fn control_messages_arrive_beside_a_stream_that_is_stuck() {
    explore(|| async {
        let (dialer, acceptor, drivers) = pair().await;
        let (session, incoming, mut controls) = acceptor;
        let mut stuck = session.open(&call_head(), Bytes::new(), false).unwrap();
        let writing = spawn(async move {
            let _ = stuck.send.write_bytes(Bytes::from(vec![0; 400_000])).await;
        });
        let notice = Control::Notice {
            code: None,
            text: "hello".into(),
        };
        for _ in 0..3 {
            dialer.0.send_control(&notice).unwrap();
        }
        for _ in 0..3 {
            let event = controls.recv().await;
            assert!(matches!(event, Some(SessionEvent::Control(_))), "{event:?}");
        }
        session.close(GoawayCode::Drain, "done");
        writing.await.unwrap();
        drop((session, incoming, controls, dialer));
        drivers.end().await;
    });
}
