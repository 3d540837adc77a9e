//! `culvert-bench`: see `--help`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use culvert_bench::link::Line;
use culvert_bench::stack::{Stack, programs};
use culvert_bench::startline;

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
}

#[tokio::main]
async fn main() -> ExitCode {
    let Scenario::Startline { rounds, seconds } = Cli::parse().command;
    let run = async {
        let stack = Stack::start(&programs()?, Line::default()).await?;
        let time = Duration::from_secs(seconds);
        startline::run(&stack, rounds.max(1), time, &mut std::io::stdout()).await
    };
    match run.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
