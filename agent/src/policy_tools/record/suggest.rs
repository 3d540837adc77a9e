//! From calls to rules that allow them, and as little else as one would want to write down.
//!
//! Calls are put together only where the product of the lists is what was seen: never a method
//! for a path that nobody called with it, never an operation of another endpoint. What is made
//! wider is one thing only: names of single objects in paths (`vm-123`) become `vm-*`.

use std::collections::{BTreeMap, BTreeSet};

use culvert_policy::{Action, MAX_ITEMS, Mode, Policy, RuleSpec, SoapOps};

use super::Seen;
use crate::audit::mask_target;
use crate::serve::destination_path;

/// Most different things that are told apart; a log with more is looked at in parts.
const MAX_SEEN: usize = 10_000;

/// Why a path becomes no pattern.
const STAR: &str = "their path has a '*', which a rule cannot mean literally, or is masked";

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
    /// Refused calls beside them, that the log has no line of.
    pub(super) only_counted: u64,
    /// Lines that the log lacks.
    pub(super) lost: u64,
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
        let caller = unescaped(&call.caller).ok_or("the caller's subject is no text")?;
        if caller.contains('*') {
            return Err("the caller's subject has a '*', which a rule cannot mean literally");
        }
        let place = Place {
            endpoint: call.endpoint.clone(),
            mode: mode.as_str(),
            caller,
        };
        let mut called = vec![what(mode, call, &call.target)?];
        if let Some(destination) = &call.destination {
            let path = destination_path(destination);
            let path = path.ok_or("their destination is neither a URL nor a path")?;
            called.push(what(mode, call, path)?);
        }
        // A call that is allowed at one of its targets only is not allowed.
        called.retain(|(what, name)| !self.has(&place, what, name));
        if self.different + called.len() > MAX_SEEN {
            return Err("too many different calls; read the log in parts");
        }
        // Callers write what they like, and one of them must not spoil the rules for all others.
        let can_say = |(what, name): &(What, String)| {
            let mut alone = place.rule("recorded", &[&place.caller]);
            what.narrow(&mut alone, std::slice::from_ref(name));
            Policy::compile(vec![alone]).is_ok()
        };
        if !called.iter().all(can_say) {
            return Err("what they call, or who calls, is more than a rule can say");
        }
        for (what, name) in called {
            let calls = self.seen.entry(place.clone()).or_default();
            self.different += usize::from(calls.entry(what).or_default().insert(name));
        }
        Ok(())
    }

    fn has(&self, place: &Place, what: &What, name: &str) -> bool {
        let known = self.seen.get(place).and_then(|calls| calls.get(what));
        known.is_some_and(|names| names.contains(name))
    }

    /// The rules: callers who do the same share them.
    pub(super) fn rules(&self) -> Vec<RuleSpec> {
        let mut alike: BTreeMap<(&str, &str, &Calls), Vec<&Place>> = BTreeMap::new();
        for (place, calls) in &self.seen {
            let same = (&*place.endpoint, place.mode, calls);
            alike.entry(same).or_default().push(place);
        }
        let mut rules = Vec::new();
        for ((_, _, calls), places) in alike {
            let callers: Vec<&str> = places.iter().map(|place| &*place.caller).collect();
            for (what, names) in calls {
                let names: Vec<String> = names.iter().cloned().collect();
                // A list has an end; behind it, the next rule begins.
                for callers in callers.chunks(MAX_ITEMS) {
                    for names in names.chunks(MAX_ITEMS) {
                        let id = format!("recorded-{}", rules.len() + 1);
                        let mut rule = places[0].rule(&id, callers);
                        what.narrow(&mut rule, names);
                        rules.push(rule);
                    }
                }
            }
        }
        rules
    }
}

impl Place {
    /// A rule for these callers there, to be narrowed.
    fn rule(&self, id: &str, callers: &[&str]) -> RuleSpec {
        // An empty subject is no pattern; tokens have none of that kind.
        let callers = callers.iter().filter(|caller| !caller.is_empty());
        RuleSpec {
            endpoint: vec![self.endpoint.clone()],
            mode: Mode::from_word(self.mode).into_iter().collect(),
            caller: callers.map(|caller| (*caller).to_owned()).collect(),
            ..RuleSpec::new(id, Action::Allow)
        }
    }
}

impl What {
    fn narrow(&self, rule: &mut RuleSpec, names: &[String]) {
        let names = names.to_vec();
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

fn what(mode: Mode, call: &Seen, target: &str) -> Result<(What, String), &'static str> {
    if !mode.has_target() {
        let target = target.rsplit_once(':');
        let (host, port) = target.ok_or("their target is no NAME:PORT")?;
        let port = port.parse().map_err(|_| "their target is no NAME:PORT")?;
        if host.contains('*') {
            return Err("their target is no NAME:PORT");
        }
        return Ok((What::Connect { port }, host.to_ascii_lowercase()));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(operation) = &call.soap_op {
        if call.method != "POST" {
            return Err("they are SOAP by another method than POST, which no rule allows");
        }
        if operation.contains('*') {
            return Err("their operation has a '*', which a rule cannot mean literally");
        }
        let ns = call.soap_ns.clone().unwrap_or_default();
        let path = pattern(path)?;
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
    // The log masks in its own places; elsewhere a caller wrote `***`, who makes no wildcards.
    if mask_target(&path.replace("***", "x")) != path {
        return Err(STAR);
    }
    let segments: Result<Vec<String>, _> = path.split('/').map(segment).collect();
    segments.map(|segments| segments.join("/"))
}

fn segment(text: &str) -> Result<String, &'static str> {
    if text == "***" {
        return Ok("*".to_owned());
    }
    if text.contains('*') {
        return Err(STAR);
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

/// A subject as it is: the log has all but printable ASCII as escapes ([`u8::escape_ascii`]).
/// `None`: no text.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b't' => b'\t',
                b'r' => b'\r',
                b'n' => b'\n',
                b'x' => {
                    let hex = [rest.next()?, rest.next()?];
                    u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
                }
                // A quote, or the backslash itself.
                plain => plain,
            },
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}
