//! Transfers, and small calls beside them.

use std::sync::Arc;

use super::Scenario;
use super::waiting::Echo;
use crate::client::{Task, Version, Worker};
use crate::drive::{Bounds, Caller, Pace, drive};
use crate::load::{Failure, Target};
use crate::record::Recorder;
use crate::report::Value;
use crate::suite::{Named, Outcome, Suite, TRANSFERS};

/// Bytes of one upload.
const UPLOAD: u64 = 16 << 20;

/// One transfer at a time, and many.
const COUNTS: [(&str, usize); 2] = [("/one", 1), ("/many", 8)];

/// Transfers beside the calls.
const BESIDE: usize = 4;

/// Connections of the calls beside them.
const CALLERS: usize = 4;

/// How fast a paced reader reads, in bytes per second.
const PACE: u64 = 8 << 20;

/// Small calls beside the transfers, per second.
const RATE: f64 = 50.0;

pub(super) async fn download(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let Some(path) = suite.site.paths.bulk.clone() else {
        suite.skip(scenario.name(), "it needs --bulk-path");
        return Ok(());
    };
    let what =
        "large answers, read as fast as they come. A call's latency is that of its transfer.";
    transfers(suite, scenario, &Task::get(&path)?, what).await
}

pub(super) async fn upload(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let Some(path) = suite.site.paths.sink.clone() else {
        suite.skip(scenario.name(), "it needs --sink-path");
        return Ok(());
    };
    let what = "bodies of 16 MiB, sent as fast as they are taken, counted when they are answered.";
    transfers(suite, scenario, &put(&path)?, what).await
}

async fn transfers(
    suite: &mut Suite,
    scenario: Scenario,
    task: &Task,
    what: &str,
) -> Result<(), Failure> {
    for (step, count) in COUNTS {
        let case = scenario.case(step, format!("{count} at a time: {what}"));
        for round in suite.rounds() {
            for way in suite.turns(round) {
                let workers = Worker::several(&way.target, Version::Http1, task, count).await?;
                suite.drive(&case, &way, Pace::Closed, workers).await?;
            }
        }
    }
    Ok(())
}

/// An upload.
pub(super) fn put(path: &str) -> Result<Task, Failure> {
    Ok(Task::Put {
        path: path.parse()?,
        bytes: UPLOAD,
    })
}

/// Small calls by a schedule on connections of their own, beside each kind of transfer; and messages
/// of WebSockets beside uploads, as consoles send them.
pub(super) async fn beside(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let paths = suite.site.paths.clone();
    let mut kinds = vec![("/nothing", "nothing".to_owned(), None)];
    if let Some(path) = &paths.bulk {
        let slow = Task::Get {
            path: path.parse()?,
            pace: Some(PACE),
        };
        let slowly = format!("{BESIDE} downloads by readers that take 8 MiB/s");
        kinds.push(("/paced", slowly, Some(slow)));
        let down = format!("{BESIDE} downloads as fast as they come");
        kinds.push(("/downloads", down, Some(Task::get(path)?)));
    }
    let uploads = format!("{BESIDE} uploads as fast as they are taken");
    let upload = paths.sink.as_deref().map(put).transpose()?;
    if let Some(upload) = &upload {
        kinds.push(("/uploads", uploads.clone(), Some(upload.clone())));
    }
    let rate = suite.options.rate.unwrap_or(RATE);
    let small = Task::get(&paths.small)?;
    for (step, words, transfer) in kinds {
        let what = format!(
            "Small calls at {rate:.0}/s on {CALLERS} connections beside {words}: who waits behind whom."
        );
        let case = scenario.case(step, what);
        let callers =
            async |target: &Target| Worker::several(target, Version::Http1, &small, CALLERS).await;
        beside_transfers(suite, &case, rate, callers, transfer.as_ref()).await?;
    }
    if let (Some(path), Some(upload)) = (&paths.echo, &upload) {
        let what = format!(
            "Messages at {rate:.0}/s to an echo and back on {CALLERS} WebSockets beside {uploads}."
        );
        let case = scenario.case("/echoes", what);
        let callers = async |target: &Target| Echo::several(target, path, CALLERS).await;
        beside_transfers(suite, &case, rate, callers, Some(upload)).await?;
    }
    Ok(())
}

/// One case of it, each way in turn.
async fn beside_transfers<C: Caller>(
    suite: &mut Suite,
    case: &Named,
    rate: f64,
    callers: impl AsyncFn(&Target) -> Result<Vec<C>, Failure>,
    transfer: Option<&Task>,
) -> Result<(), Failure> {
    for round in suite.rounds() {
        for way in suite.turns(round) {
            let target = &way.target;
            let calls = callers(target).await?;
            let bulk = match transfer {
                Some(task) => Worker::several(target, Version::Http1, task, BESIDE).await?,
                None => Vec::new(),
            };
            let time = suite.time();
            suite
                .measure(case, &way, time, async move |recorder, bounds| {
                    both(calls, rate, bulk, recorder, bounds).await
                })
                .await?;
        }
    }
    Ok(())
}

/// Calls by a schedule, and what else goes on until they end.
async fn both<C: Caller>(
    calls: Vec<C>,
    rate: f64,
    bulk: Vec<Worker>,
    recorder: Arc<Recorder>,
    bounds: Bounds,
) -> Result<Outcome, Failure> {
    let pace = Pace::Open(rate);
    let beside = Arc::new(Recorder::new()?);
    let background = Bounds {
        calls: None,
        ..bounds.clone()
    };
    let transfers = !bulk.is_empty();
    // The transfers end with the calls, not with their own file.
    let carried = async {
        drive(bulk, Pace::Closed, &background, &beside).await;
        std::future::pending::<()>().await;
    };
    let elapsed = tokio::select! {
        elapsed = drive(calls, pace, &bounds, &recorder) => elapsed,
        () = carried => unreachable!("it is pending"),
    };
    let outcome = Outcome::of(elapsed, pace);
    if !transfers {
        return Ok(outcome);
    }
    let outcome = outcome.beside(&beside);
    let count = beside.count();
    // What an upload has sent before it is refused was carried for nothing.
    let in_vain = count.calls == 0 && !outcome.errors.is_empty();
    let bytes = if in_vain { 0 } else { count.bytes };
    let rate = bytes as f64 / 1e6 / elapsed.as_secs_f64();
    Ok(outcome.with(TRANSFERS, Value::higher(rate, "MB/s")))
}
