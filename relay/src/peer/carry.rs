//! One call of another node: between its stream and one of a session of this node.

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_proto::code::{ErrorCode, ResetCode};
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::{CallHead, Head, Mode, Refusal};
use culvert_session::stream::{RecvStream, SendStream};
use culvert_session::{Item, OpenError, Stream, StreamError};
use tokio::select;

use crate::directory::{Directory, Lookup};

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
}

impl Carried {
    /// Each of them.
    pub(crate) const ALL: [Self; 3] = [Self::Taken, Self::NotHere, Self::Full];

    /// A word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::NotHere => "not-here",
            Self::Full => "full",
        }
    }
}

/// Carries a call to its end. Who calls is what the other node says: it is one of this cluster.
pub(super) async fn carry(directory: &Directory, head: CallHead, mut from: Stream) -> Carried {
    let first = poll_fn(|cx| Poll::Ready(Beginning::poll(&mut from.recv, cx))).await;
    let mut to = match open(directory, &head, &first) {
        Ok(to) => to,
        Err(OpenError::TooManyStreams) => {
            refuse(&mut from.send).await;
            return Carried::Full;
        }
        Err(_) => {
            from.send.reset(ResetCode::NotHere);
            return Carried::NotHere;
        }
    };
    if let Err(error) = both(&mut from, &mut to, first).await {
        match error {
            StreamError::Reset(code) if code.keeps_data() => from.send.cut_short(code),
            StreamError::Reset(code) => from.send.reset(code),
            StreamError::SessionLost => from.send.cut_short(ResetCode::Lost),
            _ => from.send.reset(ResetCode::Internal),
        }
        to.send.reset(match error {
            StreamError::Reset(code) => code,
            _ => ResetCode::Cancelled,
        });
    }
    Carried::Taken
}

/// A caller that is gone needs no answer.
async fn refuse(send: &mut SendStream) {
    let full = Head::Refusal(Refusal {
        code: ErrorCode::Overloaded,
        detail: "the endpoint's agent has as many calls in flight as it takes; try again".into(),
        rule: None,
        soap: false,
    });
    let _ = send.send_head(&full).await;
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

/// Both directions, each to its own end; an error of either ends the call.
async fn both(from: &mut Stream, to: &mut Stream, first: Beginning) -> Result<(), StreamError> {
    if !first.end {
        from.send.send_head(&Head::Taken).await?;
    }
    let mut up = pin!(pass(&mut from.recv, &mut to.send, first.next, false));
    let mut down = pin!(pass(&mut to.recv, &mut from.send, None, true));
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

/// One direction, from `next` on if there is one. `answers`: from the agent, whose heads are for
/// callers and never for nodes.
async fn pass(
    recv: &mut RecvStream,
    send: &mut SendStream,
    mut next: Option<Item>,
    answers: bool,
) -> Result<(), StreamError> {
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
            Item::Head(head) => send.send_head(&head).await,
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
