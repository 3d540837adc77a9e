//! Small calls beside bulk: who waits behind whom.

use std::io::Write;
use std::time::Duration;

use crate::load::{self, Failure, Report, Target};
use crate::stack::Stack;

/// How fast a paced reader takes its download, in bytes per second.
const PACE: u64 = 8 << 20;

/// Small calls on one connection while four downloads run, first with paced readers, then with
/// readers that take what they get; both ways in turn.
pub async fn run(stack: &Stack, time: Duration, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(
        out,
        "{:<22} {:<9} {:>8} {:>9} {:>9} {:>11}",
        "bulk", "way", "calls/s", "p50 us", "p99 us", "bulk MB/s"
    )?;
    for (name, pace) in [
        ("none", None),
        ("4 paced", Some(PACE)),
        ("4 unlimited", Some(u64::MAX)),
    ] {
        for (way, target) in [("nginx", &stack.nginx), ("culvert", &stack.culvert)] {
            let (report, bulk) = beside(target, pace, time).await?;
            writeln!(
                out,
                "{name:<22} {way:<9} {:>8.0} {:>9} {:>9} {:>11.1}",
                report.rate(),
                report.latency.value_at_quantile(0.5),
                report.latency.value_at_quantile(0.99),
                bulk as f64 / 1e6 / time.as_secs_f64(),
            )?;
        }
    }
    Ok(())
}

async fn beside(
    target: &Target,
    pace: Option<u64>,
    time: Duration,
) -> Result<(Report, u64), Failure> {
    let mut bulk = tokio::task::JoinSet::new();
    if let Some(pace) = pace {
        for _ in 0..4 {
            let target = target.clone();
            let whole = time + Duration::from_secs(1);
            bulk.spawn(async move { load::download_paced(&target, "/large", pace, whole).await });
        }
        // The windows are open and the queues stand before the clock starts.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let report = load::run(target, "/small", 1, time).await?;
    if report.errors > 0 {
        return Err(report.first_error.unwrap_or_default().into());
    }
    let mut bytes = 0;
    while let Some(downloaded) = bulk.join_next().await {
        bytes += downloaded??;
    }
    Ok((report, bytes))
}
