//! What sessions and streams cost the relay in memory while nothing happens on them.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::load::Failure;
use crate::process::{self, Memory};
use crate::stack::{Settings, Stack};
use crate::swarm::{BULK, Caller, HOLD, Swarm};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Sessions, each of its own agent.
    pub sessions: usize,
    /// Calls that are held.
    pub streams: usize,
    /// Bytes that each session carries each way.
    pub bulk: u64,
    /// Tenants of the agents.
    pub tenants: usize,
}

/// Held calls of one session.
const STREAMS_PER_SESSION: usize = 1000;

/// Held calls of one caller's connection: the relay's default limit.
const STREAMS_PER_CONNECTION: usize = 200;

/// Callers that carry the bulk, so as many sessions are busy at once.
const CALLERS: usize = 16;

/// Small calls on each session, beside the bulk.
const SMALL_CALLS: usize = 10;

/// From the last call to the measurement: the windows have shrunk, the timers have run.
const SETTLE: Duration = Duration::from_secs(20);

/// How long the held calls may take to arrive at the agents.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures sessions, then streams on a fresh relay, whose allocator has nothing to give that
/// the sessions left; writes what the relay has after each step, in all and per one more.
pub async fn run(programs: &Path, options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(
        out,
        "{:<44} {:>10} {:>10} {:>10}   {:>9} {:>9}",
        "the relay's memory, KiB", "resident", "Pss", "anonymous", "resident", "anonymous"
    )?;
    sessions(programs, options, out).await?;
    if options.streams > 0 {
        writeln!(out)?;
        streams(programs, options, out).await?;
    }
    Ok(())
}

/// A stack whose relay takes `sessions`, one more for the stack's own agent, and some for what
/// is being replaced.
async fn start(programs: &Path, sessions: usize) -> Result<Stack, Failure> {
    let settings = Settings {
        sessions: Some(sessions + 16),
        ..Settings::default()
    };
    Stack::start(programs, &settings).await
}

/// What the relay holds now.
fn memory(stack: &Stack) -> Result<Memory, Failure> {
    process::memory(&stack.pids(&["relay"])).ok_or("the relay's memory cannot be read".into())
}

/// Idle sessions: new, used, gone.
async fn sessions(programs: &Path, options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let count = options.sessions;
    let stack = start(programs, count).await?;
    let empty = memory(&stack)?;
    write_row(out, "a relay with one agent", empty, empty, 1)?;

    let swarm = Swarm::join(&stack, count, options.tenants).await?;
    sleep(SETTLE).await;
    let row = format!("{count} sessions, no call yet, per session");
    write_row(out, &row, memory(&stack)?, empty, count)?;

    burst(&stack, &swarm, options).await?;
    sleep(SETTLE).await;
    let row = format!("{} MiB each way later, per session", options.bulk >> 20);
    write_row(out, &row, memory(&stack)?, empty, count)?;
    all_open(&swarm, count)?;

    drop(swarm);
    sleep(SETTLE).await;
    let row = "all sessions gone, per former session";
    write_row(out, row, memory(&stack)?, empty, count)
}

/// Calls that wait for their answer.
async fn streams(programs: &Path, options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let count = options.streams;
    let sessions = count.div_ceil(STREAMS_PER_SESSION);
    let stack = start(programs, sessions).await?;
    let swarm = Swarm::join(&stack, sessions, options.tenants).await?;
    let mut callers = Vec::new();
    for _ in 0..count.div_ceil(STREAMS_PER_CONNECTION) {
        let mut caller = swarm.caller(&stack).await?;
        caller.call(0, Method::GET, "/", Bytes::new()).await?;
        callers.push(caller);
    }
    sleep(SETTLE).await;
    let before = memory(&stack)?;
    let row = format!(
        "{sessions} sessions, {} connections of callers",
        callers.len()
    );
    write_row(out, &row, before, before, 1)?;

    let calls = hold(&swarm, &callers, count).await?;
    sleep(SETTLE).await;
    let row = format!("{count} held calls, per call");
    write_row(out, &row, memory(&stack)?, before, count)?;
    all_open(&swarm, sessions)?;

    drop(calls);
    sleep(SETTLE).await;
    write_row(
        out,
        "the held calls gone, per call",
        memory(&stack)?,
        before,
        count,
    )
}

/// A session that was lost meanwhile would make the others look small.
fn all_open(swarm: &Swarm, sessions: usize) -> Result<(), Failure> {
    match swarm.open() {
        open if open == sessions => Ok(()),
        open => Err(format!("only {open} of {sessions} sessions are left").into()),
    }
}

/// One row: what the relay has, and its growth since `before`, divided by `count`.
fn write_row(
    out: &mut impl Write,
    what: &str,
    now: Memory,
    before: Memory,
    count: usize,
) -> Result<(), Failure> {
    let each = |now: u64, before: u64| (now as f64 - before as f64) / 1024.0 / count as f64;
    writeln!(
        out,
        "{what:<44} {:>10} {:>10} {:>10}   {:>9.2} {:>9.2}",
        now.resident >> 10,
        now.proportional >> 10,
        now.anonymous >> 10,
        each(now.resident, before.resident),
        each(now.anonymous, before.anonymous),
    )?;
    Ok(())
}

/// Small calls and bulk each way on every session.
async fn burst(stack: &Stack, swarm: &Swarm, options: &Options) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let body = Bytes::from(vec![0; options.bulk as usize]);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let caller = swarm.caller(stack).await?;
        callers.spawn(use_sessions(
            caller,
            next.clone(),
            options.sessions,
            body.clone(),
        ));
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(())
}

/// Takes one session after the other until `sessions` have been used.
async fn use_sessions(
    mut caller: Caller,
    next: Arc<AtomicUsize>,
    sessions: usize,
    body: Bytes,
) -> Result<(), Failure> {
    let down = format!("{BULK}?{}", body.len());
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= sessions {
            return Ok(());
        }
        for _ in 0..SMALL_CALLS {
            caller.call(number, Method::GET, "/", Bytes::new()).await?;
        }
        let bytes = caller
            .call(number, Method::GET, &down, Bytes::new())
            .await?;
        if bytes != body.len() as u64 {
            return Err(format!("{bytes} bytes came of {}", body.len()).into());
        }
        caller.call(number, Method::PUT, BULK, body.clone()).await?;
    }
}

/// Makes `count` calls that no agent answers, and waits until all have arrived. They last as
/// long as what this gives.
async fn hold(swarm: &Swarm, callers: &[Caller], count: usize) -> Result<JoinSet<()>, Failure> {
    let mut calls = JoinSet::new();
    for number in 0..count {
        let mut caller = callers[number / STREAMS_PER_CONNECTION].clone();
        calls.spawn(async move {
            let session = number / STREAMS_PER_SESSION;
            // An answer would be a failure, which the number of held calls shows.
            let _ = caller.call(session, Method::GET, HOLD, Bytes::new()).await;
        });
    }
    let deadline = Instant::now() + PATIENCE;
    while swarm.held() < count {
        if Instant::now() > deadline {
            return Err(format!("only {} calls are held", swarm.held()).into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(calls)
}
