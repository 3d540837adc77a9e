//! A long line between agent and relay, and between the two nginx.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::Scenario;
use crate::client::{Task, Version, Worker};
use crate::drive::{Bounds, Pace, drive};
use crate::link::{Line, Link};
use crate::load::{self, Failure, Target};
use crate::site::{Parts, Site};
use crate::stack::Between;
use crate::suite::{Outcome, Suite};

/// What the line adds, one way: the data centre is 50 ms away.
const DELAY: Duration = Duration::from_millis(25);

/// Bytes per second of a line with a cap.
const CAP: u64 = 20_000_000;

/// Small calls, per second.
const RATE: f64 = 50.0;

/// Callers: as many calls as the line holds, and room for those that wait.
const CALLERS: usize = 16;

/// What happens to the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Nothing,
    Stalls,
    Cuts,
}

/// Between two stalls.
const STALL_EVERY: Duration = Duration::from_secs(2);

/// Between two cuts: an agent that loses its session within 3 s waits longer and longer before it dials.
const CUT_EVERY: Duration = Duration::from_secs(5);

/// How long a way may take to work again after what was done to it before.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a stall lasts: about a retransmission timeout.
const STALL: Duration = Duration::from_millis(300);

const CASES: [(&str, bool, Trouble, &str); 4] = [
    (
        "/rtt",
        false,
        Trouble::Nothing,
        "small calls over a line that adds 50 ms to the round trip",
    ),
    (
        "/cap",
        true,
        Trouble::Nothing,
        "downloads, 4 at a time, over that line with a cap of 20 MB/s",
    ),
    (
        "/stalls",
        false,
        Trouble::Stalls,
        "small calls over that line, which stands still for 300 ms every 2 s, as after lost packets",
    ),
    (
        "/cuts",
        false,
        Trouble::Cuts,
        "small calls over that line, whose connections are cut every 5 s",
    ),
];

/// On installations of its own.
pub(super) async fn run(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let programs = suite
        .site
        .programs
        .clone()
        .ok_or("it needs programs of ours")?;
    let usual = Line {
        delay: DELAY,
        ..Line::default()
    };
    let linked = Site::local(&programs, Between::Line(usual), 0, Parts::default()).await?;
    // The installation on the line takes the other's place until the end.
    let plain = std::mem::replace(&mut suite.site, linked);
    let mut result = Ok(());
    for (step, bulk, trouble, what) in CASES {
        let line = Line {
            rate: bulk.then_some(CAP),
            ..usual
        };
        result = case(suite, scenario, step, what, line, trouble).await;
        if result.is_err() || suite.stop.is_cancelled() {
            break;
        }
    }
    suite.site = plain;
    result
}

async fn case(
    suite: &mut Suite,
    scenario: Scenario,
    step: &str,
    what: &str,
    line: Line,
    trouble: Trouble,
) -> Result<(), Failure> {
    let case = scenario.case(step, format!("Between agent and relay: {what}."));
    let (task, count, pace) = if line.rate.is_some() {
        (Task::get("/bulk")?, 4, Pace::Closed)
    } else {
        let rate = suite.options.rate.unwrap_or(RATE);
        (Task::get("/small")?, CALLERS, Pace::Open(rate))
    };
    for round in suite.rounds() {
        for way in suite.turns(round) {
            if suite.stop.is_cancelled() {
                return Ok(());
            }
            let stack = suite.site.stack.take().ok_or("there is no line")?;
            for link in stack.links.iter().flatten() {
                link.set(line);
            }
            let time = suite.time().max(3 * trouble.every());
            let workers = match works(&way.target, &suite.stop).await {
                Ok(()) => Worker::several(&way.target, Version::Http1, &task, count).await,
                Err(error) => Err(error),
            };
            // That of the way that is measured: the other one is not to suffer from it when its turn
            // comes.
            let number = usize::from(way.name == "nginx");
            let link = stack.links.as_ref().map(|links| &links[number]);
            let measured = match workers {
                Err(error) => Err(error),
                Ok(workers) => {
                    suite
                        .measure(&case, &way, time, async move |recorder, bounds| {
                            // Until trouble has come, however few calls are asked for.
                            let bounds = Bounds {
                                calls: None,
                                ..bounds
                            };
                            tokio::select! {
                                elapsed = drive(workers, pace, &bounds, &recorder) => {
                                    Ok(Outcome::of(elapsed, pace))
                                }
                                () = make(trouble, link) => {
                                    Err("trouble ended before the calls".into())
                                }
                            }
                        })
                        .await
                }
            };
            suite.site.stack = Some(stack);
            measured?;
        }
    }
    Ok(())
}

impl Trouble {
    /// How often it comes.
    fn every(self) -> Duration {
        match self {
            Self::Cuts => CUT_EVERY,
            Self::Nothing | Self::Stalls => STALL_EVERY,
        }
    }
}

/// Waits until a call works.
async fn works(target: &Target, stop: &CancellationToken) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match load::once(target).await {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE || stop.is_cancelled() => {
                return Err(format!("no call works within {PATIENCE:?}: {error}").into());
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Makes trouble as long as it is asked to.
async fn make(trouble: Trouble, link: Option<&Link>) {
    sleep(trouble.every() / 2).await;
    let mut ticks = interval(trouble.every());
    loop {
        ticks.tick().await;
        match (trouble, link) {
            (Trouble::Stalls, Some(link)) => link.stall(STALL),
            (Trouble::Cuts, Some(link)) => link.cut(),
            _ => {}
        }
    }
}
