//! `policy lint`: what is probably wrong with a policy although it can be used.

use std::path::PathBuf;

use clap::Args;
use culvert_config::AgentConfig;
use culvert_policy::{Finding, FindingCode, LintEndpoint};

use super::{Answer, ToolError, count, load};

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    /// The configuration file (agent.toml).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Prints JSON: a list of objects with `code`, `subject` and `message`.
    #[arg(long)]
    json: bool,
}

/// The findings, one a line.
pub(crate) fn lint(args: &LintArgs) -> Result<Answer, ToolError> {
    let (config, policy) = load(&args.config)?;
    let mut findings = policy.policy.lint(policy.own_rules, &endpoints(&config));
    let elsewhere = policy.tests_elsewhere(&config.endpoints);
    findings.extend(elsewhere.map(|test| Finding {
        code: FindingCode::UnknownEndpoint,
        subject: test.name.clone(),
        message: format!(
            "the test is about {:?}, which is no endpoint of this agent: it shows nothing",
            test.call.endpoint
        ),
    }));
    let text = if args.json {
        let list = findings.iter().map(|finding| {
            serde_json::json!({
                "code": finding.code.as_str(),
                "subject": finding.subject,
                "message": finding.message,
            })
        });
        serde_json::Value::from_iter(list).to_string()
    } else {
        let mut text: String = findings
            .iter()
            .map(|finding| format!("{finding}\n"))
            .collect();
        text.push_str(&match findings.len() {
            0 => "nothing found\n".to_owned(),
            number => format!("{}\n", count(number, "finding")),
        });
        text
    };
    Ok(Answer {
        findings: !findings.is_empty(),
        ..Answer::plain(text)
    })
}

fn endpoints(config: &AgentConfig) -> Vec<LintEndpoint> {
    let endpoints = config.endpoints.iter().map(|endpoint| LintEndpoint {
        name: endpoint.name.as_str().to_owned(),
        modes: endpoint
            .modes
            .iter()
            .copied()
            .map(crate::policy::mode)
            .collect(),
        paths: endpoint.paths(),
    });
    endpoints.collect()
}
