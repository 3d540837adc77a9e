//! The command line.

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{ArgGroup, Args, Parser, Subcommand};
use culvert_admin::{Access, AskError};
use culvert_config::secret;
use culvert_process::exit_code::{self, BAD_CONFIG, FAILED, USAGE};
use culvert_process::log::{Log, LogFormat};
use culvert_process::workers::{Workers, processors};
use culvert_proto::names::{EndpointName, TenantName};
use culvert_session::tls::TlsConfigError;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;

use crate::admin::CLIENT;
use crate::admin::revocations::{self, Asked, Listed, Shown};
use crate::admin::status::Status;
use crate::app::{self, Prepared};
use crate::revocations::RevocationId;

/// How often `drain --wait` looks whether the relay is still there.
const LOOK: Duration = Duration::from_millis(200);

/// Takes callers and agents, and passes calls from the ones to the others.
#[derive(Debug, Parser)]
#[command(name = "culvert-relay", version, after_help = exit_code::in_words("done or drained"))]
struct Cli {
    /// Form of the log on standard error. What is logged: RUST_LOG, for example
    /// "info,culvert_relay=debug".
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a relay node until SIGTERM or SIGINT. SIGHUP reads certificates again; `relay.toml` and
    /// secrets are not read again.
    Run(ConfigArg),
    /// Validates the configuration and prints what the node would run with.
    Check(ConfigArg),
    /// Shows sessions, endpoints and calls of a running node.
    Status {
        #[command(flatten)]
        admin: AdminArg,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says whether a running node is ready for work: exit code 0, or 1 and why not. For probes.
    Ready {
        #[command(flatten)]
        admin: AdminArg,
    },
    /// Ends what fits all that is given, on a running node, and keeps it out until it is lifted.
    Revoke {
        #[command(flatten)]
        admin: AdminArg,
        #[command(flatten)]
        what: RevokeArgs,
    },
    /// Takes a revocation back.
    Lift {
        #[command(flatten)]
        admin: AdminArg,
        /// Its id, as `revocations` shows it.
        id: RevocationId,
    },
    /// Shows what is revoked on a running node.
    Revocations {
        #[command(flatten)]
        admin: AdminArg,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a running node take no new work and stop once its calls are done.
    Drain {
        #[command(flatten)]
        admin: AdminArg,
        /// Waits until the node has stopped.
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration file (relay.toml).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct AdminArg {
    /// The node's admin listener: http://IP:PORT or https://HOST:PORT.
    #[arg(
        long = "admin",
        value_name = "URL",
        default_value = "http://127.0.0.1:9901"
    )]
    url: String,
    /// The file with the listener's token, if it asks for one.
    #[arg(long, value_name = "FILE", env = "CULVERT_ADMIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The authorities of the listener's certificate, PEM; by default the system's.
    #[arg(long, value_name = "FILE", env = "CULVERT_ADMIN_CA")]
    ca: Option<PathBuf>,
}

impl AdminArg {
    fn access(&self) -> Result<Access, AskingError> {
        let token = self.token_file.as_deref();
        let token = token.map(|file| secret::read(file, file)).transpose();
        let token = token.map_err(AskingError::Token)?;
        Ok(Access::new(&self.url, token, self.ca.as_deref())?)
    }
}

#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("what").required(true).multiple(true)
        .args(["subject", "tenant", "session", "endpoint"])
))]
struct RevokeArgs {
    /// `sub` of a token, or the name of a certificate: agents and callers.
    #[arg(long)]
    subject: Option<String>,
    /// A tenant: agents and callers.
    #[arg(long)]
    tenant: Option<TenantName>,
    /// The id of an agent's session, as `status` shows it.
    #[arg(long, value_name = "ID")]
    session: Option<u64>,
    /// An endpoint of the tenant: calls to it.
    #[arg(long, requires = "tenant")]
    endpoint: Option<EndpointName>,
    /// Why; agents whose sessions end are told.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long it holds, like "1h"; by default until it is lifted.
    #[arg(long = "for", value_name = "SPAN", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
}

/// Runs the program that the command line asks for; gives its exit code: 0, 1 (failed while
/// running), 2 (usage) or 78 (configuration).
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let _log = Log::start(cli.log_format);
    match cli.command {
        Command::Run(arg) => with_config(&arg.config, run),
        Command::Check(arg) => with_config(&arg.config, |prepared| {
            let printed = print(prepared.config().render().trim_end());
            for shortcoming in prepared.shortcomings() {
                let _ = writeln!(std::io::stderr(), "culvert-relay: warning: {shortcoming}");
            }
            match printed {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(FAILED, error),
            }
        }),
        Command::Status { admin, json } => asking(status(&admin, json)),
        Command::Ready { admin } => asking(ready(&admin)),
        Command::Revoke { admin, what } => asking(revoke(&admin, what)),
        Command::Lift { admin, id } => asking(lift(&admin, id)),
        Command::Revocations { admin, json } => asking(revocations(&admin, json)),
        Command::Drain { admin, wait } => asking(drain(&admin, wait)),
    }
}

fn with_config(file: &Path, then: impl FnOnce(Prepared) -> ExitCode) -> ExitCode {
    match Prepared::load(file) {
        Ok(prepared) => then(prepared),
        Err(error) => fail(BAD_CONFIG, error),
    }
}

fn run(prepared: Prepared) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = match Workers::start(processors()) {
                Ok(workers) => runtime.block_on(app::run(prepared, Arc::new(workers))),
                Err(error) => Err(app::RunError::Runtime(error)),
            };
            // Name resolution that hangs on a thread of its own is not waited for.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(app::RunError::Runtime(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, error),
    }
}

/// Why a question to a running node has no good answer.
#[derive(Debug, thiserror::Error)]
enum AskingError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{0}")]
    Token(String),
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    #[error("{url} answered with something else than a relay does: {error}")]
    Strange {
        url: String,
        error: serde_json::Error,
    },
    #[error("the output cannot be written: {0}")]
    Output(std::io::Error),
}

fn asking(question: impl Future<Output = Result<(), AskingError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime.map(|runtime| runtime.block_on(question)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(
            error @ (AskingError::Ask(
                AskError::Address { .. }
                | AskError::NotAdmin { .. }
                | AskError::Refused {
                    status: StatusCode::BAD_REQUEST,
                    ..
                },
            )
            | AskingError::Token(_)
            | AskingError::Tls(_)),
        )) => fail(USAGE, error),
        Ok(Err(error)) => fail(FAILED, error),
        Err(error) => fail(FAILED, error),
    }
}

async fn status(admin: &AdminArg, json: bool) -> Result<(), AskingError> {
    let node = admin.access()?;
    let answer = CLIENT.get(&node, "/api/v1/status").await?;
    let status = understood::<Status>(&node, &answer)?;
    if json {
        print(String::from_utf8_lossy(&answer).trim_end())?;
    } else {
        print(status.to_string().trim_end())?;
    }
    Ok(())
}

async fn ready(admin: &AdminArg) -> Result<(), AskingError> {
    let node = admin.access()?;
    let answer = CLIENT.get(&node, "/readyz").await?;
    print(String::from_utf8_lossy(&answer).trim_end())?;
    Ok(())
}

async fn revoke(admin: &AdminArg, what: RevokeArgs) -> Result<(), AskingError> {
    let node = admin.access()?;
    let asked = Asked {
        subject: what.subject,
        tenant: what.tenant.map(|name| name.to_string()),
        session: what.session,
        endpoint: what.endpoint.map(|name| name.to_string()),
        reason: what.reason,
        ttl_s: what.span.map(|span| span.as_secs().max(1)),
        expires: None,
    };
    let asked = serde_json::to_vec(&asked).unwrap_or_default();
    let answer = CLIENT
        .send(&node, Method::POST, revocations::PATH, asked.into())
        .await?;
    print(format!("revoked: {}", understood::<Shown>(&node, &answer)?))?;
    Ok(())
}

async fn lift(admin: &AdminArg, id: RevocationId) -> Result<(), AskingError> {
    let node = admin.access()?;
    let path = format!("{}/{id}", revocations::PATH);
    let answer = CLIENT
        .send(&node, Method::DELETE, &path, Bytes::new())
        .await?;
    print(format!("lifted: {}", understood::<Shown>(&node, &answer)?))?;
    Ok(())
}

async fn revocations(admin: &AdminArg, json: bool) -> Result<(), AskingError> {
    let node = admin.access()?;
    let answer = CLIENT.get(&node, revocations::PATH).await?;
    let listed = understood::<Listed>(&node, &answer)?;
    if json {
        print(String::from_utf8_lossy(&answer).trim_end())?;
    } else {
        print(listed.to_string().trim_end())?;
    }
    Ok(())
}

/// What a node's answer says.
fn understood<T: DeserializeOwned>(node: &Access, answer: &[u8]) -> Result<T, AskingError> {
    serde_json::from_slice(answer).map_err(|error| AskingError::Strange {
        url: node.to_string(),
        error,
    })
}

async fn drain(admin: &AdminArg, wait: bool) -> Result<(), AskingError> {
    let node = admin.access()?;
    CLIENT
        .send(&node, Method::POST, "/api/v1/drain", Bytes::new())
        .await?;
    print("the relay drains")?;
    if !wait {
        return Ok(());
    }
    loop {
        tokio::time::sleep(LOOK).await;
        match CLIENT.get(&node, "/healthz").await {
            Err(error) if error.is_gone() => {
                print("the relay has stopped")?;
                return Ok(());
            }
            // Stopping, it may break off an answer.
            Ok(_) | Err(AskError::Answer { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Prints what was asked for. A reader that has gone away has read enough.
fn print(text: impl Display) -> Result<(), AskingError> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(AskingError::Output(error))
        }
        _ => Ok(()),
    }
}

fn fail(code: u8, error: impl Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "culvert-relay: {error}");
    ExitCode::from(code)
}
