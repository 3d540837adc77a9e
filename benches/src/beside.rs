//! Small calls beside bulk: who waits behind whom.

use std::io::Write;
use std::time::Duration;

use crate::bulk::Bulk;
use crate::load::{self, Failure, Target};
use crate::stack::Stack;
use crate::stats::Spread;

/// How fast a paced reader takes its download, in bytes per second.
const PACE: u64 = 8 << 20;

/// Transfers beside the calls.
const TRANSFERS: usize = 4;

/// What runs beside the calls.
#[derive(Debug, Clone, Copy)]
enum Beside {
    Nothing,
    Paced,
    Downloads,
    Uploads,
}

const CASES: [(&str, Beside); 4] = [
    ("nothing", Beside::Nothing),
    ("4 paced downloads", Beside::Paced),
    ("4 downloads", Beside::Downloads),
    ("4 uploads", Beside::Uploads),
];

/// What one measurement saw.
struct Sample {
    rate: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    /// Bytes per second of the bulk.
    bulk: f64,
}

/// Small calls on one connection beside each kind of bulk: `rounds` times `time` each, both ways
/// in turn, the first one alternating.
pub async fn run(
    stack: &Stack,
    rounds: usize,
    time: Duration,
    out: &mut impl Write,
) -> Result<(), Failure> {
    writeln!(
        out,
        "{:<18} {:<8} {:>8} {:>9} {:>9} {:>10}",
        "beside", "way", "calls/s", "p50 us", "p99 us", "bulk MB/s"
    )?;
    for (name, beside) in CASES {
        let mut ratios = Vec::new();
        for round in 0..rounds {
            let mut ways = [("nginx", &stack.nginx), ("culvert", &stack.culvert)];
            if round % 2 == 1 {
                ways.reverse();
            }
            let mut samples = Vec::new();
            for (way, target) in ways {
                let sample = sample(stack, target, beside, time).await?;
                writeln!(
                    out,
                    "{name:<18} {way:<8} {:>8.0} {:>9} {:>9} {:>10.1}",
                    sample.rate,
                    sample.p50,
                    sample.p99,
                    sample.bulk / 1e6
                )?;
                samples.push(sample);
            }
            if round % 2 == 1 {
                samples.reverse();
            }
            let [nginx, culvert] = &samples[..] else {
                return Err("two ways were measured".into());
            };
            ratios.push((culvert.p50 / nginx.p50, culvert.p99 / nginx.p99));
        }
        let p50 = Spread::of(ratios.iter().map(|ratio| ratio.0));
        let p99 = Spread::of(ratios.iter().map(|ratio| ratio.1));
        writeln!(out, "{name:<18} culvert/nginx, p50: {p50}, p99: {p99}\n")?;
    }
    Ok(())
}

async fn sample(
    stack: &Stack,
    target: &Target,
    beside: Beside,
    time: Duration,
) -> Result<Sample, Failure> {
    let mut bulk = match beside {
        Beside::Nothing => Bulk::down(target, 0, None),
        Beside::Paced => Bulk::down(target, TRANSFERS, Some(PACE)),
        Beside::Downloads => Bulk::down(target, TRANSFERS, None),
        Beside::Uploads => Bulk::up(target, TRANSFERS, stack.uploaded.clone()),
    };
    // Windows are open, queues stand and the connections are warm before the clock starts.
    load::run(target, "/small", 1, time.div_f64(4.0).max(WARM_UP)).await?;
    let before = bulk.bytes();
    let report = load::run(target, "/small", 1, time).await?;
    let carried = bulk.bytes() - before;
    bulk.check()?;
    if let Some(error) = report.first_error {
        return Err(format!("{} calls failed; the first: {error}", report.errors).into());
    }
    Ok(Sample {
        rate: report.rate(),
        p50: report.latency.value_at_quantile(0.5) as f64,
        p99: report.latency.value_at_quantile(0.99) as f64,
        bulk: carried as f64 / report.elapsed.as_secs_f64(),
    })
}

/// Shortest time that the bulk runs before the clock starts.
const WARM_UP: Duration = Duration::from_secs(1);
