//! Agents by the thousand: idle, cut off all at once, coming and going.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use culvert_session::backoff::Backoff;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Scenario;
use super::cut_point::CutPoint;
use crate::client::{Task, Version, Worker};
use crate::drive::{Pace, drive};
use crate::load::Failure;
use crate::process;
use crate::report::Value;
use crate::site::{Parts, Site, Way};
use crate::stack::Between;
use crate::suite::{Outcome, Suite};
use crate::swarm::{Recruit, Swarm};

/// Small calls through the installation's own agent meanwhile, per second.
const RATE: f64 = 50.0;

/// From the last registration to the look at the memory.
const SETTLE: Duration = Duration::from_secs(2);

/// How long the agents may take to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tasks that each bring an agent up and take it away again.
const COMING_AND_GOING: usize = 8;

/// Endpoints that a tenant may have at a relay, and each agent offers one.
const OF_A_TENANT: usize = 4096;

/// How long such an agent stays.
const STAYS: Duration = Duration::from_millis(100);

/// The way through Culvert: agents are no matter of nginx.
fn culvert(suite: &Suite) -> Result<Way, Failure> {
    let way = suite.site.ways.first().cloned();
    way.ok_or_else(|| "there is no way".into())
}

fn relay_memory(suite: &Suite) -> u64 {
    let stack = suite.site.stack.as_ref();
    stack.map_or(0, |stack| process::resident(&stack.pids(&["relay"])))
}

/// Sessions that do nothing, and what they cost the relay, beside a few calls. Each round on an
/// installation of its own: what a used relay's allocator has left would make sessions look small.
pub(super) async fn idle(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let programs = suite
        .site
        .programs
        .clone()
        .ok_or("it needs programs of ours")?;
    for _ in suite.rounds() {
        if suite.stop.is_cancelled() {
            break;
        }
        let fresh = Site::local(
            &programs,
            Between::Nothing,
            suite.options.sessions,
            Parts::default(),
        );
        let used = std::mem::replace(&mut suite.site, fresh.await?);
        let result = idle_on_fresh(suite, scenario).await;
        suite.site = used;
        result?;
    }
    Ok(())
}

async fn idle_on_fresh(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let count = suite.options.sessions.max(1);
    let way = culvert(suite)?;
    let what = format!(
        "{count} agents with a session each that do nothing, and small calls at {RATE:.0}/s to another one."
    );
    let case = scenario.case(&format!("/{count}"), what);
    let before = relay_memory(suite);
    let start = Instant::now();
    let stack = suite
        .site
        .stack
        .as_ref()
        .ok_or("there is no relay of ours")?;
    let swarm = Swarm::join(stack, count, count.div_ceil(OF_A_TENANT)).await?;
    let joined = count as f64 / start.elapsed().as_secs_f64();
    sleep(SETTLE).await;
    let each = relay_memory(suite).saturating_sub(before) as f64 / 1024.0 / count as f64;
    // Not earlier: the relay closes what does nothing while thousands register.
    let task = Task::get(&suite.site.paths.small)?;
    let workers = Worker::several(&way.target, Version::Http1, &task, 4).await?;
    let time = suite.time();
    let swarm = &swarm;
    suite
        .measure(&case, &way, time, async move |recorder, bounds| {
            let pace = Pace::Open(RATE);
            let elapsed = drive(workers, pace, &bounds, &recorder).await;
            Ok(Outcome::of(elapsed, pace)
                .with("relay's memory per session", Value::lower(each, "KiB"))
                .with("sessions registered", Value::higher(joined, "/s"))
                .with(
                    "sessions still open",
                    Value::higher(swarm.open() as f64, ""),
                ))
        })
        .await
}

/// All agents' connections are cut at the same time; each comes back as an agent does.
pub(super) async fn storm(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let count = suite.options.sessions.max(1);
    let way = culvert(suite)?;
    let what = format!(
        "The connections of {count} agents are cut at the same moment; each dials again as an agent does. \
         Latency: from the cut to its registration."
    );
    let case = scenario.case(&format!("/{count}"), what);
    let point = CutPoint::start(way.target.address).await?;
    let stack = suite
        .site
        .stack
        .as_ref()
        .ok_or("there is no relay of ours")?;
    let (port, tenants) = (point.address().port(), count.div_ceil(OF_A_TENANT));
    let recruits = (0..count).map(|number| Recruit::new(stack, port, number, tenants));
    let recruits = recruits.collect::<Result<Vec<_>, _>>()?;
    let (presence, mut seen) = watch::channel(Presence::default());
    let presence = Arc::new(presence);
    let mut agents = JoinSet::new();
    for recruit in recruits {
        agents.spawn(stay(recruit, presence.clone()));
    }
    for _ in suite.rounds() {
        let stop = suite.stop.clone();
        tokio::select! {
            here = all_here(&mut seen, count) => here?,
            () = stop.cancelled() => break,
        }
        let (seen, point) = (&mut seen, &point);
        suite
            .measure(&case, &way, PATIENCE, async |recorder, bounds| {
                let before = seen.borrow().joined;
                let start = Instant::now();
                point.cut();
                let mut back = 0;
                while back < count && start.elapsed() < PATIENCE && !bounds.stop.is_cancelled() {
                    let _ = tokio::time::timeout(LOOK, seen.changed()).await;
                    let joined = (seen.borrow_and_update().joined - before).min(count);
                    for _ in back..joined {
                        recorder.end(start.elapsed(), &Ok(()));
                    }
                    back = joined;
                }
                let all = start.elapsed();
                for _ in back..count {
                    recorder.fail(all, "did not come back");
                }
                let took = Value::lower(all.as_secs_f64() * 1e3, "ms");
                Ok(Outcome::of(all, Pace::Closed).with("until all are back", took))
            })
            .await?;
        if suite.stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// Longest wait for news of the agents, so that the end is noticed.
const LOOK: Duration = Duration::from_millis(50);

/// What agents have done.
#[derive(Debug, Default)]
struct Presence {
    /// How many are registered now.
    here: usize,
    /// How often one has registered.
    joined: usize,
}

async fn all_here(seen: &mut watch::Receiver<Presence>, count: usize) -> Result<(), Failure> {
    let all = seen.wait_for(|presence| presence.here == count);
    if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, all).await {
        return Ok(());
    }
    let here = seen.borrow().here;
    Err(format!("only {here} of {count} agents are there").into())
}

/// An agent that comes back whenever its session ends.
async fn stay(recruit: Recruit, presence: Arc<watch::Sender<Presence>>) {
    let mut backoff = Backoff::new();
    loop {
        if let Ok(member) = recruit.join().await {
            presence.send_modify(|presence| {
                presence.here += 1;
                presence.joined += 1;
            });
            member.closed().await;
            presence.send_modify(|presence| presence.here -= 1);
            backoff.reset();
        }
        sleep(backoff.next_delay()).await;
    }
}

/// Agents come and go while calls are made to one that stays.
pub(super) async fn churn(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let way = culvert(suite)?;
    let rate = suite.options.rate.unwrap_or(RATE);
    let what = format!(
        "Small calls at {rate:.0}/s to one agent, while {COMING_AND_GOING} others come, register, stay {} ms and go, again and again.",
        STAYS.as_millis()
    );
    let case = scenario.case("", what);
    for _ in suite.rounds() {
        let stack = suite
            .site
            .stack
            .as_ref()
            .ok_or("there is no relay of ours")?;
        let port = way.target.address.port();
        let recruits = (0..COMING_AND_GOING).map(|number| Recruit::new(stack, port, number, 1));
        let recruits = recruits.collect::<Result<Vec<_>, _>>()?;
        let task = Task::get(&suite.site.paths.small)?;
        let workers = Worker::several(&way.target, Version::Http1, &task, 4).await?;
        let time = suite.time();
        suite
            .measure(&case, &way, time, async move |recorder, bounds| {
                let (came, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
                let mut agents = JoinSet::new();
                for recruit in recruits {
                    agents.spawn(come_and_go(recruit, came.clone(), failed.clone()));
                }
                let pace = Pace::Open(rate);
                let elapsed = drive(workers, pace, &bounds, &recorder).await;
                agents.shutdown().await;
                let sessions = came.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64();
                let failed = failed.load(Ordering::Relaxed) as f64;
                Ok(Outcome::of(elapsed, pace)
                    .with("sessions", Value::higher(sessions, "/s"))
                    .with("sessions that failed", Value::lower(failed, "")))
            })
            .await?;
    }
    Ok(())
}

async fn come_and_go(recruit: Recruit, came: Arc<AtomicU64>, failed: Arc<AtomicU64>) {
    loop {
        match recruit.join().await {
            Ok(member) => {
                came.fetch_add(1, Ordering::Relaxed);
                sleep(STAYS).await;
                drop(member);
            }
            Err(_) => {
                failed.fetch_add(1, Ordering::Relaxed);
                sleep(STAYS).await;
            }
        }
    }
}
