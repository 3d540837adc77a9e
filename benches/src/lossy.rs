//! A long, lossy line between relay and agent, at packet level: what connections per session
//! (`lanes`) give where one TCP connection is the limit.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::bulk::Bulk;
use crate::lab::Lab;
use crate::load::{self, Failure, Target};
use crate::probe;
use crate::stack::{Between, LAB_DOMAIN, Settings, Stack};
use crate::stats::Spread;
use crate::wire::Quality;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the wire does.
    pub quality: Quality,
    /// The values of `lanes` to compare.
    pub lanes: Vec<u8>,
    /// How often everything is measured.
    pub rounds: usize,
    /// How long each measurement takes, after a third of it to warm up.
    pub time: Duration,
    /// Congestion control on the wire; `None`: the kernel's default.
    pub congestion: Option<String>,
}

/// Streams at once, where it is not one.
const MANY: usize = 8;

/// Connections that make small calls beside the downloads: enough that a p99 means something
/// although each call takes an RTT.
const CALLERS: usize = 8;

/// What one way showed in one round.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// MB/s: one download, many, one upload, many.
    transfers: [f64; 4],
    /// Milliseconds, beside many downloads.
    p50: f64,
    p99: f64,
}

/// Measures nginx and every number of lanes in turn, over the same wire.
pub async fn run(programs: &Path, options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let lab = Lab::build(LAB_DOMAIN, options.quality, options.congestion.as_deref())?;
    describe(&lab, options, out)?;
    let mut stacks = Vec::new();
    for lanes in &options.lanes {
        let settings = Settings {
            between: Between::Lab(&lab),
            lanes: *lanes,
            ..Settings::default()
        };
        stacks.push(Stack::start(programs, &settings).await?);
    }
    let first = stacks.first().ok_or("no number of lanes is given")?;
    let mut ways = vec![("nginx".to_owned(), first, &first.nginx)];
    for (lanes, stack) in options.lanes.iter().zip(&stacks) {
        ways.push((format!("lanes {lanes}"), stack, &stack.culvert));
    }
    writeln!(
        out,
        "\n{:<9} {:>9} {:>9} {:>9} {:>9}   {:>16}",
        "", "1 down", "8 down", "1 up", "8 up", "calls by 8 down"
    )?;
    writeln!(
        out,
        "{:<9} {:>9} {:>9} {:>9} {:>9}   {:>7} {:>8}",
        "way", "MB/s", "MB/s", "MB/s", "MB/s", "p50 ms", "p99 ms"
    )?;
    let mut samples = vec![Vec::new(); ways.len()];
    for _ in 0..options.rounds {
        for ((name, stack, target), samples) in ways.iter().zip(&mut samples) {
            let sample = sample(&lab, stack, target, options.time).await?;
            sample.write(name, out)?;
            samples.push(sample);
        }
    }
    writeln!(
        out,
        "\nMedians (least to most) of {} rounds:",
        options.rounds
    )?;
    for ((name, ..), samples) in ways.iter().zip(&samples) {
        summarise(name, samples, out)?;
    }
    writeln!(out, "\nThe wire, in all: {}", lab.account())?;
    Ok(())
}

/// Says what the wire is asked to do and what plain sockets see of it.
fn describe(lab: &Lab, options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let Quality {
        delay, loss, rate, ..
    } = options.quality;
    let kernel = |name: &str| {
        fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(name))
            .map_or("unknown".to_owned(), |text| {
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            })
    };
    let congestion = match &options.congestion {
        Some(name) => format!("{name} (asked for)"),
        None => format!(
            "{} (the kernel's default)",
            kernel("tcp_congestion_control")
        ),
    };
    writeln!(
        out,
        "asked: RTT {:.1} ms, loss {:.3} % of packets each way, {}\n\
         TCP: {congestion}, tcp_rmem {}, tcp_wmem {}",
        2e3 * delay.as_secs_f64(),
        100.0 * loss,
        rate.map_or("no rate".into(), |rate| format!(
            "{:.1} MB/s",
            rate as f64 / 1e6
        )),
        kernel("tcp_rmem"),
        kernel("tcp_wmem"),
    )?;
    tokio::task::block_in_place(|| {
        let echo = probe::echo(lab)?;
        let there_and_back = 1.0 - (1.0 - loss) * (1.0 - loss);
        writeln!(
            out,
            "seen: datagrams RTT {:.1} ms, {:.3} % lost there and back ({:.3} % expected)",
            1e3 * echo.rtt.as_secs_f64(),
            100.0 * echo.lost,
            100.0 * there_and_back
        )?;
        let tcp = probe::tcp(lab, options.time)?;
        writeln!(
            out,
            "seen: one plain TCP connection down, its start included: {:.1} MB/s",
            tcp / 1e6
        )?;
        Ok(())
    })
}

async fn sample(
    lab: &Lab,
    stack: &Stack,
    target: &Target,
    time: Duration,
) -> Result<Sample, Failure> {
    let warm_up = time / 3;
    let mut transfers = [0.0; 4];
    for (result, (down, streams)) in
        transfers
            .iter_mut()
            .zip([(true, 1), (true, MANY), (false, 1), (false, MANY)])
    {
        lab.forget_metrics();
        let mut bulk = if down {
            Bulk::down(target, streams, None)
        } else {
            Bulk::up(target, streams, stack.uploaded.clone())
        };
        bulk.rate(warm_up).await?;
        *result = bulk.rate(time).await? / 1e6;
        drop(bulk);
        // What is still on its way belongs to nobody's measurement.
        tokio::time::sleep(warm_up).await;
    }
    let mut bulk = Bulk::down(target, MANY, None);
    bulk.rate(warm_up).await?;
    let calls = load::run(target, "/small", CALLERS, time).await?;
    bulk.check()?;
    if let Some(error) = calls.first_error {
        return Err(format!("{} calls failed; the first: {error}", calls.errors).into());
    }
    drop(bulk);
    tokio::time::sleep(warm_up).await;
    Ok(Sample {
        transfers,
        p50: calls.latency.value_at_quantile(0.5) as f64 / 1e3,
        p99: calls.latency.value_at_quantile(0.99) as f64 / 1e3,
    })
}

impl Sample {
    fn write(&self, name: &str, out: &mut impl Write) -> Result<(), Failure> {
        write!(out, "{name:<9}")?;
        for transfer in self.transfers {
            write!(out, " {transfer:>9.1}")?;
        }
        writeln!(out, "   {:>7.1} {:>8.1}", self.p50, self.p99)?;
        Ok(())
    }
}

fn summarise(name: &str, samples: &[Sample], out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "{name}")?;
    for (index, label) in ["1 down", "8 down", "1 up", "8 up"].iter().enumerate() {
        let spread = Spread::of(samples.iter().map(|sample| sample.transfers[index]));
        writeln!(out, "  {label:<7} {spread:.1} MB/s")?;
    }
    let p50 = Spread::of(samples.iter().map(|sample| sample.p50));
    let p99 = Spread::of(samples.iter().map(|sample| sample.p99));
    writeln!(out, "  calls   p50 {p50:.1} ms, p99 {p99:.1} ms")?;
    Ok(())
}
