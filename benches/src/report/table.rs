//! A report as a table for a terminal.

use std::fmt::{self, Write};

use super::{Case, Report, Round, Use, Way};

/// The head of the table.
fn head() -> String {
    format!(
        "{:<22} {:<8} {:<12} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>12} {:>10} {:>5}",
        "case",
        "way",
        "load",
        "calls/s",
        "MB/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "errors",
        "CPU ms/1000",
        "CPU s/GiB",
        "MiB"
    )
}

/// The whole report.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_table(&mut text, report);
    text
}

fn write_table(out: &mut String, report: &Report) -> fmt::Result {
    let machine = &report.machine;
    writeln!(
        out,
        "culvert-bench {} at {}, {:.0} s: {} ({} cores), {}",
        report.version,
        report.started,
        report.elapsed_s,
        machine.cpu,
        machine.cores,
        machine.kernel
    )?;
    if report.interrupted {
        writeln!(out, "interrupted: what was measured until then")?;
    }
    writeln!(
        out,
        "medians of the rounds; CPU and memory of all processes of the way together\n\n{}",
        head()
    )?;
    for case in &report.cases {
        out.push_str(&rows(case));
    }
    Ok(())
}

/// The rows of one case.
pub fn rows(case: &Case) -> String {
    let mut text = String::new();
    if let Some(why) = &case.skipped {
        let _ = writeln!(text, "{:<22} not measured: {why}", case.name);
    }
    for (number, way) in case.ways.iter().enumerate() {
        let name = if number == 0 { &case.name } else { "" };
        let _ = write_way(&mut text, name, way);
    }
    text
}

fn write_way(out: &mut String, case: &str, way: &Way) -> fmt::Result {
    let ms = |of: fn(&Round) -> u64| figure(way.median(|round| Some(of(round) as f64 / 1e3)));
    let all = |of: fn(&Use) -> Option<f64>| figure(way.median(|round| round.all_processes(of)));
    writeln!(
        out,
        "{case:<22} {:<8} {:<12} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>12} {:>10} {:>5}",
        way.name,
        way.load(),
        figure(way.median(|round| Some(round.calls_per_second()))),
        figure(way.median(|round| Some(round.megabytes_per_second()))),
        ms(|round| round.latency.p50),
        ms(|round| round.latency.p90),
        ms(|round| round.latency.p99),
        ms(|round| round.latency.p999),
        ms(|round| round.latency.max),
        way.rounds.iter().map(Round::error_count).sum::<u64>(),
        all(|used| used.cpu_ms_per_1000_calls),
        all(|used| used.cpu_s_per_gib),
        all(Use::mebibytes),
    )?;
    for (name, (value, spread)) in way.values() {
        writeln!(out, "{:>31} {name}: {spread} {}", "", value.unit)?;
    }
    for (error, count) in way.errors() {
        writeln!(out, "{:>31} {count} failed: {error}", "")?;
    }
    Ok(())
}

/// Three digits that count, or `-`.
pub(super) fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value.abs() >= 100.0 || value == 0.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}
