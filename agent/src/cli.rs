//! The command line.

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use culvert_admin::{Access, AskError};
use culvert_config::secret;
use culvert_process::exit_code::{self, BAD_CONFIG, FAILED, USAGE};
use culvert_process::log::{Log, LogFormat};

use crate::admin::CLIENT;
use crate::admin::status::Status;
use crate::app::{self, App};
use crate::audit::verify::{self, VerifyArgs, VerifyError};
use crate::pin::{self, PinArgs};
use crate::policy_tools::{self, PolicyCommand, ToolError};

/// Serves local APIs of a private data centre through an outbound tunnel.
#[derive(Debug, Parser)]
#[command(name = "culvert-agent", version, after_help = exit_code::in_words("done or drained"))]
struct Cli {
    /// Form of the log on standard error. What is logged: RUST_LOG, for example
    /// "info,culvert_agent=debug".
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent until SIGTERM or SIGINT. SIGHUP reads policy, CA files and certificates again; where
    /// the audit log's file was moved away, a new one is begun. `agent.toml` and secrets are not read again.
    Run(ConfigArg),
    /// Validates configuration and policy, runs the policy's own tests, and prints what the
    /// agent would run with.
    Check(ConfigArg),
    /// Tries the way to the relay and to each upstream, step by step, and says what fails and
    /// what to do.
    Diagnose(ConfigArg),
    /// Prints the certificates that a server shows, and the pin of its own. Verifies nothing.
    Pin(PinArgs),
    /// Questions about the policy. Its own tests are run by `check`.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Questions about the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Sessions, registrations, token, policy, audit log and last refusals of a running agent.
    Status {
        #[command(flatten)]
        admin: AdminArg,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Says whether a running agent is ready for calls: exit code 0, or 1 and why not. For probes.
    Ready {
        #[command(flatten)]
        admin: AdminArg,
    },
}

#[derive(Debug, Args)]
struct AdminArg {
    /// The agent's admin listener: http://IP:PORT, https://HOST:PORT or unix:PATH.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CULVERT_AGENT_ADMIN",
        default_value = "http://127.0.0.1:9902"
    )]
    admin: String,
    /// The file with the listener's token, if it asks for one.
    #[arg(long, value_name = "FILE", env = "CULVERT_ADMIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The authorities of the listener's certificate, PEM; by default the system's.
    #[arg(long, value_name = "FILE", env = "CULVERT_ADMIN_CA")]
    ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Whether the audit log is as it was written: 0 if so, 1 if anything in it was changed,
    /// removed, inserted, moved or cut off.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration file (agent.toml).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the program that the command line asks for; gives its exit code: 0, 1 (failed while
/// running), 2 (usage) or 78 (configuration).
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let _log = Log::start(cli.log_format);
    match cli.command {
        Command::Run(arg) => with_app(&arg.config, run),
        Command::Check(arg) => with_app(&arg.config, check),
        Command::Diagnose(arg) => with_app(&arg.config, diagnose),
        Command::Pin(args) => match on_runtime(pin::pin(&args)) {
            Ok(Ok(text)) => print(text),
            Ok(Err(error)) => fail(FAILED, error),
            Err(error) => fail(FAILED, error),
        },
        Command::Policy(command) => match command.answer() {
            Ok(answer) => {
                warn(answer.warnings);
                match print(answer.text) {
                    _ if answer.findings => ExitCode::from(FAILED),
                    code => code,
                }
            }
            Err(error @ ToolError::Config(_)) => fail(BAD_CONFIG, error),
            Err(error @ ToolError::Usage(_)) => fail(USAGE, error),
            Err(error @ ToolError::Read { .. }) => fail(FAILED, error),
        },
        Command::Audit(AuditCommand::Verify(args)) => match verify::verify(&args) {
            Ok(report) if report.holds() => print(report),
            Ok(report) => {
                print(report);
                ExitCode::from(FAILED)
            }
            Err(error @ VerifyError::Config(_)) => fail(BAD_CONFIG, error),
            Err(error) => fail(FAILED, error),
        },
        Command::Status { admin, json } => asked(&admin, "/api/v1/status", |body| {
            shown(&admin.admin, body, json)
        }),
        Command::Ready { admin } => asked(&admin, "/readyz", |body| {
            print(String::from_utf8_lossy(&body))
        }),
    }
}

impl AdminArg {
    fn access(&self) -> Result<Access, String> {
        let token = self.token_file.as_deref();
        let token = token.map(|file| secret::read(file, file)).transpose()?;
        Access::new(&self.admin, token, self.ca.as_deref()).map_err(|error| error.to_string())
    }
}

/// Asks a running agent, and hands on what it answers.
fn asked(admin: &AdminArg, path: &str, then: impl FnOnce(Bytes) -> ExitCode) -> ExitCode {
    let access = match admin.access() {
        Ok(access) => access,
        Err(error) => return fail(USAGE, error),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(CLIENT.get(&access, path)),
        Err(error) => return fail(FAILED, error),
    };
    match answer {
        Ok(body) => then(body),
        Err(error @ (AskError::Address { .. } | AskError::NotAdmin { .. })) => fail(USAGE, error),
        Err(error) => fail(FAILED, error),
    }
}

/// Shows a status that came from this address.
fn shown(address: &str, body: Bytes, json: bool) -> ExitCode {
    match serde_json::from_slice::<Status>(&body) {
        Ok(_) if json => print(String::from_utf8_lossy(&body)),
        Ok(status) => print(status),
        Err(error) => fail(
            FAILED,
            format!("{address} answered with something else than an agent's status: {error}"),
        ),
    }
}

/// Reads and checks everything that can be checked without a network.
fn with_app(config: &Path, then: impl FnOnce(App) -> ExitCode) -> ExitCode {
    match App::load(config) {
        Ok(app) => then(app),
        Err(error) => fail(BAD_CONFIG, error),
    }
}

fn check(app: App) -> ExitCode {
    let config = app.config();
    let summary = match policy_tools::summary(config) {
        Ok(summary) => summary,
        Err(error) => return fail(BAD_CONFIG, error),
    };
    let code = print(format!("{}\n{summary}", config.render().trim_end()));
    warn(app.shortcomings());
    code
}

fn run(app: App) -> ExitCode {
    match on_runtime(app.run()).and_then(|outcome| outcome) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_lasting() => fail(BAD_CONFIG, error),
        Err(error) => fail(FAILED, error),
    }
}

fn diagnose(app: App) -> ExitCode {
    let tried = app
        .diagnosis()
        .and_then(|diagnosis| on_runtime(diagnosis.run(&mut std::io::stdout())));
    match tried {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::from(FAILED),
        Ok(Err(error)) => unwritten(&error),
        Err(error) => fail(FAILED, error),
    }
}

fn on_runtime<T>(work: impl Future<Output = T>) -> Result<T, app::RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(app::RunError::Runtime)?;
    let done = runtime.block_on(work);
    // A name that is still being resolved is not waited for.
    runtime.shutdown_background();
    Ok(done)
}

/// Prints what was asked for.
fn print(text: impl Display) -> ExitCode {
    match writeln!(std::io::stdout(), "{}", text.to_string().trim_end()) {
        // A reader that has gone away has read enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => unwritten(&error),
        _ => ExitCode::SUCCESS,
    }
}

fn warn(warnings: Vec<String>) {
    for warning in warnings {
        let _ = writeln!(std::io::stderr(), "culvert-agent: warning: {warning}");
    }
}

fn unwritten(error: &std::io::Error) -> ExitCode {
    fail(FAILED, format!("the output cannot be written: {error}"))
}

fn fail(code: u8, error: impl Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "culvert-agent: {error}");
    ExitCode::from(code)
}
