//! Runs scenarios one after the other and gathers what they measure in a report.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::builder::RangedU64ValueParser;
use culvert_process::log::LogFormat;
use tokio_util::sync::CancellationToken;

use crate::drive::{Bounds, Caller, Pace, UNFINISHED, drive};
use crate::load::Failure;
use crate::progress::Progress;
use crate::record::Recorder;
use crate::report::{self, Case, Latency, Report, Round, Value, table};
use crate::sample::Sampler;
use crate::scenarios::Scenario;
use crate::site::{Site, Way};

/// What to run, for how long, and where to write what came of it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The scenarios, in this order; without it all that can be run there, `soak` excepted.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub scenario: Vec<Scenario>,
    /// Seconds of a measurement.
    #[arg(long, default_value_t = 5, value_parser = seconds())]
    pub seconds: u64,
    /// How often each is made, the ways in turn.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Most calls of a measurement.
    #[arg(long)]
    pub calls: Option<u64>,
    /// How many callers call at once, in `calls-h1` and `calls-h2`.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64")]
    pub connections: Vec<usize>,
    /// Calls per second of the measurements by a schedule; without it 60 % of what the slower way
    /// could do.
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// Long polls, idle sessions and agents of the storm.
    #[arg(long, default_value_t = 1000)]
    pub sessions: usize,
    /// Seconds of a round of `soak`, on each way.
    #[arg(long, default_value_t = 60, value_parser = seconds())]
    pub soak: u64,
    /// Seconds after which a call has failed.
    #[arg(long, default_value_t = 30, value_parser = seconds())]
    pub timeout: u64,
    /// Write the report as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page.
    #[arg(long)]
    pub html: Option<PathBuf>,
}

/// Seconds that a measurement may last: what is longer is no time to wait, and overflows at last.
const A_YEAR: u64 = 366 * 24 * 3600;

/// Calls per second that a schedule may have: more no machine begins.
const MAX_RATE: f64 = 1e7;

/// Reads seconds on the command line.
pub fn seconds() -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(1..=A_YEAR)
}

/// Reads calls per second on the command line.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= MAX_RATE => Ok(rate),
        _ => Err(format!("expected calls per second, {MAX_RATE} at most")),
    }
}

impl Options {
    /// What a report says of it.
    fn configuration(&self) -> BTreeMap<String, String> {
        let mut known = BTreeMap::from([
            ("seconds".to_owned(), self.seconds.to_string()),
            ("rounds".to_owned(), self.rounds.to_string()),
            ("timeout".to_owned(), self.timeout.to_string()),
            ("sessions".to_owned(), self.sessions.to_string()),
        ]);
        if let Some(calls) = self.calls {
            known.insert("calls".into(), calls.to_string());
        }
        if let Some(rate) = self.rate {
            known.insert("rate".into(), rate.to_string());
        }
        known
    }
}

/// A case that is about to be measured.
#[derive(Debug, Clone)]
pub struct Named {
    /// Its name in the report.
    pub name: String,
    /// What it is.
    pub what: String,
}

/// What a measurement's work says of itself when it has ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How long calls began.
    pub elapsed: Duration,
    /// Calls per second of the schedule, where there was one.
    pub asked_rate: Option<f64>,
    /// Figures of the scenario's own.
    pub values: BTreeMap<String, Value>,
    /// Bytes that went beside the calls, where anything did.
    pub beside: Option<u64>,
    /// How what went beside them failed.
    pub errors: BTreeMap<String, u64>,
}

/// A run.
#[derive(Debug)]
pub struct Suite {
    /// What is measured.
    pub site: Site,
    /// What was asked for.
    pub options: Options,
    /// Ends everything early.
    pub stop: CancellationToken,
    report: Report,
    progress: Arc<Progress>,
    failed: bool,
}

/// What a scenario that is not driven may take to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(2);

impl Suite {
    /// One that has measured nothing, and shows its progress beside a log of the form `log`.
    pub fn new(
        site: Site,
        options: Options,
        url: Option<String>,
        log: LogFormat,
        stop: CancellationToken,
    ) -> Self {
        let mut configuration = options.configuration();
        configuration.insert(
            "installation".into(),
            url.unwrap_or_else(|| "on loopback".into()),
        );
        Self {
            site,
            options,
            stop,
            report: Report::new(configuration),
            progress: Arc::new(Progress::new(log)),
            failed: false,
        }
    }

    /// Runs all scenarios; gives the report, and whether all that was to be measured was.
    pub async fn run(mut self) -> (Report, bool) {
        let start = Instant::now();
        let mut scenarios = self.options.scenario.clone();
        if scenarios.is_empty() {
            scenarios = Scenario::usual();
        }
        for scenario in scenarios {
            if self.stop.is_cancelled() {
                break;
            }
            let first = self.report.cases.len();
            if let Err(error) = scenario.run(&mut self).await
                && !self.stop.is_cancelled()
            {
                self.failed = true;
                self.skip(scenario.name(), &format!("it failed: {error}"));
            }
            let cases = &self.report.cases[first..];
            let named = !self.options.scenario.is_empty();
            // Whoever ends a run knows that it did not measure everything.
            if !self.stop.is_cancelled() && cases.iter().any(|case| is_missing(case, named)) {
                self.failed = true;
            }
            let rows = cases.iter().map(table::rows);
            self.progress.rows(&rows.collect::<String>());
        }
        self.report.elapsed_s = start.elapsed().as_secs_f64();
        self.report.interrupted = self.stop.is_cancelled();
        (self.report, !self.failed)
    }

    /// Notes that something is not measured, and why.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.report.case(name, "").skipped = Some(why.to_owned());
    }

    /// How long a measurement lasts.
    pub fn time(&self) -> Duration {
        Duration::from_secs(self.options.seconds.max(1))
    }

    /// The rounds' numbers.
    pub fn rounds(&self) -> std::ops::Range<usize> {
        0..self.options.rounds.max(1)
    }

    /// The ways in the order of a round: the first one alternates.
    pub fn turns(&self, round: usize) -> Vec<Way> {
        let mut ways = self.site.ways.clone();
        if round % 2 == 1 {
            ways.reverse();
        }
        ways
    }

    /// The bounds of a drive of `time`.
    pub fn bounds(&self, time: Duration) -> Bounds {
        Bounds {
            time,
            calls: self.options.calls,
            patience: Duration::from_secs(self.options.timeout.max(1)),
            stop: self.stop.clone(),
        }
    }

    /// Measures `work` on one way: samples processes while it runs, and adds a round to the report.
    pub async fn measure<F>(
        &mut self,
        case: &Named,
        way: &Way,
        time: Duration,
        work: impl FnOnce(Arc<Recorder>, Bounds) -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<Outcome, Failure>>,
    {
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let done = self
            .report
            .cases
            .iter()
            .find(|known| known.name == case.name);
        let done = done.and_then(|known| known.ways.iter().find(|known| known.name == way.name));
        let round = done.map_or(0, |way| way.rounds.len()) + 1;
        let step = format!("{:<22} {:<8} round {round}", case.name, way.name);
        self.progress.step(step);
        let recorder = Arc::new(Recorder::new()?);
        let sampler = Sampler::start(
            recorder.clone(),
            way.processes.clone(),
            self.progress.clone(),
            time,
        );
        let start = Instant::now();
        let stopped = async {
            self.stop.cancelled().await;
            tokio::time::sleep(PATIENCE).await;
        };
        let outcome = tokio::select! {
            outcome = work(recorder.clone(), self.bounds(time)) => outcome,
            () = stopped => Ok(Outcome { elapsed: start.elapsed(), ..Outcome::default() }),
        };
        let (series, processes) = sampler.stop().await;
        let outcome = outcome?;
        let (count, beside) = (recorder.count(), outcome.beside);
        if self.stop.is_cancelled() && count.calls == 0 {
            return Ok(());
        }
        let mut round = Round {
            load: if outcome.asked_rate.is_some() {
                "open"
            } else {
                "closed"
            }
            .into(),
            asked_rate: outcome.asked_rate,
            partial: self.stop.is_cancelled(),
            calls: count.calls,
            errors: recorder
                .errors()
                .into_iter()
                .chain(outcome.errors)
                .collect(),
            bytes: count.bytes,
            elapsed_s: outcome.elapsed.as_secs_f64().max(1e-6),
            latency: Latency::from(&recorder.latency()),
            series,
            processes,
            values: outcome.values,
        };
        // What goes on beside the calls takes most of it: they do not answer for that.
        let bytes = count.bytes + beside.unwrap_or_default();
        let (calls, gib) = (count.calls as f64, bytes as f64 / f64::from(1 << 30));
        let theirs = calls > 0.0 && beside.is_none();
        for used in round.processes.values_mut() {
            used.cpu_ms_per_1000_calls = theirs.then_some(used.cpu_s * 1e6 / calls);
            used.cpu_s_per_gib = (gib >= 1.0 / 64.0).then_some(used.cpu_s / gib);
        }
        self.report
            .case(&case.name, &case.what)
            .add(way.name, round);
        Ok(())
    }

    /// Measures callers that [`drive`] drives for the time of a measurement.
    pub async fn drive<C: Caller>(
        &mut self,
        case: &Named,
        way: &Way,
        pace: Pace,
        callers: Vec<C>,
    ) -> Result<(), Failure> {
        let time = self.time();
        self.measure(case, way, time, async move |recorder, bounds| {
            let elapsed = drive(callers, pace, &bounds, &recorder).await;
            Ok(Outcome::of(elapsed, pace))
        })
        .await
    }

    /// The least median of calls per second that the ways have shown in a case.
    pub fn capacity(&self, case: &str) -> Option<f64> {
        let case = self.report.cases.iter().find(|known| known.name == case)?;
        let medians = case.ways.iter().map(|way| {
            crate::stats::Spread::of(way.rounds.iter().map(Round::calls_per_second)).median
        });
        medians.min_by(f64::total_cmp)
    }
}

/// Megabytes per second that transfers carried beside calls: the name of that figure.
pub const TRANSFERS: &str = "transfers";

/// Whether a case has less than was asked for: it was skipped although its scenario was `named`,
/// or on one of its ways no call got through and nothing was carried, or nothing was beside the calls
/// that were to have transfers there.
fn is_missing(case: &Case, named: bool) -> bool {
    let alone = |round: &Round| {
        let transfers = round.values.get(TRANSFERS);
        transfers.is_some_and(|rate| rate.value == 0.0)
    };
    let in_vain = |way: &report::Way| {
        // Bytes of calls that had no time to end are something; those of calls that failed are not.
        let only_late = |round: &Round| round.errors.keys().all(|kind| kind == UNFINISHED);
        let nothing = |round: &Round| round.calls == 0 && (round.bytes == 0 || !only_late(round));
        way.rounds.iter().all(alone) || way.rounds.iter().all(nothing)
    };
    (named && case.skipped.is_some()) || case.ways.iter().any(in_vain)
}

impl Outcome {
    /// Of a drive, with no figures of its own.
    pub fn of(elapsed: Duration, pace: Pace) -> Self {
        Self {
            elapsed,
            asked_rate: match pace {
                Pace::Closed => None,
                Pace::Open(rate) => Some(rate),
            },
            ..Self::default()
        }
    }

    /// With what others carried meanwhile, and how they failed.
    #[must_use]
    pub fn beside(mut self, others: &Recorder) -> Self {
        // They are broken off when the calls end: that is no failure.
        let failed = others.errors().into_iter();
        let failed = failed.filter(|(kind, _)| kind != UNFINISHED);
        self.errors
            .extend(failed.map(|(kind, count)| (format!("beside: {kind}"), count)));
        self.beside = Some(others.count().bytes);
        self
    }

    /// With one more figure.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.values.insert(name.into(), value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exit code says whether there is something to read in the report.
    #[test]
    fn what_was_not_measured_is_missing_and_what_nobody_asked_for_is_not() {
        let mut report = Report::new(BTreeMap::new());
        let round = |calls, errors| Round {
            calls,
            errors: BTreeMap::from([("no-agent".into(), errors)]),
            ..Round::default()
        };
        let case = report.case("calls-h1/1", "");
        case.add("culvert", round(0, 3));
        case.add("culvert", round(1, 3));
        assert!(!is_missing(case, true));
        case.add("nginx", round(0, 3));
        assert!(is_missing(case, true) && is_missing(case, false));
        let hung = report.case("polls/1", "");
        hung.add("culvert", Round::default());
        assert!(is_missing(hung, false));
        let beside = report.case("beside/uploads", "");
        for rate in [0.0, 7.0] {
            let transfers = Value::higher(rate, "MB/s");
            let round = Round {
                values: BTreeMap::from([(TRANSFERS.into(), transfers)]),
                ..round(50, 0)
            };
            beside.add("culvert", round);
            assert_eq!(is_missing(beside, false), rate == 0.0);
        }
        let skipped = report.case("upload", "");
        skipped.skipped = Some("it needs --sink-path".into());
        assert!(is_missing(skipped, true) && !is_missing(skipped, false));
    }
}
