//! `policy explain`: the decision on a made-up call, rule by rule.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use culvert_config::AgentConfig;
use culvert_config::policy_file::{self, TestCall};
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
    /// Path and query.
    #[arg(long, required_if_eq_any([("mode", "http"), ("mode", "terminate")]))]
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
    /// How the call is carried: http, connect, terminate or tcp.
    #[arg(long, default_value = "http", value_parser = mode)]
    mode: Mode,
}

fn mode(word: &str) -> Result<Mode, String> {
    Mode::from_word(word).ok_or_else(|| "expected http, connect, terminate or tcp".to_owned())
}

/// The explanation, for people. An error is one of the files, or a call that no policy is asked
/// about.
pub(crate) fn explain(args: &ExplainArgs) -> Result<impl Display, String> {
    let config = AgentConfig::load(&args.config).map_err(|error| error.to_string())?;
    let policy = policy_file::load(&config.policy.file).map_err(|error| error.to_string())?;
    let endpoint = config
        .endpoints
        .iter()
        .find(|e| e.name.as_str() == args.endpoint);
    let Some(endpoint) = endpoint else {
        let names: Vec<&str> = config.endpoints.iter().map(|e| e.name.as_str()).collect();
        return Err(format!(
            "the configuration has no endpoint {:?}; it has {}",
            args.endpoint,
            names.join(", ")
        ));
    };
    let paths = PathOptions {
        allow_semicolon: endpoint.allow_semicolon,
        allow_encoded_slash: endpoint.allow_encoded_slash,
    };
    let mut call = TestCall::new(args.endpoint.as_str(), args.mode);
    if args.mode.has_target() {
        let path = args.path.as_deref().unwrap_or("/");
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
    Ok(policy.policy.explain(&call.facts()).to_string())
}
