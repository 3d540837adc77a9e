//! `culvert-bench`: see `--help`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use culvert_bench::link::Line;
use culvert_bench::load::Failure;
use culvert_bench::stack::{Between, Settings, Stack, programs};
use culvert_bench::trouble::{self, Break};
use culvert_bench::wire::Quality;
use culvert_bench::{beside, idle, line, lossy, neighbour, startline};
use tokio::signal::unix::{SignalKind, signal};

/// Measures what a call through Culvert costs, beside nginx in the same run.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Small and medium calls and a large download: relay and agent against nginx and nginx.
    Startline {
        /// How often each case is run, both ways in turn.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds a case.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// A long line between relay and agent, and between the two nginx.
    Line {
        /// What the line adds to the round trip, in milliseconds.
        #[arg(long, default_value_t = 150)]
        rtt: u64,
        #[command(flatten)]
        line: LineOptions,
    },
    /// Small calls beside four transfers.
    Beside {
        /// What the line adds to the round trip, in milliseconds.
        #[arg(long, default_value_t = 0)]
        rtt: u64,
        #[command(flatten)]
        line: LineOptions,
        /// How often each case is run, both ways in turn.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds a case.
        #[arg(long, default_value_t = 5)]
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
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// A long line that loses packets: lanes against one connection against nginx. Needs root.
    Lossy {
        /// Round trip, in milliseconds.
        #[arg(long, default_value_t = 150)]
        rtt: u64,
        /// Percent of packets that are lost, each way.
        #[arg(long, default_value_t = 0.1)]
        loss: f64,
        /// Megabytes per second that the line carries each way; 0: as fast as it can.
        #[arg(long, default_value_t = 50)]
        rate: u64,
        /// Milliseconds that a packet may wait for the rate before it is dropped; without it, a
        /// round trip.
        #[arg(long)]
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
        #[arg(long, default_value_t = 9)]
        seconds: u64,
    },
    /// What a tenant notices of another one that uses up everything it may.
    Neighbour {
        /// Calls a second of the quiet tenant.
        #[arg(long, default_value_t = 100.0)]
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
        #[arg(long, default_value_t = 10)]
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
        /// Tenants that the agents belong to.
        #[arg(long, default_value_t = 1)]
        tenants: usize,
    },
}

/// A line of byte streams.
#[derive(Debug, Clone, Copy, Args)]
struct LineOptions {
    /// Megabytes per second that the line carries each way; without it, as fast as it can.
    #[arg(long)]
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
    let scenario = Cli::parse().command;
    // What a scenario has made goes when it is dropped, wherever it is.
    let result = tokio::select! {
        result = run(scenario) => result,
        interrupted = interrupted() => interrupted,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
    }
    Err("interrupted".into())
}

async fn run(scenario: Scenario) -> Result<(), Failure> {
    let out = &mut std::io::stdout();
    let programs = programs()?;
    match scenario {
        Scenario::Startline { rounds, seconds } => {
            let stack = Stack::start(&programs, &Settings::default()).await?;
            startline::run(&stack, rounds.max(1), Duration::from_secs(seconds), out).await
        }
        Scenario::Line { rtt, line } => {
            let stack = Stack::start(&programs, &line.settings(rtt)?).await?;
            line::run(&stack, Duration::from_millis(rtt.max(1)), out).await
        }
        Scenario::Beside {
            rtt,
            line,
            rounds,
            seconds,
        } => {
            let stack = Stack::start(&programs, &line.settings(rtt)?).await?;
            beside::run(&stack, rounds.max(1), Duration::from_secs(seconds), out).await
        }
        Scenario::Cut { how, times } => {
            let settings = Settings {
                between: Between::Line(Line::default()),
                ..Settings::default()
            };
            let stack = Stack::start(&programs, &settings).await?;
            trouble::cut(&stack, how, times.max(1), out).await
        }
        Scenario::Unread { rounds, seconds } => {
            let stack = Stack::start(&programs, &Settings::default()).await?;
            trouble::unread(&stack, rounds.max(1), Duration::from_secs(seconds), out).await
        }
        Scenario::Lossy {
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
        Scenario::Neighbour {
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
        Scenario::Idle {
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
