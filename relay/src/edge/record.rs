//! What remains of a call: one access line and the metrics, however it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use culvert_http::mask::mask_target;
use culvert_http::{Problem, Progress, Throttle, Traffic};
use culvert_identity::verify::VerifiedToken;
use culvert_process::log::ACCESS;
use culvert_proto::growth::Held;
use culvert_proto::head::{CallId, Mode};
use culvert_proto::trace::TraceId;
use http::{Method, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::info;

use super::connection::Connection;
use super::route::Endpoint;
use crate::metrics::{Metrics, Outcome};
use crate::tenants::CallSeat;

/// Why a call ended that a panic ended: the log has another line with what it was.
const DEFECT: &str = "a defect of this relay";

/// The record of one request. Dropped when it is over, it writes the access line, and counts it if it is
/// a call.
#[derive(Debug)]
pub(crate) struct CallRecord {
    pub(crate) call: CallId,
    /// The method; of a request that the guard refused, nobody knows it.
    pub(crate) method: Option<Method>,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) mode: Mode,
    /// The caller, once proven.
    pub(crate) caller: Option<Arc<VerifiedToken>>,
    /// The canonical target, once known.
    pub(crate) target: Bytes,
    /// The trace that it belongs to, once known.
    pub(crate) trace: Option<TraceId>,
    pub(crate) progress: Arc<Progress>,
    /// Its place among the calls that may be in progress.
    pub(crate) seat: Option<OwnedSemaphorePermit>,
    /// Its place among those of its tenant.
    pub(crate) live: Option<CallSeat>,
    /// What its tenant's memory has for its answer.
    pub(crate) held: Option<Held>,
    ending: Ending,
    /// Whether the metrics count it: an agent's request for a session is no call.
    is_call: bool,
    metrics: Arc<Metrics>,
    connection: Arc<Connection>,
    started: Instant,
}

#[derive(Debug)]
enum Ending {
    /// No answer yet.
    Open,
    Answering(StatusCode),
    Answered(StatusCode),
    CutShort(StatusCode, String),
    Refused(Box<Problem>),
    /// By a panic, perhaps after this status.
    Defect(Option<StatusCode>),
}

impl CallRecord {
    /// Begins a call: a request arrived on this connection.
    pub(crate) fn begin(
        metrics: Arc<Metrics>,
        connection: Arc<Connection>,
        method: Method,
        progress: Arc<Progress>,
    ) -> Self {
        metrics.call_started();
        Self {
            call: CallId(fastrand::u128(..).to_ne_bytes()),
            method: Some(method),
            endpoint: None,
            mode: Mode::Http,
            caller: None,
            target: Bytes::new(),
            trace: None,
            progress,
            seat: None,
            live: None,
            held: None,
            ending: Ending::Open,
            is_call: true,
            metrics,
            connection,
            started: Instant::now(),
        }
    }

    /// What goes on on the caller's connection.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.connection.traffic
    }

    /// Keeps one direction of the call to its tenant's rate.
    pub(crate) fn throttle(&self) -> Throttle {
        let live = self.live.as_ref();
        live.map_or_else(Throttle::default, |live| live.call.throttle())
    }

    /// It is an agent that asks for a session. What is refused of that has counts of its own.
    pub(crate) fn on_session_request(&mut self) {
        if std::mem::take(&mut self.is_call) {
            self.metrics.call_withdrawn();
        }
    }

    /// The relay answers in the upstream's place.
    pub(crate) fn on_refused(&mut self, problem: Problem) {
        self.ending = Ending::Refused(Box::new(problem));
    }

    /// The head of an answer is there. What the caller still sends, it sends beside the answer.
    pub(crate) fn on_answer(&mut self, status: StatusCode) {
        self.progress.unhurried.store(true, Ordering::Relaxed);
        self.ending = Ending::Answering(status);
    }

    /// The answer was handed over to its end.
    pub(crate) fn on_end(&mut self) {
        if let Ending::Answering(status) = self.ending {
            self.ending = Ending::Answered(status);
        }
    }

    /// The answer breaks off.
    pub(crate) fn on_cut_short(&mut self, why: String) {
        if let Ending::Answering(status) = self.ending {
            self.ending = Ending::CutShort(status, why);
        }
    }

    /// What holds the call fails. That an answer was given or broken off before is still so.
    fn on_defect(&mut self) {
        match self.ending {
            Ending::Open => self.ending = Ending::Defect(None),
            Ending::Answering(status) => self.ending = Ending::Defect(Some(status)),
            _ => {}
        }
    }

    fn write(&self, duration: std::time::Duration) {
        let tenant = self
            .endpoint
            .as_ref()
            .map(|endpoint| endpoint.tenant.as_str());
        let endpoint = self
            .endpoint
            .as_ref()
            .map(|endpoint| endpoint.name.as_str());
        // Subjects are of their tenant, which is not the endpoint's where a caller tries others' names.
        let principal = self.caller.as_ref().map(|token| &token.principal);
        let caller = principal.map(|principal| principal.subject.as_str());
        let caller_tenant = principal.map(|principal| principal.tenant.as_str());
        // The query may hold secrets of the upstream's making, and the path tickets; the agent's audit
        // log, inside the data centre, has all but what is a secret by its name.
        let path = self
            .target
            .split(|&byte| byte == b'?')
            .next()
            .unwrap_or_default();
        let path = mask_target(std::str::from_utf8(path).unwrap_or_default());
        let (status, problem, why, outcome) = match &self.ending {
            Ending::Open => (None, None, None, "caller-gone"),
            Ending::Answering(status) => (Some(*status), None, None, "caller-gone"),
            Ending::Answered(status) => (Some(*status), None, None, "answered"),
            Ending::CutShort(status, why) => (Some(*status), None, Some(why.as_str()), "cut-short"),
            Ending::Refused(problem) => (
                Some(problem.status()),
                Some(problem),
                Some(problem.log.as_deref().unwrap_or(&problem.detail)),
                "refused",
            ),
            Ending::Defect(status) => (*status, None, Some(DEFECT), "defect"),
        };
        info!(
            target: ACCESS,
            call = %self.call,
            trace = self.trace.map(tracing::field::display),
            peer = %self.connection.shown_address,
            tenant,
            endpoint,
            caller,
            caller_tenant,
            mode = self.mode.as_str(),
            method = self.method.as_ref().map(Method::as_str),
            path = &*path,
            status = status.map(|status| status.as_u16()),
            code = problem.map(|problem| problem.code.as_str()),
            layer = problem.map(|problem| problem.layer.as_str()),
            why,
            received = self.progress.carried().received(),
            sent = self.progress.carried().sent(),
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            outcome,
        );
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.on_defect();
        }
        // Such a caller is still there: it was this relay that ended the call.
        let untaken = self.progress.untaken.get().copied();
        if let Some(untaken) = untaken.or_else(|| self.traffic().untaken()) {
            self.on_cut_short(untaken.to_string());
        }
        let duration = self.started.elapsed();
        self.write(duration);
        if self.is_call {
            let outcome = match &self.ending {
                Ending::Open | Ending::Answering(_) => Outcome::CallerGone,
                Ending::Answered(status) => Outcome::Answered(*status),
                Ending::CutShort(..) => Outcome::CutShort,
                Ending::Refused(problem) => Outcome::Refused(problem.code),
                Ending::Defect(_) => Outcome::Defect,
            };
            self.metrics.call_finished(outcome, duration);
        }
        self.connection.traffic.on_end();
    }
}
