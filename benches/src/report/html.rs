//! A report as one HTML page that needs nothing else: no script, no network.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::chart::{Chart, Line, Scale, escape};
use super::table::figure;
use super::{Case, Report, Round, Use, Way};

/// The page.
pub fn page(report: &Report) -> String {
    let machine = &report.machine;
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>culvert-bench {started}</title><style>{STYLE}</style></head><body><main>\
         <h1>culvert-bench</h1><p class=\"sub\">{started} &middot; version {} &middot; {:.0} s \
         &middot; {} ({} cores, {:.1} GiB) &middot; {}</p>",
        escape(&report.version),
        report.elapsed_s,
        escape(&machine.cpu),
        machine.cores,
        machine.memory as f64 / f64::from(1 << 30),
        escape(&machine.kernel),
        started = escape(&report.started),
    );
    if report.interrupted {
        html.push_str("<p class=\"note\">Interrupted: this is what was measured until then.</p>");
    }
    html.push_str("<p class=\"sub\">");
    for (key, value) in &report.configuration {
        let _ = write!(html, "<code>{} = {}</code> ", escape(key), escape(value));
    }
    html.push_str("</p><h2>Summary</h2>");
    html.push_str(EXPLANATION);
    summary(&mut html, report);
    for case in &report.cases {
        section(&mut html, case);
    }
    html.push_str("</main></body></html>\n");
    html
}

const EXPLANATION: &str = "<p class=\"sub\">Medians of the rounds. <b>closed</b>: each worker calls again \
    as soon as it has its answer; its latencies flatter a system that stalls. <b>open</b>: calls begin \
    by a schedule and their latency counts from their time in it, so that a stall shows in every call \
    that it delays. CPU and memory are those of all processes of the way together.</p>";

const COLUMNS: [&str; 14] = [
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
    "CPU ms / 1000 calls",
    "CPU s / GiB",
    "memory MiB",
];

fn summary(html: &mut String, report: &Report) {
    html.push_str(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Summary\"><table><thead><tr>",
    );
    for column in COLUMNS {
        let _ = write!(html, "<th scope=\"col\">{column}");
    }
    html.push_str("</tr></thead>");
    for case in &report.cases {
        let rows = case.ways.len();
        for (number, way) in case.ways.iter().enumerate() {
            if number == 0 {
                let _ = write!(
                    html,
                    "<tbody><tr><th scope=\"rowgroup\" rowspan=\"{rows}\"><a href=\"#{0}\">{0}</a>",
                    escape(&case.name)
                );
            } else {
                html.push_str("<tr>");
            }
            html.push_str(&cells(way));
        }
    }
    html.push_str("</table></div>");
}

fn cells(way: &Way) -> String {
    let ms = |of: fn(&Round) -> u64| way.median(|round| Some(of(round) as f64 / 1e3));
    let all = |of: fn(&Use) -> Option<f64>| way.median(|round| round.all_processes(of));
    let failed: u64 = way.rounds.iter().map(Round::error_count).sum();
    let mut text = format!(
        "<td class=\"w\">{}<td class=\"w\">{}",
        escape(&way.name),
        escape(&way.load())
    );
    let before = [
        way.median(|round| Some(round.calls_per_second())),
        way.median(|round| Some(round.megabytes_per_second())),
        ms(|round| round.latency.p50),
        ms(|round| round.latency.p90),
        ms(|round| round.latency.p99),
        ms(|round| round.latency.p999),
        ms(|round| round.latency.max),
    ];
    let after = [
        all(|used| used.cpu_ms_per_1000_calls),
        all(|used| used.cpu_s_per_gib),
        all(Use::mebibytes),
    ];
    for value in before {
        let _ = write!(text, "<td>{}", figure(value));
    }
    let bad = if failed > 0 { " class=\"bad\"" } else { "" };
    let _ = write!(text, "<td{bad}>{failed}");
    for value in after {
        let _ = write!(text, "<td>{}", figure(value));
    }
    text
}

fn section(html: &mut String, case: &Case) {
    let _ = write!(
        html,
        "<section id=\"{0}\"><h2>{0}</h2><p>{1}</p>",
        escape(&case.name),
        escape(&case.what)
    );
    if let Some(why) = &case.skipped {
        let _ = write!(html, "<p class=\"note\">Not measured: {}</p>", escape(why));
    }
    html.push_str("<div class=\"charts\">");
    for svg in [latency(case), throughput(case), memory(case)]
        .into_iter()
        .flatten()
    {
        let _ = write!(html, "<figure>{svg}</figure>");
    }
    html.push_str("</div>");
    for way in &case.ways {
        facts(html, way);
    }
    html.push_str("</section>");
}

/// What stands in no column: the scenario's own figures, CPU by process, errors by code.
fn facts(html: &mut String, way: &Way) {
    let mut facts = Vec::new();
    for (name, (value, spread)) in way.values() {
        facts.push(format!(
            "{} <b>{spread}</b> {}",
            escape(name),
            escape(&value.unit)
        ));
    }
    let processes = way.rounds.iter().flat_map(|round| round.processes.keys());
    for name in processes.collect::<BTreeSet<_>>() {
        let of = |of: fn(&Use) -> Option<f64>| figure(way.median(|round| round.process(name, of)));
        facts.push(format!(
            "{}: CPU {} ms / 1000 calls, {} s / GiB, memory {} MiB",
            escape(name),
            of(|used| used.cpu_ms_per_1000_calls),
            of(|used| used.cpu_s_per_gib),
            of(Use::mebibytes)
        ));
    }
    for (error, count) in way.errors() {
        facts.push(format!(
            "<span class=\"bad\">{count} failed: {}</span>",
            escape(error)
        ));
    }
    if !facts.is_empty() {
        let _ = write!(
            html,
            "<p class=\"facts\"><b>{}</b> {}</p>",
            escape(&way.name),
            facts.join(" &middot; ")
        );
    }
}

/// Latency by percentile: of each point the median of the rounds that know it.
fn latency(case: &Case) -> Option<String> {
    let line = |way: &Way| {
        let longest = way.rounds.iter().map(|round| &round.latency.curve);
        let points = longest.max_by_key(|curve| curve.len())?;
        let points = points.iter().map(|(quantile, _)| {
            let at = |round: &Round| {
                let point = round
                    .latency
                    .curve
                    .iter()
                    .find(|point| point.0 == *quantile)?;
                Some(point.1 as f64 / 1e3)
            };
            Some((*quantile, way.median(at)?))
        });
        Some(Line {
            name: way.name.clone(),
            points: points.collect::<Option<_>>()?,
        })
    };
    Chart {
        title: "Latency by percentile".into(),
        x_label: "percent of calls".into(),
        y_label: "ms at most".into(),
        x: Scale::Nines,
        y: Scale::Log,
        lines: case.ways.iter().filter_map(line).collect(),
    }
    .svg()
}

/// Calls per second, or megabytes where bodies are what counts, of every round.
fn throughput(case: &Case) -> Option<String> {
    let rounds = || case.ways.iter().flat_map(|way| &way.rounds);
    let bytes: u64 = rounds().map(|round| round.bytes).sum();
    let calls: u64 = rounds().map(|round| round.calls).sum();
    let bulk = bytes > calls * (256 << 10) && bytes > 0;
    Chart {
        title: if bulk {
            "Megabytes per second"
        } else {
            "Calls per second"
        }
        .into(),
        x_label: "seconds, each round from its start".into(),
        y_label: if bulk { "MB/s" } else { "calls/s" }.into(),
        x: Scale::Linear,
        y: Scale::Linear,
        lines: over_time(case, |round, number| {
            let point = &round.series[number];
            let since = number
                .checked_sub(1)
                .map_or(0.0, |before| round.series[before].at_s);
            let counted = if bulk {
                point.bytes as f64 / 1e6
            } else {
                point.calls as f64
            };
            vec![(String::new(), counted / (point.at_s - since).max(1e-3))]
        }),
    }
    .svg()
}

/// Resident memory of every process, of every round.
fn memory(case: &Case) -> Option<String> {
    Chart {
        title: "Memory of each process".into(),
        x_label: "seconds, each round from its start".into(),
        y_label: "MiB resident".into(),
        x: Scale::Linear,
        y: Scale::Linear,
        lines: over_time(case, |round, number| {
            let memory = round.series[number].memory.iter();
            memory
                .map(|(name, bytes)| (name.clone(), *bytes as f64 / 1_048_576.0))
                .collect()
        }),
    }
    .svg()
}

/// A line for each way, round and name that `values` gives for a point of its series. A name that
/// is empty stands for the way.
fn over_time(case: &Case, values: impl Fn(&Round, usize) -> Vec<(String, f64)>) -> Vec<Line> {
    let mut lines = Vec::new();
    for way in &case.ways {
        for round in &way.rounds {
            let first = lines.len();
            for number in 0..round.series.len() {
                for (name, value) in values(round, number) {
                    let name = if name.is_empty() {
                        way.name.clone()
                    } else {
                        name
                    };
                    let at = round.series[number].at_s;
                    match lines[first..]
                        .iter_mut()
                        .find(|line: &&mut Line| line.name == name)
                    {
                        Some(line) => line.points.push((at, value)),
                        None => lines.push(Line {
                            name,
                            points: vec![(at, value)],
                        }),
                    }
                }
            }
        }
    }
    lines
}

const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1c2733;--dim:#5b6b7b;--bg:#fff;--card:#f6f8fa;--rule:#dde3e9;--bad:#b3261e;
--c0:#1769d2;--c1:#d9730d;--c2:#2f8f4e;--c3:#9b3fbf;--c4:#0f8b8d;--c5:#c23a5c;--c6:#7a6a00;--c7:#5566cc}
@media(prefers-color-scheme:dark){:root{--fg:#e3e9ef;--dim:#98a6b4;--bg:#12171d;--card:#1a2129;--rule:#2d3743;--bad:#ff8a80;
--c0:#6ab0ff;--c1:#ffab66;--c2:#6fd18c;--c3:#d59bf0;--c4:#5fd0d2;--c5:#ff8fa8;--c6:#dcc95a;--c7:#a3b0ff}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1460px;margin:0 auto;padding:24px 28px}
h1{font-size:26px;margin:0}h2{font-size:18px;margin:28px 0 6px;border-top:1px solid var(--rule);padding-top:18px}
p{margin:6px 0}.sub{color:var(--dim);font-size:13px}.sub code{background:var(--card);padding:1px 5px;border-radius:4px;overflow-wrap:anywhere}
.note{background:var(--card);border-left:3px solid var(--c1);padding:6px 12px}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:3px 10px;text-align:right}thead th{color:var(--dim);font-weight:600;border-bottom:1px solid var(--rule)}
tbody th,td.w,thead th:nth-child(-n+3){text-align:left}tbody th{vertical-align:top}tbody{border-top:1px solid var(--rule)}
a{color:var(--c0);text-decoration:none}.bad{color:var(--bad);font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(400px,100%),1fr));gap:14px;margin:10px 0}
figure{margin:0;background:var(--card);border-radius:8px;padding:8px;max-width:560px}svg{width:100%;height:auto;display:block}
svg text{fill:var(--fg);font:11px system-ui,sans-serif}svg .title{font-size:13px;font-weight:600}svg .tick,svg .label{fill:var(--dim)}
.grid{stroke:var(--rule);stroke-width:1;fill:none}.axis{stroke:var(--dim);stroke-width:1;fill:none}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.facts{font-size:13px;color:var(--dim)}.facts b{color:var(--fg)}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}.c7{stroke:var(--c7)}
.dot{fill:var(--card);stroke-width:2}
";
