//! `policy record`: from the calls that the audit log shows to rules that would allow them.
//!
//! A policy is begun like this: deny everything, let the callers try, and have the rules
//! suggested; or allow a caller everything by a rule of its own for a day, and replace that rule.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use culvert_config::policy_file;
use culvert_proto::code::ErrorCode;
use serde::Deserialize;

use self::suggest::Suggestions;
use super::{Answer, ToolError};

mod render;
mod suggest;

/// Longest line of an audit log, in bytes.
const MAX_LINE: u64 = 256 * 1024;

/// Which calls.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// Audit logs of the agent, oldest first; `-` is standard input.
    #[arg(required = true, value_name = "AUDIT_LOG")]
    files: Vec<PathBuf>,
    /// Also the calls that this rule allowed, or would have allowed or denied as a rule with
    /// `enforce = false`; may be repeated.
    #[arg(long, value_name = "ID")]
    rule: Vec<String>,
    /// Only calls to this endpoint.
    #[arg(long)]
    endpoint: Option<String>,
}

/// What is read of a line of the audit log (docs/audit.md).
#[derive(Debug, Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    decision: String,
    rule: Option<String>,
    destination_rule: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    shadow: Vec<String>,
    code: Option<String>,
    /// Refused calls without a line, of an event `denied`.
    #[serde(default)]
    suppressed: u64,
    /// Lines that could not be written, of an event `gap`.
    #[serde(default)]
    lost: u64,
    #[serde(flatten)]
    call: Seen,
}

/// A call as the audit log has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Seen {
    endpoint: String,
    mode: String,
    method: String,
    target: String,
    destination: Option<String>,
    caller: String,
    soap_op: Option<String>,
    soap_ns: Option<String>,
    upgrade: Option<String>,
    status: u16,
}

/// The suggested rules, as a policy file of their own.
pub(crate) fn record(args: &RecordArgs) -> Result<Answer, ToolError> {
    let mut suggestions = Suggestions::default();
    let mut unseen: HashSet<&str> = args.rule.iter().map(String::as_str).collect();
    for file in &args.files {
        let read = |error| ToolError::Read {
            file: file.display().to_string(),
            error,
        };
        let lines: Box<dyn Read> = if file == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            Box::new(File::open(file).map_err(read)?)
        };
        each_line(BufReader::new(lines), |line| {
            // Other events, and what is no line of an audit log.
            let Ok(line) = serde_json::from_slice::<Line>(line) else {
                return;
            };
            let endpoint = args.endpoint.as_deref();
            let here = endpoint.is_none_or(|e| e == line.call.endpoint);
            if here {
                unseen.retain(|id| !is_of(&line, id));
            }
            if here && wanted(&line, &args.rule) {
                suggestions.add(&line.call);
            }
            // Those that the log could not tell apart have the endpoint `*`.
            if (here || line.call.endpoint == "*") && counts_denied(&line) {
                suggestions.only_counted += line.suppressed;
            }
            if line.event == "gap" {
                suggestions.lost += line.lost;
            }
        })
        .map_err(read)?;
    }
    let text = render::policy(&suggestions);
    // What is printed is good for `check`; anything else is a mistake of ours, and is not printed.
    policy_file::parse(&text, Path::new("suggested policy"))?;
    let unseen = args.rule.iter().filter(|id| unseen.contains(id.as_str()));
    let warning = |id| format!("no call in these logs is one of the rule {id:?}: is it spelt so?");
    Ok(Answer {
        warnings: unseen.map(warning).collect(),
        ..Answer::plain(text)
    })
}

/// Calls that no rule allowed, and those of the rules that were asked for.
fn wanted(line: &Line, rules: &[String]) -> bool {
    let denied = line.decision == "deny"
        && line.rule.is_none()
        && line
            .reason
            .as_deref()
            .is_none_or(|reason| matches!(reason, "no-rule" | "destination: no-rule"));
    let named = rules.iter().any(|id| is_of(line, id));
    (line.event == "call" && denied) || named
}

/// Calls that a rule allowed, at one of their paths at least, or would have allowed or denied.
fn is_of(line: &Line, rule: &str) -> bool {
    let rules = [line.rule.as_deref(), line.destination_rule.as_deref()];
    let decided = line.decision == "allow" && rules.contains(&Some(rule));
    line.event == "call" && (decided || line.shadow.iter().any(|id| id == rule))
}

/// Calls that the log only counted, and that a rule could have allowed.
fn counts_denied(line: &Line) -> bool {
    let denied = ErrorCode::PolicyDenied.as_str();
    line.event == "denied"
        && line.rule.is_none()
        && line.code.as_deref().is_none_or(|code| code == denied)
}

/// Calls `see` with each line; longer ones than any audit log has are passed over.
fn each_line(mut lines: impl BufRead, mut see: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        see(&line);
    }
}

#[cfg(test)]
mod tests;
