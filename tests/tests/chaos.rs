//! Chaos: nodes, agents, the engine and the network between nodes fail as chance will have it, while
//! callers of two tenants call all the time. Whatever fails:
//!
//! - nobody gets another tenant's answer, and nobody's call arrives at another tenant's API;
//! - what was reported with success has arrived once, and nothing has arrived twice;
//! - when it is over, every node soon serves every endpoint again.
//!
//! `CULVERT_CHAOS_SECONDS` lets it go on for longer, `CULVERT_CHAOS_SEED` repeats the choices of a run.

use std::time::{Duration, Instant};

use culvert_tests::cluster::Cluster;
use culvert_tests::issuer::{CALLER, OTHER_AGENT, OTHER_CALLER, world};
use culvert_tests::load::{Callers, Events, stranger};
use culvert_tests::wait::{eventually_within, until};
use culvert_tests::{Curl, Stack, StackOptions};
use fastrand::Rng;
use rustix::process::Signal;

const RELAYS: usize = 3;

/// Agents: the first two of `acme`, the others of `globex`.
const AGENTS: usize = 4;

/// How long it may take until everything is well again: a node that was lost is noticed within 15 s,
/// and the registry read every 3 s.
const CONVERGED: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
version = 1

[[rule]]
id = "everything"
action = "allow"
path = ["/**"]
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `kill -9` of a relay, until it is started again.
    Killed(usize),
    /// A relay stands still.
    Frozen(usize),
    /// A relay is reached by no other one.
    Lost(usize),
    /// `kill -9` of an agent, until it is started again.
    AgentKilled(usize),
    /// The engine is gone, and what it knew.
    NoEngine,
    /// The engine stands still.
    EngineFrozen,
}

struct Chaos {
    rng: Rng,
    cluster: Cluster,
    /// What is wrong now, and when it ends.
    faults: Vec<(Fault, Instant)>,
}

impl Chaos {
    fn start(rng: Rng, events: [&Events; 2]) -> Self {
        let options = |events: &Events| options(events);
        let mut cluster = Cluster::start(RELAYS, options(events[0]));
        let balancer = cluster.balancer.port();
        for agent in 0..AGENTS {
            let options = match agent < AGENTS / 2 {
                true => options(events[0]),
                false => options(events[1]).client(OTHER_AGENT),
            };
            cluster.start_agent_at(balancer, &options);
        }
        Self {
            rng,
            cluster,
            faults: Vec::new(),
        }
    }

    /// Whether every node serves every tenant, and agents have all of their sessions.
    fn is_well(&self) -> bool {
        self.cluster.sessions().iter().sum::<usize>() == 2 * AGENTS
            && (0..RELAYS).all(|relay| {
                let port = self.cluster.relays[relay].public;
                [("acme", CALLER), ("globex", OTHER_CALLER)]
                    .iter()
                    .all(|(tenant, caller)| {
                        let url = format!("https://vcenter--{tenant}.localhost:{port}/api/read");
                        let answer = Curl::new(&url).token(&token(caller)).run();
                        answer.status == 200 && answer.body == tenant.as_bytes()
                    })
            })
    }

    fn play(&mut self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.end_faults(Instant::now());
            match self.rng.u32(..10) {
                0 => self.replace(),
                1..=6 => self.begin_fault(),
                _ => {}
            }
            let pause = self.rng.u64(100..1500);
            std::thread::sleep(Duration::from_millis(pause));
        }
        self.end_faults(Instant::now() + Duration::from_secs(3600));
    }

    fn begin_fault(&mut self) {
        let fault = match self.rng.u32(..6) {
            0 => Fault::Killed(self.rng.usize(..RELAYS)),
            1 => Fault::Frozen(self.rng.usize(..RELAYS)),
            2 => Fault::Lost(self.rng.usize(..RELAYS)),
            3 => Fault::AgentKilled(self.rng.usize(..AGENTS)),
            4 => Fault::NoEngine,
            _ => Fault::EngineFrozen,
        };
        let (span, now) = (self.rng.u64(500..4000), Instant::now());
        if self.faults.iter().any(|(other, _)| fault.excludes(*other)) {
            return;
        }
        eprintln!("{fault:?} for {span} ms");
        match fault {
            Fault::Killed(relay) => self.cluster.kill(relay),
            Fault::Frozen(relay) => self.cluster.relays[relay].process.signal(Signal::STOP),
            Fault::Lost(relay) => self.cluster.relays[relay].between.lose(),
            Fault::AgentKilled(agent) => self.cluster.kill_agent(agent),
            Fault::NoEngine => self.cluster.redis.kill(),
            Fault::EngineFrozen => self.cluster.redis.freeze(),
        }
        self.faults.push((fault, now + Duration::from_millis(span)));
    }

    fn end_faults(&mut self, due: Instant) {
        let (over, last): (Vec<_>, Vec<_>) =
            self.faults.drain(..).partition(|(_, until)| *until <= due);
        self.faults = last;
        for (fault, _) in over {
            eprintln!("no longer {fault:?}");
            match fault {
                Fault::Killed(relay) => self.cluster.launch(relay),
                Fault::Frozen(relay) => self.cluster.relays[relay].process.signal(Signal::CONT),
                Fault::Lost(relay) => self.cluster.relays[relay].between.heal(),
                Fault::AgentKilled(agent) => self.cluster.restart_agent(agent),
                Fault::NoEngine => self.cluster.redis.restart(),
                Fault::EngineFrozen => self.cluster.redis.thaw(),
            }
        }
    }

    /// A relay is asked to stop, and started again when it has.
    fn replace(&mut self) {
        let relay = self.rng.usize(..RELAYS);
        let busy = |(fault, _): &(Fault, _)| matches!(fault, Fault::Killed(at) | Fault::Frozen(at) if *at == relay);
        if self.faults.iter().any(busy) {
            return;
        }
        eprintln!("relay {relay} is replaced");
        // One that has only just been started cannot hear that it is asked to stop.
        self.cluster.await_ready(relay);
        let others = (0..RELAYS).filter(|other| *other != relay);
        let ports: Vec<_> = others
            .map(|other| self.cluster.relays[other].public)
            .collect();
        self.cluster.balancer.set(&ports);
        self.cluster.relays[relay].process.terminate();
        assert!(self.cluster.relays[relay].process.wait().success());
        self.cluster.launch(relay);
        let ports: Vec<_> = self
            .cluster
            .relays
            .iter()
            .map(|relay| relay.public)
            .collect();
        self.cluster.balancer.set(&ports);
    }
}

impl Fault {
    /// Whether it cannot begin while another one lasts: of one thing one fault at a time, and one node
    /// at least goes on.
    fn excludes(self, other: Self) -> bool {
        let relay = |fault| match fault {
            Self::Killed(relay) | Self::Frozen(relay) => Some(relay),
            _ => None,
        };
        let engine = |fault| matches!(fault, Self::NoEngine | Self::EngineFrozen);
        self == other
            || (relay(self).is_some() && relay(other).is_some())
            || (engine(self) && engine(other))
    }
}

fn options(events: &Events) -> StackOptions {
    Stack::options()
        .endpoint("vcenter", &events.url())
        .policy(POLICY)
        .sessions(2)
}

fn token(client: &str) -> String {
    world().token(client)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn whatever_fails_tenants_stay_apart_and_nothing_is_done_twice() {
    let seed = number("CULVERT_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("to repeat the choices: CULVERT_CHAOS_SEED={seed}");
    let span = Duration::from_secs(number("CULVERT_CHAOS_SECONDS").unwrap_or(20));

    let (acme, globex) = (Events::of("acme"), Events::of("globex"));
    let mut chaos = Chaos::start(Rng::with_seed(seed), [&acme, &globex]);
    until("everything is well at first", || chaos.is_well());
    let balancer = chaos.cluster.balancer.port();
    let callers = [
        acme.callers(3, balancer, &token(CALLER), "acme-"),
        globex.callers(3, balancer, &token(OTHER_CALLER), "globex-"),
    ];
    // Somebody of globex who asks for what is acme's.
    let stranger = stranger(&acme, balancer, &token(OTHER_CALLER));
    chaos.play(span);
    eventually_within(CONVERGED, "everything is well again", || {
        chaos.is_well().then_some(())
    });
    for (callers, events) in callers.into_iter().zip([&acme, &globex]) {
        callers.await_calls(20);
        let book = callers.stop();
        let findings = events.findings(&book, &[]);
        eprintln!(
            "{} calls, {} failed: {findings:?}",
            book.calls(),
            book.failed()
        );
        assert_eq!(
            (findings.wrong, findings.twice, findings.never),
            (0, 0, 0),
            "{findings:?}"
        );
        assert!(findings.once > 50, "{findings:?}");
    }
    assert_stays_out(stranger);
    let of = |events: &Events, prefix: &str| {
        let arrived = events.arrived();
        arrived.keys().filter(|id| !id.starts_with(prefix)).count()
    };
    assert_eq!((of(&acme, "acme-"), of(&globex, "globex-")), (0, 0));
}

fn assert_stays_out(stranger: Callers) {
    let book = stranger.stop();
    assert!(book.calls() > 0);
    assert_eq!(book.failed(), book.calls());
}
