//! What can be wrong with one rule, looked at alone.

use super::{Finding, FindingCode, LintEndpoint};
use crate::canonical::PathOptions;
use crate::facts::Mode;
use crate::glob::Case;
use crate::matching::Rule;
use crate::operations;
use crate::rule::{Action, RuleSpec, SoapOps};

/// How many operations a message names before it says "and others".
const SHOWN: usize = 3;

/// The namespace of the operations that are known.
const VIM25: &str = "urn:vim25";

/// The methods of HTTP: those of IANA's registry that a server may meet.
const METHODS: [&str; 38] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "VERSION-CONTROL",
];

/// Upgrades that no agent passes on: another HTTP on the same connection would be one that nobody
/// looks at.
const OTHER_HTTP: [&str; 4] = ["h2c", "h2", "http", "tls"];

/// Everything that is wrong with one rule.
pub(super) fn check(rule: &Rule, endpoints: &[LintEndpoint], findings: &mut Vec<Finding>) {
    self::endpoints(rule, endpoints, findings);
    let mut found = |code, message: String| {
        findings.push(Finding {
            code,
            subject: rule.id.to_string(),
            message,
        });
    };
    let spec = &rule.spec;
    if let Some(why) = never(spec, rule, endpoints) {
        found(FindingCode::NeverMatches, why);
    }
    if spec.action == Action::Allow && spec.enforce {
        if allows_everything(spec) {
            let message = "allows every call of its endpoints and callers that no deny rule \
                           stops; name methods and paths";
            found(FindingCode::AllowAll, message.to_owned());
        }
        if spec.soap_op == Some(SoapOps::All) {
            let message = "allows every SOAP operation, Destroy_Task among them; name those that \
                           are needed";
            found(FindingCode::AllOperations, message.to_owned());
        }
        for pattern in spec.path.iter().filter(|path| opens_twin(path)) {
            if spec.soap_op.is_none() {
                let message = format!(
                    "{pattern:?} opens operations of SOAP's JSON twin that nobody listed; end it \
                     with an operation, or add soap_op"
                );
                found(FindingCode::JsonTwin, message);
            }
        }
    }
    if spec.soap_op.is_some()
        && spec.enforce
        && let Some(pattern) = spec.path.iter().find(|path| is_everywhere(path))
    {
        let message = format!(
            "{pattern:?} with soap_op makes every body under it a SOAP body, and all others are \
             denied; write the path of the SOAP service, such as \"/sdk\""
        );
        found(FindingCode::SoapEverywhere, message);
    }
    for method in &spec.method {
        if !METHODS.contains(&method.as_str()) {
            let message = format!(
                "{method:?} is no method of HTTP; if a server has it all the same, so be it"
            );
            found(FindingCode::UnknownMethod, message);
        }
    }
    for (code, message) in operation_findings(spec) {
        found(code, message);
    }
}

/// Patterns of endpoints that the agent does not have.
pub(super) fn endpoints(rule: &Rule, endpoints: &[LintEndpoint], findings: &mut Vec<Finding>) {
    for (glob, pattern) in rule.endpoint.iter().zip(&rule.spec.endpoint) {
        if endpoints
            .iter()
            .any(|endpoint| glob.matches(&endpoint.name, Case::Exact))
        {
            continue;
        }
        let known: Vec<_> = endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        findings.push(Finding {
            code: FindingCode::UnknownEndpoint,
            subject: rule.id.to_string(),
            message: format!(
                "{pattern:?} is no endpoint of this agent; it has {}",
                known.join(", ")
            ),
        });
    }
}

/// Whether the rule can be about a call to the endpoint.
pub(super) fn is_for(rule: &Rule, endpoint: &LintEndpoint) -> bool {
    let named = rule.endpoint.is_empty()
        || rule
            .endpoint
            .iter()
            .any(|glob| glob.matches(&endpoint.name, Case::Exact));
    let carried = rule.spec.mode.is_empty()
        || rule
            .spec
            .mode
            .iter()
            .any(|mode| endpoint.modes.contains(mode));
    // What says something about a request needs a mode that has one.
    let spec = &rule.spec;
    let seen = !about_requests(spec) || endpoint.modes.iter().any(|mode| mode.has_target());
    named && carried && seen
}

fn about_requests(spec: &RuleSpec) -> bool {
    !spec.path.is_empty()
        || !spec.query.is_empty()
        || !spec.upgrade.is_empty()
        || spec.soap_op.is_some()
}

/// Why no call can match.
fn never(spec: &RuleSpec, rule: &Rule, endpoints: &[LintEndpoint]) -> Option<String> {
    let blind = |modes: &[Mode]| !modes.is_empty() && modes.iter().all(|mode| !mode.has_target());
    if blind(&spec.mode) && about_requests(spec) {
        return Some(
            "its modes show no request, and it has path, query, soap_op or upgrade; leave these \
             out, or use http or terminate"
                .to_owned(),
        );
    }
    let named: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| {
            rule.endpoint.is_empty()
                || rule
                    .endpoint
                    .iter()
                    .any(|glob| glob.matches(&endpoint.name, Case::Exact))
        })
        .collect();
    if !named.is_empty() && !named.iter().any(|endpoint| is_for(rule, endpoint)) {
        return Some("none of its endpoints is called in a mode that the rule is about".to_owned());
    }
    let reads = |method: &String| matches!(&**method, "GET" | "HEAD" | "OPTIONS");
    let posts = spec.method.is_empty() || spec.method.iter().any(|method| method == "POST");
    // Its JSON twin is called by other methods too.
    let twin = spec.path.iter().any(|path| names_twin(path));
    if spec.soap_op.is_some() && !posts && !twin {
        return Some("SOAP calls are POSTs, and its methods are others".to_owned());
    }
    let all = |words: &[String], of: &[&str]| {
        !words.is_empty() && words.iter().all(|word| of.contains(&word.as_str()))
    };
    if all(&spec.upgrade, &OTHER_HTTP) {
        return Some(format!(
            "the agent passes no upgrade to {} on, which would be another HTTP that nobody looks at",
            spec.upgrade.join(" or ")
        ));
    }
    // CONNECT is the method of ways on which the agent sees bytes.
    let sees = !spec.mode.is_empty() && spec.mode.iter().all(|mode| mode.has_target());
    if all(
        &spec.method,
        if sees {
            &["CONNECT", "TRACE"]
        } else {
            &["TRACE"]
        },
    ) {
        return Some(format!(
            "the agent passes no {} request on",
            spec.method.join(" or ")
        ));
    }
    if spec.soap_op.is_some() && !spec.upgrade.is_empty() {
        return Some("no call is SOAP and an upgrade at once; make two rules of it".to_owned());
    }
    let is_get = |method: &String| method == "GET";
    if !spec.upgrade.is_empty() && !spec.method.is_empty() && !spec.method.iter().any(is_get) {
        return Some("an upgrade is a GET, and its methods are others".to_owned());
    }
    if spec.action == Action::Allow {
        let under_sdk = |path: &String| {
            let below = path.strip_prefix("/sdk");
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && !names_twin(path)
        };
        let soap_only = !spec.path.is_empty() && spec.path.iter().all(under_sdk);
        let writes = !spec.method.is_empty() && !spec.method.iter().any(reads);
        if spec.soap_op.is_none() && soap_only && writes {
            return Some(
                "calls to /sdk are SOAP, which no rule without soap_op allows; add soap_op"
                    .to_owned(),
            );
        }
        let lower = |path: &String| path.to_ascii_lowercase();
        let accepted_by = |accepts: fn(&PathOptions) -> bool| {
            let mut options = named.iter().map(|endpoint| &endpoint.paths);
            options.any(accepts)
        };
        for (what, key, accepted) in [
            (
                ";",
                "allow_semicolon",
                accepted_by(|paths| paths.allow_semicolon),
            ),
            (
                "%2f",
                "allow_encoded_slash",
                accepted_by(|paths| paths.allow_encoded_slash),
            ),
            (
                "%25",
                "allow_encoded_percent",
                accepted_by(|paths| paths.allow_encoded_percent),
            ),
        ] {
            let every =
                !spec.path.is_empty() && spec.path.iter().all(|path| lower(path).contains(what));
            if every && !named.is_empty() && !accepted {
                return Some(format!(
                    "its endpoints refuse paths with {what:?}, and every path of it has one; set \
                     {key} at the endpoint"
                ));
            }
        }
    }
    None
}

/// An allow rule that names nothing of the request although it could be seen.
fn allows_everything(spec: &RuleSpec) -> bool {
    let seen = spec.mode.is_empty() || spec.mode.iter().any(|mode| mode.has_target());
    let any_path = spec.path.is_empty() || spec.path.iter().any(|path| path == "/**");
    seen && any_path
        && spec.method.is_empty()
        && spec.query.is_empty()
        && spec.soap_op.is_none()
        && spec.upgrade.is_empty()
}

/// Whether a pattern is about SOAP's JSON twin: an allow rule reaches it by no other.
fn names_twin(path: &str) -> bool {
    path.starts_with("/sdk/vim25/")
}

/// `/sdk/vim25/...` that ends in a pattern.
fn opens_twin(path: &str) -> bool {
    let mut segments = path.trim_end_matches('/').rsplit('/');
    names_twin(path) && segments.next().is_some_and(|last| last.contains('*'))
}

/// Whether the pattern names no path of its own: it begins with a wildcard.
fn is_everywhere(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    first == "**" || first == "*"
}

/// What is odd about the names of operations.
fn operation_findings(spec: &RuleSpec) -> Vec<(FindingCode, String)> {
    let Some(SoapOps::Names(names)) = &spec.soap_op else {
        return Vec::new();
    };
    let elsewhere = |path: &String| !path.starts_with("/sdk");
    let other_api = spec.soap_ns.as_deref().is_some_and(|ns| ns != VIM25)
        || (spec.soap_ns.is_none() && spec.path.iter().any(elsewhere));
    if other_api {
        return Vec::new();
    }
    names
        .iter()
        .filter_map(|name| operation_finding(name, spec.action))
        .collect()
}

fn operation_finding(name: &str, action: Action) -> Option<(FindingCode, String)> {
    let hits: Vec<_> = operations::matching(name).collect();
    if hits.is_empty() {
        let hint = match operations::suggestion(name) {
            Some(known) => format!("did you mean {known:?}?"),
            None => "is it of another API? Then say so with soap_ns".to_owned(),
        };
        let message = format!("vSphere has no operation {name:?}; {hint}");
        return Some((FindingCode::UnknownOperation, message));
    }
    let (reads, writes): (Vec<&str>, Vec<&str>) =
        hits.iter().partition(|name| operations::reads(name));
    if !name.contains('*') || reads.is_empty() || writes.is_empty() {
        return None;
    }
    let message = match action {
        Action::Allow => format!(
            "{name:?} also allows what changes something ({}) beside what reads ({})",
            some(&writes),
            some(&reads)
        ),
        Action::Deny => format!(
            "{name:?} also denies what changes nothing ({}) beside what changes ({})",
            some(&reads),
            some(&writes)
        ),
    };
    Some((FindingCode::BroadGlob, message))
}

fn some(names: &[&str]) -> String {
    let shown = names
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
