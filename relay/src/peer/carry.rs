//! One call of another node: between its stream and one of a session of this node.

#[cfg(test)]
mod tests;

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_proto::code::{ErrorCode, ResetCode};
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::{CallHead, Head, Mode, Refusal};
use culvert_session::stream::{RecvStream, SendStream};
use culvert_session::{Item, OpenError, Stream, StreamError};
use tokio::select;
use tokio::sync::watch;

use crate::directory::{Directory, Lookup};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::revocations::{self, Revocation, Revocations};

/// Sessions that are tried before the call is sent back.
const TRIES: u32 = 3;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Carried {
    /// A session took it.
    Taken,
    /// There is none; the other node looks elsewhere.
    NotHere,
    /// There are, and all are full.
    Full,
    /// An operator has withdrawn it.
    Revoked,
}

impl Carried {
    /// Each of them.
    pub(crate) const ALL: [Self; 4] = [Self::Taken, Self::NotHere, Self::Full, Self::Revoked];

    /// A word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::NotHere => "not-here",
            Self::Full => "full",
            Self::Revoked => "revoked",
        }
    }
}

/// Carries the calls of other nodes.
pub(super) struct Carrier {
    directory: Arc<Directory>,
    revocations: Arc<Revocations>,
    metrics: Arc<Metrics>,
}

impl Carrier {
    /// To sessions of this node.
    pub(super) fn new(node: &Node) -> Self {
        Self {
            directory: node.directory.clone(),
            revocations: node.revocations.clone(),
            metrics: node.metrics.clone(),
        }
    }

    /// Carries a call to its end, and counts it. Who calls is what the other node says: it is one of this
    /// cluster. What this node knows to be revoked, the other one may not have heard of yet.
    pub(super) async fn carry(&self, head: CallHead, from: Stream) {
        let outcome = self.bring(head, from).await;
        self.metrics.peers.on_call(outcome);
    }

    /// Sends a call back: this node takes none any more.
    pub(super) fn send_back(&self, mut from: Stream) {
        from.send.reset(ResetCode::NotHere);
        self.metrics.peers.on_call(Carried::NotHere);
    }

    async fn bring(&self, head: CallHead, mut from: Stream) -> Carried {
        let first = poll_fn(|cx| Poll::Ready(Beginning::poll(&mut from.recv, cx))).await;
        // Before the list is asked: what is added meanwhile does not slip between.
        let additions = self.revocations.additions();
        if let Some(revocation) = self.revocation(&head) {
            self.metrics.revocations.refused_calls.inc();
            note(&head, &revocation, "refused");
            refuse(&mut from.send, ErrorCode::Forbidden, revocations::REFUSED).await;
            return Carried::Revoked;
        }
        let mut to = match open(&self.directory, &head, &first) {
            Ok(to) => to,
            Err(OpenError::TooManyStreams) => {
                refuse(
                    &mut from.send,
                    ErrorCode::Overloaded,
                    "the endpoint's agent has as many calls in flight as it takes; try again",
                )
                .await;
                return Carried::Full;
            }
            Err(_) => {
                from.send.reset(ResetCode::NotHere);
                return Carried::NotHere;
            }
        };
        let answered = AtomicBool::new(false);
        let ended = select! {
            // First: bytes that never stop would leave it no turn.
            biased;
            revocation = self.revoked(&head, additions) => Err(revocation),
            ended = both(&mut from, &mut to, first, &answered) => Ok(ended),
        };
        match ended {
            Ok(Ok(())) => {}
            // In words: the code from here would say that it is this node's.
            Ok(Err(StreamError::Reset(ResetCode::Internal)))
                if !answered.load(Ordering::Relaxed) =>
            {
                refuse(
                    &mut from.send,
                    ErrorCode::SessionLost,
                    "a defect of the agent broke the call off; whether the local API has seen it is not \
                     known",
                )
                .await;
            }
            Ok(Err(error)) => break_off(&mut from.send, &mut to.send, error),
            Err(revocation) => {
                self.metrics.revocations.ended_calls.inc();
                note(&head, &revocation, "ended");
                if answered.into_inner() {
                    from.send.reset(ResetCode::Withdrawn);
                } else {
                    refuse(&mut from.send, ErrorCode::Forbidden, revocations::ENDED).await;
                }
                to.send.reset(ResetCode::Cancelled);
            }
        }
        Carried::Taken
    }

    /// What forbids a call.
    fn revocation(&self, head: &CallHead) -> Option<Arc<Revocation>> {
        self.revocations.of_call(&head.caller, Some(&head.endpoint))
    }

    /// Completes once a call is revoked that was not.
    async fn revoked(
        &self,
        head: &CallHead,
        mut additions: watch::Receiver<u64>,
    ) -> Arc<Revocation> {
        while additions.changed().await.is_ok() {
            if let Some(revocation) = self.revocation(head) {
                return revocation;
            }
        }
        pending().await
    }
}

/// Says which revocation it was: the node that the caller came to cannot.
fn note(head: &CallHead, revocation: &Revocation, what: &str) {
    tracing::info!(
        call = %head.call,
        tenant = %head.caller.tenant,
        endpoint = %head.endpoint,
        revocation = %revocation.id,
        reason = revocation.reason.as_deref(),
        "a call of another node is {what}: it is revoked"
    );
}

/// Passes on that one side has broken off.
fn break_off(from: &mut SendStream, to: &mut SendStream, error: StreamError) {
    match error {
        StreamError::Reset(code) if code.keeps_data() => from.cut_short(code),
        StreamError::Reset(code) => from.reset(code),
        StreamError::SessionLost => from.cut_short(ResetCode::Lost),
        _ => from.reset(ResetCode::Internal),
    }
    to.reset(match error {
        StreamError::Reset(code) => code,
        _ => ResetCode::Cancelled,
    });
}

/// A caller that is gone needs no answer.
async fn refuse(send: &mut SendStream, code: ErrorCode, detail: &str) {
    let refusal = Head::Refusal(Refusal {
        code,
        detail: detail.into(),
        rule: None,
        soap: false,
    });
    let _ = send.send_head(&refusal).await;
    let _ = send.finish();
}

/// Opens a stream on a session of this node.
fn open(directory: &Directory, head: &CallHead, first: &Beginning) -> Result<Stream, OpenError> {
    let name = match head.mode {
        Mode::Http => None,
        Mode::Connect | Mode::Terminate | Mode::Tcp => {
            let target = std::str::from_utf8(&head.target).unwrap_or_default();
            Some(ConnectName::parse(target).map_err(|_| OpenError::Closed)?)
        }
    };
    let mut refused = OpenError::Closed;
    for _ in 0..TRIES {
        let found = directory.lookup_here(&head.caller.tenant, &head.endpoint, name.as_ref());
        let Lookup::Session(place, priority) = found else {
            return Err(OpenError::Closed);
        };
        match place.open(head, first.data.clone(), first.end) {
            Ok(mut stream) => {
                stream.send.set_priority(priority);
                return Ok(stream);
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// What came together with the head.
#[derive(Default)]
struct Beginning {
    data: Bytes,
    /// Whether it is all.
    end: bool,
    /// What follows, where that came too.
    next: Option<Item>,
}

impl Beginning {
    /// Does not wait.
    fn poll(recv: &mut RecvStream, cx: &mut Context<'_>) -> Self {
        let mut beginning = Self::default();
        for _ in 0..2 {
            match recv.poll_item(cx) {
                Poll::Ready(Ok(Item::Data(data))) if beginning.data.is_empty() => {
                    beginning.data = data;
                }
                Poll::Ready(Ok(Item::Finished)) => {
                    beginning.end = true;
                    break;
                }
                // What follows it, the end too, is read when it is passed on.
                Poll::Ready(Ok(item)) => {
                    beginning.next = Some(item);
                    break;
                }
                // What is wrong is wrong again when the stream is read.
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        beginning
    }
}

/// Both directions, each to its own end; an error of either ends the call. Says in `answered` whether the
/// other node has the head of an answer.
async fn both(
    from: &mut Stream,
    to: &mut Stream,
    first: Beginning,
    answered: &AtomicBool,
) -> Result<(), StreamError> {
    if !first.end {
        from.send.send_head(&Head::Taken).await?;
    }
    let mut up = pin!(pass(&mut from.recv, &mut to.send, first.next, None));
    let mut down = pin!(pass(&mut to.recv, &mut from.send, None, Some(answered)));
    let (mut up_ended, mut down_ended) = (first.end, false);
    while !(up_ended && down_ended) {
        select! {
            ended = &mut up, if !up_ended => {
                ended?;
                up_ended = true;
            }
            ended = &mut down, if !down_ended => {
                ended?;
                down_ended = true;
            }
        }
    }
    Ok(())
}

/// One direction, from `next` on if there is one. `answered`: from the agent, whose heads are for
/// callers and never for nodes; it says there when it answers.
async fn pass(
    recv: &mut RecvStream,
    send: &mut SendStream,
    mut next: Option<Item>,
    answered: Option<&AtomicBool>,
) -> Result<(), StreamError> {
    let answers = answered.is_some();
    loop {
        let item = match next.take() {
            Some(item) => item,
            None => select! {
                biased;
                item = recv.item() => item?,
                why = send.stopped() => return stop(recv, why, answers),
            },
        };
        let sent = match item {
            Item::Data(data) => send.write_bytes(data).await,
            Item::Head(Head::Taken) if answers => {
                return Err(StreamError::Reset(ResetCode::Protocol));
            }
            Item::Head(head) => {
                if let (Head::Response(_), Some(answered)) = (&head, answered) {
                    answered.store(true, Ordering::Relaxed);
                }
                send.send_head(&head).await
            }
            Item::Finished => match send.finish() {
                Ok(()) => return Ok(()),
                Err(why) => Err(why),
            },
        };
        if let Err(why) = sent {
            return stop(recv, why, answers);
        }
    }
}

/// Whoever takes the bytes wants no more of them: that is no harm to the other direction. Nor is it that
/// a session has broken off: what came from it before is passed on, and then the same error.
fn stop(recv: &mut RecvStream, why: StreamError, answers: bool) -> Result<(), StreamError> {
    match why {
        StreamError::SessionLost if !answers => Ok(()),
        StreamError::Reset(code) if !answers && code.keeps_data() => Ok(()),
        StreamError::Stopped(code) => {
            recv.stop(code);
            Ok(())
        }
        why => Err(why),
    }
}
