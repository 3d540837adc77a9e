//! What changed between two reports, and what is only noise.
//!
//! Every measure has as many figures as there were rounds. From five rounds on each side a rank
//! test (Mann and Whitney's) says whether the two sets differ; with fewer, the sets must not
//! overlap and their medians must lie further apart than each set spreads. In both cases the
//! median must have changed by the threshold at least. One round says nothing of its noise, so it
//! decides nothing.

use std::fmt::Write;

use serde::Serialize;

use crate::report::{Better, Case, Report, Round, Use, Way};
use crate::stats::Spread;

/// Rounds on each side from which ranks are compared.
const RANKED: usize = 5;

/// How unlikely a difference by chance must be.
const CHANCE: f64 = 0.05;

/// Everything that both reports have.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The measures, in the order of the second report.
    pub changes: Vec<Change>,
    /// Cases that only one report has, what was not measured again, and machines that differ.
    pub remarks: Vec<String>,
    /// Something of Culvert's that was measured before could not be measured after.
    pub missing: bool,
}

/// One measure of one way of one case.
#[derive(Debug, Serialize)]
pub struct Change {
    /// The case.
    pub case: String,
    /// The way.
    pub way: String,
    /// The measure, with its unit.
    pub measure: String,
    /// Median, least and most before.
    pub before: [f64; 3],
    /// The same after.
    pub after: [f64; 3],
    /// How much the median changed, as a share of what it was.
    pub change: f64,
    /// What it means.
    pub verdict: Verdict,
}

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Better beyond noise.
    Better,
    /// Worse beyond noise.
    Worse,
    /// Within noise.
    Same,
    /// Too few rounds to say.
    Unknown,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Same => "same",
            Self::Unknown => "too few rounds",
        }
    }
}

/// A measure: its name, which change is good, and its figure in a round.
type Measure = (String, Better, Box<dyn Fn(&Round) -> Option<f64>>);

impl Comparison {
    /// Compares; a median that changes by less than `threshold` (a share) is the same.
    pub fn of(before: &Report, after: &Report, threshold: f64) -> Self {
        let mut comparison = Self {
            changes: Vec::new(),
            remarks: Vec::new(),
            missing: false,
        };
        if before.machine != after.machine {
            comparison
                .remarks
                .push("the machines differ: absolute figures do not compare".into());
        }
        for (report, which) in [(before, "first"), (after, "second")] {
            let mut ways = report.cases.iter().flat_map(|case| &case.ways);
            let cut = ways.any(|way| way.rounds.iter().any(|round| round.partial));
            if report.interrupted || cut {
                comparison.remarks.push(format!(
                    "the {which} report is of a run that was interrupted"
                ));
            }
        }
        for case in &before.cases {
            comparison.look_for(case, after);
            if !after.cases.iter().any(|other| other.name == case.name) {
                comparison
                    .remarks
                    .push(format!("{}: only in the first report", case.name));
            }
        }
        for case in &after.cases {
            let Some(old) = before.cases.iter().find(|other| other.name == case.name) else {
                comparison
                    .remarks
                    .push(format!("{}: only in the second report", case.name));
                continue;
            };
            for way in &case.ways {
                if let Some(old) = old.ways.iter().find(|other| other.name == way.name) {
                    comparison.add(&case.name, old, way, threshold);
                }
            }
        }
        if !comparison.changes.iter().any(Change::is_ours) {
            let remark = "nothing of Culvert is in both reports: nothing is compared";
            comparison.remarks.push(remark.into());
        }
        comparison
    }

    /// Says what of a case was measured before and is not there now: what fails altogether has no
    /// figures to get worse. That whole scenarios were left out is no failure.
    fn look_for(&mut self, before: &Case, after: &Report) {
        let skipped = after.cases.iter().find(|case| {
            let of = before.name.strip_prefix(&*case.name);
            case.skipped.is_some()
                && of.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        let again = after.cases.iter().find(|case| case.name == before.name);
        for way in before.ways.iter().filter(|way| has_calls(way)) {
            let now = again.and_then(|case| case.ways.iter().find(|now| now.name == way.name));
            if now.is_some_and(has_calls) || (again.is_none() && skipped.is_none()) {
                continue;
            }
            let tried = now.is_some_and(|now| !now.rounds.is_empty());
            let why = skipped.and_then(|case| case.skipped.as_deref());
            let why = why.unwrap_or(if tried {
                "no call got through"
            } else {
                "the second report does not say why"
            });
            self.remarks.push(format!(
                "{}, {}: not measured again ({why})",
                before.name, way.name
            ));
            self.missing |= way.name != "nginx";
        }
    }

    fn add(&mut self, case: &str, before: &Way, after: &Way, threshold: f64) {
        let rate = |way: &Way| way.rounds.first().and_then(|round| round.asked_rate);
        if let (Some(old), Some(new)) = (rate(before), rate(after))
            && (new / old - 1.0).abs() > 0.1
        {
            self.remarks.push(format!(
                "{case}, {}: {old:.0} calls/s before and {new:.0} after: latencies do not compare; \
                 --rate gives both the same",
                after.name
            ));
        }
        for (measure, better, of) in measures(after) {
            let figures = |way: &Way| way.rounds.iter().filter_map(&of).collect::<Vec<f64>>();
            let (old, new) = (figures(before), figures(after));
            if old.is_empty() || new.is_empty() {
                continue;
            }
            let [from, to] = [&old, &new].map(|all| Spread::of(all.iter().copied()));
            self.changes.push(Change {
                case: case.to_owned(),
                way: after.name.clone(),
                measure,
                before: [from.median, from.least, from.most],
                after: [to.median, to.least, to.most],
                change: share(from.median, to.median),
                verdict: verdict(&old, &new, better, threshold),
            });
        }
    }

    /// Whether a measure of Culvert got worse beyond noise, or is missing, or none could be
    /// compared. nginx is what it is compared with: if that got worse, the machine did.
    pub fn got_worse(&self) -> bool {
        let worse = |change: &Change| change.is_ours() && change.verdict == Verdict::Worse;
        let compared = self.changes.iter().any(Change::is_ours);
        self.missing || !compared || self.changes.iter().any(worse)
    }
}

impl Change {
    /// Whether it is one of Culvert's.
    fn is_ours(&self) -> bool {
        self.way != "nginx"
    }
}

/// Whether calls of a way ended well: else it was tried, and nothing was measured.
fn has_calls(way: &Way) -> bool {
    way.rounds.iter().any(|round| round.calls > 0)
}

fn share(from: f64, to: f64) -> f64 {
    if from == to {
        0.0
    } else if from == 0.0 {
        to.signum()
    } else {
        to / from - 1.0
    }
}

/// What is compared of a way.
fn measures(way: &Way) -> Vec<Measure> {
    let open = way
        .rounds
        .first()
        .is_some_and(|round| round.asked_rate.is_some());
    let bulk = way
        .rounds
        .iter()
        .any(|round| round.bytes > round.calls * (256 << 10) && round.bytes > 0);
    let mut all: Vec<Measure> = Vec::new();
    let mut add = |name: &str, better, of: fn(&Round) -> Option<f64>| {
        all.push((name.to_owned(), better, Box::new(of)));
    };
    // By a schedule the rate is what was asked for.
    if bulk {
        add("MB/s", Better::Higher, |round| {
            Some(round.megabytes_per_second())
        });
        add("CPU s/GiB", Better::Lower, |round| {
            round.all_processes(|used| used.cpu_s_per_gib)
        });
    } else {
        if !open {
            add("calls/s", Better::Higher, |round| {
                Some(round.calls_per_second())
            });
        }
        add("CPU ms/1000 calls", Better::Lower, |round| {
            round.all_processes(|used| used.cpu_ms_per_1000_calls)
        });
    }
    add("p50 ms", Better::Lower, |round| {
        latency(round, round.latency.p50)
    });
    add("p99 ms", Better::Lower, |round| {
        latency(round, round.latency.p99)
    });
    add("errors, share", Better::Lower, |round| {
        Some(round.error_share())
    });
    add("memory MiB", Better::Lower, |round| {
        round.all_processes(Use::mebibytes)
    });
    for (name, (value, _)) in way.values() {
        let key = name.to_owned();
        let of = move |round: &Round| round.values.get(&key).map(|value| value.value);
        let shown = format!("{name} {}", value.unit).trim_end().to_owned();
        all.push((shown, value.better, Box::new(of)));
    }
    all
}

fn latency(round: &Round, micros: u64) -> Option<f64> {
    (round.latency.count > 0).then_some(micros as f64 / 1e3)
}

/// Whether `after` differs from `before` beyond noise and by `threshold` (a share of the median).
pub fn verdict(before: &[f64], after: &[f64], better: Better, threshold: f64) -> Verdict {
    let [from, to] = [before, after].map(|all| Spread::of(all.iter().copied()));
    let changed = share(from.median, to.median);
    if changed.abs() < threshold || changed == 0.0 {
        return Verdict::Same;
    }
    if before.len() < 2 || after.len() < 2 {
        return Verdict::Unknown;
    }
    let differ = if before.len() >= RANKED && after.len() >= RANKED {
        by_chance(before, after) < CHANCE
    } else {
        let apart = (to.median - from.median).abs();
        let overlap = from.least <= to.most && to.least <= from.most;
        !overlap && apart > (from.most - from.least) && apart > (to.most - to.least)
    };
    match (differ, better, changed > 0.0) {
        (false, ..) => Verdict::Same,
        (true, Better::Higher, true) | (true, Better::Lower, false) => Verdict::Better,
        (true, ..) => Verdict::Worse,
    }
}

/// The chance that two sets of one distribution differ in their ranks at least as much (two sided;
/// Mann and Whitney 1947): the share of all ways to deal the figures into two sets of these sizes.
fn by_chance(before: &[f64], after: &[f64]) -> f64 {
    let wins = |more: &[f64], less: &[f64]| -> f64 {
        let pairs = more.iter().flat_map(|a| less.iter().map(move |b| (a, b)));
        pairs
            .map(|(a, b)| {
                if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                }
            })
            .sum()
    };
    let u = wins(after, before).min(wins(before, after));
    let counts = deals(before.len(), after.len());
    let all: f64 = counts.iter().sum();
    let extreme: f64 = counts.iter().take(u.floor() as usize + 1).sum();
    (2.0 * extreme / all).min(1.0)
}

/// In how many ways two sets of `m` and `n` different figures can win each number of their
/// comparisons: the coefficients of the Gaussian binomial.
fn deals(m: usize, n: usize) -> Vec<f64> {
    let length = m * n + 1;
    // The counts for each size of the second set; the first one grows by one figure at a time.
    let mut row: Vec<Vec<f64>> = (0..=n).map(|_| unit(length)).collect();
    for _ in 0..m {
        let mut next: Vec<Vec<f64>> = vec![unit(length)];
        for j in 1..=n {
            // The greatest figure belongs to the first set and wins j times, or to the second.
            let mut counts = next[j - 1].clone();
            for wins in (j..length).rev() {
                counts[wins] += row[j][wins - j];
            }
            next.push(counts);
        }
        row = next;
    }
    row.swap_remove(n)
}

fn unit(length: usize) -> Vec<f64> {
    let mut counts = vec![0.0; length];
    counts[0] = 1.0;
    counts
}

/// The comparison for a terminal: what changed, and how much did not.
pub fn table(comparison: &Comparison) -> String {
    let mut text = String::new();
    let notable = |change: &&Change| change.verdict != Verdict::Same;
    let _ = writeln!(
        text,
        "{:<22} {:<8} {:<34} {:>26} {:>26} {:>8}  verdict",
        "case", "way", "measure", "before", "after", "change"
    );
    for change in comparison.changes.iter().filter(notable) {
        let shown = |[median, least, most]: [f64; 3]| {
            let decimals = if median.abs() < 10.0 { 3 } else { 1 };
            format!("{median:.decimals$} ({least:.decimals$}-{most:.decimals$})")
        };
        let _ = writeln!(
            text,
            "{:<22} {:<8} {:<34} {:>26} {:>26} {:>+7.1}%  {}",
            change.case,
            change.way,
            change.measure,
            shown(change.before),
            shown(change.after),
            change.change * 100.0,
            change.verdict.word()
        );
    }
    let same = comparison.changes.len() - comparison.changes.iter().filter(notable).count();
    let _ = writeln!(
        text,
        "\n{same} of {} measures are the same",
        comparison.changes.len()
    );
    for remark in &comparison.remarks {
        let _ = writeln!(text, "{remark}");
    }
    text
}

#[cfg(test)]
mod tests;
