//! `culvert-agent policy ...`: what an administrator asks about a policy, without running it.

use std::path::Path;

use clap::Subcommand;
use culvert_config::policy_file::PolicyFile;
use culvert_config::{AgentConfig, ConfigError, policy_file};
use culvert_process::words::count;

mod explain;
mod lint;
mod record;
mod show;

/// The questions.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// What the policy decides about a made-up call, and what each rule says to it.
    Explain(Box<explain::ExplainArgs>),
    /// What is probably wrong with the policy although it can be used. Exits with 1 if there is
    /// anything.
    Lint(lint::LintArgs),
    /// The rules that ship with the agent: their names, or the text of one.
    Show(show::ShowArgs),
    /// Suggests rules for calls that the audit log says were denied because no rule allows them.
    Record(record::RecordArgs),
}

/// What is printed, and whether there was something to find.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) findings: bool,
    /// What whoever asks may not have meant.
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            findings: false,
            warnings: Vec::new(),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// The configuration or the policy cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The question makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be read.
    #[error("cannot read {file}: {error}")]
    Read { file: String, error: std::io::Error },
}

impl PolicyCommand {
    /// Answers the question.
    pub(crate) fn answer(&self) -> Result<Answer, ToolError> {
        match self {
            Self::Explain(args) => explain::explain(args).map(Answer::plain),
            Self::Lint(args) => lint::lint(args),
            Self::Show(args) => show::show(args).map(Answer::plain),
            Self::Record(args) => record::record(args),
        }
    }
}

fn load(config: &Path) -> Result<(AgentConfig, PolicyFile), ConfigError> {
    let config = AgentConfig::load(config)?;
    let policy = policy_file::load(&config.policy.file)?;
    Ok((config, policy))
}

/// What `check` says about the policy: rules, tests, the rules that no test is about, and the tests that
/// are about no endpoint of the agent.
pub(crate) fn summary(config: &AgentConfig) -> Result<String, ConfigError> {
    let policy = policy_file::load(&config.policy.file)?;
    for name in policy_file::preset::names() {
        policy_file::preset::load(name)?;
    }
    let (rules, own) = (policy.policy.rules().len(), policy.own_rules);
    let mut text = format!(
        "# policy: {}, {} of presets; {}\n",
        count(own, "rule"),
        rules - own,
        match policy.tests.len() {
            0 => "no tests: write [[test]] blocks, so that a mistake shows".to_owned(),
            1 => "its test passes".to_owned(),
            tests => format!("all {tests} tests pass"),
        }
    );
    let untested = policy.untested_rules();
    if !untested.is_empty() && !policy.tests.is_empty() {
        text.push_str(&format!(
            "# policy: no test is decided by {}\n",
            quoted(untested.into_iter())
        ));
    }
    let elsewhere = policy.tests_elsewhere(&config.endpoints);
    let elsewhere = quoted(elsewhere.map(|test| test.name.as_str()));
    if !elsewhere.is_empty() {
        text.push_str(&format!(
            "# policy: about no endpoint of this agent, and therefore showing nothing: {elsewhere}\n"
        ));
    }
    Ok(text)
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
    names.join(", ")
}
