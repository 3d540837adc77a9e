//! What a tenant notices of another one that uses up everything it may.
//!
//! The quiet tenant calls at a steady rate, through an agent and an upstream of its own. The loud one
//! has a quota, and fills it: calls held open, calls as fast as they are let through, bulk. Beside it,
//! strangers open connections and say nothing. Each round measures the quiet tenant alone, then beside.
//!
//! Whoever makes the noise would be on other machines. Here it shares the processors, so it has the lowest
//! priority: it takes what nobody else wants. What is left of its influence shows in a control: the same
//! calls through nginx and nginx, which nothing loud goes through.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::background::Background;
use crate::load::{self, Failure, Report, Target};
use crate::stack::{Settings, Stack};
use crate::stats::Spread;
use crate::swarm::{BULK, Caller, HOLD, Swarm};

/// Calls that the loud tenant may have in progress, and how many of them it holds.
const CALLS: usize = 500;
const HELD: usize = 400;

/// How many of them are on one connection: a relay takes 200 at once.
const ON_EACH: usize = 100;

/// The loud tenant's agents.
const AGENTS: usize = 4;

/// The loud tenant's connections, and callers on each.
const CONNECTIONS: usize = 4;
const CALLERS: usize = 8;

/// Bytes of each of the loud tenant's downloads, and how many there are at once.
const DOWNLOAD: u64 = 1 << 20;
const DOWNLOADS: usize = 4;

/// How long a loud caller waits after it was refused.
const REST: Duration = Duration::from_millis(10);

/// Strangers' connections at once, and how long each stays.
const STRANGERS: usize = 100;
const STAY: Duration = Duration::from_secs(2);

/// Where strangers come from: limits of a source are not the quiet tenant's.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

/// The quiet tenant's connections.
const QUIET: usize = 4;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How often.
    pub rounds: usize,
    /// How long, each.
    pub time: Duration,
    /// Calls a second of the quiet tenant.
    pub rate: f64,
    /// Calls a second that the loud tenant may make.
    pub call_rate: u32,
    /// MiB a second that it may move.
    pub byte_rate: u32,
}

/// What the loud tenant got.
#[derive(Debug, Default)]
struct Loud {
    calls: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
}

/// Measures the quiet tenant alone and beside the loud one.
pub async fn run(programs: &Path, options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let quota = format!(
        "\n[[tenant]]\nname = \"t0\"\nmax_calls = {CALLS}\nmax_call_rate = \"{}/s\"\n\
         max_byte_rate = \"{} MiB/s\"\n",
        options.call_rate, options.byte_rate
    );
    let settings = Settings {
        quotas: &quota,
        ..Settings::default()
    };
    let stack = Stack::start(programs, &settings).await?;
    let elsewhere = Background::start()?;
    let swarm = elsewhere.run(Swarm::join(&stack, AGENTS, 1))?;
    writeln!(
        out,
        "{:<9} {:>8} {:>7} {:>9} {:>9} {:>13} {:>13} {:>10}",
        "", "calls/s", "errors", "p50 us", "p99 us", "loud calls/s", "refused/s", "loud MB/s"
    )?;
    let (mut ratios, mut control, mut errors) = (Ratios::default(), Ratios::default(), 0);
    for _ in 0..options.rounds {
        let alone = measure(&stack.culvert, options).await?;
        say(out, "alone", &alone, None)?;
        let control_alone = measure(&stack.nginx, options).await?;
        say(out, "(control)", &control_alone, None)?;
        let loud = Arc::new(Loud::default());
        let _noise = elsewhere.run(noise(&stack, &swarm, &loud))?;
        // It has what it may before the clock starts.
        load::steady(&stack.culvert, "/small", QUIET, options.rate, STAY).await?;
        let before = loud.counts();
        let beside = measure(&stack.culvert, options).await?;
        let after = loud.counts();
        say(
            out,
            "beside",
            &beside,
            Some([0, 1, 2].map(|at| after[at] - before[at])),
        )?;
        let control_beside = measure(&stack.nginx, options).await?;
        say(out, "(control)", &control_beside, None)?;
        ratios.add(&alone, &beside);
        control.add(&control_alone, &control_beside);
        errors += alone.errors + beside.errors;
    }
    writeln!(
        out,
        "\nbeside/alone: {ratios}; {errors} errors of the quiet tenant"
    )?;
    writeln!(out, "control, beside/alone: {control}")?;
    Ok(())
}

/// How much longer calls take beside others than alone.
#[derive(Debug, Default)]
struct Ratios {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Ratios {
    fn add(&mut self, alone: &Report, beside: &Report) {
        let ratio = |q| {
            let [beside, alone] = [beside, alone].map(|report| report.latency.value_at_quantile(q));
            beside as f64 / alone as f64
        };
        self.p50.push(ratio(0.5));
        self.p99.push(ratio(0.99));
    }
}

impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = [&self.p50, &self.p99].map(|ratios| Spread::of(ratios.iter().copied()));
        write!(f, "p50: {p50}, p99: {p99}")
    }
}

async fn measure(target: &Target, options: &Options) -> Result<Report, Failure> {
    load::steady(target, "/small", QUIET, options.rate, options.time).await
}

fn say(
    out: &mut impl Write,
    what: &str,
    report: &Report,
    loud: Option<[u64; 3]>,
) -> Result<(), Failure> {
    write!(
        out,
        "{what:<9} {:>8.0} {:>7} {:>9} {:>9}",
        report.rate(),
        report.errors,
        report.latency.value_at_quantile(0.5),
        report.latency.value_at_quantile(0.99),
    )?;
    if let Some(loud) = loud {
        let [calls, refused, bytes] = loud.map(|n| n as f64 / report.elapsed.as_secs_f64());
        write!(out, " {calls:>13.0} {refused:>13.0} {:>10.1}", bytes / 1e6)?;
    }
    writeln!(out)?;
    if let Some(error) = &report.first_error {
        writeln!(out, "         the first error: {error}")?;
    }
    Ok(())
}

impl Loud {
    fn counts(&self) -> [u64; 3] {
        [&self.calls, &self.refused, &self.bytes].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Everything loud, until it is dropped.
async fn noise(stack: &Stack, swarm: &Swarm, loud: &Arc<Loud>) -> Result<JoinSet<()>, Failure> {
    let mut noise = JoinSet::new();
    let mut holding = swarm.caller(stack).await?;
    for number in 0..HELD {
        if number % ON_EACH == 0 {
            holding = swarm.caller(stack).await?;
        }
        let mut caller = holding.clone();
        noise.spawn(async move {
            while caller
                .call(number % AGENTS, Method::GET, HOLD, Bytes::new())
                .await
                .is_err()
            {
                sleep(REST).await;
            }
        });
    }
    let bulk = format!("{BULK}?{DOWNLOAD}");
    for number in 0..CONNECTIONS {
        let caller = swarm.caller(stack).await?;
        for _ in 0..CALLERS {
            noise.spawn(calls(
                caller.clone(),
                number,
                "/small".to_owned(),
                loud.clone(),
            ));
        }
    }
    for number in 0..DOWNLOADS {
        let caller = swarm.caller(stack).await?;
        noise.spawn(calls(caller, number, bulk.clone(), loud.clone()));
    }
    for _ in 0..STRANGERS {
        noise.spawn(strange(stack.culvert.clone()));
    }
    let patience = Instant::now();
    while swarm.held() < HELD {
        if patience.elapsed() > Duration::from_secs(20) {
            return Err(format!("{} calls are held, not {HELD}", swarm.held()).into());
        }
        sleep(REST).await;
    }
    Ok(noise)
}

/// Calls again and again, as fast as it may.
async fn calls(mut caller: Caller, number: usize, path: String, loud: Arc<Loud>) {
    loop {
        match caller
            .call(number % AGENTS, Method::GET, &path, Bytes::new())
            .await
        {
            Ok(bytes) => {
                loud.calls.fetch_add(1, Ordering::Relaxed);
                loud.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(_) => {
                loud.refused.fetch_add(1, Ordering::Relaxed);
                sleep(REST).await;
            }
        }
    }
}

/// Opens connections one after the other that say nothing after the handshake.
async fn strange(target: Target) {
    loop {
        let attempt = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((ELSEWHERE, 0)))?;
            let tcp = socket.connect(target.address).await?;
            let tls = TlsConnector::from(target.tls.clone());
            let tls = tls.connect(target.name()?, tcp).await?;
            sleep(STAY).await;
            drop(tls);
            Ok::<_, Failure>(())
        };
        if attempt.await.is_err() {
            sleep(REST).await;
        }
    }
}
