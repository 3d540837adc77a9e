//! Relay and agent, with configuration and policy of a test's own.

mod options;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

pub use self::options::{POLICY, StackOptions};
pub(crate) use self::options::{write_agent, write_relay};
use crate::curl::{Answer, Curl};
use crate::issuer::{CALLER, world};
use crate::port;
use crate::process::{Process, program};
use crate::wait::{eventually, until};
use crate::wires::Wires;

/// The relay's domain: the one below which every name is loopback without anybody's DNS.
pub const DOMAIN: &str = "localhost";

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

    /// Writes something else into a file, in place of what must be there.
    pub fn replace(&self, file: &str, from: &str, to: &str) {
        let file = self.file(file);
        let text = std::fs::read_to_string(&file).expect("a file of ours");
        assert!(text.contains(from), "{text}");
        std::fs::write(file, text.replace(from, to)).expect("a file of ours");
    }

    /// Lets operators on other machines ask relay and agent: over TLS, for this token, which lies in
    /// `admin.token`. Gives the agent's port.
    pub fn open_admin(&self, token: &str) -> u16 {
        let agent = port::free();
        culvert_demo::files::write_private(&self.file("admin.token"), token).expect("a token");
        let token = "[admin]\ntoken_file = \"admin.token\"\n\n[tls]";
        self.replace("relay.toml", "[tls]", token);
        self.replace("relay.toml", "admin = \"127.0.0.1", "admin = \"0.0.0.0");
        let beyond = format!(
            "listen = \"[::]:{agent}\"\ncertificate = \"relay.pem\"\nprivate_key = \"relay.key\"\n\
             token_file = \"admin.token\""
        );
        self.replace("agent.toml", "socket = \"admin.sock\"", &beyond);
        agent
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

    /// The same with nothing at `vcenter`'s upstream: for what the programs say of themselves. Their admin
    /// listeners answer.
    pub fn without_upstream() -> Self {
        let mut stack = Self::options()
            .endpoint("vcenter", "https://127.0.0.1:9")
            .without_waiting()
            .start();
        until("the agent's listener answers", || {
            stack.agent.assert_running();
            stack.ask_agent("/healthz").status == 200
        });
        stack
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
