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
//! | [`balancer`] | the one address |
//! | [`registry`] | the server in which relays find each other |

mod balancer;
mod registry;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::join;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use self::balancer::Backend;
use crate::certs::Authority;
use crate::failure::{Doing, Failure, Result};
use crate::files;
use crate::judge::{BLIND, Findings, Trouble};
use crate::load::{Book, Load, Plan};
use crate::port;
use crate::program::{Binaries, Program};
use crate::run::{Leave, LogFormat, keep_fresh, run_with};
use crate::screen::{Screen, Tone};
use crate::sddc::SESSION_HEADER;
use crate::setup::{CALLER, DOMAIN, ENDPOINT, Node, POLICY, Setup, TENANT};
use crate::tour::{CREDENTIAL, INVENTORY, Tour, bearer, until};
use crate::web::Web;

/// The name that every relay's certificate for other relays is for.
const CLUSTER: &str = "relays.culvert.internal";

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

/// What the agents of the cluster allow beside what the demo's agent does.
const REPORTS: &str = r#"
[[rule]]
id = "report-events"
action = "allow"
endpoint = ["vcenter"]
method = ["POST"]
path = ["/api/vcenter/events/*"]
caller = ["director-*"]
"#;

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

/// A relay, which may just not run.
struct Relay {
    name: String,
    backend: Arc<Backend>,
    program: Option<Program>,
}

/// The running programs.
struct Stage<'a> {
    setup: &'a Setup,
    binaries: &'a Binaries,
    log: LogFormat,
    screen: Screen,
    web: Web,
    issuer_url: String,
    sddc_url: String,
    relays: Vec<Relay>,
    agents: Vec<Program>,
    registry: Program,
    sddc: Program,
    issuer: Program,
    /// The balancer.
    _background: JoinSet<()>,
    began: Instant,
}

impl<'a> Stage<'a> {
    /// Starts everything, and says what runs where.
    async fn start(
        setup: &'a Setup,
        binaries: &'a Binaries,
        options: &Options,
        screen: Screen,
    ) -> Result<Self> {
        let folder = &setup.folder;
        let (issuer, issuer_url) = Program::start_helper("issuer", folder).await?;
        let (sddc, sddc_url) = Program::start_helper("sddc", folder).await?;
        let (registry, registry_port) = registry::start(folder).await?;
        // What signs relays' certificates for each other signs nothing else.
        let nodes = Authority::generate()?;
        files::write(&folder.join("nodes-ca.pem"), nodes.pem())?;
        nodes.issue(&[CLUSTER])?.write(folder, "node")?;

        let mut relays = Vec::new();
        for number in 0..options.relays {
            let (name, public, peer) = (format!("relay-{number}"), port::free()?, port::free()?);
            let admin = if number == 0 {
                setup.admin
            } else {
                port::free()?
            };
            let node = Node {
                name: &name,
                public,
                admin,
                listen: &format!("peer = \"127.0.0.1:{peer}\"\n"),
                tables: &cluster_tables(registry_port, peer),
            };
            setup.write_relay(&format!("{name}.toml"), &issuer_url, &node)?;
            relays.push(Relay {
                name,
                backend: Backend::new(public, admin),
                program: None,
            });
        }
        for number in 0..AGENTS {
            let file = format!("agent-{number}.toml");
            setup.write_agent(&file, &issuer_url, &sddc_url, SESSIONS)?;
        }
        files::write(&folder.join("policy.toml"), format!("{POLICY}{REPORTS}"))?;

        let mut background = JoinSet::new();
        let backends: Vec<_> = relays.iter().map(|relay| relay.backend.clone()).collect();
        balancer::start(setup.public, &backends, &mut background).await?;
        let mut stage = Self {
            setup,
            binaries,
            log: options.log,
            screen,
            web: Web::new(setup)?,
            issuer_url,
            sddc_url,
            relays,
            agents: Vec::new(),
            registry,
            sddc,
            issuer,
            _background: background,
            began: Instant::now(),
        };
        stage.introduce(registry_port);
        for number in 0..stage.relays.len() {
            stage.start_relay(number)?;
        }
        for number in 0..AGENTS {
            stage.start_agent(number)?;
        }
        Ok(stage)
    }

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

    fn start_relay(&mut self, number: usize) -> Result<()> {
        let relay = &mut self.relays[number];
        let config = self.setup.folder.join(format!("{}.toml", relay.name));
        let mut command = run_with(&self.binaries.relay, &config, self.log);
        relay.program = Some(Program::start(
            &relay.name,
            &self.setup.folder,
            &mut command,
        )?);
        Ok(())
    }

    fn start_agent(&mut self, number: usize) -> Result<()> {
        let name = format!("agent-{number}");
        let config = self.setup.folder.join(format!("{name}.toml"));
        let mut command = run_with(&self.binaries.agent, &config, self.log);
        let agent = Program::start(&name, &self.setup.folder, &mut command)?;
        self.agents.push(agent);
        Ok(())
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

    /// Waits until every relay is ready and reaches the endpoint, and every agent has its sessions.
    async fn settled(&mut self, late: &str) -> Result<()> {
        let expected = AGENTS * usize::from(SESSIONS);
        let all_well = async || {
            let mut sessions = 0;
            for relay in &self.relays {
                let status = self.status(&relay.backend).await.unwrap_or_default();
                let endpoints = status["endpoints"].as_array();
                let reaches = endpoints.is_some_and(|all| all.iter().any(is_served));
                if !reaches || status["state"] != "ready" || !relay.backend.is_ready() {
                    return false;
                }
                sessions += count(&status["sessions"]);
            }
            sessions >= expected
        };
        let settled = until(PATIENCE, late, all_well).await;
        // One that has ended says more about it.
        let relays = self.relays.iter_mut().filter_map(|r| r.program.as_mut());
        for program in relays.chain(&mut self.agents) {
            program.check_running()?;
        }
        settled
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

    /// How many sessions of agents each relay has.
    async fn sessions(&self) -> Vec<usize> {
        let mut sessions = Vec::new();
        for relay in &self.relays {
            let status = self.status(&relay.backend).await.unwrap_or_default();
            sessions.push(count(&status["sessions"]));
        }
        sessions
    }

    async fn status(&self, backend: &Backend) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/status", backend.admin);
        let answer = self.web.send(self.web.request(Method::GET, &url)).await;
        serde_json::from_slice(&answer.ok()?.body).ok()
    }

    /// How often the API got each event; asked beside the relays.
    async fn arrived(&self, session: &str) -> Result<HashMap<String, u32>> {
        let url = format!("{}{EVENTS}", self.sddc_url);
        let request = self.web.request(Method::GET, &url);
        let answer = self
            .web
            .send(request.header(SESSION_HEADER, session))
            .await?;
        if answer.status != StatusCode::OK {
            let what = format!("the API does not say what arrived: {}", answer.status);
            return Err(Failure::new(what));
        }
        serde_json::from_slice(&answer.body).doing(|| "the API does not say what arrived")
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

    /// Ends all programs, each when what depends on it has ended.
    async fn stop(self) -> Result<()> {
        let relays = self.relays.into_iter().filter_map(|relay| relay.program);
        let rest = [self.registry, self.sddc, self.issuer];
        let mut wrong = Vec::new();
        // Side by side: each drains.
        let mut ending: JoinSet<_> = self.agents.into_iter().map(Program::stop).collect();
        ending.extend(relays.map(Program::stop));
        while let Some(ended) = ending.join_next().await {
            wrong.extend(ended.ok().flatten());
        }
        for program in rest {
            wrong.extend(program.stop().await);
        }
        wrong.into_iter().next().map_or(Ok(()), Err)
    }
}

fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// Whether a relay has a session for an endpoint, or knows another one that has.
fn is_served(endpoint: &Value) -> bool {
    let some = |key: &str| endpoint[key].as_u64().is_some_and(|count| count > 0);
    some("sessions") || some("elsewhere")
}

/// What makes a relay one of several.
fn cluster_tables(registry: u16, peer: u16) -> String {
    format!(
        r#"
[directory]
kind = "redis"
url = "redis://127.0.0.1:{registry}"

[peer]
name = "{CLUSTER}"
certificate = "node.pem"
private_key = "node.key"
ca = "nodes-ca.pem"
address = "127.0.0.1:{peer}"
"#
    )
}
