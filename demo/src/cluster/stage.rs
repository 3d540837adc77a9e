//! The programs of the play: started, waited for, asked how they are, and ended.

use std::collections::HashMap;
use std::sync::Arc;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::balancer::{self, Backend};
use super::{AGENTS, EVENTS, Options, PATIENCE, SESSIONS, registry};
use crate::certs::Authority;
use crate::failure::{Doing, Failure, Result};
use crate::files;
use crate::port;
use crate::program::{Binaries, Program};
use crate::run::{LogFormat, run_with};
use crate::screen::Screen;
use crate::sddc::SESSION_HEADER;
use crate::setup::{Node, POLICY, Setup};
use crate::tour::until;
use crate::web::Web;

/// The name that every relay's certificate for other relays is for.
const CLUSTER: &str = "relays.culvert.internal";

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

/// A relay, which may just not run.
pub(super) struct Relay {
    pub(super) name: String,
    pub(super) backend: Arc<Backend>,
    pub(super) program: Option<Program>,
}

/// The running programs.
pub(super) struct Stage<'a> {
    pub(super) setup: &'a Setup,
    binaries: &'a Binaries,
    log: LogFormat,
    pub(super) screen: Screen,
    pub(super) web: Web,
    pub(super) issuer_url: String,
    sddc_url: String,
    pub(super) relays: Vec<Relay>,
    agents: Vec<Program>,
    registry: Program,
    sddc: Program,
    issuer: Program,
    /// The balancer.
    _background: JoinSet<()>,
    pub(super) began: Instant,
}

impl<'a> Stage<'a> {
    /// Starts everything, and says what runs where.
    pub(super) async fn start(
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

    pub(super) fn start_relay(&mut self, number: usize) -> Result<()> {
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

    /// Waits until every relay is ready and reaches the endpoint, and every agent has its sessions.
    pub(super) async fn settled(&mut self, late: &str) -> Result<()> {
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

    /// How many sessions of agents each relay has.
    pub(super) async fn sessions(&self) -> Vec<usize> {
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
    pub(super) async fn arrived(&self, session: &str) -> Result<HashMap<String, u32>> {
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

    /// Ends all programs, each when what depends on it has ended.
    pub(super) async fn stop(self) -> Result<()> {
        // Of those that whoever watches has killed, as was suggested, nothing is left to end.
        let relays = self.relays.into_iter().filter_map(|relay| relay.program);
        let relays = relays.filter_map(|mut program| (!program.was_killed()).then_some(program));
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
