//! How far hyper is with what it was given of an answer.
//!
//! When a body fails, hyper throws away what it has yet to write of it: over HTTP/2 the reset of the stream
//! overtakes what waits for the caller's window or for the line. So a body keeps its error back until all that
//! came before is written.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use tokio::sync::oneshot;

use crate::traffic::Traffic;

/// What a body waits for before it fails.
#[derive(Debug)]
pub struct Written(Sign);

#[derive(Debug)]
enum Sign {
    /// Over HTTP/1 a call is alone on its connection: the next flush is behind all of its answer.
    Flush(Arc<Traffic>),
    /// Over HTTP/2 a piece without bytes goes behind the others, and h2 lets go of it once they are written.
    Mark(oneshot::Receiver<Infallible>),
    Over,
}

/// The owner of a piece without bytes, dropped with it.
struct Mark {
    _gone: oneshot::Sender<Infallible>,
}

impl AsRef<[u8]> for Mark {
    fn as_ref(&self) -> &[u8] {
        &[]
    }
}

impl Written {
    /// Begins to wait, on behalf of a body that has nothing more to give: until [`poll`](Self::poll) is ready.
    /// The body gives hyper the piece that comes with it first; where there is none, it is pending.
    pub fn awaited(
        version: Version,
        traffic: &Arc<Traffic>,
        cx: &Context<'_>,
    ) -> (Self, Poll<Bytes>) {
        if version < Version::HTTP_2 {
            traffic.await_flush(cx);
            return (Self(Sign::Flush(traffic.clone())), Poll::Pending);
        }
        let (_gone, gone) = oneshot::channel();
        let mark = Bytes::from_owner(Mark { _gone });
        (Self(Sign::Mark(gone)), Poll::Ready(mark))
    }

    /// Ready once all is written, or never will be.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Sign::Flush(traffic) => ready!(traffic.poll_flushed(cx)),
            Sign::Mark(gone) => _ = ready!(Pin::new(gone).poll(cx)),
            Sign::Over => {}
        }
        self.0 = Sign::Over;
        Poll::Ready(())
    }
}
