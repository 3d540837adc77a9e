//! The status of an agent: what `/api/v1/status` answers and `culvert-agent status` shows.

use std::fmt;
use std::sync::Arc;

use culvert_config::audit::{AuditSink, OnFull};
use culvert_config::endpoint::Endpoint;
use culvert_identity::TokenSource;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::audit::Time;
use crate::connect::{LiveSession, LiveSessions};
use crate::register::Registered;
use crate::reload::PolicySource;
use crate::serve::{RefusedCall, Serving};
use crate::upstream::Upstream;

mod text;

/// The state of a session that gets no new calls.
const DRAINING: &str = "draining";

/// Everybody who knows something that operators ask for.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) started: Instant,
    /// The relay's URL.
    pub(crate) relay: String,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) sessions: Arc<LiveSessions>,
    pub(crate) tokens: TokenSource,
    pub(crate) policy: Arc<PolicySource>,
    pub(crate) serving: Arc<Serving>,
}

/// Everything about an agent at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The version that runs.
    pub(crate) version: String,
    /// Whether it takes calls.
    pub(crate) ready: bool,
    /// What is wrong, unless it is ready.
    pub(crate) waiting_for: Vec<String>,
    /// Seconds since it started.
    pub(crate) uptime_s: u64,
    /// The relay's URL.
    pub(crate) relay: String,
    /// Sessions with relay nodes, oldest first.
    pub(crate) sessions: Vec<SessionStatus>,
    /// How many relay nodes the sessions are with. Fewer nodes than sessions: the agent is degraded,
    /// for a node that fails takes more than one.
    pub(crate) nodes: usize,
    /// Why the last attempt at a session failed, unless one was established since.
    pub(crate) last_session_error: Option<String>,
    /// The agent's own token.
    pub(crate) token: TokenReport,
    /// What is offered.
    pub(crate) endpoints: Vec<EndpointStatus>,
    /// The allow/deny list.
    pub(crate) policy: PolicyReport,
    /// The audit log.
    pub(crate) audit: AuditReport,
    /// Calls that are not over.
    pub(crate) calls: u64,
    /// The last calls that were refused or failed, latest first.
    pub(crate) refusals: Vec<RefusedCall>,
}

/// One session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionStatus {
    /// The relay node's name.
    pub(crate) node: String,
    /// Seconds since it began.
    pub(crate) age_s: u64,
    /// `open`, or `draining`: it gets no new calls.
    pub(crate) state: String,
    /// Round trip time, once measured.
    pub(crate) rtt_ms: Option<f64>,
    /// Calls in flight.
    pub(crate) calls: usize,
    /// Connections.
    pub(crate) lanes: usize,
    /// What the relay said last that an operator should read.
    #[serde(default)]
    pub(crate) notice: Option<String>,
    /// Seconds since it said so.
    #[serde(default)]
    pub(crate) notice_s: Option<u64>,
    /// What the relay said to the registration of each endpoint.
    pub(crate) registrations: Vec<Registered>,
}

/// The agent's own token.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TokenReport {
    /// Seconds until it expires; none without a token.
    pub(crate) expires_in_s: Option<u64>,
    /// Why the last attempt to obtain one failed.
    pub(crate) error: Option<String>,
}

/// One endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndpointStatus {
    /// Its name.
    pub(crate) endpoint: String,
    /// The local API.
    pub(crate) upstream: String,
    /// Sessions on which calls can come to it: it is registered, and they do not drain.
    pub(crate) sessions: usize,
    /// Seconds since the upstream answered last; none if it has not yet.
    pub(crate) answered_s: Option<u64>,
    /// Seconds since it failed last; none if it has not yet.
    pub(crate) failed_s: Option<u64>,
    /// How it failed last.
    pub(crate) failure: Option<String>,
    /// Failures since it answered last.
    pub(crate) failures: u32,
}

/// The allow/deny list.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PolicyReport {
    /// Its file.
    pub(crate) file: String,
    /// When the policy in force was loaded, as RFC 3339.
    pub(crate) loaded: String,
    /// Rules in force.
    pub(crate) rules: usize,
    /// Policies that came into force after the first.
    pub(crate) reloads: u64,
    /// Why the file as it is now is refused; the policy in force is an older one.
    pub(crate) error: Option<String>,
    /// Since when, as RFC 3339.
    pub(crate) error_since: Option<String>,
}

/// The audit log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuditReport {
    /// Where it goes: a file, `stdout`, or a syslog server.
    pub(crate) to: String,
    /// `continue` or `stop`.
    pub(crate) on_full: String,
    /// Why lines cannot be written at the moment.
    pub(crate) alarm: Option<String>,
    /// Lines that were lost since the start.
    pub(crate) lost: u64,
    /// Lines that wait to be written.
    pub(crate) waiting: usize,
    /// Lines that were written since the start.
    pub(crate) written: u64,
    /// Number of the last line.
    pub(crate) seq: u64,
    /// Hash of the last line.
    pub(crate) hash: String,
}

impl Desk {
    /// Looks at everything.
    pub(crate) fn status(&self) -> Status {
        let live = self.sessions.all();
        let sessions: Vec<_> = live.iter().map(|live| session(live)).collect();
        let token = self.tokens.status();
        let accounts = self.serving.accounts();
        let audit = self.audit();
        let waiting_for = self.waiting_for(&sessions, &audit);
        let endpoint = |endpoint: &Endpoint| {
            let upstream = self.serving.upstream(&endpoint.name);
            let health = upstream.map(Upstream::status).unwrap_or_default();
            let (failed, failure) = health.last_failure.unzip();
            EndpointStatus {
                endpoint: endpoint.name.to_string(),
                upstream: endpoint.upstream.to_string(),
                sessions: count(&sessions, endpoint.name.as_str()),
                answered_s: health.last_success.map(ago),
                failed_s: failed.map(ago),
                failure,
                failures: health.failures,
            }
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: waiting_for.is_empty(),
            waiting_for,
            uptime_s: self.started.elapsed().as_secs(),
            relay: self.relay.clone(),
            nodes: self.sessions.nodes(),
            last_session_error: self.sessions.trouble(),
            token: TokenReport {
                expires_in_s: token.expires_in.map(|left| left.as_secs()),
                error: token.error.map(|error| error.to_string()),
            },
            endpoints: self.endpoints.iter().map(endpoint).collect(),
            policy: self.policy(),
            audit,
            calls: u64::try_from(accounts.metrics.calls_in_flight.get()).unwrap_or(0),
            refusals: accounts.refusals(),
            sessions,
        }
    }

    /// Every count as OpenMetrics text.
    pub(crate) fn metrics(&self) -> Result<String, fmt::Error> {
        let status = self.status();
        let metrics = &self.serving.accounts().metrics;
        let policy = self.policy.status();
        let read = &metrics.read;
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        read.sessions.set(gauge(status.sessions.len()));
        let registered = status.endpoints.iter().map(|endpoint| endpoint.sessions);
        read.registrations.set(gauge(registered.sum()));
        let expiry = status.token.expires_in_s.unwrap_or(0);
        read.token_expiry
            .set(i64::try_from(expiry).unwrap_or(i64::MAX));
        read.audit_alarm
            .set(i64::from(status.audit.alarm.is_some()));
        read.audit_waiting.set(gauge(status.audit.waiting));
        read.audit_lines.set(status.audit.written);
        read.audit_lost.set(status.audit.lost);
        read.policy_rules.set(gauge(policy.rules));
        read.policy_reloads.set(policy.reloads);
        read.policy_failures.set(policy.failures);
        metrics.render()
    }

    fn waiting_for(&self, sessions: &[SessionStatus], audit: &AuditReport) -> Vec<String> {
        let mut waiting = Vec::new();
        if self.serving.front().draining.is_cancelled() {
            waiting.push("the end of the calls in flight: the agent stops".to_owned());
            return waiting;
        }
        let registered = |endpoint: &Endpoint| count(sessions, endpoint.name.as_str()) > 0;
        if !sessions.iter().any(SessionStatus::is_open) {
            waiting.push("a session with the relay".to_owned());
        } else if !self.endpoints.iter().any(registered) {
            waiting.push("the registration of an endpoint".to_owned());
        }
        if !self.serving.accounts().audit.admits() {
            let why = audit.alarm.as_deref().unwrap_or("too many lines wait");
            waiting.push(format!("the audit log: {why}"));
        }
        waiting
    }

    fn policy(&self) -> PolicyReport {
        let status = self.policy.status();
        let (since, error) = status.refused.unzip();
        PolicyReport {
            file: self.policy.file().display().to_string(),
            loaded: Time(status.loaded).to_string(),
            rules: status.rules,
            reloads: status.reloads,
            error,
            error_since: since.map(|since| Time(since).to_string()),
        }
    }

    fn audit(&self) -> AuditReport {
        let audit = &self.serving.accounts().audit;
        let status = audit.status();
        let to = match &audit.config().sink {
            AuditSink::File { file, .. } => file.display().to_string(),
            AuditSink::Stdout { .. } => "stdout".to_owned(),
            AuditSink::Syslog { syslog } => syslog.to_string(),
        };
        let on_full = match audit.config().on_full {
            OnFull::Stop => "stop",
            OnFull::Continue => "continue",
        };
        AuditReport {
            to,
            on_full: on_full.to_owned(),
            alarm: status.alarm,
            lost: status.lost,
            waiting: status.waiting,
            written: status.written,
            seq: status.head.seq,
            hash: status.head.hash.to_string(),
        }
    }
}

fn session(live: &LiveSession) -> SessionStatus {
    let session = &live.session;
    let state = if session.is_draining() {
        DRAINING
    } else {
        "open"
    };
    let notice = live.notice();
    SessionStatus {
        node: live.node.to_string(),
        age_s: ago(live.since),
        state: state.to_owned(),
        rtt_ms: session.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
        calls: session.stream_count(),
        lanes: session.lanes(),
        notice_s: notice.as_ref().map(|notice| ago(notice.at)),
        notice: notice.map(|notice| notice.text),
        registrations: live.registered(),
    }
}

/// Seconds since then.
fn ago(then: Instant) -> u64 {
    then.elapsed().as_secs()
}

/// Sessions on which calls can come to an endpoint.
fn count(sessions: &[SessionStatus], endpoint: &str) -> usize {
    let registered = |session: &&SessionStatus| {
        let mut results = session.registrations.iter();
        results.any(|result| result.endpoint == endpoint && result.refused.is_none())
    };
    let open = sessions.iter().filter(|session| session.is_open());
    open.filter(registered).count()
}

impl SessionStatus {
    fn is_open(&self) -> bool {
        self.state != DRAINING
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::desk;

    /// With the endpoint of the desk registered.
    pub(super) fn session(state: &str) -> SessionStatus {
        SessionStatus {
            node: "relay-1".to_owned(),
            age_s: 1,
            state: state.to_owned(),
            rtt_ms: None,
            calls: 1,
            lanes: 1,
            notice: Some("update soon".to_owned()),
            notice_s: Some(40),
            registrations: vec![Registered {
                endpoint: "api".to_owned(),
                refused: None,
            }],
        }
    }

    #[tokio::test]
    async fn sessions_that_drain_are_none_that_calls_come_on() {
        let (_folder, desk) = desk().await;
        let audit = desk.audit();
        let (drains, open) = (session("draining"), session("open"));
        let waiting = desk.waiting_for(std::slice::from_ref(&drains), &audit);
        assert_eq!(waiting, ["a session with the relay"]);
        let sessions = [drains, open];
        assert_eq!(count(&sessions, "api"), 1);
        assert_eq!(desk.waiting_for(&sessions, &audit), [""; 0]);
    }
}
