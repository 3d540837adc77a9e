//! The start line: small calls, medium calls and one large download, through relay and agent and
//! through two nginx in a row, in turn, in one run.

use std::io::Write;
use std::time::Duration;

use crate::load::{self, Failure, Report, Target};
use crate::process;
use crate::stack::Stack;

/// One row of the table: a path at a concurrency.
struct Case {
    name: &'static str,
    path: &'static str,
    connections: usize,
}

const CASES: [Case; 5] = [
    Case {
        name: "200 B, 1 connection",
        path: "/small",
        connections: 1,
    },
    Case {
        name: "200 B, 16 connections",
        path: "/small",
        connections: 16,
    },
    Case {
        name: "200 B, 64 connections",
        path: "/small",
        connections: 64,
    },
    Case {
        name: "16 KiB, 16 connections",
        path: "/medium",
        connections: 16,
    },
    Case {
        name: "1 GiB, 1 connection",
        path: "/large",
        connections: 1,
    },
];

/// Runs every case `rounds` times for `time` each, both ways in turn, and writes a row a case.
pub async fn run(
    stack: &Stack,
    rounds: usize,
    time: Duration,
    out: &mut impl Write,
) -> Result<(), Failure> {
    writeln!(
        out,
        "{:<24} {:<8} {:>9} {:>9} {:>9} {:>9} {:>12} {:>11}",
        "case", "way", "calls/s", "p50 us", "p99 us", "GiB/s", "CPU ms/1000", "CPU s/GiB"
    )?;
    for case in &CASES {
        let mut ratios = Vec::new();
        for round in 0..rounds {
            let nginx = Sample::take(stack, &stack.nginx, &["edge", "inner"], case, time).await?;
            let culvert =
                Sample::take(stack, &stack.culvert, &["relay", "agent"], case, time).await?;
            nginx.write(out, case.name, "nginx", round)?;
            culvert.write(out, case.name, "culvert", round)?;
            ratios.push(culvert.cpu_per_call() / nginx.cpu_per_call());
        }
        ratios.sort_by(f64::total_cmp);
        writeln!(
            out,
            "{:<24} CPU per call, culvert/nginx: median {:.2} ({:.2} to {:.2})\n",
            case.name,
            ratios[ratios.len() / 2],
            ratios[0],
            ratios[ratios.len() - 1]
        )?;
    }
    Ok(())
}

struct Sample {
    report: Report,
    cpu: Duration,
}

impl Sample {
    async fn take(
        stack: &Stack,
        target: &Target,
        names: &[&str],
        case: &Case,
        time: Duration,
    ) -> Result<Self, Failure> {
        let pids = stack.pids(names);
        // Connections, pools and caches are warm before the clock starts.
        load::run(target, case.path, case.connections, time / 10).await?;
        let before = process::usage(&pids).cpu;
        let report = load::run(target, case.path, case.connections, time).await?;
        let cpu = process::usage(&pids).cpu - before;
        if report.errors > 0 || report.calls == 0 {
            return Err(format!(
                "{}: {} errors beside {} calls; the first: {:?}",
                case.name, report.errors, report.calls, report.first_error
            )
            .into());
        }
        Ok(Self { report, cpu })
    }

    /// Seconds.
    fn cpu_per_call(&self) -> f64 {
        self.cpu.as_secs_f64() / self.report.calls as f64
    }

    fn write(
        &self,
        out: &mut impl Write,
        case: &str,
        way: &str,
        round: usize,
    ) -> Result<(), Failure> {
        let gib = self.report.bytes as f64 / f64::from(1 << 30);
        writeln!(
            out,
            "{:<24} {:<8} {:>9.0} {:>9} {:>9} {:>9.2} {:>12.1} {:>11.2}",
            if round == 0 { case } else { "" },
            way,
            self.report.rate(),
            self.report.latency.value_at_quantile(0.5),
            self.report.latency.value_at_quantile(0.99),
            gib / self.report.elapsed.as_secs_f64(),
            self.cpu_per_call() * 1e6,
            self.cpu.as_secs_f64() / gib,
        )?;
        Ok(())
    }
}
