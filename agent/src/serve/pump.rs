//! The answer's body, from the upstream to the caller.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::ResetCode;
use culvert_proto::head::Head;
use culvert_proto::mux::StreamError;
use http::HeaderMap;
use http_body::Body;
use tokio::time::Instant;

use super::caller::ToCaller;
use crate::upstream::{
    AnswerBody, BadAnswer, Phase, Progress, Timer, UpstreamError, strip_trailers,
};

/// Why an answer did not arrive whole.
#[derive(Debug)]
pub(crate) enum PumpError {
    /// The upstream broke it off, or fell silent.
    Upstream(UpstreamError),
    /// The caller, or the tunnel, is gone.
    Stream(StreamError),
}

impl From<StreamError> for PumpError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

/// Passes on a body and finishes the stream. `sent` counts the bytes that the tunnel took.
///
/// One loop does everything that the rest of a call needs: it writes as the tunnel gives credit,
/// reads no further than that, keeps the request's body flowing meanwhile, and ends as soon as
/// the peer stops the stream, or when nothing has moved for `idle`, in neither direction: `request` is what
/// the upstream takes meanwhile. Dropping the body on the way out closes the upstream connection.
pub(crate) async fn pump(
    body: AnswerBody,
    send: &mut ToCaller,
    idle: Duration,
    request: Option<&Progress>,
    sent: &mut u64,
) -> Result<(), PumpError> {
    let last_move = Instant::now();
    let mut pump = Pump {
        body,
        chunk: Bytes::new(),
        trailers: None,
        last_move,
    };
    let mut timer = pin!(Timer::new(pump.last_move + idle));
    let moved = poll_fn(|cx| {
        let moved = pump.poll_move(cx, send, sent);
        if moved.is_ready() {
            return moved;
        }
        if let Poll::Ready(why) = send.poll_stopped(cx) {
            return Poll::Ready(Err(why.into()));
        }
        let taken = request.map_or(pump.last_move, Progress::last_move);
        let last_move = pump.last_move.max(taken);
        timer.as_mut().poll(cx, last_move + idle).map(|()| {
            let phase = Phase::AnswerIdle;
            Err(PumpError::Upstream(UpstreamError::Timeout {
                phase,
                limit: idle,
            }))
        })
    });
    match moved.await {
        Ok(()) | Err(PumpError::Stream(StreamError::Stopped(ResetCode::NotNeeded))) => {}
        Err(error) => return Err(error),
    }
    if let Some(mut trailers) = pump.trailers {
        strip_trailers(&mut trailers);
        if !trailers.is_empty() {
            let sent = send.send_head(Head::Trailers(trailers)).await;
            sent.map_err(|error| match error {
                StreamError::HeadTooLarge => {
                    PumpError::Upstream(UpstreamError::Answer(BadAnswer::Head))
                }
                error => error.into(),
            })?;
        }
    }
    match send.finish() {
        Ok(()) | Err(StreamError::Stopped(ResetCode::NotNeeded)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Pump {
    body: AnswerBody,
    /// What the tunnel has not taken yet.
    chunk: Bytes,
    trailers: Option<HeaderMap>,
    last_move: Instant,
}

impl Pump {
    /// Moves as much as it can. Ready at the body's end.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        send: &mut ToCaller,
        sent: &mut u64,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            while !self.chunk.is_empty() {
                match send.poll_write_bytes(cx, &mut self.chunk) {
                    Poll::Ready(Ok(taken)) => {
                        *sent += taken as u64;
                        self.last_move = Instant::now();
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => {
                        // No room for the answer; the request's body goes on nevertheless.
                        self.body.drive(cx);
                        return Poll::Pending;
                    }
                }
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(PumpError::Upstream(error)));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            };
            match frame.into_data() {
                Ok(data) => self.chunk = data,
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
    }
}
