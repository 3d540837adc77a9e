//! Carrying a call through the tunnel: the stream is opened with the head and the first bytes,
//! the rest of the body follows while the answer is awaited.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use culvert_http::upload::{FirstBytes, Upload, UploadError};
use culvert_http::{Problem, Progress, Traffic};
use culvert_proto::code::{ErrorCode, ResetCode};
use culvert_proto::head::{BodyLength, CallHead, Head, ResponseHead};
use culvert_session::body::{SendBodyError, send_body};
use culvert_session::stream::{RecvStream, SendStream, Stream};
use culvert_session::{Item, OpenError, StreamError};
use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use super::find::Finder;
use super::leave::Leave;
use super::retry::{PAUSE, Retries};
use crate::directory::{Lookup, Target};
use crate::place::Place;

/// Sessions that are tried at once where one takes no call, before the call waits.
const TRIES: u32 = 3;

/// Where interim answers go: to a caller of HTTP/1.1. hyper has no way to send them over HTTP/2.
pub(crate) struct InterimTo<'c> {
    pub(crate) traffic: &'c Traffic,
    pub(crate) progress: &'c Progress,
    /// The name that the caller called.
    pub(crate) host: &'c str,
}

impl InterimTo<'_> {
    async fn send(&self, head: ResponseHead) {
        self.traffic
            .pass_interim(self.progress, head, Some(self.host))
            .await;
    }
}

/// The rest of a request's body on its way.
pub(crate) type Uploading =
    Pin<Box<dyn Future<Output = Result<(), SendBodyError<UploadError>>> + Send>>;

/// The beginning of an upstream's answer.
pub(crate) struct Forwarded {
    pub(crate) head: ResponseHead,
    pub(crate) recv: RecvStream,
    pub(crate) uploading: Option<Uploading>,
    /// Where the caller's bytes go once both sides have switched protocols. Nothing was sent yet.
    pub(crate) send: Option<SendStream>,
    pub(crate) leave: Leave,
}

/// Why an exchange gave no answer.
pub(super) enum Failure {
    /// The stream ended in a way that may be tried again, or not, by what the peer has seen.
    Stream(StreamError),
    /// For good.
    Problem(Problem),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Sends a call to a session that `finder` finds and waits for the answer's head, without a limit:
/// a long poll may take half an hour. The body is taken from `upload` once it is on its way: moved in and
/// out, every call would have room for it four times.
pub(crate) async fn forward(
    finder: Finder<'_>,
    head: &CallHead,
    upload: &mut Option<Upload>,
    interim: Option<InterimTo<'_>>,
    mut leave: Leave,
    patience: Duration,
) -> Result<Forwarded, Problem> {
    let switches = head.upgrade.is_some();
    let first = match upload {
        Some(upload) if !switches => upload.first_bytes().await,
        // There is no body, and the half stays open.
        _ => Ok(FirstBytes::default()),
    };
    let first = first.map_err(|error| bad_upload(&error))?;
    if first.end || switches {
        *upload = None;
    }
    let mut retries = Retries::within(patience);
    let (mut stream, mut place) = open(finder, head, &first, &leave, patience).await?;
    loop {
        let sent = exchange(
            stream,
            upload,
            !place.is_here(),
            switches,
            interim.as_ref(),
            &mut leave,
        );
        let error = match sent.await {
            Ok((head, recv, sending)) => {
                let (uploading, send) = match sending {
                    Sending::Body(uploading) => (uploading, None),
                    Sending::Nothing(send) => (None, switches.then_some(send)),
                };
                return Ok(Forwarded {
                    head,
                    recv,
                    uploading,
                    send,
                    leave,
                });
            }
            Err(Failure::Problem(problem)) => return Err(problem),
            Err(Failure::Stream(error)) => error,
        };
        // What ended the call may have ended its session in the same moment: a drain does.
        leave.check()?;
        let is_here = first.end || switches || upload.is_some();
        if !is_here || !may_retry(error, retries.made(), head, &first) {
            return Err(lost(error, !place.is_here()));
        }
        let wait = retries.next(error, &finder, &place).await;
        let wait = wait.ok_or_else(|| lost(error, !place.is_here()))?;
        let again = open(finder, head, &first, &leave, wait).await;
        (stream, place) = again.map_err(|_| lost(error, !place.is_here()))?;
    }
}

/// Whether a call whose body is still here may be sent again: only where the upstream cannot have
/// seen it, or seeing it twice makes no difference.
fn may_retry(error: StreamError, retries: u32, head: &CallHead, first: &FirstBytes) -> bool {
    let harmless = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
    // Consoles are opened with tickets that are good once, and proofs are too.
    let proved = head
        .token
        .as_ref()
        .is_some_and(|token| token.proof.is_some());
    let harmless = harmless && head.upgrade.is_none() && !proved;
    match error {
        StreamError::Reset(ResetCode::Refused | ResetCode::NotHere) => true,
        StreamError::SessionLost | StreamError::Reset(ResetCode::Lost) => {
            harmless && first.end && first.data.is_empty() && retries == 0
        }
        _ => false,
    }
}

/// Opens a stream on a session that `finder` finds. Waits a while for one that takes it.
pub(super) async fn open(
    finder: Finder<'_>,
    head: &CallHead,
    first: &FirstBytes,
    leave: &Leave,
    patience: Duration,
) -> Result<(Stream, Place), Problem> {
    let deadline = Instant::now() + patience;
    let mut tries = 0;
    loop {
        leave.check()?;
        let error = match finder.look() {
            Lookup::Unknown => return Err(finder.unknown()),
            Lookup::Offline if tries == 0 => return Err(offline()),
            Lookup::Offline => OpenError::Closed,
            Lookup::Moving => OpenError::Draining,
            Lookup::Session(place, priority) => {
                match place.open(head, first.data.clone(), first.end) {
                    Ok(mut stream) => {
                        stream.send.set_priority(priority);
                        return Ok((stream, place));
                    }
                    Err(OpenError::HeadTooLarge) => {
                        return Err(Problem::bad_request("the request's head is too long"));
                    }
                    Err(error) => error,
                }
            }
        };
        tries += 1;
        if tries < TRIES {
            continue;
        }
        if Instant::now() >= deadline {
            return Err(match error {
                OpenError::TooManyStreams => Problem::new(
                    ErrorCode::Overloaded,
                    "the endpoint's agent has as many calls in flight as it takes; try again",
                ),
                _ => offline(),
            });
        }
        sleep(PAUSE).await;
    }
}

/// There is no such endpoint, or it is somebody else's: nobody can tell which.
pub(crate) fn unknown_endpoint() -> Problem {
    Problem::new(
        ErrorCode::UnknownEndpoint,
        "check the host name: it is ENDPOINT--TENANT.DOMAIN, with an endpoint of your tenant",
    )
}

fn offline() -> Problem {
    Problem::new(
        ErrorCode::EndpointOffline,
        "the agent of this endpoint is not connected; try again, or have a look at the agent",
    )
}

/// What becomes of the half of a stream that sends.
enum Sending {
    /// It sends the rest of a body, or has sent it.
    Body(Option<Uploading>),
    /// There is nothing to send, for now or at all.
    Nothing(SendStream),
}

impl Sending {
    fn begin(mut send: SendStream, upload: Option<Upload>) -> Self {
        match upload {
            None => Self::Nothing(send),
            Some(upload) => {
                let uploading = async move { send_body(upload, &mut send).await };
                Self::Body(Some(Box::pin(uploading)))
            }
        }
    }
}

/// Sends the rest of the body and waits for the answer's head. `elsewhere`: the stream leads to
/// another node, and the body stays here until that has found a session. `switches` says whether
/// the call asks to leave HTTP.
async fn exchange(
    stream: Stream,
    upload: &mut Option<Upload>,
    elsewhere: bool,
    switches: bool,
    interim: Option<&InterimTo<'_>>,
    leave: &mut Leave,
) -> Result<(ResponseHead, RecvStream, Sending), Failure> {
    let (send, mut recv) = stream.split();
    let mut sending = Sending::begin(send, if elsewhere { None } else { upload.take() });
    loop {
        let item = poll_fn(|cx| {
            if let Sending::Body(Some(running)) = &mut sending
                && let Poll::Ready(done) = running.as_mut().poll(cx)
            {
                sending = Sending::Body(None);
                // A peer that wants no more of the body has an answer, which is awaited.
                if let Err(SendBodyError::Source(error)) = done {
                    return Poll::Ready(Err(Failure::Problem(bad_upload(&error))));
                }
            }
            match recv.poll_item(cx) {
                Poll::Pending => leave.poll(cx).map(|why| Err(Failure::Problem(why.into()))),
                item => item.map_err(Failure::Stream),
            }
        });
        match item.await? {
            Item::Head(Head::Response(head)) => {
                check(&head, switches)?;
                return Ok((head, recv, sending));
            }
            Item::Head(Head::Refusal(refusal)) => return Err(Problem::from(refusal).into()),
            Item::Head(Head::Taken) if elsewhere => {
                if let Sending::Nothing(send) = sending {
                    sending = Sending::begin(send, upload.take());
                }
            }
            // The session bounds how many there can be.
            Item::Head(Head::Interim(head)) => {
                if let Some(interim) = interim {
                    // In a box, for it is rare: every call has room for it otherwise.
                    Box::pin(interim.send(head)).await;
                }
            }
            Item::Head(Head::Taken | Head::Trailers(_)) | Item::Data(_) => {
                return Err(broken("the agent sent a body without a head").into());
            }
            Item::Finished => return Err(broken("the agent sent no answer").into()),
        }
    }
}

/// Refuses what no caller may see: it would change the meaning of what follows.
fn check(head: &ResponseHead, switches: bool) -> Result<(), Problem> {
    if switches && head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    if head.status.is_informational() {
        return Err(broken(
            "the local API switched protocols without being asked",
        ));
    }
    let lengths = head.headers.get_all(http::header::CONTENT_LENGTH);
    let decimal = |value: &http::HeaderValue| value.to_str().ok()?.parse::<u64>().ok();
    let mut lengths = lengths.iter().map(decimal);
    match (lengths.next(), lengths.next(), head.body) {
        (None, ..) => Ok(()),
        (Some(Some(length)), None, BodyLength::Exact(body)) if length == body => Ok(()),
        // Of an answer to HEAD, or of one that is not modified.
        (Some(Some(_)), None, BodyLength::Empty) => Ok(()),
        _ => Err(broken(
            "the local API gave an answer with contradictory lengths",
        )),
    }
}

pub(super) fn broken(detail: &'static str) -> Problem {
    Problem::of_agent(ErrorCode::UpstreamProtocol, detail)
}

fn bad_upload(error: &UploadError) -> Problem {
    match error {
        UploadError::Stalled => Problem::bad_request("the request's body stopped coming"),
        UploadError::Broken(error) => {
            Problem::bad_request("the request's body broke off").with_log(error.to_string())
        }
    }
}

/// What a caller is told of a stream that ended before its answer. `elsewhere`: it led to another node.
pub(super) fn lost(error: StreamError, elsewhere: bool) -> Problem {
    let problem = match error {
        StreamError::Reset(ResetCode::Refused) => Problem::of_agent(
            ErrorCode::Overloaded,
            "the agent took no call at the moment; try again",
        ),
        StreamError::Reset(ResetCode::NotHere) => offline(),
        StreamError::Reset(ResetCode::Timeout) => Problem::of_agent(
            ErrorCode::UpstreamTimeout,
            "the local API did not answer in time",
        ),
        StreamError::Reset(ResetCode::Truncated) => broken("the local API's answer broke off"),
        // It was the agent, whatever the local API had to say.
        StreamError::Reset(ResetCode::Protocol) => broken(
            "the agent's answer breaks the session protocol; whether the local API has seen the call \
             is not known",
        ),
        StreamError::Reset(ResetCode::Withdrawn) => Problem::of_agent(
            ErrorCode::PolicyDenied,
            "the permission was withdrawn while the call was in flight; whether the local API has seen \
             it is not known",
        ),
        StreamError::Reset(ResetCode::Overloaded) => Problem::new(
            ErrorCode::Overloaded,
            "there was no memory for what waited to be read; whether the local API has seen the \
             call is not known",
        ),
        // A node says of an agent's defect that it is one, and so means its own.
        StreamError::Reset(ResetCode::Internal) if elsewhere => Problem::new(
            ErrorCode::SessionLost,
            "a defect of the relay broke the call off; whether the local API has seen it is not known",
        ),
        StreamError::Reset(ResetCode::Internal) => Problem::of_agent(
            ErrorCode::SessionLost,
            "a defect of the agent broke the call off; whether the local API has seen it is not known",
        ),
        StreamError::Reset(code) if code != ResetCode::Lost => Problem::of_agent(
            ErrorCode::SessionLost,
            "the agent broke the call off; whether the local API has seen it is not known",
        ),
        _ => Problem::new(
            ErrorCode::SessionLost,
            "the connection to the agent was lost; whether the local API has seen the call is \
             not known",
        ),
    };
    problem.with_log(error.to_string())
}
