//! Several relays behind one address, with a Redis server in which they find each other.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::balancer::Balancer;
use crate::between::Between;
use crate::curl::{Answer, Curl};
use crate::issuer::world;
use crate::port;
use crate::process::Process;
use crate::redis::{Engine, Redis};
use crate::stack::{DOMAIN, StackOptions, caller_token, start, write_agent, write_relay};
use crate::wait::{eventually, until};

/// The name that every node's certificate is for.
const CLUSTER: &str = "relays.culvert.internal";

/// A relay of a cluster.
#[derive(Debug)]
pub struct Relay {
    /// The program.
    pub process: Process,
    /// Its own port for callers and agents.
    pub public: u16,
    /// Its port for its operators.
    pub admin: u16,
    /// The way to it for other relays.
    pub between: Between,
    folder: PathBuf,
}

/// Relays, the engine of their registry, a balancer, and agents.
#[derive(Debug)]
pub struct Cluster<E = Redis> {
    /// The relays: `relay-0`, `relay-1`, ...
    pub relays: Vec<Relay>,
    /// Where they find each other.
    pub redis: E,
    /// In front of all of them.
    pub balancer: Balancer,
    /// The agents.
    pub agents: Vec<Process>,
    options: StackOptions,
    folder: TempDir,
}

impl Cluster {
    /// Starts so many relays, and no agent yet; `options` are for each of them, and for agents.
    pub fn start(count: usize, options: StackOptions) -> Self {
        Self::over(Redis::start(), count, options)
    }
}

impl<E: Engine> Cluster<E> {
    /// The same over an engine that runs.
    pub fn over(redis: E, count: usize, options: StackOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let relays: Vec<_> = (0..count)
            .map(|number| {
                let folder = folder.path().join(format!("relay-{number}"));
                std::fs::create_dir(&folder).expect("a folder");
                let (public, admin) = (port::free(), port::free());
                let peer = port::free();
                let between = Between::to(peer);
                let ports = Ports {
                    public,
                    admin,
                    peer,
                    others_dial: between.port(),
                };
                configure(&folder, number, &ports, &redis.directory(), &options);
                Relay {
                    process: start("culvert-relay", &folder),
                    public,
                    admin,
                    between,
                    folder,
                }
            })
            .collect();
        let ports: Vec<_> = relays.iter().map(|relay| relay.public).collect();
        let mut cluster = Self {
            relays,
            redis,
            balancer: Balancer::to(&ports),
            agents: Vec::new(),
            options,
            folder,
        };
        for number in 0..count {
            cluster.await_ready(number);
        }
        cluster
    }

    /// Starts an agent that dials the balancer.
    pub fn start_agent(&mut self) {
        let options = self.options.clone();
        self.start_agent_at(self.balancer.port(), &options);
    }

    /// Starts an agent that dials one relay.
    pub fn start_agent_of(&mut self, relay: usize) {
        let options = self.options.clone();
        self.start_agent_at(self.relays[relay].public, &options);
    }

    /// Starts an agent of other options that dials a port.
    pub fn start_agent_at(&mut self, port: u16, options: &StackOptions) {
        let folder = self
            .folder
            .path()
            .join(format!("agent-{}", self.agents.len()));
        std::fs::create_dir(&folder).expect("a folder");
        write_agent(&folder, port, options);
        self.agents.push(start("culvert-agent", &folder));
    }

    /// What an agent says of itself.
    pub fn agent_status(&self, agent: usize) -> Value {
        let socket = self.folder.path().join(format!("agent-{agent}/admin.sock"));
        Curl::new("http://localhost/api/v1/status")
            .args(["--unix-socket", socket.to_str().expect("UTF-8")])
            .run()
            .json()
    }

    /// Kills an agent, as a crash does.
    pub fn kill_agent(&mut self, agent: usize) {
        self.agents[agent].kill();
    }

    /// Starts an agent again, as it was.
    pub fn restart_agent(&mut self, agent: usize) {
        let folder = self.folder.path().join(format!("agent-{agent}"));
        self.agents[agent] = start("culvert-agent", &folder);
    }

    /// How many sessions of agents each relay has that answers.
    pub fn sessions(&self) -> Vec<usize> {
        let relays = 0..self.relays.len();
        relays.map(|relay| self.sessions_of(&[relay])).collect()
    }

    /// How many sessions of agents some relays have together.
    pub fn sessions_of(&self, relays: &[usize]) -> usize {
        let count = |relay: &usize| {
            let status = self.admin(*relay, "/api/v1/status");
            let status: Value = serde_json::from_slice(&status.body).unwrap_or_default();
            status["sessions"].as_array().map_or(0, Vec::len)
        };
        relays.iter().map(count).sum()
    }

    /// Kills a relay, as a crash does.
    pub fn kill(&mut self, relay: usize) {
        self.relays[relay].process.kill();
    }

    /// Starts a relay again, at the same addresses.
    pub fn restart(&mut self, relay: usize) {
        self.launch(relay);
        self.await_ready(relay);
    }

    /// The same without waiting until it is ready, which it is not without its issuer.
    pub fn launch(&mut self, relay: usize) {
        self.relays[relay].process = start("culvert-relay", &self.relays[relay].folder);
    }

    /// Waits until a relay says that it is ready.
    pub fn await_ready(&mut self, relay: usize) {
        let relay = &mut self.relays[relay];
        until("a relay is ready", || {
            relay.process.assert_running();
            Curl::new(&format!("http://127.0.0.1:{}/readyz", relay.admin))
                .run()
                .status
                == 200
        });
    }

    /// A call of `acme`'s caller to its `vcenter`, by way of one relay.
    pub fn call(&self, relay: usize, path: &str) -> Curl {
        self.call_at(self.relays[relay].public, path)
    }

    /// The same by way of the balancer.
    pub fn call_any(&self, path: &str) -> Curl {
        self.call_at(self.balancer.port(), path)
    }

    fn call_at(&self, port: u16, path: &str) -> Curl {
        Curl::new(&format!("https://vcenter--acme.{DOMAIN}:{port}{path}")).token(caller_token())
    }

    /// Asks a relay's admin listener.
    pub fn admin(&self, relay: usize, path: &str) -> Answer {
        Curl::new(&format!(
            "http://127.0.0.1:{}{path}",
            self.relays[relay].admin
        ))
        .run()
    }

    /// How many sessions a relay has, and how many other nodes have some, of `vcenter`.
    pub fn places(&self, relay: usize) -> (u64, u64) {
        self.places_of(relay, "acme", "vcenter")
    }

    /// The same of another endpoint.
    pub fn places_of(&self, relay: usize, tenant: &str, name: &str) -> (u64, u64) {
        let status = self.admin(relay, "/api/v1/status").json();
        let is_it = |endpoint: &&Value| {
            (&endpoint["tenant"], &endpoint["endpoint"]) == (&tenant.into(), &name.into())
        };
        let endpoint = status["endpoints"].as_array();
        let endpoint = endpoint.and_then(|all| all.iter().find(is_it));
        let number = |key: &str| endpoint.and_then(|endpoint| endpoint[key].as_u64());
        (
            number("sessions").unwrap_or(0),
            number("elsewhere").unwrap_or(0),
        )
    }

    /// Waits until a call gets through every relay.
    pub fn await_endpoint(&self) {
        for relay in 0..self.relays.len() {
            eventually("the endpoint is reachable through every relay", || {
                let answer = self.call(relay, "/forbidden/probe").run();
                (answer.code() == "policy-denied").then_some(())
            });
        }
    }
}

struct Ports {
    public: u16,
    admin: u16,
    peer: u16,
    others_dial: u16,
}

/// Writes `relay.toml` of a node and what it names.
fn configure(folder: &Path, number: usize, ports: &Ports, directory: &str, options: &StackOptions) {
    let Ports {
        peer, others_dial, ..
    } = ports;
    let leaf = world().authority.issue(&[CLUSTER]).expect("a certificate");
    leaf.write(folder, "node").expect("a certificate");
    let ca = world().ca_file();
    let options = options
        .clone()
        .listen(&format!("peer = \"127.0.0.1:{peer}\"\n"))
        .relay(&format!(
            r#"
[directory]
kind = "redis"
lease = "{lease}"
{directory}
[peer]
name = "{CLUSTER}"
certificate = "node.pem"
private_key = "node.key"
ca = "{ca}"
address = "127.0.0.1:{others_dial}"
"#,
            lease = options.lease,
            ca = ca.display()
        ));
    let name = format!("relay-{number}");
    write_relay(folder, &name, ports.public, ports.admin, &options);
}
