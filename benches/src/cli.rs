//! The command line of `culvert-bench`: its commands, and which numbers they take.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use culvert_bench::link::Line;
use culvert_bench::load::Failure;
use culvert_bench::site::{Parts, Remote};
use culvert_bench::stack::{Between, Settings};
use culvert_bench::trouble::Break;
use culvert_bench::{suite, upstream};
use culvert_process::log::LogFormat;

/// Measures what a call through Culvert costs, beside nginx in the same run.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    /// The folder of the relay and agent that are measured; without it, that of this program.
    #[arg(long, global = true)]
    pub(crate) programs: Option<PathBuf>,
    /// Form of the log on standard error, where progress is told. What is logged: RUST_LOG.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one in the life of the process"
)]
pub(crate) enum Command {
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
pub(crate) struct LineOptions {
    /// Megabytes per second that the line carries each way; without it, as fast as it can.
    #[arg(long, value_parser = within(1..=FASTEST))]
    rate: Option<u64>,
    /// Percent of packets that have to be sent again: each stalls its connection for an RTT.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
}

impl LineOptions {
    /// The line, with half of `rtt` (milliseconds) each way.
    pub(crate) fn settings(self, rtt: u64) -> Result<Settings<'static>, Failure> {
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
    pub(crate) fn brings_up(&self) -> bool {
        let others = matches!(
            self,
            Self::Run { .. } | Self::Compare { .. } | Self::Upstream { .. }
        );
        !others
    }
}

/// A share of one, from percent.
pub(crate) fn share(percent: f64) -> Result<f64, Failure> {
    if (0.0..100.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err(format!("--loss {percent}: expected 0 to less than 100 (percent)").into())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

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
