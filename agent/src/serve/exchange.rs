//! One call of HTTP, from its head to the end of its answer.
//!
//! The order is that of what is known when something fails: the head alone, the endpoint, the
//! canonical target, the operation, the decision; only then the upstream hears of the call.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use culvert_policy::Look;
use culvert_proto::code::ResetCode;
use culvert_proto::head::{BodyLength, CallHead, Head, Mode, Refusal, ResponseHead};
use culvert_proto::mux::StreamError;
use culvert_session::Stream;
use futures_util::FutureExt;
use http::header::EXPECT;
use http::{HeaderMap, StatusCode};

use super::audit::{Outcome, Printable, Record, shown_target};
use super::call::{BadHead, Call, Message};
use super::caller::{FromCaller, ToCaller};
use super::callers::Unverified;
use super::decide::{MAX_BODY, decide, soap_problem};
use super::failure::Failure;
use super::leash::{Withdrawn, withdrawn};
use super::pump::{PumpError, pump};
use super::soap::Inspection;
use super::{ServedEndpoint, Serving, destination};
use crate::upstream::{
    Answer, BadAnswer, CallerBody, Interims, Progress, RequestBody, RequestBodyError, RequestParts,
    Switch, UpstreamError,
};

/// Serves what came on a stream of the tunnel, and writes its line in the audit log.
pub(super) async fn run(serving: &Arc<Serving>, head: CallHead, stream: Stream, node: &Arc<str>) {
    let (claimed, message) = Call::of(head);
    let verified: Box<Call>;
    let mut record = Record::open(&claimed, &serving.accounts, node, &message.headers);
    let mut exchange = Exchange {
        serving,
        call: &claimed,
        node,
    };
    let (mut send, mut recv) = stream.split();
    if let Some(callers) = &serving.callers {
        match Box::pin(callers.verify(&claimed, &message)).await {
            // From here on the caller is who its token says, for policy and log alike.
            Ok(caller) => {
                let claimed = claimed.clone();
                verified = Box::new(Call { caller, ..claimed });
                record.on_verified(&verified);
                exchange.call = &verified;
            }
            Err(unverified) => {
                let failure = exchange.unverified(&unverified, &mut record);
                return record.settle(Err(failure)).tell_relay(&mut send).await;
            }
        }
    }
    match claimed.mode {
        Mode::Http => {
            let (mut to, from) = (ToCaller::Tunnel(send), FromCaller::Tunnel(recv));
            let ended = exchange.carry(message, &mut to, from, &mut record).await;
            record.settle(ended).tell(&mut to).await;
        }
        Mode::Connect | Mode::Tcp => {
            let passing = exchange.pass(&mut send, &mut recv, &mut record);
            let ended = Box::pin(passing).await;
            record.settle(ended).tell_relay(&mut send).await;
        }
        Mode::Terminate => match exchange.admit(&mut send, &mut record).await {
            Ok(admitted) => {
                let stream = Stream { send, recv };
                let ending = exchange.host(admitted, stream, &mut record);
                Box::pin(ending).await;
            }
            Err(failure) => record.settle(Err(failure)).tell_relay(&mut send).await,
        },
    }
}

/// Serves a call of HTTP that came within a connection whose TLS ends here, and writes its line in
/// the audit log.
pub(crate) async fn run_inside(
    serving: Arc<Serving>,
    (call, message): (Call, Message),
    (mut to, from): (ToCaller, FromCaller),
    node: Arc<str>,
) {
    let mut record = Record::open(&call, &serving.accounts, &node, &message.headers);
    let exchange = Exchange {
        serving: &serving,
        call: &call,
        node: &node,
    };
    let ended = exchange.carry(message, &mut to, from, &mut record).await;
    record.settle(ended).tell(&mut to).await;
}

/// Writes the audit line of a request within such a connection that is none: `why` is what its
/// caller is told.
pub(crate) fn note_refused(serving: &Serving, call: &Call, why: Refusal, node: &str) {
    let mut record = Record::open(call, &serving.accounts, node, &HeaderMap::new());
    let _ = record.settle(Err(Failure::Refused(Outcome::Refused, why)));
}

/// What every step of a call looks at.
pub(super) struct Exchange<'c> {
    pub(super) serving: &'c Arc<Serving>,
    pub(super) call: &'c Call,
    pub(super) node: &'c Arc<str>,
}

impl<'c> Exchange<'c> {
    /// The endpoint that is called.
    pub(super) fn endpoint(&self) -> Result<&'c ServedEndpoint, Failure> {
        let found = self.serving.endpoints.get(&self.call.endpoint);
        found.ok_or_else(|| self.bad_head(BadHead::Endpoint))
    }

    async fn carry(
        &self,
        mut message: Message,
        to: &mut ToCaller,
        from: FromCaller,
        record: &mut Record<'_>,
    ) -> Result<(), Failure> {
        let call = self.call;
        let suspect = |bad: BadHead| self.bad_head(bad);
        let endpoint = self.endpoint()?;
        to.set_priority(endpoint.priority);
        if !endpoint.serves(call.mode) {
            return Err(suspect(BadHead::HostMode));
        }
        call.check(&message).map_err(suspect)?;
        let target = call.canonical(endpoint.paths).map_err(suspect)?;
        if !self.serving.accounts.audit.admits() {
            return Err(Failure::unaudited());
        }
        let _slot = endpoint
            .slots
            .try_acquire()
            .map_err(|_| Failure::overloaded())?;
        // Nothing but the head goes to an upstream that has yet to switch.
        let (mut body, from) = match call.upgrade {
            None => (from.into_body(message.length), None),
            Some(_) => (CallerBody::Empty, Some(from)),
        };

        // From here on a new policy is noticed: what follows is decided on the current one, and
        // asked again by every later one.
        let mut policies = self.serving.policy.clone();
        let look = call.look(&policies.borrow().policy, &target, message.length);
        let inspection = match look {
            Look::No => Inspection::none(),
            look => {
                if message.headers.remove(EXPECT).is_some() {
                    // The caller waits with what is to be looked at.
                    go_on(to).await?;
                }
                Box::pin(self.inspect(look, endpoint, &message.headers, &mut body, to)).await?
            }
        };
        record.note_soap(inspection.fact());
        let (method, headers) = (call.method.as_str(), &mut message.headers);
        let destination = destination::take(method, endpoint.paths, headers, record)?;
        let facts = call.facts(&target, destination.as_ref(), inspection.fact());
        let policy = policies.borrow_and_update().clone();
        let decided = decide(&policy, &facts, message.length, record);
        let permit = decided.map_err(|failure| soap_problem(failure, &inspection, record))?;
        let mut withdrawn = pin!(withdrawn(policies, facts, &call.caller));

        let names = &self.serving.names;
        let mut translation = names.for_call(call, &message.authority);
        let mut headers = message.headers;
        if let Some(translation) = &mut translation {
            translation.request(&mut headers);
        }
        let parts = RequestParts {
            method: call.method.clone(),
            target: call.target.clone(),
            headers,
            authority: message.authority,
            keeps_name: call.mode == Mode::Terminate,
            source: call.source,
            length: message.length,
        };
        let upstream = &endpoint.upstream;
        let body = match body {
            CallerBody::Empty => RequestBody::empty(),
            body => {
                let progress = Progress::new();
                record.request = Some(progress.clone());
                RequestBody::new(inspection.bytes.clone(), body, permit.max_body(), progress)
            }
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
                Some(protocol) => Box::pin(upstream.switch(permit, request, protocol)).await,
            }
        };
        record.on_sent();
        let mut answering = pin!(answering);
        let answering = poll_fn(|cx| {
            let answer = answering.as_mut().poll(cx);
            for interim in interims.take() {
                // Sent without waiting: heads have room of their own.
                let sent = to.send_head(Head::Interim(interim)).now_or_never();
                match sent {
                    // The call can do without it.
                    None | Some(Ok(()) | Err(StreamError::HeadTooLarge)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                }
            }
            match answer {
                Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                Poll::Pending => to.poll_stopped(cx).map(Err),
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
        let Answer { mut head, body } = match (answer, from) {
            (Err(error), _) => return Err(self.no_answer(&error, record)),
            (Ok(Switch::Switched(mut head, io)), Some(from)) => {
                if let Some(translation) = &translation {
                    translation.answer(&mut head.headers);
                }
                self.send_head(head, to, record).await?;
                return tokio::select! {
                    biased;
                    Withdrawn { reason, .. } = &mut withdrawn => {
                        record.reason = Some(reason.to_owned());
                        Err(Failure::Broken(Outcome::Withdrawn, ResetCode::Withdrawn))
                    }
                    spliced = Box::pin(super::switched::carry(io, to, from, idle, record)) => spliced,
                };
            }
            (Ok(Switch::Switched(..)), None) => {
                let error = UpstreamError::Answer(BadAnswer::Switched);
                return Err(self.no_answer(&error, record));
            }
            (Ok(Switch::Refused(answer)), from) => {
                if let Some(mut from) = from {
                    from.stop();
                }
                answer
            }
        };
        if let Some(translation) = &translation {
            translation.answer(&mut head.headers);
        }
        self.send_head(head, to, record).await?;
        let pumped = tokio::select! {
            biased;
            Withdrawn { reason, .. } = &mut withdrawn => {
                record.reason = Some(reason.to_owned());
                return Err(Failure::Broken(Outcome::Withdrawn, ResetCode::Withdrawn));
            }
            pumped = pump(body, to, idle, progress.as_deref(), &mut record.answered) => pumped,
        };
        pumped.map_err(|error| match error {
            PumpError::Stream(error) => Failure::Gone(error),
            PumpError::Upstream(error) => self.broken_answer(&error, record),
        })
    }

    async fn send_head(
        &self,
        head: ResponseHead,
        to: &mut ToCaller,
        record: &mut Record<'_>,
    ) -> Result<(), Failure> {
        record.on_answer(head.status.as_u16());
        to.send_head(Head::Response(head))
            .await
            .map_err(|error| match error {
                StreamError::HeadTooLarge => {
                    self.no_answer(&UpstreamError::Answer(BadAnswer::Head), record)
                }
                gone => gone.into(),
            })
    }

    /// Reads the operation of a SOAP call, with the patience that the endpoint has for bodies.
    async fn inspect(
        &self,
        look: Look,
        endpoint: &ServedEndpoint,
        headers: &HeaderMap,
        body: &mut CallerBody,
        to: &mut ToCaller,
    ) -> Result<Inspection, Failure> {
        let limit = endpoint.upstream.timeouts().idle.0;
        let unread = |error: RequestBodyError| match error.stream_error() {
            Some(gone) => Failure::Gone(gone),
            None => Failure::bad_request(format!("The request cannot be read: {error}.")),
        };
        tokio::select! {
            biased;
            why = to.stopped() => Err(why.into()),
            read = Inspection::read(look, body, headers) => read.map_err(unread),
            () = tokio::time::sleep(limit) => {
                Err(Failure::bad_request("The request's body did not come in time."))
            }
        }
    }

    /// The caller is not who the relay says, as far as can be known here.
    fn unverified(&self, unverified: &Unverified, record: &mut Record<'_>) -> Failure {
        let reason = unverified.as_str();
        self.serving.accounts.metrics.caller_unverified(reason);
        record.reason = Some(format!("{reason}: {unverified}"));
        if unverified.is_suspicious() {
            record.security = Some("caller-unverified");
        }
        if unverified.is_suspicious()
            && let Some(left_out) = self.serving.accounts.alarms.raise()
        {
            tracing::warn!(
                target: "culvert::security",
                call = %self.call.id,
                relay = &**self.node,
                tenant = self.call.caller.tenant.as_str(),
                caller = %Printable(self.call.caller.subject.as_bytes()),
                endpoint = self.call.endpoint.as_str(),
                mode = self.call.mode.as_str(),
                reason,
                left_out,
                "the relay sent a call whose caller it could not prove: {unverified}"
            );
        }
        Failure::Refused(Outcome::Refused, unverified.refusal())
    }

    pub(super) fn bad_head(&self, bad: BadHead) -> Failure {
        // What a caller's own request has wrong is no relay's doing.
        if bad.is_suspicious()
            && !self.call.is_inside()
            && let Some(left_out) = self.serving.accounts.alarms.raise()
        {
            tracing::warn!(
                target: "culvert::security",
                call = %self.call.id,
                relay = &**self.node,
                tenant = self.call.caller.tenant.as_str(),
                caller = %Printable(self.call.caller.subject.as_bytes()),
                endpoint = self.call.endpoint.as_str(),
                method = self.call.method.as_str(),
                target = %shown_target(&self.call.target),
                reason = bad.reason(),
                left_out,
                "the relay sent a call that no relay in good order sends: {bad}"
            );
        }
        Failure::Refused(Outcome::Refused, bad.refusal())
    }

    pub(super) fn no_answer(&self, error: &UpstreamError, record: &mut Record<'_>) -> Failure {
        let refusal = Refusal {
            code: error.code(),
            detail: error.detail().into_owned(),
            rule: None,
            soap: false,
        };
        if let UpstreamError::RequestBody(RequestBodyError::TooLong { .. }) = error {
            record.reason = Some(MAX_BODY.to_owned());
            return Failure::Refused(Outcome::Withdrawn, refusal);
        }
        record.reason = Some(error.to_string());
        if let Some(error) = error.stream_error() {
            return Failure::Gone(error);
        }
        tracing::warn!(
            call = %self.call.id,
            endpoint = self.call.endpoint.as_str(),
            "no answer from the upstream: {error}"
        );
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
async fn go_on(to: &mut ToCaller) -> Result<(), StreamError> {
    let head = ResponseHead {
        status: StatusCode::CONTINUE,
        phrase: None,
        headers: HeaderMap::new(),
        body: BodyLength::Empty,
    };
    to.send_head(Head::Interim(head)).await
}
