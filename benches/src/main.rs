//! `culvert-bench`: see `--help`.

mod cli;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use culvert_bench::compare::{self, Comparison};
use culvert_bench::link::Line;
use culvert_bench::load::Failure;
use culvert_bench::process::raise_file_limit;
use culvert_bench::report::output::Output;
use culvert_bench::report::{self, Report};
use culvert_bench::site::{self, Parts, Remote, Site};
use culvert_bench::stack::{Between, Settings, Stack, programs};
use culvert_bench::suite::{self, Suite};
use culvert_bench::wire::Quality;
use culvert_bench::{beside, idle, line, lossy, neighbour, startline, trouble, upstream};
use culvert_process::log::{Log, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::cli::{Cli, Command, share};

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
