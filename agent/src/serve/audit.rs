//! The record of one call: what the audit log says of it, however it ends.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use culvert_policy::{ShadowHit, Soap};
use culvert_proto::code::ErrorCode;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::principal::Principal;
use culvert_proto::trace::TraceContext;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::accounts::{Accounts, RefusedCall};
use super::call::Call;
use crate::audit::{CallLine, Time, mask_target};
use crate::upstream::Progress;

/// Most bytes of the name or the namespace of a SOAP call's operation that the log has: those of vSphere have
/// fewer than 60.
const MAX_WORD: usize = 256;

/// Why a call ended in a panic, which the agent's log has with its place.
const DEFECT: &str = "a defect of the agent: see its log";

/// Most bytes of a target that [`shown_target`] shows.
const MAX_SHOWN: usize = 512;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole answer was passed on.
    Answered,
    /// The agent refused the call; the upstream saw nothing of it.
    Refused,
    /// The upstream gave no answer.
    Failed,
    /// The upstream's answer broke off; the caller sees that it did.
    Truncated,
    /// The call was allowed and is no longer: a new policy forbids it, or the caller's
    /// credential has expired.
    Withdrawn,
    /// The caller went away, or its relay gave the call up.
    CallerGone,
    /// The tunnel to the relay was lost.
    SessionLost,
    /// The agent itself ended.
    Aborted,
    /// A defect of the agent broke the call off.
    Defect,
}

impl Outcome {
    /// Every outcome, in the order of the enum.
    pub(crate) const ALL: [Self; 9] = [
        Self::Answered,
        Self::Refused,
        Self::Failed,
        Self::Truncated,
        Self::Withdrawn,
        Self::CallerGone,
        Self::SessionLost,
        Self::Aborted,
        Self::Defect,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Truncated => "truncated",
            Self::Withdrawn => "withdrawn",
            Self::CallerGone => "caller-gone",
            Self::SessionLost => "session-lost",
            Self::Aborted => "aborted",
            Self::Defect => "defect",
        }
    }
}

/// What becomes of a call; dropped, it writes the call's one line.
#[derive(Debug)]
pub(crate) struct Record<'c> {
    call: &'c Call,
    accounts: &'c Accounts,
    /// The relay node that the call came through.
    relay: &'c str,
    /// The id of the trace that the call belongs to.
    trace: Option<String>,
    started: Instant,
    /// `allow` or `deny`; `none` where the policy was not asked.
    pub(crate) decision: &'static str,
    pub(crate) rule: Option<Arc<str>>,
    /// The rule that allows it where it leads besides.
    pub(crate) destination_rule: Option<Arc<str>>,
    /// Rules that are not enforced and match.
    shadow: Vec<Arc<str>>,
    /// Where it leads besides, its secrets masked.
    destination: Option<String>,
    /// Namespace and name of a SOAP call's operation.
    soap: Option<(String, String)>,
    /// A bounded word or the error: why the call was refused or failed.
    pub(crate) reason: Option<String>,
    /// What no relay in good order would have sent, as a word.
    pub(crate) security: Option<&'static str>,
    /// What the caller was told.
    pub(crate) code: Option<ErrorCode>,
    /// What the caller saw; 0 where it saw nothing.
    pub(crate) status: u16,
    /// What the upstream answered.
    upstream_status: Option<u16>,
    /// When the request went out, and how long its answer's head took.
    sent: Option<Instant>,
    upstream: Option<Duration>,
    pub(crate) request: Option<Arc<Progress>>,
    /// Bytes of the answer's body that were passed on.
    pub(crate) answered: u64,
    pub(crate) outcome: Outcome,
}

impl<'c> Record<'c> {
    /// Of a call that came through `relay` with these headers.
    pub(crate) fn open(
        call: &'c Call,
        accounts: &'c Accounts,
        relay: &'c str,
        headers: &HeaderMap,
    ) -> Self {
        accounts.metrics.calls_in_flight.inc();
        Self {
            call,
            accounts,
            relay,
            trace: trace_id(headers),
            started: Instant::now(),
            decision: "none",
            rule: None,
            destination_rule: None,
            shadow: Vec::new(),
            destination: None,
            soap: None,
            reason: None,
            security: None,
            code: None,
            status: 0,
            upstream_status: None,
            sent: None,
            upstream: None,
            request: None,
            answered: 0,
            outcome: Outcome::Aborted,
        }
    }

    /// The caller is verified: from here on it is about this call, whose caller that is.
    pub(crate) fn on_verified(&mut self, call: &'c Call) {
        self.call = call;
    }

    /// Who calls.
    pub(super) fn caller(&self) -> &Principal {
        &self.call.caller
    }

    /// Notes the rules that would have decided if they were enforced.
    pub(crate) fn note_shadow(&mut self, hits: &[ShadowHit]) {
        for hit in hits {
            self.accounts.metrics.shadow_hit(&hit.rule);
        }
        self.shadow = hits.iter().map(|hit| hit.rule.clone()).collect();
    }

    /// Notes where the call leads besides: the field as it is decided on.
    pub(crate) fn note_destination(&mut self, value: &HeaderValue) {
        let text = Printable(value.as_bytes()).text();
        self.destination = Some(mask_target(&text).into_owned());
    }

    /// Notes the operation of a SOAP call.
    pub(crate) fn note_soap(&mut self, soap: Soap<'_>) {
        if let Soap::Operation { ns, name } = soap {
            // They are the caller's words, in a body of many KiB.
            let shown = |word: &str| {
                Printable(&word.as_bytes()[..word.len().min(MAX_WORD)])
                    .text()
                    .into_owned()
            };
            self.soap = Some((shown(ns), shown(name)));
        }
    }

    /// The request goes out.
    pub(crate) fn on_sent(&mut self) {
        self.sent = Some(Instant::now());
    }

    /// The upstream has answered; the caller is sent the same status.
    pub(crate) fn on_answer(&mut self, status: u16) {
        self.upstream = self.sent.map(|sent| sent.elapsed());
        self.upstream_status = Some(status);
        self.status = status;
    }
}

/// Bytes of a peer as one line of printable ASCII.
pub(crate) struct Printable<'a>(pub(crate) &'a [u8]);

impl<'a> Printable<'a> {
    /// As text; what is printable already is not copied.
    pub(crate) fn text(&self) -> Cow<'a, str> {
        let plain = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'\\';
        match std::str::from_utf8(self.0) {
            Ok(text) if self.0.iter().all(plain) => Cow::Borrowed(text),
            _ => Cow::Owned(self.to_string()),
        }
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.escape_ascii(), f)
    }
}

/// A call's target for the log: one line, its secrets masked, the end of a long one left out.
pub(crate) fn shown_target(target: &[u8]) -> String {
    let target = Printable(target).to_string();
    let mut shown = mask_target(&target).into_owned();
    // It is ASCII, which may be cut anywhere; and what is cut was masked before.
    shown.truncate(MAX_SHOWN);
    shown
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if self.outcome == Outcome::Aborted && std::thread::panicking() {
            self.outcome = Outcome::Defect;
            self.reason = Some(DEFECT.to_owned());
        }
        let Self { call, accounts, .. } = *self;
        let metrics = &accounts.metrics;
        metrics.calls_in_flight.dec();
        metrics.call_finished(&call.endpoint, self.decision, self.outcome);
        let id = call.id.to_string();
        let within = call.within.map(|connect| connect.to_string());
        let caller = Printable(call.caller.subject.as_bytes()).text();
        let method = Printable(call.method.as_str().as_bytes()).text();
        let target = Printable(&call.target).text();
        let target = mask_target(&target);
        let upgrade = call.upgrade.as_ref();
        let upgrade = upgrade.map(|protocol| Printable(protocol.as_bytes()).text());
        let (soap_ns, soap_op) = match &self.soap {
            Some((ns, name)) => (Some(&**ns), Some(&**name)),
            None => (None, None),
        };
        let line = CallLine {
            time: Time::now(),
            event: "call",
            call: &id,
            within: within.as_deref(),
            relay: self.relay,
            tenant: call.caller.tenant.as_str(),
            caller: &caller,
            source: call.source,
            endpoint: call.endpoint.as_str(),
            mode: call.mode.as_str(),
            name: call.name.as_ref().map(ConnectName::as_str),
            method: &method,
            target: &target,
            destination: self.destination.as_deref(),
            upgrade: upgrade.as_deref(),
            soap_op,
            soap_ns,
            decision: self.decision,
            rule: self.rule.as_deref(),
            destination_rule: self.destination_rule.as_deref(),
            shadow: self.shadow.iter().map(|id| &**id).collect(),
            status: self.status,
            upstream_status: self.upstream_status,
            bytes_in: self.request.as_ref().map_or(0, |progress| progress.bytes()),
            bytes_out: self.answered,
            duration_ms: millis(self.started.elapsed()),
            upstream_ms: self.upstream.map(millis),
            outcome: self.outcome.as_str(),
            code: self.code.map(ErrorCode::as_str),
            reason: self.reason.as_deref(),
            security: self.security,
            trace: self.trace.as_deref(),
        };
        accounts
            .audit
            .write(&line, self.outcome == Outcome::Refused);
        if let Some(code) = self.code {
            accounts.remember(RefusedCall::of(&line, code));
        }
    }
}

impl RefusedCall {
    fn of(line: &CallLine<'_>, code: ErrorCode) -> Self {
        Self {
            time: line.time.to_string(),
            call: line.call.to_owned(),
            caller: line.caller.to_owned(),
            endpoint: line.endpoint.to_owned(),
            method: line.method.to_owned(),
            target: line.target.to_owned(),
            soap_op: line.soap_op.map(ToOwned::to_owned),
            code: code.as_str().to_owned(),
            rule: line.rule.map(ToOwned::to_owned),
            reason: line.reason.map(ToOwned::to_owned),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The trace that the relay names in `traceparent`.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let context = TraceContext::parse(headers.get("traceparent")?.as_bytes())?;
    Some(context.trace.to_string())
}
