//! Suggested rules as the text of a policy file.

use std::fmt::Write;

use culvert_policy::{RuleSpec, SoapOps};

use super::suggest::Suggestions;

/// A policy file with the suggested rules.
pub(super) fn policy(suggestions: &Suggestions) -> String {
    let rules = suggestions.rules();
    let mut text = format!(
        "# Suggested from {} of the audit log. Read every rule before you use it: what was tried\n\
         # is not always what should be allowed. Names of single objects in paths became `*`.\n",
        super::super::count(
            usize::try_from(suggestions.calls).unwrap_or(usize::MAX),
            "call"
        )
    );
    for (why, calls) in &suggestions.left_out {
        let _ = writeln!(text, "# No rule for {calls} of them: {why}.");
    }
    if suggestions.only_counted > 0 {
        let _ = writeln!(
            text,
            "# Refused calls that have no line of their own in this log: {}. To see them, raise\n\
             # denied_per_minute in [audit] of agent.toml, and let the callers try again.",
            suggestions.only_counted
        );
    }
    if suggestions.lost > 0 {
        let _ = writeln!(
            text,
            "# Lines that this log lacks because they could not be written: {}.",
            suggestions.lost
        );
    }
    text.push_str("version = 1\n");
    for rule in &rules {
        text.push_str(&rule_text(rule));
    }
    text
}

fn rule_text(rule: &RuleSpec) -> String {
    let mut text = format!(
        "\n[[rule]]\nid = {}\naction = \"allow\"\n",
        quoted(&rule.id)
    );
    let modes: Vec<String> = rule
        .mode
        .iter()
        .map(|mode| mode.as_str().to_owned())
        .collect();
    let lists = [
        ("endpoint", &rule.endpoint),
        ("mode", &modes),
        ("method", &rule.method),
        ("path", &rule.path),
        ("caller", &rule.caller),
        ("upgrade", &rule.upgrade),
        ("host", &rule.host),
    ];
    for (key, items) in lists.into_iter().filter(|(_, items)| !items.is_empty()) {
        let _ = writeln!(text, "{key} = {}", list(items));
    }
    if !rule.port.is_empty() {
        let _ = writeln!(text, "port = {:?}", rule.port);
    }
    for (name, values) in &rule.query {
        let _ = writeln!(text, "query = {{ {} = {} }}", quoted(name), list(values));
    }
    if let Some(SoapOps::Names(names)) = &rule.soap_op {
        let _ = writeln!(text, "soap_op = {}", list(names));
    }
    if let Some(ns) = &rule.soap_ns {
        let _ = writeln!(text, "soap_ns = {}", quoted(ns));
    }
    text
}

fn list(items: &[String]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
    match items.iter().map(String::len).sum::<usize>() {
        0..=70 => format!("[{}]", items.join(", ")),
        _ => format!("[\n    {},\n]", items.join(",\n    ")),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
