//! `[[test]]`: a call that the policy must allow or deny.

use std::fmt;
use std::net::IpAddr;

use culvert_policy::{
    CallFacts, CanonicalTarget, Decision, Look, Mode, PathOptions, Policy, Soap, has_destination,
};
use culvert_proto::heads::is_method;
use serde::Deserialize;
use toml::Spanned;

use super::rule::WrittenMode;
use crate::document::Document;
use crate::error::ConfigError;

/// The namespace of a test's SOAP operation, where it names none: vSphere's.
const DEFAULT_SOAP_NS: &str = "urn:vim25";

/// A test of a policy file.
#[derive(Debug, Clone)]
pub struct PolicyTest {
    /// Says what the test is for. Unique in the file.
    pub name: String,
    /// The call.
    pub call: TestCall,
    /// What the policy must decide.
    pub expect: Expected,
    /// The rule that must decide it, where the test names one.
    pub rule: Option<String>,
}

/// A decision that a test expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// The call is allowed.
    Allow,
    /// The call is denied.
    Deny,
}

/// A call that somebody made up, with its own copies of all facts.
#[derive(Debug, Clone)]
pub struct TestCall {
    /// The endpoint.
    pub endpoint: String,
    /// The mode.
    pub mode: Mode,
    /// The method.
    pub method: String,
    /// Path and query, in the modes that have them.
    pub target: Option<CanonicalTarget>,
    /// Path and query of where a COPY or MOVE leads.
    pub destination: Option<CanonicalTarget>,
    /// The caller's subject.
    pub caller: String,
    /// The caller's scopes.
    pub scopes: Vec<String>,
    /// The SOAP operation, where the call is one.
    pub soap_op: Option<String>,
    /// The namespace of the SOAP operation.
    pub soap_ns: String,
    /// The protocol to upgrade to.
    pub upgrade: Option<String>,
    /// The caller's address.
    pub source: Option<IpAddr>,
    /// The name to connect to, in the proxy modes.
    pub host: Option<String>,
    /// The port to connect to, in the proxy modes.
    pub port: Option<u16>,
}

/// A test that did not come out as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestFailure {
    /// The test's name.
    pub test: String,
    /// What was decided and what was expected.
    pub message: String,
    /// What the rules that matter say, as `policy explain` shows it.
    pub explanation: String,
}

impl std::error::Error for TestFailure {}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let explanation = self.explanation.trim_end();
        write!(
            f,
            "test {:?} fails: {}\n{explanation}",
            self.test, self.message
        )
    }
}

impl PolicyTest {
    /// Runs the test.
    pub fn run(&self, policy: &Policy) -> Result<(), TestFailure> {
        let facts = self.call.facts(policy);
        let decision = policy.decide(&facts);
        let expected = self.expect == Expected::Allow;
        let by_rule = self
            .rule
            .as_deref()
            .is_none_or(|rule| decision.rule() == Some(rule));
        if decision.is_allow() == expected && by_rule {
            return Ok(());
        }
        let word = |allow| if allow { "allow" } else { "deny" };
        let by = |rule: Option<&str>| rule.map(|rule| format!(" by rule {rule:?}"));
        Err(TestFailure {
            test: self.name.clone(),
            message: format!(
                "found {}{}{}; expected {}{}",
                word(decision.is_allow()),
                by(decision.rule()).unwrap_or_else(|| " without a rule".to_owned()),
                match &decision {
                    Decision::Deny(denial) if denial.is_at_destination() => " at the destination",
                    _ => "",
                },
                word(expected),
                by(self.rule.as_deref()).unwrap_or_default(),
            ),
            explanation: policy
                .explain(&facts)
                .telling(self.rule.as_deref())
                .rules_in_words(),
        })
    }
}

impl TestCall {
    /// A call to `endpoint` with nothing else known; for `policy explain` to fill in.
    pub fn new(endpoint: impl Into<String>, mode: Mode) -> Self {
        Self {
            endpoint: endpoint.into(),
            mode,
            method: if mode.has_target() { "GET" } else { "CONNECT" }.to_owned(),
            target: None,
            destination: None,
            caller: String::new(),
            scopes: Vec::new(),
            soap_op: None,
            soap_ns: DEFAULT_SOAP_NS.to_owned(),
            upgrade: None,
            source: None,
            host: None,
            port: None,
        }
    }

    /// Reads path and query of a made-up call. What single endpoints refuse (`;`, `%2F`, `%25`) is
    /// accepted here, because only the endpoint can tell.
    pub fn parse_target(target: &str) -> Result<CanonicalTarget, culvert_policy::TargetError> {
        CanonicalTarget::parse(target, PathOptions::ALL)
    }

    /// How the agent would look into the call under this policy.
    pub fn look(&self, policy: &Policy) -> Look {
        let look = |target| policy.look(&self.endpoint, &self.method, target);
        self.target.as_ref().map_or(Look::No, look)
    }

    /// The facts that this policy decides on.
    pub fn facts(&self, policy: &Policy) -> CallFacts<'_> {
        let soap = match (self.look(policy), &self.soap_op) {
            (Look::No, _) => Soap::No,
            (Look::Json, None) => Soap::Json,
            // A call of the JSON twin brings no envelope: the agent refuses one.
            (Look::Soap, None) | (Look::Json, Some(_)) => Soap::Undetermined,
            (Look::Soap, Some(name)) => Soap::Operation {
                ns: &self.soap_ns,
                name,
            },
        };
        CallFacts {
            endpoint: &self.endpoint,
            mode: self.mode,
            method: &self.method,
            target: self.target.as_ref(),
            destination: self.destination.as_ref(),
            caller: &self.caller,
            scopes: &self.scopes,
            soap,
            upgrade: self.upgrade.as_deref(),
            source: self.source,
            host: self.host.as_deref(),
            port: self.port,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTest {
    pub(super) name: Spanned<String>,
    call: Spanned<WrittenCall>,
    pub(super) expect: Spanned<Expected>,
    rule: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCall {
    endpoint: String,
    mode: Option<WrittenMode>,
    method: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    destination: Option<Spanned<String>>,
    #[serde(default)]
    caller: String,
    #[serde(default)]
    scope: Vec<String>,
    soap_op: Option<Spanned<String>>,
    soap_ns: Option<String>,
    upgrade: Option<String>,
    source: Option<IpAddr>,
    host: Option<Spanned<String>>,
    port: Option<Spanned<u16>>,
}

impl WrittenTest {
    pub(super) fn check(
        &self,
        document: &Document,
        policy: &Policy,
    ) -> Result<PolicyTest, ConfigError> {
        if self.name.get_ref().is_empty() {
            return Err(document.error(self.name.span(), "expected a name"));
        }
        Ok(PolicyTest {
            name: self.name.get_ref().clone(),
            call: self.call(document, policy)?,
            expect: *self.expect.get_ref(),
            rule: self.rule.clone(),
        })
    }

    fn call(&self, document: &Document, policy: &Policy) -> Result<TestCall, ConfigError> {
        let written = self.call.get_ref();
        let mut call = TestCall::new(
            &written.endpoint,
            written.mode.map_or(Mode::Http, Mode::from),
        );
        match (&written.method, &written.path) {
            (Some(method), Some(_)) if !is_method(method.get_ref().as_bytes()) => {
                // Nobody gets through with it: whatever the rules say, it would show nothing.
                let found = method.get_ref();
                let message = format!("found {found:?}; expected a method, such as \"GET\"");
                return Err(document.error(method.span(), message));
            }
            (Some(method), Some(path)) if call.mode.has_target() => {
                call.method.clone_from(method.get_ref());
                let target = TestCall::parse_target(path.get_ref());
                call.target =
                    Some(target.map_err(|error| document.error(path.span(), error.to_string()))?);
            }
            (None, None) if !call.mode.has_target() => {}
            _ if call.mode.has_target() => {
                return Err(document.error(self.call.span(), "expected both method and path"));
            }
            _ => {
                let message = format!("mode {:?} has no method and path", call.mode.as_str());
                return Err(document.error(self.call.span(), message));
            }
        }
        if let Some(destination) = &written.destination {
            if !has_destination(&call.method) {
                let message = "only a call with method = \"COPY\" or \"MOVE\" has a destination";
                return Err(document.error(destination.span(), message));
            }
            let target = TestCall::parse_target(destination.get_ref());
            let wrong = |error| document.error(destination.span(), format!("{error}"));
            call.destination = Some(target.map_err(wrong)?);
        }
        call.caller.clone_from(&written.caller);
        call.scopes.clone_from(&written.scope);
        call.upgrade.clone_from(&written.upgrade);
        call.source = written.source;
        let place = written.host.as_ref().map(Spanned::span);
        let place = place.or(written.port.as_ref().map(Spanned::span));
        if let (Some(place), Mode::Http) = (place, call.mode) {
            let message = "mode \"http\" has no host and port to connect to";
            return Err(document.error(place, message));
        }
        call.host = written.host.as_ref().map(|host| host.get_ref().clone());
        call.port = written.port.as_ref().map(|port| *port.get_ref());
        if let Some(ns) = &written.soap_ns {
            call.soap_ns.clone_from(ns);
        }
        if let Some(operation) = &written.soap_op {
            if call.look(policy) == Look::No {
                let message = "the call is not SOAP; expected method = \"POST\", path = \"/sdk\", or \
                               a path that a rule with soap_op names and that is enforced";
                return Err(document.error(operation.span(), message));
            }
            call.soap_op = Some(operation.get_ref().clone());
        }
        Ok(call)
    }
}
