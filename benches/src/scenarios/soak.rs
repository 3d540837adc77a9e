//! Everything together for a while: whether memory grows, and whether anything fails.

use std::sync::Arc;
use std::time::Duration;

use super::Scenario;
use super::bulk::put;
use super::waiting::{Echo, Poll};
use crate::client::{Task, Version, Worker};
use crate::drive::{Bounds, Pace, drive};
use crate::load::Failure;
use crate::record::Recorder;
use crate::report::Value;
use crate::site::{Paths, Way};
use crate::suite::{Outcome, Suite};

/// Small calls, per second.
const RATE: f64 = 100.0;

/// Bytes per second of each download.
const PACE: u64 = 4 << 20;

/// Long polls and WebSockets that are open all the time.
const POLLS: usize = 50;
const SOCKETS: usize = 4;

/// Small calls by a schedule, new connections, downloads, uploads, WebSockets and long polls.
pub(super) async fn run(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let rate = suite.options.rate.unwrap_or(RATE);
    let what = format!(
        "Small calls at {rate:.0}/s, and beside them new connections, slow downloads, uploads, WebSockets and long polls."
    );
    let case = scenario.case("", what);
    let paths = suite.site.paths.clone();
    let time = Duration::from_secs(suite.options.soak.max(1));
    for round in suite.rounds() {
        for way in suite.turns(round) {
            if suite.stop.is_cancelled() {
                return Ok(());
            }
            let task = Task::get(&paths.small)?;
            let workers = Worker::several(&way.target, Version::Http1, &task, 16).await?;
            let beside = Arc::new(Recorder::new()?);
            let (way, paths) = (&way, &paths);
            suite
                .measure(&case, way, time, async move |recorder, bounds| {
                    let pace = Pace::Open(rate);
                    let background = Bounds {
                        calls: None,
                        ..bounds.clone()
                    };
                    let elapsed = tokio::select! {
                        elapsed = drive(workers, pace, &bounds, &recorder) => elapsed,
                        error = others(way, paths, &background, &beside) => {
                            return Err(error);
                        }
                    };
                    let count = beside.count();
                    let outcome = Outcome::of(elapsed, pace)
                        .beside(&beside)
                        .with("other calls", Value::higher(count.calls as f64, ""))
                        .with(
                            "other calls that failed",
                            Value::lower(count.errors as f64, ""),
                        );
                    let rate = count.bytes as f64 / 1e6 / elapsed.as_secs_f64();
                    Ok(outcome.with("carried beside", Value::higher(rate, "MB/s")))
                })
                .await?;
        }
    }
    Ok(())
}

/// What goes on beside the calls that are measured, until it is dropped. Ends only if it cannot
/// begin.
async fn others(way: &Way, paths: &Paths, bounds: &Bounds, recorder: &Arc<Recorder>) -> Failure {
    match begin(way, paths, bounds, recorder).await {
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}

async fn begin(
    way: &Way,
    paths: &Paths,
    bounds: &Bounds,
    recorder: &Arc<Recorder>,
) -> Result<(), Failure> {
    let target = &way.target;
    let small = Task::get(&paths.small)?;
    let fresh = vec![Worker::fresh(target, Version::Http1, small)];
    let mut transfers = Vec::new();
    if let Some(path) = &paths.bulk {
        let task = Task::Get {
            path: path.parse()?,
            pace: Some(PACE),
        };
        transfers.push(Worker::new(target, Version::Http1, task));
    }
    let uploads = match &paths.sink {
        Some(path) => vec![Worker::new(target, Version::Http1, put(path)?)],
        None => Vec::new(),
    };
    let sockets = match &paths.echo {
        Some(path) => Echo::several(target, path, SOCKETS).await?,
        None => Vec::new(),
    };
    let polls = match &paths.poll {
        Some(path) => Poll::several(target, path, POLLS).await?,
        None => Vec::new(),
    };
    // Slowly, so that they leave the machine to the calls.
    tokio::join!(
        drive(fresh, Pace::Open(5.0), bounds, recorder),
        drive(transfers, Pace::Closed, bounds, recorder),
        drive(uploads, Pace::Open(0.5), bounds, recorder),
        drive(sockets, Pace::Open(40.0), bounds, recorder),
        drive(polls, Pace::Closed, bounds, recorder),
    );
    Ok(())
}
