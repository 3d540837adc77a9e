//! `culvert-bench`: see `--help`.

use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use culvert_bench::compare::{self, Comparison};
use culvert_bench::link::Line;
use culvert_bench::load::Failure;
use culvert_bench::process::raise_file_limit;
use culvert_bench::report::output::Output;
use culvert_bench::report::{self, Report};
use culvert_bench::site::{self, Parts, Remote, Site};
use culvert_bench::stack::{Between, Settings, Stack, programs};
use culvert_bench::suite::{self, Suite};
use culvert_bench::trouble::{self, Break};
use culvert_bench::wire::Quality;
use culvert_bench::{beside, idle, line, lossy, neighbour, startline, upstream};
use culvert_process::log::{Log, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Measures what a call through Culvert costs, beside nginx in the same run.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The folder of the relay and agent that are measured; without it, that of this program.
    #[arg(long, global = true)]
    programs: Option<PathBuf>,
    /// Form of the log on standard error, where progress is told. What is logged: RUST_LOG.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one in the life of the process"
)]
enum Command {
    /// Bring up an installation on this machine and measure it, beside nginx if there is one.
    Local {
        #[command(flatten)]
        parts: Parts,
        #[command(flatten)]
        options: suite::Options,
    },
    /// Measure an installation that exists.
    Run {
        #[command(flatten)]
        remote: Remote,
        #[command(flatten)]
        options: suite::Options,
    },
    /// Say what changed between two reports beyond noise; exit code 1 if something got worse, or
    /// was measured before and is missing.
    Compare {
        /// The report (JSON) to compare with.
        before: PathBuf,
        /// The report (JSON) that is compared.
        after: PathBuf,
        /// Percent by which a median must change at least to count.
        #[arg(long, default_value_t = 5.0)]
        threshold: f64,
        /// Write the comparison as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// What answers the calls of `local`.
    #[command(hide = true)]
    Upstream {
        #[command(flatten)]
        options: upstream::Options,
    },
    /// Small and medium calls and a large download: relay and agent against nginx and nginx.
    Startline {
        /// How often each case is run, both ways in turn.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds a case.
        #[arg(long, default_value_t = 5, value_parser = suite::seconds())]
        seconds: u64,
    },
    /// A long line between relay and agent, and between the two nginx.
    Line {
        /// What the line adds to the round trip, in milliseconds.
        #[arg(long, default_value_t = 150, value_parser = within(0..=LONGEST))]
        rtt: u64,
        #[command(flatten)]
        line: LineOptions,
    },
    /// Small calls beside four transfers.
    Beside {
        /// What the line adds to the round trip, in milliseconds.
        #[arg(long, default_value_t = 0, value_parser = within(0..=LONGEST))]
        rtt: u64,
        #[command(flatten)]
        line: LineOptions,
        /// How often each case is run, both ways in turn.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds a case.
        #[arg(long, default_value_t = 5, value_parser = suite::seconds())]
        seconds: u64,
    },
    /// How long after the link broke a call works again.
    Cut {
        /// How the link breaks.
        #[arg(long, value_enum, default_value = "cut")]
        how: Break,
        /// How often.
        #[arg(long, default_value_t = 10)]
        times: usize,
    },
    /// What one stream that nobody reads takes from 99 others.
    Unread {
        /// How often, each way.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds a measurement.
        #[arg(long, default_value_t = 5, value_parser = suite::seconds())]
        seconds: u64,
    },
    /// A long line that loses packets: lanes against one connection against nginx. Needs root.
    Lossy {
        /// Round trip, in milliseconds.
        #[arg(long, default_value_t = 150, value_parser = within(0..=LONGEST))]
        rtt: u64,
        /// Percent of packets that are lost, each way.
        #[arg(long, default_value_t = 0.1)]
        loss: f64,
        /// Megabytes per second that the line carries each way; 0: as fast as it can.
        #[arg(long, default_value_t = 50, value_parser = within(0..=FASTEST))]
        rate: u64,
        /// Milliseconds that a packet may wait for the rate before it is dropped; without it, a
        /// round trip.
        #[arg(long, value_parser = within(0..=LONGEST))]
        queue: Option<u64>,
        /// The numbers of lanes to compare.
        #[arg(long, value_delimiter = ',', default_value = "1")]
        lanes: Vec<u8>,
        /// TCP's congestion control on the line, such as `cubic`; without it, the kernel's default.
        #[arg(long)]
        congestion: Option<String>,
        /// How often everything is measured.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds a measurement.
        #[arg(long, default_value_t = 9, value_parser = suite::seconds())]
        seconds: u64,
    },
    /// What a tenant notices of another one that uses up everything it may.
    Neighbour {
        /// Calls a second of the quiet tenant.
        #[arg(long, default_value_t = 100.0, value_parser = suite::rate)]
        rate: f64,
        /// Calls a second that the loud tenant may make.
        #[arg(long, default_value_t = 500)]
        call_rate: u32,
        /// MiB a second that it may move.
        #[arg(long, default_value_t = 20)]
        byte_rate: u32,
        /// How often the quiet tenant is measured alone and beside the loud one.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds a measurement.
        #[arg(long, default_value_t = 10, value_parser = suite::seconds())]
        seconds: u64,
    },
    /// What idle sessions and idle streams cost the relay in memory.
    Idle {
        /// Agent sessions.
        #[arg(long, default_value_t = 5000)]
        sessions: usize,
        /// Calls that are held open, 1000 on each of the first sessions.
        #[arg(long, default_value_t = 10_000)]
        streams: usize,
        /// Megabytes that each session carries each way before it is measured again.
        #[arg(long, default_value_t = 4)]
        bulk: u64,
        /// Tenants that the agents belong to; each may have 4096 of them.
        #[arg(long, default_value_t = 5)]
        tenants: usize,
    },
}

/// Milliseconds that a line may add to the round trip, or let a packet wait.
const LONGEST: u64 = 60_000;

/// Megabytes per second that a line may carry.
const FASTEST: u64 = 1_000_000;

/// Reads a number within bounds.
fn within(bounds: RangeInclusive<u64>) -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(bounds)
}

/// A line of byte streams.
#[derive(Debug, Clone, Copy, Args)]
struct LineOptions {
    /// Megabytes per second that the line carries each way; without it, as fast as it can.
    #[arg(long, value_parser = within(1..=FASTEST))]
    rate: Option<u64>,
    /// Percent of packets that have to be sent again: each stalls its connection for an RTT.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
}

impl LineOptions {
    /// The line, with half of `rtt` (milliseconds) each way.
    fn settings(self, rtt: u64) -> Result<Settings<'static>, Failure> {
        let line = Line {
            delay: Duration::from_micros(rtt * 500),
            rate: self.rate.map(|rate| rate * 1_000_000),
            loss: share(self.loss)?,
        };
        let between = if rtt > 0 || line.rate.is_some() {
            Between::Line(line)
        } else {
            Between::Nothing
        };
        Ok(Settings {
            between,
            ..Settings::default()
        })
    }
}

impl Command {
    /// Whether it starts a relay and an agent.
    fn brings_up(&self) -> bool {
        let others = matches!(
            self,
            Self::Run { .. } | Self::Compare { .. } | Self::Upstream { .. }
        );
        !others
    }
}

/// A share of one, from percent.
fn share(percent: f64) -> Result<f64, Failure> {
    if (0.0..100.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err(format!("--loss {percent}: expected 0 to less than 100 (percent)").into())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // What a scenario has made goes when it is dropped, wherever it is.
    let Cli {
        programs: folder,
        log_format: log,
        command,
    } = Cli::parse();
    let _log = Log::start(log);
    raise_file_limit();
    let folder = folder.as_deref();
    if folder.is_some() && !command.brings_up() {
        let what = "--programs: this command brings up no programs of its own";
        Cli::command()
            .error(ErrorKind::ArgumentConflict, what)
            .exit();
    }
    let result = match command {
        Command::Local { parts, options } => local(folder, parts, options, log).await,
        Command::Run { remote, options } => existing(&remote, options, log).await,
        Command::Compare {
            before,
            after,
            threshold,
            json,
        } => compare(&before, &after, threshold, json.as_deref()),
        Command::Upstream { options } => {
            tokio::select! {
                result = upstream::serve(&options) => result.map(|()| true),
                interrupted = interrupted() => interrupted.map(|()| true),
            }
        }
        other => {
            tokio::select! {
                result = run(folder, other) => result.map(|()| true),
                result = interrupted() => result.and(Err("interrupted".into())),
            }
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("culvert-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for SIGINT, SIGTERM or SIGHUP, which comes when a terminal is closed.
async fn interrupted() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// Measures an installation of our own. `false`: something could not be measured.
async fn local(
    folder: Option<&Path>,
    parts: Parts,
    options: suite::Options,
    log: LogFormat,
) -> Result<bool, Failure> {
    // Each session of an agent may be a process's file.
    let sessions = options.sessions;
    let site =
        async move { Site::local(&programs(folder)?, Between::Nothing, sessions, parts).await };
    measure(options, None, log, Box::pin(site)).await
}

async fn existing(
    remote: &Remote,
    options: suite::Options,
    log: LogFormat,
) -> Result<bool, Failure> {
    let url = Some(format!("https://{}", site::endpoint(&remote.url)?));
    measure(options, url, log, Site::remote(remote)).await
}

/// Runs the scenarios on a site. The first interrupt ends them and the reports are written, the
/// second ends the program.
async fn measure(
    options: suite::Options,
    url: Option<String>,
    log: LogFormat,
    site: impl Future<Output = Result<Site, Failure>>,
) -> Result<bool, Failure> {
    let json = options.json.as_deref().map(Output::create).transpose()?;
    let html = options.html.as_deref().map(Output::create).transpose()?;
    let stop = CancellationToken::new();
    let site = tokio::select! {
        site = site => site?,
        result = interrupted() => return result.and(Err("interrupted".into())),
    };
    let ending = stop.clone();
    let signals = async move {
        interrupted().await?;
        ending.cancel();
        interrupted().await
    };
    let (report, complete) = tokio::select! {
        // In a box: it has room for every scenario.
        done = Box::pin(Suite::new(site, options, url, log, stop).run()) => done,
        result = signals => return result.and(Err("interrupted again: nothing is written".into())),
    };
    // Each by itself: what one of them cannot take, the others still get.
    let saved = [
        json.map_or(Ok(()), |json| json.write(&report.to_json()?)),
        html.map_or(Ok(()), |html| html.write(&report::html::page(&report))),
    ];
    write!(std::io::stdout(), "{}", report::table::table(&report))?;
    saved.into_iter().collect::<Result<(), Failure>>()?;
    Ok(complete)
}

/// `false`: something got worse, is missing, or could not be compared.
fn compare(
    before: &Path,
    after: &Path,
    threshold: f64,
    json: Option<&Path>,
) -> Result<bool, Failure> {
    let reports = [Report::load(before)?, Report::load(after)?];
    let comparison = Comparison::of(&reports[0], &reports[1], threshold / 100.0);
    write!(std::io::stdout(), "{}", compare::table(&comparison))?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&comparison)?;
        Output::create(path)?.write(&(text + "\n"))?;
    }
    Ok(!comparison.got_worse())
}

async fn run(folder: Option<&Path>, command: Command) -> Result<(), Failure> {
    let out = &mut std::io::stdout();
    let programs = programs(folder)?;
    match command {
        Command::Local { .. }
        | Command::Run { .. }
        | Command::Compare { .. }
        | Command::Upstream { .. } => Ok(()),
        Command::Startline { rounds, seconds } => {
            let stack = Stack::start(&programs, &Settings::default()).await?;
            startline::run(&stack, rounds.max(1), Duration::from_secs(seconds), out).await
        }
        Command::Line { rtt, line } => {
            let stack = Stack::start(&programs, &line.settings(rtt)?).await?;
            line::run(&stack, Duration::from_millis(rtt.max(1)), out).await
        }
        Command::Beside {
            rtt,
            line,
            rounds,
            seconds,
        } => {
            let stack = Stack::start(&programs, &line.settings(rtt)?).await?;
            beside::run(&stack, rounds.max(1), Duration::from_secs(seconds), out).await
        }
        Command::Cut { how, times } => {
            let settings = Settings {
                between: Between::Line(Line::default()),
                ..Settings::default()
            };
            let stack = Stack::start(&programs, &settings).await?;
            trouble::cut(&stack, how, times.max(1), out).await
        }
        Command::Unread { rounds, seconds } => {
            let stack = Stack::start(&programs, &Settings::default()).await?;
            trouble::unread(&stack, rounds.max(1), Duration::from_secs(seconds), out).await
        }
        Command::Lossy {
            rtt,
            loss,
            rate,
            queue,
            lanes,
            congestion,
            rounds,
            seconds,
        } => {
            let options = lossy::Options {
                quality: Quality {
                    delay: Duration::from_micros(rtt * 500),
                    loss: share(loss)?,
                    rate: (rate > 0).then_some(rate * 1_000_000),
                    queue: Duration::from_millis(queue.unwrap_or(rtt.max(20))),
                },
                lanes,
                congestion,
                rounds: rounds.max(1),
                time: Duration::from_secs(seconds.max(1)),
            };
            lossy::run(&programs, &options, out).await
        }
        Command::Neighbour {
            rate,
            call_rate,
            byte_rate,
            rounds,
            seconds,
        } => {
            let options = neighbour::Options {
                rounds: rounds.max(1),
                time: Duration::from_secs(seconds.max(1)),
                rate: rate.max(1.0),
                call_rate,
                byte_rate,
            };
            neighbour::run(&programs, &options, out).await
        }
        Command::Idle {
            sessions,
            streams,
            bulk,
            tenants,
        } => {
            let options = idle::Options {
                sessions: sessions.max(1),
                streams,
                bulk: bulk << 20,
                tenants: tenants.max(1),
            };
            idle::run(&programs, &options, out).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_can_do_is_refused_when_it_is_read() {
        Cli::command().debug_assert();
        let most: &str = &u64::MAX.to_string();
        let refused = [
            ["local", "--seconds", most],
            ["local", "--soak", most],
            ["local", "--timeout", most],
            ["local", "--rate", "1e300"],
            ["local", "--rate", "inf"],
            ["local", "--rate", "nan"],
            ["local", "--rate", "0"],
            ["startline", "--seconds", most],
            ["line", "--rtt", most],
            ["line", "--rate", most],
            ["line", "--rate", "0"],
            ["beside", "--seconds", most],
            ["unread", "--seconds", most],
            ["lossy", "--queue", most],
            ["lossy", "--rate", most],
            ["neighbour", "--rate", "1e300"],
            ["neighbour", "--seconds", most],
        ];
        for arguments in refused {
            let parsed = Cli::try_parse_from(["culvert-bench"].iter().chain(&arguments));
            let error = parsed.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ValueValidation, "{arguments:?}");
            assert_eq!(error.exit_code(), 2);
        }
        for arguments in [
            ["local", "--rate", "1e7"],
            ["local", "--soak", "86400"],
            ["line", "--rtt", "0"],
            ["lossy", "--rate", "0"],
            ["neighbour", "--rate", "0.5"],
        ] {
            let parsed = Cli::try_parse_from(["culvert-bench"].iter().chain(&arguments));
            assert!(parsed.is_ok(), "{arguments:?}: {}", parsed.unwrap_err());
        }
    }
}
