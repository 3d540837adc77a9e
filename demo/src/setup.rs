//! The demo's private folder: certificates, clients, and the configuration of relay and agent.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::certs::Authority;
use crate::failure::{Doing, Failure, Result};
use crate::files;
use crate::issuer::{AUDIENCE, Client};
use crate::port;

/// The relay's domain. `localhost` needs no DNS for the agent, and curl and browsers take every
/// name below it for loopback.
pub const DOMAIN: &str = "localhost";
/// The endpoint that the demo's agent offers.
pub const ENDPOINT: &str = "vcenter";
/// The tenant that owns it.
pub const TENANT: &str = "acme";
/// Another tenant, whose callers must not reach it.
pub const OTHER_TENANT: &str = "globex";

/// A tenant that does not exist.
pub const NO_TENANT: &str = "initech";
/// The caller of the tenant.
pub const CALLER: &str = "director-7";
/// The caller of the other tenant.
pub const OTHER_CALLER: &str = "director-9";
/// The agent's client id.
pub const AGENT: &str = "sddc-fra-1";

/// The port that callers see, if it is free.
const PREFERRED_PORT: u16 = 8443;

/// Everything on disk that a run needs.
#[derive(Debug)]
pub struct Setup {
    /// The private folder.
    pub folder: PathBuf,
    /// The authority's certificate, PEM.
    pub authority: String,
    /// Whether the authority was made in this run.
    pub new_authority: bool,
    /// The issuer's clients, with secrets of this run.
    pub clients: Vec<Client>,
    /// The relay's public port.
    pub public: u16,
    /// The relay's admin port.
    pub admin: u16,
    /// Held as long as the folder is ours.
    _lock: File,
}

/// What is a relay's own in its configuration.
pub(crate) struct Node<'a> {
    pub(crate) name: &'a str,
    pub(crate) public: u16,
    pub(crate) admin: u16,
    /// Further lines of `[listen]`.
    pub(crate) listen: &'a str,
    /// Further tables.
    pub(crate) tables: &'a str,
}

impl Setup {
    /// Makes the folder, the certificates and the clients. `port`: the public port, if the user
    /// wants a certain one.
    pub fn prepare(folder: &Path, port: Option<u16>) -> Result<Self> {
        files::private_folder(folder)?;
        let lock = take(folder)?;
        let (authority, new_authority) = Authority::load_or_generate(folder)?;
        let host = |tenant: &str| format!("{ENDPOINT}--{tenant}.{DOMAIN}");
        let relay_names = [
            DOMAIN,
            &host(TENANT),
            &host(OTHER_TENANT),
            &host(NO_TENANT),
            "127.0.0.1",
            "::1",
        ];
        authority.issue(&relay_names)?.write(folder, "relay")?;
        authority
            .issue(&["localhost", "127.0.0.1"])?
            .write(folder, "issuer")?;
        authority
            .issue(&["localhost", "127.0.0.1"])?
            .write(folder, "sddc")?;

        let clients = clients();
        let json = serde_json::to_vec_pretty(&clients).doing(|| "cannot write clients")?;
        files::write_private(&folder.join("clients.json"), json)?;
        files::write_private(&folder.join("agent.secret"), &clients[0].secret)?;

        let public = match port {
            Some(port) => port,
            None if port::is_free(PREFERRED_PORT) => PREFERRED_PORT,
            None => port::free()?,
        };
        Ok(Self {
            folder: folder.to_owned(),
            authority: authority.pem().to_owned(),
            new_authority,
            clients,
            public,
            admin: port::free()?,
            _lock: lock,
        })
    }

    /// Writes the configuration of relay and agent, now that issuer and API have addresses.
    pub fn configure(&self, issuer: &str, sddc: &str) -> Result<()> {
        let relay = Node {
            name: "demo",
            public: self.public,
            admin: self.admin,
            listen: "",
            tables: "",
        };
        self.write_relay("relay.toml", issuer, &relay)?;
        self.write_agent("agent.toml", issuer, sddc, 1)?;
        files::write(&self.folder.join("policy.toml"), POLICY)
    }

    /// Writes the configuration of a relay.
    pub(crate) fn write_relay(&self, file: &str, issuer: &str, node: &Node<'_>) -> Result<()> {
        let Node {
            name,
            public,
            admin,
            listen,
            tables,
        } = node;
        let relay = format!(
            r#"# Made by culvert-demo; made anew at every start.
domain = "{DOMAIN}"
node = "{name}"

[listen]
public = "127.0.0.1:{public}"
admin = "127.0.0.1:{admin}"
{listen}
[tls]
certificate = "relay.pem"
private_key = "relay.key"

[[issuer]]
url = "{issuer}"
audience = "{AUDIENCE}"
algorithms = ["ES256"]
ca = "ca.pem"
{tables}"#
        );
        files::write(&self.folder.join(file), relay)
    }

    /// Writes the configuration of an agent that dials the public port.
    pub(crate) fn write_agent(
        &self,
        file: &str,
        issuer: &str,
        sddc: &str,
        sessions: u8,
    ) -> Result<()> {
        let public = self.public;
        let agent = format!(
            r#"# Made by culvert-demo; made anew at every start.
[relay]
url = "wss://{DOMAIN}:{public}"
sessions = {sessions}
ca = "ca.pem"

[oauth]
grant = "client_credentials"
issuer = "{issuer}"
client_id = "{AGENT}"
client_secret_file = "agent.secret"
audience = "{AUDIENCE}"
scope = "culvert:register"
ca = "ca.pem"

[[endpoint]]
name = "{ENDPOINT}"
upstream = "{sddc}"
ca = "ca.pem"

[policy]
file = "policy.toml"
"#
        );
        files::write(&self.folder.join(file), agent)
    }

    /// The address of `path` on the endpoint of `tenant`.
    pub fn url(&self, tenant: &str, path: &str) -> String {
        format!(
            "https://{ENDPOINT}--{tenant}.{DOMAIN}:{}{path}",
            self.public
        )
    }
}

/// What the demo's agent allows. Nothing else passes.
pub(crate) const POLICY: &str = r#"# Made by culvert-demo; made anew at every start.
version = 1
reveal_rule = true      # tell refused callers which rule it was

[[rule]]
id = "sign-in"
action = "allow"
endpoint = ["vcenter"]
method = ["POST"]
path = ["/api/session"]
caller = ["director-*"]

[[rule]]
id = "read-inventory"
action = "allow"
endpoint = ["vcenter"]
method = ["GET", "HEAD"]
path = ["/api/vcenter/**"]
caller = ["director-*"]

[[rule]]
id = "read-images"
action = "allow"
endpoint = ["vcenter"]
method = ["GET"]
path = ["/folder/*"]
caller = ["director-*"]

[[rule]]
id = "never-switch-power"
action = "deny"         # deny wins over allow
path = ["/api/vcenter/vm/*/power"]

[[test]]
name = "the inventory can be read"
call = { endpoint = "vcenter", method = "GET", path = "/api/vcenter/vm", caller = "director-7" }
expect = "allow"

[[test]]
name = "nobody switches a virtual machine off"
call = { endpoint = "vcenter", method = "POST", path = "/api/vcenter/vm/vm-11/power", caller = "director-7" }
expect = "deny"
"#;

/// One agent and two callers; the agent first.
fn clients() -> Vec<Client> {
    let client = |id: &str, tenant: &str, endpoints: &[&str], scope: &str| Client {
        id: id.into(),
        secret: format!("{:032x}", fastrand::u128(..)),
        tenant: tenant.into(),
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        scopes: vec![scope.into()],
    };
    vec![
        client(AGENT, TENANT, &[ENDPOINT], "culvert:register"),
        client(CALLER, TENANT, &[], "culvert:call"),
        client(OTHER_CALLER, OTHER_TENANT, &[], "culvert:call"),
    ]
}

/// Takes the folder for this run alone.
fn take(folder: &Path) -> Result<File> {
    let lock = File::create(folder.join("lock")).doing(|| "cannot write in the state folder")?;
    lock.try_lock().map_err(|_| {
        Failure::new(format!(
            "another demo runs with {}; end it, or give this one a folder of its own: --state DIR",
            folder.display()
        ))
    })?;
    Ok(lock)
}

/// Where a run keeps its files: `certs-dev/demo` of the workspace under `cargo run`, else the
/// user's state folder.
pub fn default_folder() -> Result<PathBuf> {
    if let Some(package) = std::env::var_os("CARGO_MANIFEST_DIR") {
        let workspace = Path::new(&package).join("..");
        let workspace = workspace
            .canonicalize()
            .doing(|| "cannot find the workspace")?;
        return Ok(workspace.join("certs-dev").join("demo"));
    }
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| {
            std::env::var_os("HOME").map(|home| Path::new(&home).join(".local").join("state"))
        });
    let none = || Failure::new("neither XDG_STATE_HOME nor HOME is set; give --state DIR");
    Ok(state.ok_or_else(none)?.join("culvert-demo"))
}
