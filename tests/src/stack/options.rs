//! What a stack is configured with, and the files that say so.

use std::path::Path;

use super::{Configured, DOMAIN, Stack};
use crate::issuer::{AGENT, AUDIENCE, world};
use crate::port;
use crate::wires::Wires;

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
