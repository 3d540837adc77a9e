//! `policy explain`: the decision on a made-up call, rule by rule.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use culvert_config::policy_file::{self, TestCall};
use culvert_config::{AgentConfig, ConfigError};
use culvert_policy::{CanonicalTarget, Mode, PathOptions};

/// A call to be explained.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The configuration file (agent.toml).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The endpoint.
    #[arg(long)]
    endpoint: String,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// Path and query, in the modes that have them.
    #[arg(long)]
    path: Option<String>,
    /// The caller's subject.
    #[arg(long, default_value = "")]
    caller: String,
    /// A scope of the caller; may be repeated.
    #[arg(long)]
    scope: Vec<String>,
    /// The operation of a SOAP call.
    #[arg(long)]
    soap_op: Option<String>,
    /// The protocol that the call asks to upgrade to.
    #[arg(long)]
    upgrade: Option<String>,
    /// The caller's address.
    #[arg(long)]
    source: Option<IpAddr>,
    /// The name that the caller connects to, in the proxy modes.
    #[arg(long)]
    host: Option<String>,
    /// The port that the caller connects to, in the proxy modes.
    #[arg(long)]
    port: Option<u16>,
    /// How the call is carried: http, connect, terminate or tcp.
    #[arg(long, default_value = "http", value_parser = mode)]
    mode: Mode,
}

fn mode(word: &str) -> Result<Mode, String> {
    Mode::from_word(word).ok_or_else(|| "expected http, connect, terminate or tcp".to_owned())
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the configuration has no endpoint {asked:?}; it has {known}")]
    Endpoint { asked: String, known: String },
    #[error("--path is needed in mode {0}")]
    Path(&'static str),
}

/// The explanation, for people.
pub(crate) fn explain(args: &ExplainArgs) -> Result<String, ExplainError> {
    let config = AgentConfig::load(&args.config)?;
    let policy = policy_file::load(&config.policy.file)?;
    let endpoint = config
        .endpoints
        .iter()
        .find(|e| e.name.as_str() == args.endpoint);
    let Some(endpoint) = endpoint else {
        let known: Vec<&str> = config.endpoints.iter().map(|e| e.name.as_str()).collect();
        let (asked, known) = (args.endpoint.clone(), known.join(", "));
        return Err(ExplainError::Endpoint { asked, known });
    };
    let paths = PathOptions {
        allow_semicolon: endpoint.allow_semicolon,
        allow_encoded_slash: endpoint.allow_encoded_slash,
    };
    let mut call = TestCall::new(args.endpoint.as_str(), args.mode);
    if args.mode.has_target() {
        let path = args
            .path
            .as_deref()
            .ok_or(ExplainError::Path(args.mode.as_str()))?;
        match CanonicalTarget::parse(path, paths) {
            Ok(target) => call.target = Some(target),
            Err(error) => return Ok(format!("deny: {error}\n  (no rule is asked)\n")),
        }
        call.method.clone_from(&args.method);
    }
    call.caller.clone_from(&args.caller);
    call.scopes.clone_from(&args.scope);
    call.soap_op.clone_from(&args.soap_op);
    call.upgrade.clone_from(&args.upgrade);
    call.source = args.source;
    call.host.clone_from(&args.host);
    call.port = args.port;
    Ok(policy.policy.explain(&call.facts(&policy.policy)).to_string())
}
