//! What changed between two reports, and what is only noise.
//!
//! Every measure has as many figures as there were rounds. From five rounds on each side a rank
//! test (Mann and Whitney's) says whether the two sets differ; with fewer, the sets must not
//! overlap and their medians must lie further apart than each set spreads, and that is a guess: by
//! chance one deal in ten of three rounds and three is so. In both cases the median must have
//! changed by the threshold at least. One round says nothing of its noise, so it decides nothing.
//! Among hundreds of measures some differ by chance alone: what is called certain is what is left
//! when their number is allowed for.

mod chance;
mod measures;

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;

use self::chance::{by_chance, convincing};
use self::measures::measures;
use crate::report::{Better, Case, Report, Way};
use crate::stats::Spread;

/// Rounds on each side from which ranks are compared.
const RANKED: usize = 5;

/// How unlikely a difference by chance must be; and of all differences that are called certain, the
/// share that may be by chance.
const CHANCE: f64 = 0.05;

/// Everything that both reports have.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The measures, in the order of the second report.
    pub changes: Vec<Change>,
    /// Cases that only one report has, what was not measured again, and what else differs.
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
    /// Rounds of the side that has fewer.
    pub rounds: usize,
    /// How likely so much is by chance alone; `None`: there are too few rounds to say.
    pub chance: Option<f64>,
    /// What it means.
    pub verdict: Verdict,
    /// Whether it is beyond chance, though so many measures were looked at.
    pub certain: bool,
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

impl Comparison {
    /// Compares; a median that changes by less than `threshold` (a share) is the same.
    pub fn of(before: &Report, after: &Report, threshold: f64) -> Self {
        let mut comparison = Self {
            changes: Vec::new(),
            remarks: Vec::new(),
            missing: false,
        };
        let keys = before
            .configuration
            .keys()
            .chain(after.configuration.keys());
        for key in keys.collect::<BTreeSet<_>>() {
            let [old, new] = [before, after].map(|report| report.configuration.get(key));
            if old != new {
                let shown = |value: Option<&String>| value.cloned().unwrap_or("nothing".into());
                comparison
                    .remarks
                    .push(format!("{key} was {} and is {}", shown(old), shown(new)));
            }
        }
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
        comparison.weigh();
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
            let figures = |way: &Way| {
                let whole = way.rounds.iter().filter(|round| !round.partial);
                whole.filter_map(&of).collect::<Vec<f64>>()
            };
            let (old, new) = (figures(before), figures(after));
            if old.is_empty() || new.is_empty() {
                continue;
            }
            let [from, to] = [&old, &new].map(|all| Spread::of(all.iter().copied()));
            let rounds = old.len().min(new.len());
            self.changes.push(Change {
                case: case.to_owned(),
                way: after.name.clone(),
                measure,
                before: [from.median, from.least, from.most],
                after: [to.median, to.least, to.most],
                change: share(from.median, to.median),
                rounds,
                chance: (rounds >= RANKED).then(|| by_chance(&old, &new)),
                verdict: verdict(&old, &new, better, threshold),
                certain: false,
            });
        }
    }

    /// Finds out which changes are certain. nginx by itself: it decides nothing, and so asks nothing
    /// more of Culvert's.
    fn weigh(&mut self) {
        for ours in [true, false] {
            let of = |change: &&mut Change| change.is_ours() == ours;
            let chances = self.changes.iter_mut().filter(of);
            let most = convincing(chances.filter_map(|change| change.chance), CHANCE);
            for change in self.changes.iter_mut().filter(of) {
                change.certain = change.chance.is_some_and(|chance| chance <= most);
            }
        }
    }

    /// Whether it is certain that a measure of Culvert got worse, which takes five rounds at least, or
    /// one is missing, or none could be compared. nginx is what it is compared with: if that got worse,
    /// the machine did.
    pub fn got_worse(&self) -> bool {
        let worse = |change: &Change| {
            change.is_ours() && change.verdict == Verdict::Worse && change.certain
        };
        let compared = self.changes.iter().any(Change::is_ours);
        self.missing || !compared || self.changes.iter().any(worse)
    }
}

impl Change {
    /// The verdict in words; what is not certain is a guess.
    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Worse if !self.certain => "worse, perhaps",
            Verdict::Better if !self.certain => "better, perhaps",
            verdict => verdict.word(),
        }
    }

    /// Whether it is one of Culvert's.
    fn is_ours(&self) -> bool {
        self.way != "nginx"
    }
}

/// Whether calls of a way ended well, or carried something: else it was tried, and nothing was
/// measured.
fn has_calls(way: &Way) -> bool {
    let mut rounds = way.rounds.iter();
    rounds.any(|round| round.calls > 0 || round.bytes > 0)
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
            change.word()
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
