//! The command line.

use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use culvert_process::exit_code::{self, BAD_CONFIG, FAILED, USAGE};
use culvert_process::log::{Log, LogFormat};

use crate::listener;
use crate::relay::{BadSettings, Relay};

/// A local HTTP proxy for callers whose tools cannot speak TLS to a proxy or carry a token.
///
/// Tools are pointed at it with HTTPS_PROXY=http://127.0.0.1:3128 or a setting of their own. It takes
/// CONNECT and nothing else: TLS goes on from the tool to the local API, and nobody between sees
/// what it carries.
#[derive(Debug, Parser)]
#[command(name = "culvert-connect", version, after_help = exit_code::in_words("ended by a signal"))]
struct Cli {
    /// The relay: https://HOST[:PORT].
    #[arg(long, value_name = "URL")]
    relay: String,
    /// The file with the access token; its owner's alone (chmod 600). Read for each connection, so
    /// that a renewed token counts at once.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Where tools connect.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:3128",
        value_parser = address
    )]
    listen: SocketAddr,
    /// The CA of the relay's certificate, PEM; default: the system's roots.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Allows --listen addresses that other machines can reach. Whoever reaches the port calls with
    /// the token.
    #[arg(long)]
    allow_other_machines: bool,
    /// Form of the log on standard error. What is logged: RUST_LOG.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Runs the program; gives its exit code: 0, 1 (failed while running), 2 (usage) or 78
/// (configuration).
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let _log = Log::start(cli.log_format);
    if !cli.listen.ip().is_loopback() && !cli.allow_other_machines {
        return fail(
            USAGE,
            format!(
                "--listen {}: found an address that other machines can reach; expected a loopback \
                 address, or --allow-other-machines beside it: whoever reaches the port calls with \
                 the token",
                cli.listen
            ),
        );
    }
    let relay = match Relay::new(&cli.relay, cli.token_file, cli.ca) {
        Ok(relay) => relay,
        Err(error @ BadSettings::Url) => return fail(USAGE, error),
        Err(error) => return fail(BAD_CONFIG, error),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, format!("the runtime cannot be started: {error}")),
    };
    match runtime.block_on(listener::run(cli.listen, relay)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, error),
    }
}

/// Reads an address; the standard library says only that it cannot.
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "expected an IP address and a port, like 127.0.0.1:3128")
}

fn fail(code: u8, error: impl Display) -> ExitCode {
    // Not a line of the log: RUST_LOG may leave those out.
    let _ = writeln!(std::io::stderr(), "culvert-connect: {error}");
    ExitCode::from(code)
}
