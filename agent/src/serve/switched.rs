//! After a 101: bytes both ways between caller and upstream.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use culvert_http::Grip;
use culvert_proto::code::ResetCode;
use culvert_proto::mux::StreamError;
use culvert_session::splice::{Cut, Moved, SpliceError, splice};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::Instant;

use super::audit::{Outcome, Record};
use super::caller::{FromCaller, ToCaller};
use super::failure::Failure;
use crate::terminate::AnswerSender;
use crate::upstream::{Progress, Switched, Timer};

/// Carries bytes until both directions have ended, each for itself, or one side is gone, or nothing
/// has moved for `idle`.
pub(super) async fn carry(
    upstream: Box<Switched>,
    to: &mut ToCaller,
    from: FromCaller,
    idle: Duration,
    record: &mut Record<'_>,
) -> Result<(), Failure> {
    let progress = Progress::new();
    record.request = Some(progress.clone());
    match (to, from) {
        (ToCaller::Tunnel(send), FromCaller::Tunnel(mut recv)) => {
            // An upstream that breaks off is to be seen: over HTTP/2 callers go on after an end.
            let cut = Cut::Breaks;
            let spliced = splice(send, &mut recv, upstream, cut, idle, |moved| match moved {
                Moved::Out(bytes) => progress.note(bytes, false),
                Moved::In(bytes) => record.answered += bytes as u64,
                Moved::OutEnd => {}
            });
            spliced.await.map_err(|error| {
                record.reason = Some(error.to_string());
                match error {
                    SpliceError::Stream(error) => Failure::Gone(error),
                    SpliceError::Io(_) => Failure::Broken(Outcome::Truncated, ResetCode::Truncated),
                    SpliceError::Idle(_) => Failure::Broken(Outcome::Truncated, ResetCode::Timeout),
                }
            })
        }
        (ToCaller::Inside(answer), _) => {
            let upstream = Metered {
                io: upstream,
                sent: progress,
                received: Progress::new(),
                all_received: Arc::default(),
                broken: false,
            };
            inside(upstream, answer, idle, record).await
        }
        // Both halves are of one call.
        (ToCaller::Tunnel(_), FromCaller::Inside(_)) => {
            Err(Failure::Broken(Outcome::Defect, ResetCode::Internal))
        }
    }
}

/// The same where the caller's side is a connection, or a stream of one, that this agent serves.
async fn inside(
    mut upstream: Metered,
    answer: &mut AnswerSender,
    idle: Duration,
    record: &mut Record<'_>,
) -> Result<(), Failure> {
    let Some(mut caller) = answer.switched().await else {
        return Err(Failure::Gone(answer.stopped().await));
    };
    let (sent, received) = (upstream.sent.clone(), upstream.received.clone());
    let all_received = upstream.all_received.clone();
    let last_move = || sent.last_move().max(received.last_move());
    let mut timer = pin!(Timer::new(Instant::now() + idle));
    let ended = {
        let mut copying = pin!(copy_bidirectional(&mut caller.io, &mut upstream));
        tokio::select! {
            biased;
            () = gone(&caller.grip, &all_received) => Err(Failure::Gone(StreamError::Stopped(ResetCode::Cancelled))),
            why = answer.stopped() => Err(Failure::Gone(why)),
            ended = poll_fn(|cx| match copying.as_mut().poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending => timer.as_mut().poll(cx, last_move() + idle).map(|()| None),
            }) => match ended {
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => {
                    record.reason = Some(error.to_string());
                    Err(Failure::Gone(StreamError::Stopped(ResetCode::Cancelled)))
                }
                None => {
                    record.reason = Some(format!("nothing has moved for {idle:?}"));
                    Err(Failure::Broken(Outcome::Truncated, ResetCode::Timeout))
                }
            }
        }
    };
    record.answered += received.bytes();
    match ended {
        Ok(()) => {
            caller.is_whole = true;
            answer.finish().map_err(Into::into)
        }
        Err(Failure::Gone(_)) if upstream.broken => {
            Err(Failure::Broken(Outcome::Truncated, ResetCode::Truncated))
        }
        ended => ended,
    }
}

/// Completes when the caller cannot be sent to, although there may be more to send. That all is sent
/// looks the same to its hand; whether the caller goes on then shows when it is read.
async fn gone(grip: &Grip, all_received: &AtomicBool) {
    grip.gone().await;
    if all_received.load(Ordering::Relaxed) {
        pending().await
    }
}

/// An upstream's connection whose bytes are counted.
struct Metered {
    io: Box<Switched>,
    sent: Arc<Progress>,
    received: Arc<Progress>,
    /// The upstream sends no more.
    all_received: Arc<AtomicBool>,
    /// It was this side that broke.
    broken: bool,
}

impl Metered {
    fn note<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.broken |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let read = Pin::new(&mut *self.io).poll_read(cx, out);
        let bytes = out.filled().len() - before;
        match &read {
            Poll::Ready(Ok(())) if bytes > 0 => self.received.note(bytes, false),
            Poll::Ready(Ok(())) => self.all_received.store(true, Ordering::Relaxed),
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        self.note(read)
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.sent.note(*bytes, false);
        }
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut *self.io).poll_flush(cx);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is lost with a goodbye that nobody hears.
        Pin::new(&mut *self.io).poll_shutdown(cx).map(|_| Ok(()))
    }
}
