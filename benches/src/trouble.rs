//! Trouble on the way: a link that breaks, a caller that does not read.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::bulk::Bulk;
use crate::link::Link;
use crate::load::{self, Failure, Target};
use crate::stack::Stack;
use crate::stats::Spread;

/// Streams that read, beside the one that does not.
const READERS: usize = 99;

/// How long the link holds before it breaks: an agent whose sessions break at once dials ever
/// more slowly, as it should.
const HOLDS: Duration = Duration::from_secs(4);

/// After this a call that does not work never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a link breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Break {
    /// Both ends see the connection close.
    Cut,
    /// The connection is lost and nobody is told, as by a NAT that forgets.
    BlackHole,
    /// Nothing moves for three seconds, then everything goes on.
    Stall,
}

/// Longest pause of [`Break::Stall`].
const STALL: Duration = Duration::from_secs(3);

/// Breaks the link `times` times; each time, how long until a call works again.
pub async fn cut(
    stack: &Stack,
    how: Break,
    times: usize,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let [link, _] = stack.links.as_ref().ok_or("there is no link to break")?;
    let mut pauses = Vec::new();
    let mut failures = BTreeMap::<String, usize>::new();
    for _ in 0..times {
        tokio::time::sleep(HOLDS).await;
        load::once(&stack.culvert).await?;
        let pause = pause(link, how, &stack.culvert, &mut failures).await?;
        write!(out, "{:.0} ", pause.as_secs_f64() * 1e3)?;
        out.flush()?;
        pauses.push(pause.as_secs_f64() * 1e3);
    }
    let spread = Spread::of(pauses);
    writeln!(
        out,
        "\n{how:?} to a call that works, {times} times: {spread:.0} ms"
    )?;
    for (failure, count) in failures {
        writeln!(out, "{count:>6} calls meanwhile: {failure}")?;
    }
    Ok(())
}

/// Breaks the link and calls until a call works.
async fn pause(
    link: &Link,
    how: Break,
    target: &Target,
    failures: &mut BTreeMap<String, usize>,
) -> Result<Duration, Failure> {
    let start = Instant::now();
    match how {
        Break::Cut => link.cut(),
        Break::BlackHole => link.black_hole(),
        Break::Stall => link.stall(STALL),
    }
    // What was on its way when the link broke may still count as a call that works: let it pass.
    tokio::time::sleep(Duration::from_millis(1)).await;
    while let Err(error) = load::once(target).await {
        if start.elapsed() > PATIENCE {
            return Err(format!("no call works {PATIENCE:?} after the link broke: {error}").into());
        }
        let words = error.to_string();
        // A problem's type and title say it; the rest differs from call to call.
        let reason = words.split(",\"status\"").next().unwrap_or_default();
        *failures.entry(reason.to_owned()).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(start.elapsed())
}

/// What 99 downloads get together beside one that nobody reads, against what they get without
/// it before and after: `rounds` times `time`, both ways in turn.
pub async fn unread(
    stack: &Stack,
    rounds: usize,
    time: Duration,
    out: &mut impl Write,
) -> Result<(), Failure> {
    for (way, target) in [("nginx", &stack.nginx), ("culvert", &stack.culvert)] {
        let mut readers = Bulk::down(target, READERS, None);
        readers.rate(SETTLE).await?;
        let mut before = readers.rate(time).await?;
        let mut ratios = Vec::new();
        for _ in 0..rounds {
            let stuck = load::start_download(target, "/large").await?;
            // Everything that takes in what the reader leaves is full before the clock starts.
            readers.rate(SETTLE).await?;
            let beside = readers.rate(time).await?;
            drop(stuck);
            readers.rate(SETTLE).await?;
            let after = readers.rate(time).await?;
            let ratio = beside / f64::midpoint(before, after);
            writeln!(
                out,
                "{way:<8} 99 downloads, MB/s: {:>7.1} alone, {:>7.1} beside one unread, \
                 {:>7.1} alone: {ratio:.3}",
                before / 1e6,
                beside / 1e6,
                after / 1e6,
            )?;
            ratios.push(ratio);
            before = after;
        }
        let spread = Spread::of(ratios);
        writeln!(out, "{way:<8} beside one unread / alone: {spread:.3}\n")?;
    }
    Ok(())
}

/// From a change to the next measurement.
const SETTLE: Duration = Duration::from_secs(1);
