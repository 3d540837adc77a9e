//! What sessions and streams cost the relay in memory while nothing happens on them.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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

/// Opens the sessions, uses them, holds calls on them, and writes what the relay has resident
/// after each step, in all and per session or call.
pub async fn run(programs: &Path, options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    raise_file_limit();
    let settings = Settings {
        // One more for the stack's own agent, and some for what is being replaced.
        sessions: Some(options.sessions + 16),
        ..Settings::default()
    };
    let stack = Stack::start(programs, &settings).await?;
    let relay = stack.pids(&["relay"]);
    let memory = || process::memory(&relay).ok_or("the relay's memory cannot be read");
    writeln!(
        out,
        "{:<44} {:>10} {:>10} {:>10}   {:>9} {:>9}",
        "the relay's memory, KiB", "resident", "Pss", "anonymous", "resident", "anonymous"
    )?;
    let empty = memory()?;
    write_row(out, "without agents of the swarm", empty, empty, 1)?;

    let swarm = Swarm::join(&stack, options.sessions, options.tenants).await?;
    sleep(SETTLE).await;
    let row = format!("{} sessions, no call yet, per session", options.sessions);
    write_row(out, &row, memory()?, empty, options.sessions)?;

    burst(&stack, &swarm, options).await?;
    sleep(SETTLE).await;
    let used = memory()?;
    let row = format!("{} MiB each way later, per session", options.bulk >> 20);
    write_row(out, &row, used, empty, options.sessions)?;

    if options.streams > 0 {
        let before = used;
        let callers = hold(&stack, &swarm, options).await?;
        sleep(SETTLE).await;
        let row = format!("{} held calls more, per call", options.streams);
        write_row(out, &row, memory()?, before, options.streams)?;
        drop(callers);
        let deadline = Instant::now() + PATIENCE;
        while swarm.held() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(100)).await;
        }
        sleep(SETTLE).await;
        let row = "the held calls gone, per session";
        write_row(out, row, memory()?, empty, options.sessions)?;
    }
    let open = swarm.open();
    if open != options.sessions {
        return Err(format!("only {open} of {} sessions are left", options.sessions).into());
    }
    drop(swarm);
    sleep(SETTLE).await;
    write_row(
        out,
        "all sessions gone, per former session",
        memory()?,
        empty,
        options.sessions,
    )
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

/// Makes calls that no agent answers, and waits until all have arrived. They last as long as
/// what this gives.
async fn hold(stack: &Stack, swarm: &Swarm, options: &Options) -> Result<JoinSet<()>, Failure> {
    let mut calls = JoinSet::new();
    let mut caller = swarm.caller(stack).await?;
    for number in 0..options.streams {
        if number % STREAMS_PER_CONNECTION == 0 && number > 0 {
            caller = swarm.caller(stack).await?;
        }
        let session = number / STREAMS_PER_SESSION % options.sessions;
        let mut caller = caller.clone();
        calls.spawn(async move {
            // An answer would be a failure, which the count of the held calls shows.
            let _ = caller.call(session, Method::GET, HOLD, Bytes::new()).await;
        });
    }
    let deadline = Instant::now() + PATIENCE;
    while swarm.held() < options.streams {
        if Instant::now() > deadline {
            return Err(format!("only {} calls are held", swarm.held()).into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(calls)
}

/// As many open files as this process may have: each session is one here.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    // Where it fails, the dial that finds no file says so.
    let _ = setrlimit(Resource::Nofile, most);
}
