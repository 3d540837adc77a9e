//! From calls to rules that allow them, and as little else as one would want to write down.
//!
//! Calls are put together only where the product of the lists is what was seen: never a method
//! for a path that nobody called with it, never an operation of another endpoint. What is made
//! wider is one thing only: names of single objects in paths (`vm-123`) become `vm-*`.

use std::collections::{BTreeMap, BTreeSet};

use culvert_policy::{Action, Mode, RuleSpec, SoapOps};

use super::Seen;

/// Most different things that are told apart; a log with more is looked at in parts.
const MAX_SEEN: usize = 10_000;

/// Who calls what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    endpoint: String,
    mode: &'static str,
    caller: String,
}

/// What is called there, so that two of a kind can share a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A SOAP service, by path and namespace.
    Soap { path: String, ns: String },
    /// Requests of one method, with the same parameter that names an operation.
    Request {
        method: String,
        query: Option<(String, String)>,
        upgrade: Option<String>,
    },
    /// A connection, by port.
    Connect { port: u16 },
}

/// What was called: for [`What::Soap`] operations, for [`What::Request`] paths, for
/// [`What::Connect`] names.
type Names = BTreeSet<String>;

/// All that one caller called at an endpoint.
type Calls = BTreeMap<What, Names>;

/// The calls that were seen.
#[derive(Debug, Default)]
pub(super) struct Suggestions {
    seen: BTreeMap<Place, Calls>,
    different: usize,
    /// Calls that no rule is suggested for, and why.
    pub(super) left_out: BTreeMap<&'static str, u64>,
    /// Calls in all.
    pub(super) calls: u64,
}

impl Suggestions {
    pub(super) fn add(&mut self, call: &Seen) {
        self.calls += 1;
        if let Err(why) = self.try_add(call) {
            *self.left_out.entry(why).or_default() += 1;
        }
    }

    fn try_add(&mut self, call: &Seen) -> Result<(), &'static str> {
        let mode = Mode::from_word(&call.mode).ok_or("their mode is not known")?;
        if call.caller.contains('*') {
            return Err("the caller's subject has a '*', which a rule cannot mean literally");
        }
        let (what, name) = what(mode, call)?;
        let place = Place {
            endpoint: call.endpoint.clone(),
            mode: mode.as_str(),
            caller: call.caller.clone(),
        };
        let names = self.seen.entry(place).or_default().entry(what).or_default();
        if !names.contains(&name) {
            if self.different >= MAX_SEEN {
                return Err("too many different calls; read the log in parts");
            }
            self.different += 1;
            names.insert(name);
        }
        Ok(())
    }

    /// The rules: callers who do the same share them.
    pub(super) fn rules(&self) -> Vec<RuleSpec> {
        let mut callers: BTreeMap<(&str, &str, &Calls), Vec<&str>> = BTreeMap::new();
        for (place, calls) in &self.seen {
            let same = (&*place.endpoint, place.mode, calls);
            callers.entry(same).or_default().push(&place.caller);
        }
        let mut rules = Vec::new();
        for ((endpoint, mode, calls), callers) in callers {
            for (what, names) in calls {
                let mut rule =
                    RuleSpec::new(format!("recorded-{}", rules.len() + 1), Action::Allow);
                rule.endpoint = vec![endpoint.to_owned()];
                rule.mode = Mode::from_word(mode).into_iter().collect();
                // An empty subject is no pattern; tokens have none of that kind.
                rule.caller = callers
                    .iter()
                    .filter(|c| !c.is_empty())
                    .map(|c| (*c).to_owned())
                    .collect();
                what.narrow(&mut rule, names);
                rules.push(rule);
            }
        }
        rules
    }
}

impl What {
    fn narrow(&self, rule: &mut RuleSpec, names: &Names) {
        let names: Vec<String> = names.iter().cloned().collect();
        match self {
            Self::Soap { path, ns } => {
                rule.method = vec!["POST".to_owned()];
                rule.path = vec![path.clone()];
                rule.soap_op = Some(SoapOps::Names(names));
                rule.soap_ns = Some(ns.clone());
            }
            Self::Request {
                method,
                query,
                upgrade,
            } => {
                rule.method = vec![method.clone()];
                rule.path = names;
                let query = query
                    .iter()
                    .map(|(name, value)| (name.clone(), vec![value.clone()]));
                rule.query = query.collect();
                rule.upgrade = upgrade.iter().cloned().collect();
            }
            Self::Connect { port } => {
                rule.host = names;
                rule.port = vec![*port];
            }
        }
    }
}

fn what(mode: Mode, call: &Seen) -> Result<(What, String), &'static str> {
    if !mode.has_target() {
        let target = call.target.rsplit_once(':');
        let (host, port) = target.ok_or("their target is no NAME:PORT")?;
        let port = port.parse().map_err(|_| "their target is no NAME:PORT")?;
        return Ok((What::Connect { port }, host.to_ascii_lowercase()));
    }
    let (path, query) = match call.target.split_once('?') {
        Some((path, query)) => (path, query),
        None => (&*call.target, ""),
    };
    if let Some(operation) = &call.soap_op {
        let ns = call.soap_ns.clone().unwrap_or_default();
        let path = path.to_owned();
        return Ok((What::Soap { path, ns }, operation.clone()));
    }
    let what = What::Request {
        method: call.method.clone(),
        query: operation_parameter(query)?,
        upgrade: match (&call.upgrade, call.status) {
            // Only WebSockets are let through so far; the log may not say more.
            (None, 101) => Some("websocket".to_owned()),
            (upgrade, _) => upgrade.clone(),
        },
    };
    Ok((what, pattern(path)?))
}

/// The parameter that says what a request does, where there is one.
fn operation_parameter(query: &str) -> Result<Option<(String, String)>, &'static str> {
    let mut named = query
        .split('&')
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| matches!(*name, "action" | "~action" | "vmw-task"));
    match (named.next(), named.next()) {
        (None, _) => Ok(None),
        (Some((_, value)), None) if value.contains("***") => Err("their operation is masked"),
        (Some((name, value)), None) => Ok(Some((name.to_owned(), value.to_owned()))),
        (Some(_), Some(_)) => Err("they name their operation twice"),
    }
}

/// The path with `*` for what names a single object, or is masked in the log.
fn pattern(path: &str) -> Result<String, &'static str> {
    let segments: Result<Vec<String>, _> = path.split('/').map(segment).collect();
    segments.map(|segments| segments.join("/"))
}

fn segment(text: &str) -> Result<String, &'static str> {
    if text == "***" {
        return Ok("*".to_owned());
    }
    if text.contains('*') {
        return Err("their path has a '*', which a rule cannot mean literally");
    }
    let hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let uuid = text.len() == 36 && text.split('-').count() == 5 && text.split('-').all(hex);
    let long_hex = text.len() >= 16 && hex(text) && digits > 0;
    if uuid || long_hex || (!text.is_empty() && digits == text.len()) {
        return Ok("*".to_owned());
    }
    // `vm-123`, `domain-c8`, `group-v3`: the kind stays.
    let kind = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let letters = |c: char| c.is_ascii_lowercase() || c == '-';
    if kind.len() < text.len() && kind.contains('-') && kind.chars().all(letters) {
        return Ok(format!("{kind}*"));
    }
    Ok(text.to_owned())
}
