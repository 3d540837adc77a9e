//! Small calls.

use std::time::Duration;

use super::Scenario;
use crate::client::{Task, Version, Worker};
use crate::drive::{Pace, drive};
use crate::load::Failure;
use crate::record::Recorder;
use crate::site::Way;
use crate::suite::{Named, Suite};

/// The share of what the slower way can do at which latencies are taken: busy, and not full.
const SHARE: f64 = 0.6;

/// Longest time to warm up.
const WARM_UP: Duration = Duration::from_secs(1);

/// Connections that are opened at once.
const OPENERS: usize = 4;

/// At rising concurrency: what can be done (closed), then how long a call takes at a rate that
/// both ways can do (open).
pub(super) async fn calls(
    suite: &mut Suite,
    scenario: Scenario,
    version: Version,
) -> Result<(), Failure> {
    let http = match version {
        Version::Http1 => "HTTP/1.1 on as many connections",
        Version::Http2 => "HTTP/2, up to 100 on a connection",
    };
    for count in suite.options.connections.clone() {
        let step = format!("/{count}");
        let what = format!(
            "Small calls, {count} at a time, {http}, as fast as answers come: the capacity."
        );
        let full = scenario.case(&step, what);
        for round in suite.rounds() {
            for way in suite.turns(round) {
                run(suite, &full, &way, version, count, Pace::Closed).await?;
            }
        }
        let rate = match (suite.options.rate, suite.capacity(&full.name)) {
            (Some(rate), _) => rate,
            (None, Some(capacity)) if capacity > 0.0 => capacity * SHARE,
            (None, _) => return Err("no call got through".into()),
        };
        let what = format!(
            "The same calls at {rate:.0}/s on every way, latency from each call's time in the schedule."
        );
        let paced = scenario.case(&format!("/{count}@rate"), what);
        for round in suite.rounds() {
            for way in suite.turns(round) {
                run(suite, &paced, &way, version, count, Pace::Open(rate)).await?;
            }
        }
    }
    Ok(())
}

async fn run(
    suite: &mut Suite,
    case: &Named,
    way: &Way,
    version: Version,
    count: usize,
    pace: Pace,
) -> Result<(), Failure> {
    if suite.stop.is_cancelled() {
        return Ok(());
    }
    warm_up(suite, way, version, count).await?;
    let task = Task::get(&suite.site.paths.small)?;
    let workers = Worker::several(&way.target, version, &task, count).await?;
    suite.drive(case, way, pace, workers).await
}

/// Pools and caches are warm before the clock starts.
async fn warm_up(suite: &Suite, way: &Way, version: Version, count: usize) -> Result<(), Failure> {
    let task = Task::get(&suite.site.paths.small)?;
    let workers = Worker::several(&way.target, version, &task, count).await?;
    let unread = Recorder::new()?.into();
    let time = (suite.time() / 10).min(WARM_UP);
    drive(workers, Pace::Closed, &suite.bounds(time), &unread).await;
    Ok(())
}

/// TCP, TLS and a call each.
pub(super) async fn connections(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let cases = [
        (Version::Http1, "/h1", "HTTP/1.1"),
        (Version::Http2, "/h2", "HTTP/2"),
    ];
    for (version, step, http) in cases {
        let what = format!(
            "A new TCP and TLS connection, with a whole handshake, for each small call, {OPENERS} at a time, {http}."
        );
        let case = scenario.case(step, what);
        let task = Task::get(&suite.site.paths.small)?;
        for round in suite.rounds() {
            for way in suite.turns(round) {
                let worker = || Worker::fresh(&way.target, version, task.clone());
                let workers = std::iter::repeat_with(worker).take(OPENERS).collect();
                suite.drive(&case, &way, Pace::Closed, workers).await?;
            }
        }
    }
    Ok(())
}
