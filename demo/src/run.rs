//! The command line, and the order in which things start and end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::failure::{Doing, Failure, Result};
use crate::issuer::TOKEN_LIFE;
use crate::program::{Binaries, Program};
use crate::screen::{Screen, Tone};
use crate::setup::{self, ENDPOINT, Setup, TENANT};
use crate::tour::{self, Tour};
use crate::{cluster, issuer, sddc};

/// Shows Culvert on this machine, with nothing installed but Rust and a C compiler.
///
/// Starts a development token issuer, a relay, an agent and a sample SDDC API on loopback; makes
/// an allowed call, a denied one, one of a wrong tenant and one without a credential; explains
/// each answer; prints the curl commands to repeat them; and stays up until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "culvert-demo", version, after_help = EXAMPLES)]
struct Options {
    /// Check every outcome and leave: exit code 0 if all were as expected, 1 if not
    #[arg(long)]
    once: bool,

    /// Show RELAYS relays behind one address instead: under load, one is killed, then each is
    /// replaced; needs redis-server or valkey-server
    #[arg(
        long,
        value_name = "RELAYS",
        num_args = 0..=1,
        default_missing_value = "3",
        value_parser = clap::value_parser!(u8).range(2..=9)
    )]
    cluster: Option<u8>,

    /// The port that callers use [default: 8443 if it is free, else any]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// Where certificates, configuration and logs are kept [default: certs-dev/demo of the
    /// workspace under `cargo run`, else ~/.local/state/culvert-demo]
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,

    /// How relay and agent write their logs, which lie in the state folder
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    #[command(subcommand)]
    part: Option<Part>,
}

const EXAMPLES: &str = "\
Examples:
  cargo run -p culvert-demo              look around; Ctrl-C ends everything
  cargo run -p culvert-demo -- --once    the same as a check, for scripts
  cargo run -p culvert-demo -- --cluster three relays behind one address, killed and replaced
  RUST_LOG=debug culvert-demo            relay and agent log more";

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// The stand-ins, which the demo starts as processes of their own.
#[derive(Debug, Clone, Copy, Subcommand)]
enum Part {
    /// The development token issuer
    #[command(hide = true)]
    Issuer,
    /// The sample SDDC API
    #[command(hide = true)]
    Sddc,
}

/// Runs the program; the exit code says how it went.
pub fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .doing(|| "cannot start")
        .and_then(|runtime| runtime.block_on(Box::pin(start(options))));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("culvert-demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn start(options: Options) -> Result<()> {
    let folder = match &options.state {
        Some(folder) => folder.clone(),
        None => setup::default_folder()?,
    };
    match options.part {
        Some(Part::Issuer) => issuer::run(&folder).await,
        Some(Part::Sddc) => sddc::run(&folder).await,
        None => match options.cluster {
            None => demo(&options, &folder).await,
            Some(relays) => {
                let play = cluster::Options {
                    relays: relays.into(),
                    once: options.once,
                    log: options.log_format,
                };
                cluster::run(&play, &folder, options.port).await
            }
        },
    }
}

/// The demo from the first file to the last program's end.
async fn demo(options: &Options, folder: &Path) -> Result<()> {
    let mut leave = Leave::listen()?;
    let binaries = tokio::select! {
        binaries = Binaries::find_or_build() => binaries?,
        () = leave.asked() => return Ok(()),
    };
    let setup = Setup::prepare(folder, options.port)?;
    let screen = Screen::new();
    let (mut stage, issuer) = tokio::select! {
        stage = Stage::start(&setup, &binaries, options.log_format, screen) => stage?,
        () = leave.asked() => return Ok(()),
    };
    let outcome = tokio::select! {
        outcome = tour(&setup, &issuer, &mut stage, &binaries, options, screen) => outcome,
        () = leave.asked() => Ok(()),
    };
    let ended = stage.stop().await;
    outcome.and(ended)
}

/// Walks the tour and, unless it is to leave at once, keeps the callers' tokens fresh for ever.
async fn tour(
    setup: &Setup,
    issuer: &str,
    stage: &mut Stage,
    binaries: &Binaries,
    options: &Options,
    screen: Screen,
) -> Result<()> {
    let mut guide = Tour::new(setup, issuer, screen)?;
    stage.watching(guide.relay_ready()).await?;
    stage.start_agent(setup, binaries, options.log_format)?;
    stage.watching(guide.sign_in()).await?;
    stage.watching(guide.write_headers()).await?;
    let surprises = stage.watching(guide.show()).await?;
    if !options.once {
        tour::print_commands(setup, &binaries.agent, screen);
    }
    if !surprises.is_empty() {
        let list = surprises.join("\n  ");
        let logs = setup.folder.display();
        let failure = Failure::new(format!(
            "not as expected:\n  {list}\nThe logs are in {logs}"
        ));
        if options.once {
            return Err(failure);
        }
        screen.title(&failure.to_string());
    }
    if options.once {
        screen.title("Every outcome was as expected.");
        return Ok(());
    }
    screen.title("Everything stays up until Ctrl-C.");
    let keeper = Tour::new(setup, issuer, screen)?;
    stage.watching(keep_fresh(keeper)).await
}

/// Renews what the printed curl commands send, long before it expires.
pub(crate) async fn keep_fresh(mut keeper: Tour<'_>) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(TOKEN_LIFE / 3));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tick.tick().await;
        keeper.sign_in().await?;
        keeper.write_headers().await?;
    }
}

/// The running programs, in the order in which they end.
#[derive(Debug)]
struct Stage {
    relay: Program,
    agent: Option<Program>,
    sddc: Program,
    issuer: Program,
}

impl Stage {
    /// Starts all but the agent, which would only wait for the relay; and says what runs where.
    async fn start(
        setup: &Setup,
        binaries: &Binaries,
        log: LogFormat,
        screen: Screen,
    ) -> Result<(Self, String)> {
        let (issuer, issuer_url) = Program::start_helper("issuer", &setup.folder).await?;
        let (sddc, sddc_url) = Program::start_helper("sddc", &setup.folder).await?;
        setup.configure(&issuer_url, &sddc_url)?;
        let relay = setup.folder.join("relay.toml");
        let relay = Program::start(
            "relay",
            &setup.folder,
            &mut run_with(&binaries.relay, &relay, log),
        )?;

        let Setup {
            folder,
            public,
            admin,
            ..
        } = setup;
        let age = if setup.new_authority {
            "made now"
        } else {
            "reused"
        };
        screen.title("Culvert: a door into a data centre that opens from inside");
        crate::say("");
        crate::say("  caller --https--> relay <==wss== agent --https--> SDDC API");
        crate::say("");
        screen.row(
            "state folder",
            &format!("{} (authority {age})", folder.display()),
        );
        screen.row("token issuer", &issuer_url);
        screen.row(
            "SDDC API",
            &format!("{sddc_url}, which only the agent knows"),
        );
        let relay_url = format!("https://{}:{public}", setup::DOMAIN);
        screen.row(
            "relay",
            &format!("{relay_url}, metrics at http://127.0.0.1:{admin}/metrics"),
        );
        screen.row(
            "agent",
            &format!("offers \"{ENDPOINT}\" of tenant \"{TENANT}\""),
        );
        let hint = format!("rules: {}", folder.join("policy.toml").display());
        screen.row("", &screen.paint(Tone::Faint, &hint));
        Ok((
            Self {
                relay,
                agent: None,
                sddc,
                issuer,
            },
            issuer_url,
        ))
    }

    fn start_agent(&mut self, setup: &Setup, binaries: &Binaries, log: LogFormat) -> Result<()> {
        let config = setup.folder.join("agent.toml");
        let mut command = run_with(&binaries.agent, &config, log);
        self.agent = Some(Program::start("agent", &setup.folder, &mut command)?);
        Ok(())
    }

    /// Does `work` unless one of the programs ends meanwhile.
    async fn watching<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let agent = async {
            match &mut self.agent {
                Some(agent) => agent.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = work => done,
            ended = self.relay.ended() => Err(ended),
            ended = agent => Err(ended),
            ended = self.sddc.ended() => Err(ended),
            ended = self.issuer.ended() => Err(ended),
        }
    }

    /// Ends all programs, each when what depends on it has ended.
    async fn stop(self) -> Result<()> {
        let mut wrong = Vec::new();
        let programs = [
            Some(self.relay),
            self.agent,
            Some(self.sddc),
            Some(self.issuer),
        ];
        for program in programs.into_iter().flatten() {
            wrong.extend(program.stop().await);
        }
        wrong.into_iter().next().map_or(Ok(()), Err)
    }
}

/// `PROGRAM run --config FILE`, with its logs as asked for and without our environment's
/// settings for relay and agent.
pub(crate) fn run_with(program: &Path, config: &Path, log: LogFormat) -> Command {
    let format = match log {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .args(["--log-format", format]);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"CULVERT_") {
            command.env_remove(name);
        }
    }
    command
}

/// The signals that ask the demo to leave.
pub(crate) struct Leave {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Leave {
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).doing(|| "cannot listen for signals");
        Ok(Self {
            signals: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ],
        })
    }

    pub(crate) async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = hangup.recv() => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With port 0, what is configured and printed would be a port where nobody listens.
    #[test]
    fn the_port_of_callers_is_one_that_they_can_call() {
        let parse = |port| Options::try_parse_from(["culvert-demo", "--port", port]);
        for port in ["0", "65536", "x"] {
            assert_eq!(parse(port).unwrap_err().exit_code(), 2, "{port}");
        }
        for port in ["1", "8443", "65535"] {
            assert_eq!(parse(port).unwrap().port, port.parse().ok());
        }
    }
}
