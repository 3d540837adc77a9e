//! Relay and agent, with configuration and policy of a test's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::curl::{Answer, Curl};
use crate::issuer::{AGENT, AUDIENCE, CALLER, world};
use crate::port;
use crate::process::{Process, program};
use crate::wait::{eventually, until};
use crate::wires::Wires;

/// The relay's domain: the one below which every name is loopback without anybody's DNS.
pub const DOMAIN: &str = "localhost";

/// Lets callers of tenant `acme` do anything but what lies under `/forbidden`.
pub const POLICY: &str = r#"
version = 1

[[rule]]
id = "everything-of-acme"
action = "allow"
path = ["/**"]
caller = ["caller-acme"]

[[rule]]
id = "nothing-forbidden"
action = "deny"
path = ["/forbidden/**"]
"#;

/// Names of endpoints that tests use; the relay's certificate has each, for each tenant.
const ENDPOINTS: [&str; 7] = [
    "vcenter",
    "second",
    "down",
    "untrusted",
    "offline",
    "stray",
    "nothing",
];

/// What to start.
#[derive(Debug, Clone)]
pub struct StackOptions {
    endpoints: Vec<(String, String)>,
    settings: String,
    policy: String,
    listen: String,
    tls: String,
    relay: String,
    agent: String,
    link: String,
    client: String,
    pub(crate) lease: String,
    sessions: u8,
    over_wires: bool,
    await_agent: bool,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            settings: String::new(),
            policy: POLICY.to_owned(),
            listen: String::new(),
            tls: String::new(),
            relay: String::new(),
            agent: String::new(),
            link: String::new(),
            client: AGENT.to_owned(),
            lease: "4s".to_owned(),
            sessions: 1,
            over_wires: false,
            await_agent: true,
        }
    }
}

impl StackOptions {
    /// Offers an endpoint.
    pub fn endpoint(mut self, name: &str, upstream: &str) -> Self {
        self.endpoints.push((name.to_owned(), upstream.to_owned()));
        self
    }

    /// Adds lines to each endpoint's table.
    pub fn endpoint_settings(mut self, toml: &str) -> Self {
        self.settings = format!("{toml}\n");
        self
    }

    /// Replaces [`POLICY`].
    pub fn policy(mut self, policy: &str) -> Self {
        self.policy = policy.to_owned();
        self
    }

    /// Adds lines to `relay.toml`'s table of listeners.
    pub fn listen(mut self, toml: &str) -> Self {
        self.listen = toml.to_owned();
        self
    }

    /// Adds lines to `relay.toml`'s table of TLS.
    pub fn tls(mut self, toml: &str) -> Self {
        self.tls = format!("{toml}\n");
        self
    }

    /// Adds tables to the end of `relay.toml`.
    pub fn relay(mut self, toml: &str) -> Self {
        self.relay.push_str(toml);
        self
    }

    /// Adds tables to the end of `agent.toml`.
    pub fn agent(mut self, toml: &str) -> Self {
        self.agent.push_str(toml);
        self
    }

    /// Adds lines to `agent.toml`'s table of the relay.
    pub fn link(mut self, toml: &str) -> Self {
        self.link = format!("{toml}\n");
        self
    }

    /// Who the agent is to the issuer; [`AGENT`] without it.
    pub fn client(mut self, id: &str) -> Self {
        self.client = id.to_owned();
        self
    }

    /// How long what a node of a cluster says counts; 4s without it.
    pub fn lease(mut self, lease: &str) -> Self {
        self.lease = lease.to_owned();
        self
    }

    /// How many sessions the agent keeps.
    pub fn sessions(mut self, count: u8) -> Self {
        self.sessions = count;
        self
    }

    /// Lets the agent reach the relay over [`Wires`].
    pub fn over_wires(mut self) -> Self {
        self.over_wires = true;
        self
    }

    /// Does not wait for the first endpoint to be reachable.
    pub fn without_waiting(mut self) -> Self {
        self.await_agent = false;
        self
    }

    /// Writes the configuration of relay and agent, and starts neither.
    pub fn configure(&self) -> Configured {
        let folder = tempfile::tempdir().expect("a folder");
        let (public, admin) = (port::free(), port::free());
        write_relay(folder.path(), "relay-1", public, admin, self);
        let wires = self.over_wires.then(|| Wires::to(public));
        let dialled = wires.as_ref().map_or(public, Wires::port);
        write_agent(folder.path(), dialled, self);
        Configured {
            folder,
            public,
            admin,
            wires,
        }
    }

    /// Starts relay and agent, and waits until a call reaches the first endpoint.
    pub fn start(self) -> Stack {
        let mut stack = self.configure().into_stack();
        stack.await_ready();
        if self.await_agent
            && let Some((name, _)) = self.endpoints.first()
        {
            stack.await_endpoint(name);
        }
        stack
    }
}

/// Configuration of a relay and an agent: `relay.toml`, `agent.toml`, `policy.toml`.
#[derive(Debug)]
pub struct Configured {
    folder: TempDir,
    /// The relay's port for callers and agents.
    pub public: u16,
    /// The relay's port for its operators.
    pub admin: u16,
    wires: Option<Wires>,
}

impl Configured {
    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `PROGRAM run`, not started yet.
    pub fn command(&self, name: &str) -> Command {
        run_command(name, self.folder.path())
    }

    /// Starts relay and agent, and waits until a call reaches `vcenter`.
    pub fn run(self) -> Stack {
        let mut stack = self.into_stack();
        stack.await_ready();
        stack.await_endpoint("vcenter");
        stack
    }

    /// Starts relay and agent with clocks that are off by so many seconds. Waits for neither.
    pub fn with_clocks(self, relay: i32, agent: i32) -> Stack {
        let start = |name: &str, off: i32| {
            let mut command = shifted(self.command(name), off);
            Process::start(name, self.folder.path(), &mut command)
        };
        Stack {
            relay: start("culvert-relay", relay),
            agent: start("culvert-agent", agent),
            public: self.public,
            admin: self.admin,
            wires: self.wires,
            folder: self.folder,
        }
    }

    fn into_stack(self) -> Stack {
        Stack {
            relay: start("culvert-relay", self.folder.path()),
            agent: start("culvert-agent", self.folder.path()),
            public: self.public,
            admin: self.admin,
            wires: self.wires,
            folder: self.folder,
        }
    }

    /// Starts a program.
    pub fn start(&self, name: &str) -> Process {
        Process::start(name, self.folder.path(), &mut self.command(name))
    }
}

/// A running relay and agent. Dropped, both are killed.
#[derive(Debug)]
pub struct Stack {
    /// The relay.
    pub relay: Process,
    /// The agent.
    pub agent: Process,
    /// The relay's port for callers and agents.
    pub public: u16,
    /// The relay's port for its operators.
    pub admin: u16,
    wires: Option<Wires>,
    folder: TempDir,
}

impl Stack {
    /// Relay and agent, the latter offering `vcenter` at `upstream`, reachable.
    pub fn start(upstream: &str) -> Self {
        Self::options().endpoint("vcenter", upstream).start()
    }

    /// Says what to start.
    pub fn options() -> StackOptions {
        StackOptions::default()
    }

    /// The URL of `path` on an endpoint of a tenant.
    pub fn url_of(&self, tenant: &str, endpoint: &str, path: &str) -> String {
        format!(
            "https://{endpoint}--{tenant}.{DOMAIN}:{}{path}",
            self.public
        )
    }

    /// The URL of `path` on `acme`'s `vcenter`.
    pub fn url(&self, path: &str) -> String {
        self.url_of("acme", "vcenter", path)
    }

    /// A call to `acme`'s `vcenter` by a caller who may.
    pub fn call(&self, path: &str) -> Curl {
        Curl::new(&self.url(path)).token(caller_token())
    }

    /// A call to an endpoint of `acme` by a caller who may.
    pub fn call_endpoint(&self, endpoint: &str, path: &str) -> Curl {
        Curl::new(&self.url_of("acme", endpoint, path)).token(caller_token())
    }

    /// Asks the relay's admin listener.
    pub fn admin(&self, path: &str) -> Answer {
        Curl::new(&format!("http://127.0.0.1:{}{path}", self.admin)).run()
    }

    /// Asks the agent's admin listener.
    pub fn ask_agent(&self, path: &str) -> Answer {
        let socket = self.file("admin.sock");
        Curl::new(&format!("http://localhost{path}"))
            .args(["--unix-socket", socket.to_str().expect("UTF-8")])
            .run()
    }

    /// What the agent says of itself.
    pub fn status(&self) -> serde_json::Value {
        self.ask_agent("/api/v1/status").json()
    }

    /// A file of this stack's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the relay says that it is ready.
    pub fn await_ready(&mut self) {
        until("the relay is ready", || {
            self.relay.assert_running();
            self.admin("/readyz").status == 200
        });
    }

    /// Waits until the relay has a session for an endpoint of `acme`.
    pub fn await_endpoint(&mut self, endpoint: &str) {
        let what = format!("endpoint {endpoint} is reachable");
        eventually(&what, || {
            self.relay.assert_running();
            self.agent.assert_running();
            let answer = self.call_endpoint(endpoint, "/forbidden/probe").run();
            // The agent's own refusal: nothing reaches the upstream while we wait.
            (answer.code() == "policy-denied").then_some(())
        });
    }

    /// What lies between agent and relay, of a stack that was started over it.
    pub fn wires(&self) -> &Wires {
        self.wires.as_ref().expect("it was started over wires")
    }

    /// Kills the relay, as a crash does.
    pub fn kill_relay(&mut self) {
        self.relay.kill();
    }

    /// Starts the relay again, at the same address.
    pub fn restart_relay(&mut self) {
        self.relay = start("culvert-relay", self.folder.path());
        self.await_ready();
    }

    /// Starts the agent again.
    pub fn restart_agent(&mut self) {
        self.agent = start("culvert-agent", self.folder.path());
    }
}

/// One token for all calls that need nothing special.
pub fn caller_token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| world().token(CALLER))
}

/// Starts `NAME run` with the configuration in a folder.
pub(crate) fn start(name: &str, folder: &Path) -> Process {
    Process::start(name, folder, &mut run_command(name, folder))
}

/// `culvert-relay run --config FOLDER/relay.toml`, or the agent's.
fn run_command(name: &str, folder: &Path) -> Command {
    let config = format!("{}.toml", name.trim_start_matches("culvert-"));
    let mut command = Command::new(program(name));
    command.arg("run").arg("--config").arg(folder.join(config));
    command.env(
        "RUST_LOG",
        std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()),
    );
    command
}

/// The same program with a wall clock that is off by so many seconds; how time passes is as it is.
/// `faketime` would stay in between, and the program outlive it: it only says where its library is.
fn shifted(mut command: Command, off: i32) -> Command {
    let output = Command::new("faketime")
        .args(["-m", "-f", "+0s", "printenv", "LD_PRELOAD"])
        .output()
        .expect("faketime is installed");
    let library = String::from_utf8(output.stdout).expect("a path");
    command
        .env("LD_PRELOAD", library.trim())
        .env("FAKETIME", format!("{off:+}s"))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    command
}

/// Runs a program to its end, as a user who tries its command line.
pub fn run(name: &str, arguments: &[&str]) -> Output {
    Command::new(program(name))
        .args(arguments)
        .output()
        .expect("it is built")
}

/// Writes `relay.toml` and what it names.
pub(crate) fn write_relay(
    folder: &Path,
    node: &str,
    public: u16,
    admin: u16,
    options: &StackOptions,
) {
    let (listen, tls, more) = (&options.listen, &options.tls, &options.relay);
    let mut names = vec![DOMAIN.to_owned(), "127.0.0.1".to_owned()];
    for tenant in ["acme", "globex"] {
        names.extend(ENDPOINTS.map(|endpoint| format!("{endpoint}--{tenant}.{DOMAIN}")));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let leaf = world().authority.issue(&names).expect("a certificate");
    leaf.write(folder, "relay").expect("a certificate");
    let (issuer, ca) = (&world().issuer, world().ca_file());
    let relay = format!(
        r#"domain = "{DOMAIN}"
node = "{node}"

[listen]
public = "127.0.0.1:{public}"
admin = "127.0.0.1:{admin}"
{listen}
[tls]
certificate = "relay.pem"
private_key = "relay.key"
{tls}
[[issuer]]
url = "{issuer}"
audience = "{AUDIENCE}"
algorithms = ["ES256"]
ca = "{ca}"
{more}"#,
        ca = ca.display(),
    );
    std::fs::write(folder.join("relay.toml"), relay).expect("relay.toml");
}

/// Writes `agent.toml` and what it names.
pub(crate) fn write_agent(folder: &Path, public: u16, options: &StackOptions) {
    let (issuer, ca) = (&world().issuer, world().ca_file());
    let ca = ca.display();
    let endpoints: String = options
        .endpoints
        .iter()
        .map(|(name, upstream)| {
            let trust = match upstream.starts_with("https:") {
                true => format!("ca = \"{ca}\"\n"),
                false => String::new(),
            };
            format!(
                "[[endpoint]]\nname = \"{name}\"\nupstream = \"{upstream}\"\n{trust}{}\n",
                options.settings
            )
        })
        .collect();
    let agent = format!(
        r#"[relay]
url = "wss://{DOMAIN}:{public}"
sessions = {sessions}
{link}ca = "{ca}"

[oauth]
grant = "client_credentials"
issuer = "{issuer}"
client_id = "{client}"
client_secret_file = "secret"
audience = "{AUDIENCE}"
scope = "culvert:register"
ca = "{ca}"

{endpoints}[policy]
file = "policy.toml"

[admin]
socket = "admin.sock"
{more}"#,
        client = options.client,
        sessions = options.sessions,
        link = options.link,
        more = options.agent,
    );
    std::fs::write(folder.join("agent.toml"), agent).expect("agent.toml");
    std::fs::write(folder.join("policy.toml"), &options.policy).expect("policy.toml");
    culvert_demo::files::write_private(&folder.join("secret"), world().secret()).expect("secret");
}
