//! Several relays behind one address: killed and replaced under load, before your eyes.
//!
//! ```text
//!                                +--> relay-0 <==\
//! callers --https--> balancer ---+--> relay-1 <===+== agent-0, agent-1 --https--> SDDC API
//!                                +--> relay-2 <==/
//!                                 registry (Redis or Valkey): which relay serves what
//! ```
//! | module | does |
//! |---|---|
//! | [`stage`] | the programs |
//! | [`balancer`] | the one address |
//! | [`registry`] | the server in which relays find each other |

mod balancer;
mod registry;
mod stage;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::join;
use tokio::time::{Instant, interval, sleep};

use self::balancer::Backend;
use self::stage::Stage;
use crate::failure::{Failure, Result};
use crate::judge::{BLIND, Findings, Trouble};
use crate::load::{Book, Load, Plan};
use crate::program::{Binaries, Program};
use crate::run::{Leave, LogFormat, keep_fresh};
use crate::screen::{Screen, Tone};
use crate::sddc::SESSION_HEADER;
use crate::setup::{CALLER, DOMAIN, ENDPOINT, Setup, TENANT};
use crate::tour::{CREDENTIAL, INVENTORY, Tour, bearer, until};

/// Agents of the SDDC.
const AGENTS: usize = 2;

/// Sessions of each agent, on different relays.
const SESSIONS: u8 = 2;

/// Callers; each has two calls in flight.
const CALLERS: usize = 10;

/// Where events are reported.
const EVENTS: &str = "/api/vcenter/events";

/// How long something may take that needs no luck.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the load goes on between two events.
const CALM: Duration = Duration::from_secs(3);

/// What to play.
pub(crate) struct Options {
    pub(crate) relays: usize,
    pub(crate) once: bool,
    pub(crate) log: LogFormat,
}

/// Plays it, from the first file to the last program's end.
pub(crate) async fn run(options: &Options, folder: &Path, port: Option<u16>) -> Result<()> {
    let mut leave = Leave::listen()?;
    let binaries = tokio::select! {
        binaries = Binaries::find_or_build() => binaries?,
        () = leave.asked() => return Ok(()),
    };
    let setup = Setup::prepare(folder, port)?;
    let screen = Screen::new();
    let mut stage = tokio::select! {
        stage = Stage::start(&setup, &binaries, options, screen) => stage?,
        () = leave.asked() => return Ok(()),
    };
    let outcome = tokio::select! {
        outcome = stage.play(options.once) => outcome,
        () = leave.asked() => {
            screen.status_over();
            Ok(())
        }
    };
    let ended = stage.stop().await;
    outcome.and(ended)
}

impl Stage<'_> {
    fn introduce(&self, registry: u16) {
        let screen = self.screen;
        let public = self.setup.public;
        screen.title("Culvert: many relays behind one address");
        crate::say("");
        crate::say("  callers --https--> balancer --> relays <==wss== agents --https--> SDDC API");
        crate::say("");
        screen.row("state folder", &self.setup.folder.display().to_string());
        screen.row(
            "balancer",
            &format!("port {public}, passes TCP on to relays that are ready"),
        );
        for relay in &self.relays {
            let Backend { public, admin, .. } = &*relay.backend;
            let text = format!("port {public}, status at http://127.0.0.1:{admin}/");
            screen.row(&relay.name, &text);
        }
        screen.row(
            "registry",
            &format!("port {registry}, where relays say which endpoints they serve"),
        );
        screen.row(
            "agents",
            &format!("{AGENTS} of one SDDC, {SESSIONS} sessions each, on different relays"),
        );
    }

    /// The whole play.
    async fn play(&mut self, once: bool) -> Result<()> {
        self.settled("the relays and agents did not find each other")
            .await?;
        let issuer = self.issuer_url.clone();
        let mut tour = Tour::new(self.setup, &issuer, self.screen)?;
        tour.sign_in().await?;
        let token = self.web.token_of(self.setup, &issuer, CALLER).await?;
        let load = Load::start(self.plan(&token, tour.session()))?;
        let book = load.book().clone();

        self.screen.title("1  Steady: callers call all the time");
        self.figures(&book, sleep(CALM)).await;

        let killed = self.kill(&book).await?;
        self.replace_all(&book).await?;

        let book = load.stop().await;
        self.screen.title("4  What the callers and the API saw");
        let arrived = self.arrived(tour.session()).await?;
        let outcome = self.conclude(&book, killed, &arrived);
        if once {
            return outcome;
        }
        if let Err(failure) = outcome {
            self.screen.title(&failure.to_string());
        }
        tour.write_headers().await?;
        self.invite();
        keep_fresh(tour).await
    }

    /// What the callers do.
    fn plan(&self, token: &str, session: &str) -> Plan {
        Plan {
            authority: self.setup.authority.clone(),
            host: format!("{ENDPOINT}--{TENANT}.{DOMAIN}"),
            callers: CALLERS,
            headers: vec![
                (CREDENTIAL.to_owned(), bearer(token)),
                (SESSION_HEADER.to_owned(), session.to_owned()),
            ],
            read: self.setup.url(TENANT, INVENTORY),
            report: self.setup.url(TENANT, EVENTS),
            prefix: "event-".to_owned(),
            quick: 5..50,
            slow: 500..2000,
            answer: None,
        }
    }

    /// Kills the relay that holds most; says when that was.
    async fn kill(&mut self, book: &Arc<Book>) -> Result<Instant> {
        let sessions = self.sessions().await;
        let most = sessions
            .iter()
            .enumerate()
            .max_by_key(|(_, sessions)| **sessions);
        let victim = most.map_or(0, |(number, _)| number);
        let relay = &mut self.relays[victim];
        let (name, held) = (relay.name.clone(), sessions[victim]);
        self.screen
            .title(&format!("2  Killed: kill -9 of {name}, without a warning"));
        self.screen.line(&format!(
            "it holds {held} of the agents' sessions and {} connections; {} calls are in flight",
            relay.backend.connections(),
            book.in_flight()
        ));
        let killed = Instant::now();
        if let Some(mut program) = relay.program.take() {
            program.kill().await?;
        }
        let expected = AGENTS * usize::from(SESSIONS);
        let back = async {
            let late = "the agents did not find other relays";
            let all = async || self.sessions().await.iter().sum::<usize>() >= expected;
            until(PATIENCE, late, all).await?;
            Ok::<_, Failure>(killed.elapsed().as_secs_f64())
        };
        let both = async { join!(back, sleep(CALM)) };
        let (back, ()) = self.figures(book, both).await;
        self.screen.line(&format!(
            "every agent had {SESSIONS} sessions again {:.1} s after the kill",
            back?
        ));
        self.screen.line(&format!("{name} is started again"));
        self.start_relay(victim)?;
        self.settled("the relay did not come back").await?;
        Ok(killed)
    }

    /// Asks each relay in turn to stop, and starts it again.
    async fn replace_all(&mut self, book: &Arc<Book>) -> Result<()> {
        self.screen
            .title("3  Replaced: each relay in turn is asked to stop, and started again");
        let before = book.failed();
        for number in 0..self.relays.len() {
            let name = self.relays[number].name.clone();
            let begun = Instant::now();
            if let Some(program) = self.relays[number].program.take() {
                let stopped = self.figures(book, program.stop()).await;
                if let Some(failure) = stopped {
                    return Err(failure);
                }
            }
            let drained = begun.elapsed().as_secs_f64();
            self.start_relay(number)?;
            self.settled("the replaced relay did not become ready")
                .await?;
            self.screen.line(&format!(
                "{name}: drained in {drained:.1} s, back after {:.1} s, {} calls failed",
                begun.elapsed().as_secs_f64(),
                book.failed() - before
            ));
        }
        Ok(())
    }

    /// Shows figures while something goes on.
    async fn figures<T>(&self, book: &Arc<Book>, work: impl Future<Output = T>) -> T {
        let show = async {
            let mut ticks = interval(self.screen.refresh());
            ticks.tick().await;
            let (mut calls, mut at) = (book.calls(), Instant::now());
            loop {
                ticks.tick().await;
                let rate = (book.calls() - calls) as f64 / at.elapsed().as_secs_f64();
                (calls, at) = (book.calls(), Instant::now());
                self.screen.status(&self.line(book, rate));
            }
        };
        let done = tokio::select! {
            done = work => done,
            never = show => never,
        };
        self.screen.status_over();
        done
    }

    /// One line of figures.
    fn line(&self, book: &Book, rate: f64) -> String {
        let mut line = format!(
            "{:>4.0} s {:>7} calls {rate:>5.0}/s {:>3} in flight {:>3} failed ",
            self.began.elapsed().as_secs_f64(),
            book.calls(),
            book.in_flight(),
            book.failed(),
        );
        for relay in &self.relays {
            let (ready, connections) = (relay.backend.is_ready(), relay.backend.connections());
            let text = match ready {
                true => format!("{} {connections:>2}", relay.name),
                false => format!("{} --", relay.name),
            };
            let tone = if ready { Tone::Good } else { Tone::Bad };
            line.push_str(&format!(" | {}", self.screen.paint(tone, &text)));
        }
        line
    }

    /// Says what happened, and whether it is what is promised.
    fn conclude(&self, book: &Book, killed: Instant, arrived: &HashMap<String, u32>) -> Result<()> {
        let screen = self.screen;
        let findings = Findings::of(book, &[Trouble::death(killed)], arrived);
        screen.line(&format!("{} calls", book.calls()));
        screen.line(&format!("{} failed", book.failed()));
        let mut whys: BTreeMap<String, usize> = BTreeMap::new();
        for failed in book.failures() {
            *whys.entry(failed.why).or_default() += 1;
        }
        for (why, count) in whys {
            let text = format!("  {count:>3} of them: {why}");
            screen.line(&screen.paint(Tone::Faint, &text));
        }
        let check = |holds: bool, text: &str| {
            let tone = if holds { Tone::Good } else { Tone::Bad };
            screen.line(&screen.paint(tone, text));
        };
        screen.line(&format!(
            "{} were in flight in the relay that was killed, or made within {} s of its death",
            findings.held,
            BLIND.as_secs()
        ));
        check(
            findings.unexplained == 0,
            &format!("{} failed otherwise", findings.unexplained),
        );
        check(
            findings.never == 0,
            &format!(
                "{} events were reported with success and arrived at the API once, {} did not arrive",
                findings.once, findings.never
            ),
        );
        check(
            findings.twice == 0,
            &format!("{} events arrived more than once", findings.twice),
        );
        if findings.are_as_promised() {
            screen.title("Nothing failed but what the killed relay held.");
            return Ok(());
        }
        let logs = self.setup.folder.display();
        Err(Failure::new(format!(
            "not as promised: see above; the logs are in {logs}"
        )))
    }

    /// Says what else can be tried.
    fn invite(&self) {
        let screen = self.screen;
        screen.title("Everything stays up until Ctrl-C. Try it from another shell");
        screen.line(&format!("cd '{}'", self.setup.folder.display()));
        let host = format!("vcenter--{TENANT}.localhost");
        screen.line(&format!(
            "curl -i --cacert ca.pem --resolve {host}:{}:127.0.0.1 -H @{CALLER}.headers \\\n        '{}'",
            self.setup.public,
            self.setup.url(TENANT, INVENTORY)
        ));
        for relay in &self.relays {
            let id = relay.program.as_ref().and_then(Program::id);
            screen.line(&format!("kill -9 {}    # {}", id.unwrap_or(0), relay.name));
        }
    }
}
