//! One call, from its head to the end of its answer.
//!
//! The order is that of what is known when something fails: the head alone, the endpoint, the
//! canonical target, the operation, the decision; only then the upstream hears of the call.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use culvert_policy::{CallFacts, Decision, Denial, DenyReason, Look, Permit, Soap};
use culvert_proto::code::{ErrorCode, ResetCode};
use culvert_proto::head::{BodyLength, CallHead, Head, Mode, Refusal, ResponseHead};
use culvert_proto::mux::{Item, StreamError};
use culvert_session::body::RecvBody;
use culvert_session::splice::{Moved, SpliceError, splice};
use culvert_session::{RecvStream, SendStream, Stream};
use futures_util::FutureExt;
use http::header::EXPECT;
use http::{HeaderMap, StatusCode};

use super::audit::{Outcome, Printable, Record};
use super::call::{BadHead, Call, Message};
use super::callers::Unverified;
use super::leash::{Withdrawn, withdrawn};
use super::pump::{PumpError, pump};
use super::soap::{InspectError, Inspection};
use super::{ServedEndpoint, Serving};
use crate::policy::ActivePolicy;
use crate::upstream::{
    Answer, BadAnswer, Interims, Progress, RequestBody, RequestParts, Switch, Switched,
    UpstreamError,
};

/// Why a call ended otherwise than with a whole answer.
pub(super) enum Failure {
    /// No answer has begun: the caller is told why there is none.
    Refused(Outcome, Refusal),
    /// The answer has begun: the caller sees it break off.
    Broken(Outcome, ResetCode),
    /// Nobody is there any more to be told.
    Gone(StreamError),
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::Gone(error)
    }
}

/// Serves one call and writes its line in the audit log.
pub(super) async fn run(serving: Arc<Serving>, head: CallHead, stream: Stream, node: Arc<str>) {
    let (mut call, message) = Call::of(head);
    let verified = match &serving.callers {
        None => Ok(()),
        // From here on the caller is who its token says, for policy and log alike.
        Some(callers) => callers
            .verify(&call, &message)
            .await
            .map(|principal| call.caller = principal),
    };
    let mut record = Record::open(&call, &serving.accounts, &node, &message.headers);
    let (mut send, recv) = stream.split();
    let exchange = Exchange {
        serving: &serving,
        call: &call,
        node: &node,
    };
    let carried = match verified {
        Ok(()) => exchange.carry(message, &mut send, recv, &mut record).await,
        Err(unverified) => Err(exchange.unverified(&unverified, &mut record)),
    };
    match carried {
        Ok(()) => record.outcome = Outcome::Answered,
        Err(Failure::Refused(outcome, refusal)) => {
            record.outcome = outcome;
            record.code = Some(refusal.code);
            record.status = if refusal.soap {
                500
            } else {
                refusal.code.status()
            };
            record.reason.get_or_insert_with(|| refusal.detail.clone());
            refuse(refusal, &mut send).await;
        }
        Err(Failure::Broken(outcome, code)) => {
            record.outcome = outcome;
            send.reset(code);
        }
        Err(Failure::Gone(error)) => {
            record.outcome = match error {
                StreamError::SessionLost => Outcome::SessionLost,
                _ => Outcome::CallerGone,
            };
            record.reason.get_or_insert_with(|| error.to_string());
        }
    }
}

async fn refuse(refusal: Refusal, send: &mut SendStream) {
    let told = send
        .send_head(&Head::Refusal(refusal))
        .await
        .and_then(|()| send.finish());
    if let Err(error) = told {
        tracing::debug!(%error, "nobody is there to be told of a refusal");
    }
}

/// What every step of a call looks at.
pub(super) struct Exchange<'c> {
    pub(super) serving: &'c Serving,
    pub(super) call: &'c Call,
    pub(super) node: &'c str,
}

impl Exchange<'_> {
    async fn carry(
        &self,
        mut message: Message,
        send: &mut SendStream,
        mut recv: RecvStream,
        record: &mut Record<'_>,
    ) -> Result<(), Failure> {
        let call = self.call;
        let suspect = |bad: BadHead| self.bad_head(bad);
        let endpoint = self.serving.endpoints.get(&call.endpoint);
        let endpoint = endpoint.ok_or(BadHead::Endpoint).map_err(suspect)?;
        send.set_priority(endpoint.priority);
        if call.mode != Mode::Http {
            return self.pass(endpoint, send, &mut recv, record).await;
        }
        if !endpoint.serves_http {
            return Err(suspect(BadHead::Mode));
        }
        call.check(&message).map_err(suspect)?;
        let target = call.canonical(endpoint.paths).map_err(suspect)?;
        if !self.serving.accounts.audit.admits() {
            return Err(unaudited());
        }
        let _slot = endpoint.slots.try_acquire().map_err(|_| overloaded())?;

        // From here on a new policy is noticed: what follows is decided on the current one, and
        // asked again by every later one.
        let mut policies = self.serving.policy.clone();
        let look = call.look(&policies.borrow().policy, &target, message.length);
        let inspection = match look {
            Look::No => Inspection::none(message.length),
            look => {
                if message.headers.remove(EXPECT).is_some() {
                    // The caller waits with what is to be looked at.
                    go_on(send).await?;
                }
                self.inspect(look, endpoint, &message, &mut recv, send)
                    .await?
            }
        };
        record.note_soap(inspection.fact());
        let facts = call.facts(&target, inspection.fact());
        let policy = policies.borrow_and_update().clone();
        let decided = decide(&policy, &facts, message.length, record);
        let permit = decided.map_err(|failure| soap_problem(failure, &inspection, record))?;
        let mut withdrawn = pin!(withdrawn(policies, facts, &call.caller));

        let names = &self.serving.names;
        let translation = names.for_call(&call.endpoint, &call.caller.tenant, &message.authority);
        let mut headers = message.headers;
        if let Some(translation) = &translation {
            translation.request(&mut headers);
        }
        let parts = RequestParts {
            method: call.method.clone(),
            target: call.target.clone(),
            headers,
            authority: message.authority,
            source: call.source,
            length: message.length,
        };
        let upstream = &endpoint.upstream;
        // Nothing but the head goes to an upstream that has yet to switch.
        let (body, recv) = match call.upgrade {
            None => {
                let limit = permit.max_body();
                (
                    self.body(recv, &inspection, message.length, limit, record),
                    None,
                )
            }
            Some(_) => (RequestBody::empty(), Some(recv)),
        };
        let request = upstream.request(parts, body);
        let mut request = request.map_err(|error| suspect(error.into()))?;
        let interims = Interims::default();
        request.extensions_mut().insert(interims.clone());
        let progress = record.request.clone();
        let answering = async {
            match &call.upgrade {
                None => {
                    let answer = upstream.send(permit, request, progress.as_deref()).await?;
                    Ok(Switch::Refused(answer))
                }
                Some(protocol) => upstream.switch(permit, request, protocol).await,
            }
        };
        record.on_sent();
        let mut answering = pin!(answering);
        let answering = poll_fn(|cx| {
            let answer = answering.as_mut().poll(cx);
            for interim in interims.take() {
                // Sent without waiting: heads have room of their own.
                let sent = send.send_head(&Head::Interim(interim)).now_or_never();
                if let Some(Err(error)) = sent {
                    return Poll::Ready(Err(error));
                }
            }
            match answer {
                Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                Poll::Pending => send.poll_stopped(cx).map(Err),
            }
        });
        let answer = tokio::select! {
            biased;
            Withdrawn { refusal, reason } = &mut withdrawn => {
                record.reason = Some(reason.to_owned());
                return Err(Failure::Refused(Outcome::Withdrawn, refusal));
            }
            answer = answering => answer?,
        };
        let idle = upstream.timeouts().idle.0;
        let Answer { mut head, body } = match (answer, recv) {
            (Err(error), _) => return Err(self.no_answer(&error, record)),
            (Ok(Switch::Switched(mut head, io)), Some(mut recv)) => {
                if let Some(translation) = &translation {
                    translation.answer(&mut head.headers);
                }
                self.send_head(head, send, record).await?;
                return tokio::select! {
                    biased;
                    Withdrawn { reason, .. } = &mut withdrawn => {
                        record.reason = Some(reason.to_owned());
                        Err(Failure::Broken(Outcome::Withdrawn, ResetCode::Withdrawn))
                    }
                    spliced = self.splice(io, send, &mut recv, idle, record) => spliced,
                };
            }
            (Ok(Switch::Switched(..)), None) => {
                let error = UpstreamError::Answer(BadAnswer::Switched);
                return Err(self.no_answer(&error, record));
            }
            (Ok(Switch::Refused(answer)), recv) => {
                if let Some(mut recv) = recv {
                    recv.stop(ResetCode::NotNeeded);
                }
                answer
            }
        };
        if let Some(translation) = &translation {
            translation.answer(&mut head.headers);
        }
        self.send_head(head, send, record).await?;
        let pumped = tokio::select! {
            biased;
            Withdrawn { reason, .. } = &mut withdrawn => {
                record.reason = Some(reason.to_owned());
                return Err(Failure::Broken(Outcome::Withdrawn, ResetCode::Withdrawn));
            }
            pumped = pump(body, send, idle, &mut record.answered) => pumped,
        };
        pumped.map_err(|error| match error {
            PumpError::Stream(error) => Failure::Gone(error),
            PumpError::Upstream(error) => self.broken_answer(&error, record),
        })
    }

    async fn send_head(
        &self,
        head: ResponseHead,
        send: &mut SendStream,
        record: &mut Record<'_>,
    ) -> Result<(), Failure> {
        record.on_answer(head.status.as_u16());
        send.send_head(&Head::Response(head))
            .await
            .map_err(|error| match error {
                StreamError::HeadTooLarge => {
                    self.no_answer(&UpstreamError::Answer(BadAnswer::Head), record)
                }
                gone => gone.into(),
            })
    }

    /// Carries bytes both ways after a 101.
    async fn splice(
        &self,
        io: Box<Switched>,
        send: &mut SendStream,
        recv: &mut RecvStream,
        idle: Duration,
        record: &mut Record<'_>,
    ) -> Result<(), Failure> {
        let progress = Progress::new();
        record.request = Some(progress.clone());
        let spliced = splice(send, recv, io, idle, |moved| match moved {
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

    /// Reads the operation of a SOAP call, with the patience that the endpoint has for bodies.
    async fn inspect(
        &self,
        look: Look,
        endpoint: &ServedEndpoint,
        message: &Message,
        recv: &mut RecvStream,
        send: &mut SendStream,
    ) -> Result<Inspection, Failure> {
        let limit = endpoint.upstream.timeouts().idle.0;
        tokio::select! {
            biased;
            why = send.stopped() => Err(why.into()),
            read = Inspection::read(look, recv, message.length, &message.headers) => match read {
                Ok(inspection) => Ok(inspection),
                Err(InspectError::Stream(error)) => Err(error.into()),
                Err(InspectError::Long) => {
                    Err(bad_request("The request's body is longer than announced.".into()))
                }
            },
            () = tokio::time::sleep(limit) => {
                Err(bad_request("The request's body did not come in time.".into()))
            }
        }
    }

    /// The body to forward; its progress is in the record.
    fn body(
        &self,
        mut recv: RecvStream,
        inspection: &Inspection,
        length: BodyLength,
        limit: Option<u64>,
        record: &mut Record<'_>,
    ) -> RequestBody {
        if matches!(length, BodyLength::Empty | BodyLength::Exact(0)) {
            // Mostly the end came with the head; to take note of it spares the relay a STOP.
            if !matches!(recv.item().now_or_never(), Some(Ok(Item::Finished))) {
                recv.stop(ResetCode::NotNeeded);
            }
            return RequestBody::empty();
        }
        let progress = Progress::new();
        record.request = Some(progress.clone());
        let rest = RecvBody::new(recv, inspection.rest);
        RequestBody::new(inspection.bytes.clone(), rest, limit, progress)
    }

    /// The caller is not who the relay says, as far as can be known here.
    fn unverified(&self, unverified: &Unverified, record: &mut Record<'_>) -> Failure {
        let reason = unverified.as_str();
        self.serving.accounts.metrics.caller_unverified(reason);
        record.reason = Some(format!("{reason}: {unverified}"));
        if unverified.is_suspicious() {
            record.security = Some("caller-unverified");
            tracing::warn!(
                target: "culvert::security",
                call = %self.call.id,
                relay = self.node,
                tenant = self.call.caller.tenant.as_str(),
                caller = %Printable(self.call.caller.subject.as_bytes()),
                endpoint = self.call.endpoint.as_str(),
                mode = self.call.mode.as_str(),
                reason,
                "the relay sent a call whose caller it could not prove: {unverified}"
            );
        }
        Failure::Refused(Outcome::Refused, unverified.refusal())
    }

    pub(super) fn bad_head(&self, bad: BadHead) -> Failure {
        if bad.is_suspicious() {
            tracing::warn!(
                target: "culvert::security",
                call = %self.call.id,
                relay = self.node,
                tenant = self.call.caller.tenant.as_str(),
                caller = %Printable(self.call.caller.subject.as_bytes()),
                endpoint = self.call.endpoint.as_str(),
                method = self.call.method.as_str(),
                target = %Printable(&self.call.target[..self.call.target.len().min(512)]),
                reason = bad.reason(),
                "the relay sent a call that no relay in good order sends: {bad}"
            );
        }
        Failure::Refused(Outcome::Refused, bad.refusal())
    }

    pub(super) fn no_answer(&self, error: &UpstreamError, record: &mut Record<'_>) -> Failure {
        record.reason = Some(error.to_string());
        if let Some(error) = error.stream_error() {
            return Failure::Gone(error);
        }
        tracing::warn!(
            call = %self.call.id,
            endpoint = self.call.endpoint.as_str(),
            "no answer from the upstream: {error}"
        );
        let refusal = Refusal {
            code: error.code(),
            detail: error.detail().into_owned(),
            rule: None,
            soap: false,
        };
        Failure::Refused(Outcome::Failed, refusal)
    }

    fn broken_answer(&self, error: &UpstreamError, record: &mut Record<'_>) -> Failure {
        record.reason = Some(error.to_string());
        tracing::warn!(
            call = %self.call.id,
            endpoint = self.call.endpoint.as_str(),
            "the upstream's answer broke off: {error}"
        );
        let code = match error {
            UpstreamError::Timeout { .. } => ResetCode::Timeout,
            _ => ResetCode::Truncated,
        };
        Failure::Broken(Outcome::Truncated, code)
    }
}

/// Lets a caller that waits with its body send it.
async fn go_on(send: &mut SendStream) -> Result<(), StreamError> {
    let head = ResponseHead {
        status: StatusCode::CONTINUE,
        headers: HeaderMap::new(),
        body: BodyLength::Empty,
    };
    send.send_head(&Head::Interim(head)).await
}

/// Asks the policy, and notes what it says.
pub(super) fn decide(
    policy: &ActivePolicy,
    facts: &CallFacts<'_>,
    length: BodyLength,
    record: &mut Record<'_>,
) -> Result<Permit, Failure> {
    let decision = policy.policy.decide(facts);
    record.note_shadow(decision.shadow());
    let refused = |refusal| Failure::Refused(Outcome::Refused, refusal);
    match decision {
        Decision::Deny(denial) => {
            record.decision = "deny";
            record.rule = denial.rule().map(Into::into);
            record.reason = Some(denial.reason().as_str().to_owned());
            Err(refused(denied(&denial, policy, facts)))
        }
        Decision::Allow(permit) => {
            record.decision = "allow";
            record.rule = Some(permit.rule().clone());
            let too_long = match (length, permit.max_body()) {
                (BodyLength::Exact(length), Some(limit)) => length > limit,
                _ => false,
            };
            let (code, detail) = if too_long {
                (
                    ErrorCode::PolicyDenied,
                    "The request's body is longer than the policy allows.",
                )
            } else if !policy.count(&permit) {
                (
                    ErrorCode::QuotaExceeded,
                    "The rate that the policy allows is used up; try later.",
                )
            } else {
                return Ok(permit);
            };
            record.reason = Some(code.as_str().to_owned());
            let detail = detail.to_owned();
            Err(refused(Refusal {
                code,
                detail,
                rule: None,
                soap: is_soap(facts),
            }))
        }
    }
}

/// Adds to a refusal why no operation was found, where that is so.
fn soap_problem(mut failure: Failure, inspection: &Inspection, record: &mut Record<'_>) -> Failure {
    if let (Failure::Refused(_, refusal), Some(problem)) = (&mut failure, inspection.problem()) {
        refusal.detail = format!("{} ({problem})", refusal.detail);
        record.reason = Some(format!("soap-undetermined: {problem}"));
    }
    failure
}

/// What the caller is told of a denial.
pub(super) fn denied(denial: &Denial<'_>, policy: &ActivePolicy, facts: &CallFacts<'_>) -> Refusal {
    let detail = match denial.reason() {
        DenyReason::Rule => "A rule of the data centre's policy denies this call.",
        DenyReason::NoRule => {
            "No rule of the data centre's policy allows this call; ask its operator for one."
        }
        DenyReason::SoapUndetermined => {
            "The SOAP operation could not be read from the beginning of the body, so that no rule \
             can allow this call."
        }
        DenyReason::NoTarget => "The call has no target to decide on.",
    };
    Refusal {
        code: ErrorCode::PolicyDenied,
        detail: detail.to_owned(),
        rule: denial
            .rule()
            .filter(|_| policy.reveal_rule)
            .map(ToOwned::to_owned),
        soap: is_soap(facts),
    }
}

pub(super) fn is_soap(facts: &CallFacts<'_>) -> bool {
    matches!(facts.soap, Soap::Operation { .. } | Soap::Undetermined)
}

pub(super) fn unaudited() -> Failure {
    let detail = "The agent cannot write its audit log and is set to make no call without it; \
                  try again later, and tell its operator.";
    Failure::Refused(
        Outcome::Refused,
        Refusal {
            code: ErrorCode::Overloaded,
            detail: detail.into(),
            rule: None,
            soap: false,
        },
    )
}

pub(super) fn overloaded() -> Failure {
    let detail = "The endpoint has as many calls in progress as it may; try again later.";
    Failure::Refused(
        Outcome::Refused,
        Refusal {
            code: ErrorCode::Overloaded,
            detail: detail.into(),
            rule: None,
            soap: false,
        },
    )
}

fn bad_request(detail: String) -> Failure {
    Failure::Refused(
        Outcome::Refused,
        Refusal {
            code: ErrorCode::BadRequest,
            detail,
            rule: None,
            soap: false,
        },
    )
}
