//! `culvert-bench`: see `--help`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use culvert_bench::link::Line;
use culvert_bench::load::Failure;
use culvert_bench::stack::{Stack, programs};
use culvert_bench::{beside, line, startline, trouble};

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
        /// Megabytes per second that the line carries each way; without it, as fast as it can.
        #[arg(long)]
        rate: Option<u64>,
    },
    /// Small calls beside four downloads.
    Beside {
        /// What the line adds to the round trip, in milliseconds.
        #[arg(long, default_value_t = 0)]
        rtt: u64,
        /// Megabytes per second that the line carries each way; without it, as fast as it can.
        #[arg(long)]
        rate: Option<u64>,
        /// Seconds a case.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// How long after the link was cut a call works again.
    Cut {
        /// How often.
        #[arg(long, default_value_t = 10)]
        times: usize,
    },
    /// What one stream that nobody reads takes from 99 others.
    Unread {
        /// Seconds a case.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
}

/// A line with half of `rtt` (milliseconds) each way and `rate` megabytes per second.
fn line_of(rtt: u64, rate: Option<u64>) -> Option<Line> {
    (rtt > 0 || rate.is_some()).then(|| Line {
        delay: Duration::from_micros(rtt * 500),
        rate: rate.map(|rate| rate * 1_000_000),
        flowing: true,
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(scenario: Scenario) -> Result<(), Failure> {
    let out = &mut std::io::stdout();
    let programs = programs()?;
    match scenario {
        Scenario::Startline { rounds, seconds } => {
            let stack = Stack::start(&programs, None).await?;
            startline::run(&stack, rounds.max(1), Duration::from_secs(seconds), out).await
        }
        Scenario::Line { rtt, rate } => {
            let stack = Stack::start(&programs, line_of(rtt, rate)).await?;
            line::run(&stack, Duration::from_millis(rtt.max(1)), out).await
        }
        Scenario::Beside { rtt, rate, seconds } => {
            let stack = Stack::start(&programs, line_of(rtt, rate)).await?;
            beside::run(&stack, Duration::from_secs(seconds), out).await
        }
        Scenario::Cut { times } => {
            let stack = Stack::start(&programs, Some(Line::default())).await?;
            trouble::cut(&stack, times.max(1), out).await
        }
        Scenario::Unread { seconds } => {
            let stack = Stack::start(&programs, None).await?;
            trouble::unread(&stack, Duration::from_secs(seconds), out).await
        }
    }
}
