//! From written rules to compiled ones; every mistake is found here, none at a call.

use std::collections::HashSet;
use std::net::Ipv6Addr;
use std::sync::Arc;

use crate::facts::Mode;
use crate::glob::Glob;
use crate::matching::{Rule, SoapMatcher};
use crate::network::plain_network;
use crate::path::PathPattern;
use crate::query::QueryMatcher;
use crate::rule::{Action, RuleSpec, SoapOps};

/// Longest rule id, in bytes.
const MAX_ID: usize = 128;
/// Most rules of a policy.
const MAX_RULES: usize = 10_000;
/// Most items of one list of a rule.
pub const MAX_ITEMS: usize = 1024;
/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;
/// Most `*` of a pattern: what matching one costs is bounded by it.
const MAX_STARS: usize = 32;

/// A rule that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {} ({id:?}), {key}: {message}", .rule + 1)]
pub struct RuleError {
    /// Position in the list of rules, from 0.
    pub rule: usize,
    /// The rule's id, as written.
    pub id: String,
    /// The key of the rule, as in a policy file.
    pub key: &'static str,
    /// Position in the key's list, from 0, where the key has a list.
    pub item: Option<usize>,
    /// What was found and what was expected.
    pub message: String,
}

/// Compiles all rules, or says everything that is wrong with them.
pub(crate) fn compile(specs: Vec<RuleSpec>) -> Result<Vec<Rule>, Vec<RuleError>> {
    let mut errors = Vec::new();
    let mut ids = HashSet::new();
    let mut rules = Vec::with_capacity(specs.len());
    if let Some(spec) = specs.get(MAX_RULES) {
        return Err(vec![RuleError {
            rule: MAX_RULES,
            id: spec.id.clone(),
            key: "id",
            item: None,
            message: format!("a policy has at most {MAX_RULES} rules"),
        }]);
    }
    for (index, spec) in specs.into_iter().enumerate() {
        let mut compiler = Compiler {
            rule: index,
            id: spec.id.clone(),
            errors: &mut errors,
        };
        if !ids.insert(spec.id.clone()) {
            compiler.fail(
                "id",
                None,
                format!("another rule has the id {:?} already", spec.id),
            );
        }
        rules.push(compiler.rule(spec));
    }
    if errors.is_empty() {
        Ok(rules)
    } else {
        Err(errors)
    }
}

struct Compiler<'e> {
    rule: usize,
    id: String,
    errors: &'e mut Vec<RuleError>,
}

impl Compiler<'_> {
    fn fail(&mut self, key: &'static str, item: Option<usize>, message: impl Into<String>) {
        let (rule, id, message) = (self.rule, self.id.clone(), message.into());
        self.errors.push(RuleError {
            rule,
            id,
            key,
            item,
            message,
        });
    }

    /// Compiles each item of a list, and notes those that fail.
    fn each<S, T>(
        &mut self,
        key: &'static str,
        items: &[S],
        compile: impl Fn(&S) -> Result<T, String>,
    ) -> Box<[T]> {
        if items.len() > MAX_ITEMS {
            let found = items.len();
            self.fail(
                key,
                None,
                format!("found {found} items; expected at most {MAX_ITEMS}"),
            );
            return Box::default();
        }
        let mut compiled = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match compile(item) {
                Ok(item) => compiled.push(item),
                Err(message) => self.fail(key, Some(index), message),
            }
        }
        compiled.into()
    }

    fn rule(&mut self, mut spec: RuleSpec) -> Rule {
        let id_fits = !spec.id.is_empty() && spec.id.len() <= MAX_ID;
        if !id_fits || spec.id.chars().any(char::is_control) {
            self.fail(
                "id",
                None,
                format!("expected 1 to {MAX_ID} printable characters"),
            );
        }
        let action = spec.action;
        let endpoint = self.each("endpoint", &spec.endpoint, |pattern| endpoint(pattern));
        self.each("method", &spec.method, |method| check_method(method));
        let path = self.each("path", &spec.path, |pattern| {
            bounded(pattern).and_then(|()| PathPattern::new(pattern, action))
        });
        let caller = self.each("caller", &spec.caller, |pattern| caller(pattern));
        self.each("scope", &spec.scope, |scope| check_scope(scope));
        let query = self.each("query", &spec.query, |(name, values)| {
            QueryMatcher::new(name, values)
        });
        let soap = self.soap(&spec);
        self.each("upgrade", &spec.upgrade, |protocol| {
            check_protocol(protocol)
        });
        let host = self.each("host", &spec.host, |pattern| host(pattern));
        self.each("port", &spec.port, |port| match port {
            0 => Err("expected a port from 1 to 65535".to_owned()),
            _ => Ok(()),
        });
        if !(spec.host.is_empty() && spec.port.is_empty()) && spec.mode == [Mode::Http] {
            let key = if spec.host.is_empty() { "port" } else { "host" };
            let message =
                "calls of mode \"http\" connect to no name and port; the rule can never match";
            self.fail(key, None, message);
        }
        if action == Action::Deny {
            for (key, given) in [
                ("max_body", spec.max_body.is_some()),
                ("rate", spec.rate.is_some()),
            ] {
                if given {
                    self.fail(
                        key,
                        None,
                        "a deny rule lets nothing through that it could limit",
                    );
                }
            }
        }
        let modes = match spec.mode.as_slice() {
            [] => Mode::ALL
                .into_iter()
                .fold(0, |bits, mode| bits | mode.bit()),
            modes => modes.iter().fold(0, |bits, mode| bits | mode.bit()),
        };
        let source = self.each("source", &spec.source, |network| {
            plain_network(*network).map_err(|half| half.to_string())
        });
        spec.source = source.into();
        Rule {
            id: Arc::from(&*spec.id),
            endpoint,
            modes,
            path,
            caller,
            query,
            soap,
            host,
            spec,
        }
    }

    fn soap(&mut self, spec: &RuleSpec) -> Option<SoapMatcher> {
        if spec.soap_ns.is_some() && spec.soap_op.is_none() {
            self.fail("soap_ns", None, "needs `soap_op` beside it");
        }
        match spec.soap_op.as_ref()? {
            SoapOps::All => Some(SoapMatcher::All),
            SoapOps::Names(names) => {
                if names.is_empty() {
                    self.fail(
                        "soap_op",
                        None,
                        "expected at least one operation, or \"all\"",
                    );
                }
                Some(SoapMatcher::Names(
                    self.each("soap_op", names, |name| operation(name)),
                ))
            }
        }
    }
}

/// A pattern is written by hand, and matched against every call.
fn bounded(pattern: &str) -> Result<(), String> {
    let stars = pattern.bytes().filter(|byte| *byte == b'*').count();
    if pattern.len() > MAX_PATTERN {
        return Err(format!("the pattern has more than {MAX_PATTERN} bytes"));
    }
    if stars > MAX_STARS {
        return Err(format!("the pattern has more than {MAX_STARS} '*'"));
    }
    Ok(())
}

fn endpoint(pattern: &str) -> Result<Glob, String> {
    bounded(pattern)?;
    let legal = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'*')
    };
    if pattern.is_empty() || !pattern.bytes().all(legal) {
        return Err(format!(
            "{pattern:?} matches no endpoint; expected lower-case letters, digits, '-' and '*'"
        ));
    }
    Ok(Glob::new(pattern))
}

/// A host name in lower case, or an address. With a port it would match nothing, and deny nothing.
fn host(pattern: &str) -> Result<Glob, String> {
    bounded(pattern)?;
    let legal =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.:*".contains(&byte);
    let of_address = |byte: u8| byte.is_ascii_hexdigit() || b":.*".contains(&byte);
    let is_one = match (pattern.contains(':'), pattern.contains('*')) {
        (false, _) => true,
        (true, true) => pattern.bytes().all(of_address),
        (true, false) => {
            let address = pattern.parse::<Ipv6Addr>();
            address.is_ok_and(|address| address.to_string() == pattern)
        }
    };
    if pattern.is_empty() || !pattern.bytes().all(legal) || pattern.ends_with('.') || !is_one {
        return Err(format!(
            "{pattern:?} matches no name; expected a host name in lower case, without port and \
             brackets; '*' stands for any characters"
        ));
    }
    Ok(Glob::new(pattern))
}

fn check_method(method: &str) -> Result<(), String> {
    let legal = |byte: u8| {
        byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    if method.is_empty() || !method.bytes().all(legal) {
        return Err(format!(
            "{method:?} is not a method; expected upper case, such as \"GET\""
        ));
    }
    Ok(())
}

fn caller(pattern: &str) -> Result<Glob, String> {
    bounded(pattern)?;
    if pattern.is_empty() {
        return Err("expected a subject; \"*\" stands for any".to_owned());
    }
    Ok(Glob::new(pattern))
}

/// A scope is one word (RFC 6749, 3.3).
fn check_scope(scope: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if scope.is_empty() || !scope.bytes().all(legal) {
        return Err(format!("{scope:?} is not a scope; expected one word"));
    }
    if scope.contains('*') {
        return Err(format!(
            "{scope:?}: scopes are compared as whole words, without '*'"
        ));
    }
    Ok(())
}

fn operation(name: &str) -> Result<Glob, String> {
    bounded(name)?;
    if name == "all" {
        return Err("an operation named \"all\"? Every operation is soap_op = \"all\"".to_owned());
    }
    let legal =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'*');
    if name.is_empty() || !name.bytes().all(legal) {
        return Err(format!("{name:?} is not the name of a SOAP operation"));
    }
    Ok(Glob::new(name))
}

/// A protocol is a token (RFC 9110, 7.8).
fn check_protocol(protocol: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~/".contains(&byte);
    if protocol.is_empty() || !protocol.bytes().all(legal) {
        return Err(format!(
            "{protocol:?} is not a protocol; expected a name such as \"websocket\""
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
