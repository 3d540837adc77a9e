//! A relay that dies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Scenario;
use crate::client::{Task, Version, Worker};
use crate::drive::{Bounds, Pace, drive};
use crate::load::Failure;
use crate::record::Recorder;
use crate::report::Value;
use crate::suite::{Outcome, Suite};

/// Small calls meanwhile, per second.
const RATE: f64 = 100.0;

/// Callers, so that calls go on while some of them wait.
const CALLERS: usize = 16;

/// How long a call may take to work again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Before the relay dies.
const BEFORE: Duration = Duration::from_secs(1);

/// The relay is killed (SIGKILL) and started again at once: how many calls fail, and how long
/// after the kill the first one works.
pub(super) async fn relay_kill(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let way = suite.site.ways.first().cloned().ok_or("there is no way")?;
    let rate = suite.options.rate.unwrap_or(RATE);
    let what = format!(
        "Small calls at {rate:.0}/s; the relay is killed after a second and started again at once. \
         Calls fail until the agent is back."
    );
    let case = scenario.case("", what);
    let time = suite.time().max(4 * BEFORE);
    for _ in suite.rounds() {
        let task = Task::get(&suite.site.paths.small)?;
        let workers = Worker::several(&way.target, Version::Http1, &task, CALLERS).await?;
        // The stack is taken out while its relay is down.
        let mut stack = suite.site.stack.take().ok_or("there is no relay of ours")?;
        let running = &mut stack;
        let processes = way.processes.clone();
        let measured = suite
            .measure(&case, &way, time, async move |recorder, bounds| {
                let pace = Pace::Open(rate);
                // Until the relay is back, however few calls are asked for.
                let bounds = Bounds {
                    calls: None,
                    ..bounds
                };
                let death = async {
                    sleep(BEFORE).await;
                    running.kill_relay()?;
                    let killed = Instant::now();
                    running.start_relay()?;
                    let relay = running.pids(&["relay"]);
                    processes
                        .lock()
                        .unwrap_or_else(|poison| poison.into_inner())
                        .insert("relay".into(), relay);
                    recovered(&recorder, killed).await
                };
                let (elapsed, pause) =
                    tokio::join!(drive(workers, pace, &bounds, &recorder), death);
                let pause = Value::lower(pause?.as_secs_f64() * 1e3, "ms");
                let lost = Value::lower(recorder.count().errors as f64, "");
                Ok(Outcome::of(elapsed, pace)
                    .with("kill to a call that works", pause)
                    .with("calls lost", lost))
            })
            .await;
        suite.site.stack = Some(stack);
        suite.site.find_relay();
        measured?;
        if suite.stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// Waits for a call that ends well; gives how long after `since` it did.
async fn recovered(recorder: &Arc<Recorder>, since: Instant) -> Result<Duration, Failure> {
    // What was on its way may still be counted: let it pass.
    sleep(Duration::from_millis(2)).await;
    let before = recorder.count().calls;
    while recorder.count().calls == before {
        if since.elapsed() > PATIENCE {
            return Err(format!("no call works {PATIENCE:?} after the relay was started").into());
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(since.elapsed())
}
