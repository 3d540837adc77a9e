//! An answer on its way from the call, which is a task of its own, to the caller's HTTP: heads, and
//! one piece of the body at a time. What is not taken holds the call up, and with it the upstream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_http::Grip;
use culvert_http::pace::PacedIo;
use culvert_proto::code::ResetCode;
use culvert_proto::head::Head;
use culvert_proto::mux::StreamError;
use futures_util::task::AtomicWaker;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::call::InFlight;

/// Both ends of the way of one answer.
pub(super) fn handover() -> (AnswerSender, AnswerReceiver) {
    let shared = Arc::new(Shared::default());
    let receiver = AnswerReceiver {
        shared: shared.clone(),
        lets_go: false,
    };
    (AnswerSender(shared), receiver)
}

/// The call's end. Dropped before [`finish`](Self::finish), it breaks the answer off: with
/// [`ResetCode::Internal`] where it is a panic that drops it.
#[derive(Debug)]
pub(crate) struct AnswerSender(Arc<Shared>);

/// The end of the caller's HTTP. Dropped before the answer is whole, it cancels the call.
#[derive(Debug)]
pub(super) struct AnswerReceiver {
    shared: Arc<Shared>,
    /// The call goes on without it.
    lets_go: bool,
}

/// What comes next of an answer's body.
#[derive(Debug)]
pub(super) enum Next {
    Data(Bytes),
    Trailers(http::HeaderMap),
    End,
}

/// The caller's side of a call that has left HTTP. Dropped before it is whole, it ends visibly.
pub(crate) struct SwitchedCaller {
    pub(crate) io: PacedIo<TokioIo<Upgraded>>,
    pub(crate) grip: Grip,
    /// The caller got everything.
    pub(crate) is_whole: bool,
    /// The call goes on as long as this does.
    pub(super) _in_flight: InFlight,
}

impl Drop for SwitchedCaller {
    fn drop(&mut self) {
        if !self.is_whole {
            self.grip.cut();
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    sender: AtomicWaker,
    receiver: AtomicWaker,
}

#[derive(Default)]
struct State {
    /// An upstream has at most ten interim answers, so there are never many.
    heads: VecDeque<Head>,
    piece: Bytes,
    end: Option<End>,
    /// Why the receiver takes no more.
    stopped: Option<ResetCode>,
    switched: Option<SwitchedCaller>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Broken(ResetCode),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the receiver looks at, if it still does.
    fn send<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, StreamError> {
        let mut state = self.lock();
        if let Some(code) = state.stopped {
            return Err(StreamError::Stopped(code));
        }
        let changed = change(&mut state);
        drop(state);
        self.receiver.wake();
        Ok(changed)
    }
}

impl AnswerSender {
    pub(crate) fn send_head(&mut self, head: Head) -> Result<(), StreamError> {
        self.0.send(|state| state.heads.push_back(head))
    }

    /// Gives a piece over; waits until the last one was taken.
    pub(crate) fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<usize, StreamError>> {
        self.0.sender.register(cx.waker());
        let given = self.0.send(|state| {
            state.piece.is_empty().then(|| {
                state.piece = std::mem::take(data);
                state.piece.len()
            })
        });
        match given {
            Ok(None) => Poll::Pending,
            Ok(Some(bytes)) => Poll::Ready(Ok(bytes)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    pub(crate) fn finish(&mut self) -> Result<(), StreamError> {
        self.0.send(|state| {
            state.end.get_or_insert(End::Finished);
        })
    }

    pub(crate) fn reset(&mut self, code: ResetCode) {
        let _ = self.0.send(|state| {
            state.end.get_or_insert(End::Broken(code));
        });
    }

    pub(crate) fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.0.sender.register(cx.waker());
        match self.0.lock().stopped {
            Some(code) => Poll::Ready(StreamError::Stopped(code)),
            None => Poll::Pending,
        }
    }

    pub(crate) async fn stopped(&mut self) -> StreamError {
        poll_fn(|cx| self.poll_stopped(cx)).await
    }

    /// The caller's side once its HTTP has ended; `None` if it is gone.
    pub(crate) async fn switched(&mut self) -> Option<SwitchedCaller> {
        poll_fn(|cx| {
            self.0.sender.register(cx.waker());
            let mut state = self.0.lock();
            match (state.switched.take(), state.stopped) {
                (Some(switched), _) => Poll::Ready(Some(switched)),
                (None, Some(_)) => Poll::Ready(None),
                (None, None) => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for AnswerSender {
    fn drop(&mut self) {
        self.reset(match std::thread::panicking() {
            true => ResetCode::Internal,
            false => ResetCode::Cancelled,
        });
    }
}

impl AnswerReceiver {
    /// The next head before the answer's body: interim ones, the answer's or a refusal.
    pub(super) async fn head(&mut self) -> Result<Head, ResetCode> {
        poll_fn(|cx| {
            self.shared.receiver.register(cx.waker());
            let mut state = self.shared.lock();
            match (state.heads.pop_front(), state.end) {
                (Some(head), _) => Poll::Ready(Ok(head)),
                (None, Some(End::Broken(code))) => Poll::Ready(Err(code)),
                (None, Some(End::Finished)) => Poll::Ready(Err(ResetCode::Internal)),
                (None, None) => Poll::Pending,
            }
        })
        .await
    }

    /// What comes next of the body.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, ResetCode>> {
        self.shared.receiver.register(cx.waker());
        let mut state = self.shared.lock();
        if !state.piece.is_empty() {
            let piece = std::mem::take(&mut state.piece);
            drop(state);
            self.shared.sender.wake();
            return Poll::Ready(Ok(Next::Data(piece)));
        }
        while let Some(head) = state.heads.pop_front() {
            if let Head::Trailers(trailers) = head {
                return Poll::Ready(Ok(Next::Trailers(trailers)));
            }
        }
        match state.end {
            Some(End::Finished) => Poll::Ready(Ok(Next::End)),
            Some(End::Broken(code)) => Poll::Ready(Err(code)),
            None => Poll::Pending,
        }
    }

    /// Whether nothing is left to be taken, after a clean end.
    pub(super) fn has_ended(&self) -> bool {
        let state = self.shared.lock();
        state.end == Some(End::Finished) && state.piece.is_empty() && state.heads.is_empty()
    }

    /// Wants no more.
    pub(super) fn stop(&mut self, code: ResetCode) {
        let mut state = self.shared.lock();
        state.stopped.get_or_insert(code);
        state.piece = Bytes::new();
        drop(state);
        self.shared.sender.wake();
    }

    /// Gives the caller's side to the call, which has left HTTP.
    pub(super) fn hand_over(&mut self, switched: SwitchedCaller) {
        self.shared.lock().switched = Some(switched);
        self.shared.sender.wake();
    }

    /// Leaves the call to itself.
    pub(super) fn let_go(mut self) {
        self.lets_go = true;
    }

    /// Completes when the call is over.
    pub(super) async fn over(&mut self) {
        poll_fn(|cx| {
            self.shared.receiver.register(cx.waker());
            match self.shared.lock().end {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            }
        })
        .await;
    }
}

impl Drop for AnswerReceiver {
    fn drop(&mut self) {
        if !self.lets_go {
            self.stop(ResetCode::Cancelled);
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("end", &self.end)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SwitchedCaller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwitchedCaller").finish_non_exhaustive()
    }
}
