//! `policy explain`: the decision on a made-up call, rule by rule.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use culvert_config::endpoint::Endpoint;
use culvert_config::policy_file::TestCall;
use culvert_http::upgrade::is_http;
use culvert_policy::{CanonicalTarget, Look, Mode, TargetError, has_destination};
use culvert_proto::connect_name::ConnectName;
use culvert_proto::heads::is_method;

use super::{ToolError, load};

/// A call to be explained.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The configuration file (agent.toml).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The endpoint.
    #[arg(long)]
    endpoint: String,
    /// The method: POST where a SOAP operation is given, GET where not.
    #[arg(long)]
    method: Option<String>,
    /// Path and query, in the modes that have them.
    #[arg(long)]
    path: Option<String>,
    /// Path and query of where a COPY or MOVE leads (WebDAV's Destination).
    #[arg(long, value_name = "PATH")]
    destination: Option<String>,
    /// The caller's subject.
    #[arg(long, default_value = "")]
    caller: String,
    /// A scope of the caller; may be repeated.
    #[arg(long)]
    scope: Vec<String>,
    /// The operation of a SOAP call.
    #[arg(long)]
    soap_op: Option<String>,
    /// The namespace of the SOAP operation.
    #[arg(long, default_value = "urn:vim25")]
    soap_ns: String,
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

/// The explanation, for people.
pub(crate) fn explain(args: &ExplainArgs) -> Result<String, ToolError> {
    let (config, policy) = load(&args.config)?;
    let endpoint = config
        .endpoints
        .iter()
        .find(|e| e.name.as_str() == args.endpoint);
    let Some(endpoint) = endpoint else {
        let known: Vec<&str> = config.endpoints.iter().map(|e| e.name.as_str()).collect();
        return Err(ToolError::Usage(format!(
            "the configuration has no endpoint {:?}; it has {}",
            args.endpoint,
            known.join(", ")
        )));
    };
    let paths = endpoint.paths();
    if let Some(why) = impossible(args, endpoint) {
        return Ok(format!("deny: {why}\n  (no rule is asked)\n"));
    }
    let mut call = TestCall::new(args.endpoint.as_str(), args.mode);
    if args.mode.has_target() {
        let Some(path) = &args.path else {
            let mode = args.mode.as_str();
            return Err(ToolError::Usage(format!("--path is needed in mode {mode}")));
        };
        match CanonicalTarget::parse(path, paths) {
            Ok(target) => call.target = Some(target),
            Err(error) => return Ok(refused(&error.to_string(), error)),
        }
        // An operation is called by POST; whoever names one need not say so.
        let usual = if args.soap_op.is_some() {
            "POST"
        } else {
            "GET"
        };
        call.method = args.method.as_deref().unwrap_or(usual).to_owned();
    }
    if let Some(destination) = &args.destination {
        if !has_destination(&call.method) {
            return Err(ToolError::Usage(
                "--destination is for --method COPY or MOVE".to_owned(),
            ));
        }
        match CanonicalTarget::parse(destination, paths) {
            Ok(target) => call.destination = Some(target),
            Err(error) => {
                let why = format!("the destination is not accepted: {error}");
                return Ok(refused(&why, error));
            }
        }
    }
    call.caller.clone_from(&args.caller);
    call.scopes.clone_from(&args.scope);
    call.soap_op.clone_from(&args.soap_op);
    call.soap_ns.clone_from(&args.soap_ns);
    call.upgrade.clone_from(&args.upgrade);
    call.source = args.source;
    if args.mode != Mode::Http {
        call.host = args.host.as_deref().map(one_spelling);
        call.port = args.port;
    }
    let hint = match (call.look(&policy.policy), &args.soap_op) {
        (Look::No, Some(_)) => {
            return Err(ToolError::Usage(
                "a call with a SOAP operation is a POST to /sdk, or to a path that an enforced rule \
                 with soap_op names"
                    .to_owned(),
            ));
        }
        (Look::Json, Some(_)) => {
            return Ok(
                "deny: under /sdk/vim25/ the path names the operation, and no SOAP is taken; leave \
                 --soap-op out\n  (no rule is asked)\n"
                    .to_owned(),
            );
        }
        (Look::Soap, None) => "(a call to this path is SOAP: say with --soap-op what it calls)\n",
        (Look::Soap, Some(_)) | (Look::No | Look::Json, None) => "",
    };
    let explained = policy.policy.explain(&call.facts(&policy.policy));
    Ok(format!("{explained}{hint}{}", ignored(args)))
}

/// What was said of the call that calls of its mode do not have.
fn ignored(args: &ExplainArgs) -> String {
    let mode = args.mode.as_str();
    let what = match args.mode {
        Mode::Http if args.host.is_some() || args.port.is_some() => "--host and --port do",
        Mode::Connect | Mode::Tcp if args.method.is_some() || args.path.is_some() => {
            "--method and --path do"
        }
        _ => return String::new(),
    };
    format!("({what} not count in mode {mode})\n")
}

/// That a target is none, and what may be done about it.
fn refused(why: &str, error: TargetError) -> String {
    let choice = error.accepted_by().map_or_else(String::new, |key| {
        format!("; an endpoint with {key} may accept it")
    });
    format!("deny: {why}\n  (no rule is asked{choice})\n")
}

/// Why such a call reaches no rule, whatever the policy says.
fn impossible(args: &ExplainArgs, endpoint: &Endpoint) -> Option<String> {
    let name = &endpoint.name;
    let mode = args.mode.as_str();
    let modes: Vec<&str> = endpoint.modes.iter().map(|mode| mode.as_str()).collect();
    if !modes.contains(&mode) {
        let modes = modes.join(", ");
        return Some(format!("{name} has no mode {mode}; it has {modes}"));
    }
    let is_taken =
        |method: &str| is_method(method.as_bytes()) && !["TRACE", "CONNECT"].contains(&method);
    if let Some(method) = args.method.as_ref().filter(|method| !is_taken(method)) {
        return Some(format!("the relay takes no method {method:?}"));
    }
    if let Some(protocol) = &args.upgrade {
        if is_http(&protocol.to_ascii_lowercase()) {
            return Some("upgrades to another HTTP are not accepted".into());
        }
        let is_get = args.method.as_deref().is_none_or(|method| method == "GET");
        if !is_get || args.soap_op.is_some() {
            return Some("an Upgrade is accepted of a GET without a body".into());
        }
    }
    if let (Some(host), Some(port), true) = (&args.host, args.port, args.mode != Mode::Http) {
        let host = one_spelling(host);
        let is_declared =
            |declared: &ConnectName| declared.host() == host && declared.port() == port;
        if !endpoint.connect.iter().any(is_declared) {
            return Some(format!("{name} declares no {host}:{port} in connect"));
        }
    }
    None
}

/// A host as calls have it once the relay has brought it to its one spelling; as it is where it is
/// none.
fn one_spelling(host: &str) -> String {
    // Any port will do.
    let texts = [format!("{host}:443"), format!("[{host}]:443")];
    let mut names = texts
        .iter()
        .filter_map(|text| ConnectName::parse(text).ok());
    names
        .next()
        .map_or_else(|| host.to_owned(), |name| name.host().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: ExplainArgs,
    }

    const AGENT: &str = r#"
[relay]
url = "wss://relay.example.com"
[oauth]
grant = "token_file"
token_file = "token"
client_id = "x"
[[endpoint]]
name = "e"
upstream = "https://vcenter.sddc.local"
connect = ["vcenter.sddc.local:443"]
mode = ["http", "connect"]
[[endpoint]]
name = "percent"
upstream = "https://vcenter.sddc.local"
allow_encoded_percent = true
[policy]
file = "policy.toml"
"#;

    const POLICY: &str = r#"
version = 1
[[rule]]
id = "there"
action = "allow"
host = ["vcenter.sddc.local"]
[[rule]]
id = "files"
action = "allow"
method = ["GET", "MOVE"]
path = ["/folder/*/x"]
"#;

    #[test]
    fn what_no_rule_is_asked_about_or_what_does_not_count_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("agent.toml");
        std::fs::write(&config, AGENT).unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "t").unwrap();
        std::fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(folder.path().join("policy.toml"), POLICY).unwrap();
        let explained = |words: &str| {
            let config = config.to_str().unwrap();
            let given = ["explain", "--config", config].into_iter();
            let line = given.chain(words.split(' '));
            explain(&CommandLine::parse_from(line).args).unwrap()
        };
        for (words, decision, said) in [
            (
                "--endpoint e --path /folder/a%252fb/x",
                "deny: the path has the escape %25 at 9",
                "(no rule is asked; an endpoint with allow_encoded_percent may accept it)",
            ),
            (
                "--endpoint e --path /a/..",
                "deny: the path has a segment",
                "(no rule is asked)",
            ),
            (
                "--endpoint percent --path /folder/a%252fb/x",
                "allow, by rule \"files\"",
                "\"files\" (allow) matches",
            ),
            (
                "--endpoint e --method MOVE --path /folder/a/x --destination /folder/b;c/x",
                "deny: the destination is not accepted",
                "an endpoint with allow_semicolon",
            ),
            (
                "--endpoint e --method POST --path /sdk",
                "deny: the SOAP operation could not be read",
                "say with --soap-op what it calls",
            ),
            (
                "--endpoint e --path /other --host vcenter.sddc.local --port 443",
                "deny: no rule",
                "(--host and --port do not count in mode http)",
            ),
            (
                "--endpoint e --mode connect --path /x --host vcenter.sddc.local --port 443",
                "allow, by rule \"there\"",
                "(--method and --path do not count in mode connect)",
            ),
        ] {
            let text = explained(words);
            assert!(text.starts_with(decision), "{words}: {text}");
            assert!(text.contains(said), "{words}: {text}");
        }
    }
}
