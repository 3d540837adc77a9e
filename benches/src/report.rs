//! What `culvert-bench local` and `run` have measured: the data that its table, its JSON and its
//! HTML are made from, and that [`compare`](crate::compare) reads again.

pub mod chart;
pub mod html;
mod machine;
pub mod output;
pub mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use self::machine::Machine;
use crate::load::Failure;
use crate::stats::Spread;

/// The version of this format; a file of another one is refused.
pub const FORMAT: u32 = 1;

/// Everything that one run has measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of `culvert-bench`.
    pub version: String,
    /// When the run began, UTC, RFC 3339.
    pub started: String,
    /// How long it took, in seconds.
    pub elapsed_s: f64,
    /// Whether somebody ended it before it was through.
    pub interrupted: bool,
    /// Where it ran.
    pub machine: Machine,
    /// What was asked for, by name. No secrets.
    pub configuration: BTreeMap<String, String>,
    /// What was measured, in the order in which it was.
    pub cases: Vec<Case>,
}

/// One thing that was measured: a scenario, or one step of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// `calls-h1/16`: the scenario and which step of it.
    pub name: String,
    /// What it is, in words.
    pub what: String,
    /// Why there are no figures, if there are none.
    pub skipped: Option<String>,
    /// What each way did.
    pub ways: Vec<Way>,
}

/// One way to the upstream in one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// `culvert`, `nginx`.
    pub name: String,
    /// Its rounds.
    pub rounds: Vec<Round>,
}

/// One measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// When a call begins: `closed`, as soon as the worker has its last answer, or `open`, at its
    /// time in a schedule, from which its latency counts even if it had to wait for its turn.
    pub load: String,
    /// Calls per second of the schedule, where there is one.
    pub asked_rate: Option<f64>,
    /// Whether it was ended before its time.
    pub partial: bool,
    /// Calls that ended well.
    pub calls: u64,
    /// The others, by the problem's `code`, else the status, else what the connection did.
    pub errors: BTreeMap<String, u64>,
    /// Bytes of bodies, both directions.
    pub bytes: u64,
    /// How long calls were made, in seconds.
    pub elapsed_s: f64,
    /// How long they took.
    pub latency: Latency,
    /// What happened when.
    pub series: Vec<Point>,
    /// What each process used.
    pub processes: BTreeMap<String, Use>,
    /// Figures of this scenario alone, by name.
    pub values: BTreeMap<String, Value>,
}

impl Round {
    /// Calls that failed.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Calls per second that ended well.
    pub fn calls_per_second(&self) -> f64 {
        self.calls as f64 / self.elapsed_s
    }

    /// Megabytes (10^6) per second.
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed_s
    }

    /// A figure of all processes together, if there are processes, each has it, and none is gone.
    pub fn all_processes(&self, of: impl Fn(&Use) -> Option<f64>) -> Option<f64> {
        let names = self.processes.keys();
        let each = names.map(|name| self.process(name, &of));
        each.reduce(|sum, next| Some(sum? + next?))?
    }

    /// A figure of one process; of one that is gone there is none.
    pub fn process(&self, name: &str, of: impl Fn(&Use) -> Option<f64>) -> Option<f64> {
        of(self.processes.get(name).filter(|used| !used.gone)?)
    }

    /// The share of calls that failed, 0 to 1.
    pub fn error_share(&self) -> f64 {
        let errors = self.error_count() as f64;
        let all = self.calls as f64 + errors;
        if all > 0.0 { errors / all } else { 0.0 }
    }
}

impl Way {
    /// The median of a figure over the rounds that have it.
    pub fn median(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        let median = Spread::of(self.rounds.iter().filter_map(of)).median;
        median.is_finite().then_some(median)
    }

    /// The errors of all rounds together, by kind.
    pub fn errors(&self) -> BTreeMap<&str, u64> {
        let mut sum = BTreeMap::new();
        for (error, count) in self.rounds.iter().flat_map(|round| &round.errors) {
            *sum.entry(error.as_str()).or_default() += count;
        }
        sum
    }

    /// The scenario's own figures by name: one of them, for unit and direction, and their spread.
    pub fn values(&self) -> BTreeMap<&str, (&Value, Spread)> {
        let known = self.rounds.iter().flat_map(|round| &round.values);
        let known: BTreeMap<&str, &Value> =
            known.map(|(name, value)| (name.as_str(), value)).collect();
        let spread = |name| {
            let rounds = self.rounds.iter();
            Spread::of(rounds.filter_map(|round| Some(round.values.get(name)?.value)))
        };
        known
            .into_iter()
            .map(|(name, value)| (name, (value, spread(name))))
            .collect()
    }

    /// How its calls began: `closed`, or `open` with the rate.
    pub fn load(&self) -> String {
        self.rounds.first().map_or(String::new(), |round| {
            let rate = round.asked_rate.map(|rate| format!(" {rate:.0}/s"));
            format!("{}{}", round.load, rate.unwrap_or_default())
        })
    }
}

impl Use {
    /// The most memory, in MiB.
    pub fn mebibytes(&self) -> Option<f64> {
        Some(self.memory_most as f64 / f64::from(1 << 20))
    }
}

/// A figure with its unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Which change is a good one.
    pub better: Better,
}

impl Value {
    /// A figure of which less is better.
    pub fn lower(value: f64, unit: &str) -> Self {
        Self {
            value,
            unit: unit.into(),
            better: Better::Lower,
        }
    }

    /// A figure of which more is better.
    pub fn higher(value: f64, unit: &str) -> Self {
        Self {
            better: Better::Higher,
            ..Self::lower(value, unit)
        }
    }
}

/// Which direction is an improvement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Less is better.
    Lower,
    /// More is better.
    Higher,
}

/// Latencies, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many there are: calls that ended well and those that did not.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// Half of all were at most this.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// Share of calls (0 to 1) and what so many of them were at most.
    pub curve: Vec<(f64, u64)>,
}

/// Where [`Latency::curve`] has its points, as far as there are calls enough to say.
const CURVE: [f64; 15] = [
    0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 0.99999,
];

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        let count = histogram.len();
        // One call in ten thousand is not known from a hundred.
        let known = |quantile: &f64| (1.0 - quantile) * count as f64 > 0.99;
        Self {
            count,
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
            curve: CURVE
                .into_iter()
                .filter(known)
                .map(|quantile| (quantile, at(quantile)))
                .collect(),
        }
    }
}

/// One interval of a round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its end, in seconds since the round's start.
    pub at_s: f64,
    /// Calls that ended well in it.
    pub calls: u64,
    /// Calls that failed in it.
    pub errors: u64,
    /// Bytes of bodies in it.
    pub bytes: u64,
    /// Resident bytes of each process at its end.
    pub memory: BTreeMap<String, u64>,
    /// CPU seconds of each process in it.
    pub cpu_s: BTreeMap<String, f64>,
}

/// What one process used in a round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Use {
    /// User and system time, in seconds.
    pub cpu_s: f64,
    /// The same per 1000 calls, in milliseconds; nothing where transfers run beside them, whose it
    /// mostly is.
    pub cpu_ms_per_1000_calls: Option<f64>,
    /// The same per GiB of bodies, those beside the calls too, in seconds; of rounds that carried
    /// less than 16 MiB nothing.
    pub cpu_s_per_gib: Option<f64>,
    /// Most resident bytes seen.
    pub memory_most: u64,
    /// Resident bytes at the end.
    pub memory_end: u64,
    /// Whether it was gone at the end: what is known of it is not the whole.
    #[serde(default)]
    pub gone: bool,
}

impl Report {
    /// One that has nothing yet.
    pub fn new(configuration: BTreeMap<String, String>) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            started: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            elapsed_s: 0.0,
            interrupted: false,
            machine: Machine::here(),
            configuration,
            cases: Vec::new(),
        }
    }

    /// The case of this name, made if it is not there.
    pub fn case(&mut self, name: &str, what: &str) -> &mut Case {
        let at = self.cases.iter().position(|case| case.name == name);
        let at = at.unwrap_or_else(|| {
            self.cases.push(Case {
                name: name.into(),
                what: what.into(),
                skipped: None,
                ways: Vec::new(),
            });
            self.cases.len() - 1
        });
        &mut self.cases[at]
    }

    /// As JSON.
    pub fn to_json(&self) -> Result<String, Failure> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads a file of [`to_json`](Self::to_json).
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        let report: Self = serde_json::from_str(&text)
            .map_err(|error| format!("{shown}: not a report of culvert-bench: {error}"))?;
        if report.format != FORMAT {
            let found = report.format;
            return Err(format!("{shown}: format {found}, expected {FORMAT}").into());
        }
        Ok(report)
    }
}

impl Case {
    /// Adds a round of a way. One that somebody broke off says less than those that are whole: it
    /// stays only where there are none.
    pub fn add(&mut self, way: &str, round: Round) {
        match self.ways.iter_mut().find(|known| known.name == way) {
            Some(known) if !round.partial => known.rounds.push(round),
            Some(_) => {}
            None => self.ways.push(Way {
                name: way.into(),
                rounds: vec![round],
            }),
        }
    }
}

#[cfg(test)]
mod tests;
