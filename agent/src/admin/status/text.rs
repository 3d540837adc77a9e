//! The status as `culvert-agent status` prints it.

use std::fmt::{self, Write};

use culvert_process::words::count;
use culvert_proto::code::ErrorCode;

use super::{AuditReport, EndpointStatus, PolicyReport, SessionStatus, Status};
use crate::serve::RefusedCall;

/// For a terminal. What peers say of themselves was escaped before.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.ready { "ready" } else { "not ready" };
        let (version, uptime) = (&self.version, self.uptime_s);
        writeln!(
            f,
            "culvert-agent: {state} (version {version}, up {uptime} s)"
        )?;
        for what in &self.waiting_for {
            writeln!(f, "  waits for {what}")?;
        }
        let sessions = count(self.sessions.len(), "session");
        write!(f, "\n{sessions} with {}", self.relay)?;
        match self.nodes {
            nodes if nodes < self.sessions.len() => {
                writeln!(f, ", degraded: on {nodes} relay node only")?;
            }
            _ => writeln!(f)?,
        }
        for session in &self.sessions {
            let SessionStatus {
                node,
                age_s,
                calls,
                state,
                ..
            } = session;
            let calls = count(*calls, "call");
            let mut line = format!("  {node}: {state}, {age_s} s, {calls}");
            if let Some(rtt) = session.rtt_ms {
                write!(line, ", {rtt:.1} ms")?;
            }
            if session.lanes > 1 {
                write!(line, ", {} lanes", session.lanes)?;
            }
            writeln!(f, "{line}")?;
            if let (Some(notice), Some(ago)) = (&session.notice, session.notice_s) {
                writeln!(f, "    the relay said {ago} s ago: {notice}")?;
            }
            for result in &session.registrations {
                if let Some(reason) = &result.refused {
                    writeln!(f, "    {} is refused: {reason}", result.endpoint)?;
                }
            }
        }
        if let Some(error) = &self.last_session_error {
            writeln!(f, "  last attempt: {error}")?;
        }
        match self.token.expires_in_s {
            Some(left) => write!(f, "\ntoken: expires in {left} s")?,
            None => write!(f, "\ntoken: none")?,
        }
        match &self.token.error {
            Some(error) => writeln!(f, " ({error})")?,
            None => writeln!(f)?,
        }
        writeln!(
            f,
            "\n{}, {} in flight",
            count(self.endpoints.len(), "endpoint"),
            count(self.calls, "call")
        )?;
        for endpoint in &self.endpoints {
            let EndpointStatus {
                endpoint,
                upstream,
                sessions,
                failures,
                failure,
                answered_s,
                ..
            } = endpoint;
            let registered = match sessions {
                0 => "not registered".to_owned(),
                _ => format!("on {}", count(*sessions, "session")),
            };
            write!(f, "  {endpoint}: {upstream}, {registered}")?;
            match answered_s {
                Some(ago) => writeln!(f, ", answered {ago} s ago")?,
                None => writeln!(f)?,
            }
            if let (Some(failure), 1..) = (failure, failures) {
                writeln!(f, "    failed {}, now: {failure}", count(*failures, "time"))?;
            }
        }
        let PolicyReport {
            file,
            loaded,
            rules,
            ..
        } = &self.policy;
        writeln!(
            f,
            "\npolicy: {} of {file}, in force since {loaded}",
            count(*rules, "rule")
        )?;
        if let (Some(error), Some(since)) = (&self.policy.error, &self.policy.error_since) {
            writeln!(f, "  THE FILE IS REFUSED since {since}: {error}")?;
        }
        let AuditReport { to, seq, hash, .. } = &self.audit;
        writeln!(f, "\naudit log: {to}, line {seq}, hash {hash}")?;
        if let Some(alarm) = &self.audit.alarm {
            let waiting = self.audit.waiting;
            writeln!(
                f,
                "  ALARM: it cannot be written ({alarm}); {waiting} lines wait"
            )?;
        }
        if self.audit.lost > 0 {
            writeln!(f, "  {} lines were lost", self.audit.lost)?;
        }
        if !self.refusals.is_empty() {
            writeln!(f, "\nlast refusals")?;
        }
        for refused in &self.refusals {
            let RefusedCall {
                time,
                call,
                caller,
                endpoint,
                method,
                target,
                code,
                ..
            } = refused;
            write!(
                f,
                "  {time} {call} {code}: {caller} {method} {endpoint} {target}"
            )?;
            if let Some(operation) = &refused.soap_op {
                write!(f, " {operation}")?;
            }
            // Of a call that failed behind the policy, the rule is the one that allowed it.
            let is_denied = code == ErrorCode::PolicyDenied.as_str();
            match (&refused.rule, &refused.reason) {
                (Some(rule), _) if is_denied => writeln!(f, " (rule {rule})")?,
                (_, Some(reason)) => writeln!(f, " ({reason})")?,
                (_, None) => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::tests::session;
    use crate::admin::tests::desk;

    #[tokio::test]
    async fn what_was_heard_once_is_shown_with_its_age() {
        let (_folder, desk) = desk().await;
        let mut status = desk.status();
        status.sessions = vec![session("open")];
        status.endpoints[0].answered_s = Some(7);
        let text = status.to_string();
        assert!(
            text.contains("the relay said 40 s ago: update soon\n"),
            "{text}"
        );
        assert!(text.contains(", answered 7 s ago\n"), "{text}");
    }

    #[tokio::test]
    async fn a_call_that_failed_is_not_blamed_on_the_rule_that_allowed_it() {
        let refused = |code: ErrorCode, rule: Option<&str>, reason: &str| RefusedCall {
            time: "2026-11-28T12:00:00.000Z".to_owned(),
            call: "ab12".to_owned(),
            caller: "director-7".to_owned(),
            endpoint: "api".to_owned(),
            method: "GET".to_owned(),
            target: "/".to_owned(),
            soap_op: None,
            code: code.as_str().to_owned(),
            rule: rule.map(ToOwned::to_owned),
            reason: Some(reason.to_owned()),
        };
        let (_folder, desk) = desk().await;
        let mut status = desk.status();
        status.refusals = vec![
            refused(ErrorCode::PolicyDenied, Some("no-writes"), "rule"),
            refused(ErrorCode::PolicyDenied, None, "no-rule"),
            refused(ErrorCode::UpstreamTls, Some("reads"), "TLS failed"),
        ];
        let text = status.to_string();
        for end in [
            "policy-denied: director-7 GET api / (rule no-writes)\n",
            "policy-denied: director-7 GET api / (no-rule)\n",
            "upstream-tls: director-7 GET api / (TLS failed)\n",
        ] {
            assert!(text.contains(end), "no {end:?} in\n{text}");
        }
    }
}
