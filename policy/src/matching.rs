//! Compiled rules, and whether one matches a call.

use std::sync::Arc;

use ipnet::IpNet;

use crate::facts::{CallFacts, Soap};
use crate::glob::{Case, Glob};
use crate::path::PathPattern;
use crate::query::QueryMatcher;
use crate::rule::{Action, RuleSpec};

/// The keys of a rule that take part in matching, in the order of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// `endpoint`
    Endpoint,
    /// `mode`
    Mode,
    /// `method`
    Method,
    /// `path`
    Path,
    /// `caller`
    Caller,
    /// `scope`
    Scope,
    /// `query`
    Query,
    /// `soap_op`
    SoapOp,
    /// `soap_ns`
    SoapNs,
    /// `upgrade`
    Upgrade,
    /// `source`
    Source,
    /// `host`
    Host,
    /// `port`
    Port,
}

impl Key {
    /// Every key.
    pub const ALL: [Self; 13] = [
        Self::Endpoint,
        Self::Mode,
        Self::Method,
        Self::Path,
        Self::Caller,
        Self::Scope,
        Self::Query,
        Self::SoapOp,
        Self::SoapNs,
        Self::Upgrade,
        Self::Source,
        Self::Host,
        Self::Port,
    ];

    /// Whether it is about what only a call has, and not the connection that it comes on.
    fn is_of_calls(self) -> bool {
        match self {
            Self::Method
            | Self::Path
            | Self::Query
            | Self::SoapOp
            | Self::SoapNs
            | Self::Upgrade => true,
            Self::Endpoint
            | Self::Mode
            | Self::Caller
            | Self::Scope
            | Self::Source
            | Self::Host
            | Self::Port => false,
        }
    }

    /// The key as it is written in a policy file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Mode => "mode",
            Self::Method => "method",
            Self::Path => "path",
            Self::Caller => "caller",
            Self::Scope => "scope",
            Self::Query => "query",
            Self::SoapOp => "soap_op",
            Self::SoapNs => "soap_ns",
            Self::Upgrade => "upgrade",
            Self::Source => "source",
            Self::Host => "host",
            Self::Port => "port",
        }
    }
}

/// The namespace of the operations that the JSON twin offers.
const TWIN_NS: &str = "urn:vim25";

/// SOAP operations of a rule.
#[derive(Debug)]
pub(crate) enum SoapMatcher {
    All,
    Names(Box<[Glob]>),
}

/// A rule ready to match. Empty lists match everything.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: Arc<str>,
    /// As it was written, for explanations.
    pub(crate) spec: RuleSpec,
    pub(crate) endpoint: Box<[Glob]>,
    pub(crate) modes: u8,
    pub(crate) path: Box<[PathPattern]>,
    pub(crate) caller: Box<[Glob]>,
    pub(crate) query: Box<[QueryMatcher]>,
    pub(crate) soap: Option<SoapMatcher>,
    pub(crate) host: Box<[Glob]>,
}

impl Rule {
    pub(crate) fn matches(&self, call: &CallFacts<'_>) -> bool {
        Key::ALL.into_iter().all(|key| self.key_matches(key, call))
    }

    /// Whether a call on this connection may match, as far as the connection shows it: in everything
    /// but what only calls have.
    pub(crate) fn may_match_on(&self, connection: &CallFacts<'_>) -> bool {
        let mut shown = Key::ALL.into_iter().filter(|key| !key.is_of_calls());
        shown.all(|key| self.key_matches(key, connection))
    }

    /// Whether it says nothing of what only calls have: it matches every call of a connection, or
    /// none.
    pub(crate) fn is_about_connections(&self) -> bool {
        let RuleSpec {
            method,
            path,
            query,
            soap_op,
            soap_ns,
            upgrade,
            ..
        } = &self.spec;
        method.is_empty()
            && path.is_empty()
            && query.is_empty()
            && soap_op.is_none()
            && soap_ns.is_none()
            && upgrade.is_empty()
    }

    pub(crate) fn key_matches(&self, key: Key, call: &CallFacts<'_>) -> bool {
        match key {
            Key::Endpoint => any(&self.endpoint, |glob| {
                glob.matches(call.endpoint, Case::Exact)
            }),
            Key::Mode => self.modes & call.mode.bit() != 0,
            Key::Method => any(&self.spec.method, |method| self.same(method, call.method)),
            Key::Path => self.path_matches(call),
            Key::Caller => any(&self.caller, |glob| glob.matches(call.caller, self.case())),
            Key::Scope => any(&self.spec.scope, |scope| {
                call.scopes.iter().any(|granted| self.same(scope, granted))
            }),
            Key::Query => self.query_matches(call),
            Key::SoapOp => self.soap_op_matches(call),
            Key::SoapNs => self.soap_ns_matches(call),
            Key::Upgrade => self.upgrade_matches(call),
            Key::Source => self.source_matches(call),
            Key::Host => any(&self.host, |glob| {
                call.host
                    .is_some_and(|host| glob.matches(host, Case::Ignore))
            }),
            Key::Port => any(&self.spec.port, |port| call.port == Some(*port)),
        }
    }

    fn denies(&self) -> bool {
        self.spec.action == Action::Deny
    }

    /// Deny rules ignore letter case in everything.
    fn case(&self) -> Case {
        if self.denies() {
            Case::Ignore
        } else {
            Case::Exact
        }
    }

    fn same(&self, written: &str, found: &str) -> bool {
        match self.case() {
            Case::Exact => written == found,
            Case::Ignore => written.eq_ignore_ascii_case(found),
        }
    }

    fn path_matches(&self, call: &CallFacts<'_>) -> bool {
        let Some(target) = call.target else {
            return self.path.is_empty();
        };
        match self.spec.action {
            Action::Deny => any(&self.path, |pattern| pattern.matches(target.folded_path())),
            // The twin of SOAP must be named: `/**` and `/sdk/**` were not meant for it.
            Action::Allow if call.soap == Soap::Json => self
                .path
                .iter()
                .any(|pattern| pattern.names_twin() && pattern.matches(target.path())),
            Action::Allow => any(&self.path, |pattern| pattern.matches(target.path())),
        }
    }

    fn query_matches(&self, call: &CallFacts<'_>) -> bool {
        let query = call
            .target
            .and_then(|target| target.query())
            .unwrap_or_default();
        self.query.iter().all(|matcher| match self.spec.action {
            Action::Allow => matcher.allows(query),
            Action::Deny => matcher.denies(query),
        })
    }

    /// What could not be read is never allowed, and denied by every rule that it might match.
    fn soap_op_matches(&self, call: &CallFacts<'_>) -> bool {
        match (&self.soap, call.soap) {
            (None, Soap::No) => true,
            // An allow rule that reaches the twin has named it in its path.
            (None, Soap::Json) | (Some(SoapMatcher::All), Soap::Json) => true,
            (Some(SoapMatcher::Names(names)), Soap::Json) => {
                let operation = call.target.and_then(|target| target.twin_operation());
                operation.is_some_and(|operation| {
                    names
                        .iter()
                        .any(|glob| glob.matches(operation, self.case()))
                })
            }
            (None, _) => self.denies(),
            (Some(_), Soap::No) => false,
            (Some(_), Soap::Undetermined) => self.denies(),
            // What a server makes of an envelope that a GET or PUT brings, nobody knows.
            (Some(_), Soap::Operation { .. }) if !self.denies() && call.method != "POST" => false,
            (Some(SoapMatcher::All), Soap::Operation { .. }) => true,
            (Some(SoapMatcher::Names(names)), Soap::Operation { name, .. }) => {
                names.iter().any(|glob| glob.matches(name, self.case()))
            }
        }
    }

    fn soap_ns_matches(&self, call: &CallFacts<'_>) -> bool {
        match (&self.spec.soap_ns, call.soap) {
            (None, _) => true,
            (Some(written), Soap::Operation { ns, .. }) => self.same(written, ns),
            (Some(written), Soap::Json) => self.same(written, TWIN_NS),
            (Some(_), Soap::Undetermined) => self.denies(),
            (Some(_), Soap::No) => false,
        }
    }

    /// Protocol names ignore letter case (RFC 9110, 7.8).
    fn upgrade_matches(&self, call: &CallFacts<'_>) -> bool {
        match call.upgrade {
            None => self.spec.upgrade.is_empty(),
            Some(_) if self.spec.upgrade.is_empty() => self.denies(),
            Some(protocol) => self
                .spec
                .upgrade
                .iter()
                .any(|written| written.eq_ignore_ascii_case(protocol)),
        }
    }

    /// An address that is not known is in no network that a rule allows, and may be in any that
    /// a rule denies.
    fn source_matches(&self, call: &CallFacts<'_>) -> bool {
        any(&self.spec.source, |network: &IpNet| match call.source {
            Some(address) => network.contains(&address.to_canonical()),
            None => self.denies(),
        })
    }
}

/// Whether some item matches; without items everything does.
fn any<T>(items: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    items.is_empty() || items.iter().any(matches)
}
