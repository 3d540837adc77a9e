//! What docs/operations.md says of metrics is what the programs have.

use std::collections::BTreeSet;
use std::path::Path;

use culvert_tests::Stack;

/// Those of which there is none before something has happened.
const NONE_AT_FIRST: [&str; 4] = [
    "peer_certificate_expiry_timestamp_seconds{name}",
    "session_ends_total{reason}",
    "callers_unverified_total{reason}",
    "shadow_hits_total{rule}",
];

/// The metrics in an answer in OpenMetrics, as the manual writes them: `calls_total{outcome,code}`.
fn answered(text: &str, prefix: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let metrics = types.map(|family| {
        let (family, kind) = family.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let name = format!("{family}{suffix}");
        let of_it = |line: &&str| {
            let rest = line.strip_prefix(&name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let sample = text.lines().find(of_it).unwrap_or(&name);
        let labels = sample.split(['{', '}']).nth(1).unwrap_or_default();
        let labels = labels
            .split("\",")
            .filter_map(|label| label.split('=').next());
        let labels: Vec<&str> = labels.filter(|label| !label.is_empty()).collect();
        let name = name.strip_prefix(prefix).unwrap();
        match labels.is_empty() {
            true => name.to_owned(),
            false => format!("{name}{{{}}}", labels.join(",")),
        }
    });
    metrics.collect()
}

/// The metrics in the table of those that begin with this.
fn named(manual: &str, prefix: &str) -> BTreeSet<String> {
    let beginning = format!("**Metrics.** All begin with `{prefix}`.\n\n");
    let (_, table) = manual.split_once(&beginning).unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let cells = rows.skip(2).map(|row| row.split('|').nth(1).unwrap());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

#[test]
fn every_metric_is_in_the_manual_and_every_one_of_the_manual_is_there() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let stack = Stack::without_upstream();
    for (prefix, answer) in [
        ("culvert_relay_", stack.admin("/metrics")),
        ("culvert_agent_", stack.ask_agent("/metrics")),
    ] {
        let answered = answered(&answer.text(), prefix);
        for metric in &answered {
            assert!(manual.contains(&format!("`{metric}`")), "{prefix}{metric}");
        }
        for metric in named(&manual, prefix) {
            let known = answered.contains(&metric) || NONE_AT_FIRST.contains(&&*metric);
            assert!(known, "{prefix}{metric} is not in\n{answer}");
        }
    }
}
