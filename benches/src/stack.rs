//! A complete installation, each part its own process: an nginx as upstream, and in front of it
//! once relay and agent, once two more nginx in a row, TLS on every hop. Everything is on
//! loopback, or agent and upstream are at the far side of a [`Lab`].

mod cluster;
mod config;
mod files;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;

use self::cluster::Cluster;
pub use self::cluster::MOST as MOST_RELAYS;
use self::config::Addresses;
pub use self::files::FILES;
use crate::lab::Lab;
use crate::link::{Line, Link};
use crate::load::{self, CULVERT_AUTHORIZATION, Failure, Proxy, Target};
use crate::process;
use crate::sink;
use crate::token;

/// The relay's domain where everything is on loopback.
const LOCAL_DOMAIN: &str = "localhost";

/// The relay's domain in a lab, whose far side knows it by this name.
pub const LAB_DOMAIN: &str = "relay.bench";

/// What lies between agent and relay, and between the two nginx.
#[derive(Debug, Clone, Copy, Default)]
pub enum Between<'a> {
    /// Nothing: they are neighbours.
    #[default]
    Nothing,
    /// A forwarder of byte streams.
    Line(Line),
    /// A network of packets.
    Lab(&'a Lab),
}

/// What differs from one installation to another.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings<'a> {
    /// What lies between agent and relay.
    pub between: Between<'a>,
    /// Connections per session; 0 and 1: the agent's default.
    pub lanes: u8,
    /// Agent sessions that the relay takes; `None`: its default.
    pub sessions: Option<usize>,
    /// Tables of the relay's configuration that give tenants quotas.
    pub quotas: &'a str,
    /// What answers.
    pub upstream: Upstream,
    /// Whether the way through nginx and nginx is not there.
    pub without_nginx: bool,
    /// Relays, at most [`MOST_RELAYS`]: 0 and 1 are one. The agent is with the first one.
    pub relays: usize,
}

/// What answers the calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Upstream {
    /// An nginx that serves files, and takes uploads into this process.
    #[default]
    Nginx,
    /// [`upstream`](crate::upstream), a process of this program.
    Own,
}

impl Settings<'_> {
    fn lab(&self) -> Option<&Lab> {
        match self.between {
            Between::Lab(lab) => Some(lab),
            Between::Nothing | Between::Line(_) => None,
        }
    }

    fn domain(&self) -> &'static str {
        if self.lab().is_some() {
            LAB_DOMAIN
        } else {
            LOCAL_DOMAIN
        }
    }

    /// The addresses of the relay's side and of the agent's.
    fn sides(&self) -> [IpAddr; 2] {
        let loopback = Ipv4Addr::LOCALHOST;
        self.lab()
            .map_or([loopback; 2], |lab| [lab.near(), lab.far()])
            .map(IpAddr::V4)
    }

    /// A listener on loopback of the agent's side.
    fn listen_far(&self) -> Result<TcpListener, Failure> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok(match self.lab() {
            Some(lab) => lab.listen_far(any)?,
            None => TcpListener::bind(any)?,
        })
    }

    /// A program at the agent's side.
    fn far_command(&self, program: &Path) -> Command {
        self.lab()
            .map_or_else(|| Command::new(program), |lab| lab.command(program))
    }
}

/// A running installation. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Stack {
    programs: PathBuf,
    folder: TempDir,
    children: Vec<(&'static str, Child)>,
    /// The line between agent and relay, where there is one, and the same between the nginx.
    pub links: Option<[Link; 2]>,
    /// The way through relay and agent.
    pub culvert: Target,
    /// The same by CONNECT, under the upstream's own name: to both of them it is bytes.
    pub bytes: Target,
    /// The way through another relay, which passes calls on to the agent's: where there is one.
    pub hop: Option<Target>,
    /// The way through nginx and nginx.
    pub nginx: Target,
    /// Bytes that arrived at the upstream's `/sink`, by either way.
    pub uploaded: Arc<AtomicU64>,
    /// The issuer's key: for further agents and callers.
    pub keys: token::Keys,
    /// The authority of every certificate.
    pub ca: CertificateDer<'static>,
}

impl Stack {
    /// Brings everything up; `programs` is the folder of `culvert-relay` and `culvert-agent`.
    pub async fn start(programs: &Path, settings: &Settings<'_>) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let ca = files::certificates(folder.path(), settings.domain())?;
        files::serve_files(folder.path())?;
        let keys = token::Keys::new()?;
        fs::write(folder.path().join("keys.json"), keys.jwks())?;

        let token = keys.sign("bench", "agent", "culvert:register")?;
        let (sink, issuer) = (settings.listen_far()?, settings.listen_far()?);
        let [near, far] = settings.sides();
        let [public, admin, edge, inner, upstream] = free_ports()?;
        let at = Addresses {
            public: SocketAddr::new(near, public),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, admin)),
            edge: SocketAddr::new(near, edge),
            inner: SocketAddr::new(far, inner),
            upstream: SocketAddr::from((Ipv4Addr::LOCALHOST, upstream)),
            sink: sink.local_addr()?,
            issuer: issuer.local_addr()?,
        };
        let uploaded = sink::serve(sink)?;
        token::serve(issuer, token)?;
        let links = match settings.between {
            Between::Line(line) => {
                Some([Link::start(at.public, line)?, Link::start(at.inner, line)?])
            }
            Between::Nothing | Between::Lab(_) => None,
        };
        let [dial, next] = match &links {
            Some(links) => links.each_ref().map(Link::address),
            None => [at.public, at.inner],
        };
        let cluster = Cluster::of(settings.relays, near)?;
        config::write(folder.path(), &at, dial.port(), cluster.as_ref(), settings)?;

        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {}", keys.sign("bench", "caller", "culvert:call")?);
        let mut bearer = HeaderValue::from_str(&bearer)?;
        // Not marked as sensitive: HTTP/2 would not index it, as it does for most callers.
        headers.insert(CULVERT_AUTHORIZATION, bearer.clone());
        bearer.set_sensitive(true);
        let tls = files::client_tls(&ca)?;
        let target = |address, host, headers| Target {
            address,
            host,
            headers,
            tls: tls.clone(),
            proxy: None,
        };
        let bytes = Target {
            proxy: Some(Proxy {
                name: settings.domain().to_owned(),
                credential: bearer,
            }),
            ..target(at.public, config::NAME.to_owned(), HeaderMap::new())
        };
        let host = format!("api--bench.{}", settings.domain());
        let hop = cluster.as_ref().and_then(|cluster| cluster.others.first());
        let hop = hop.map(|node| target(node.public, host.clone(), headers.clone()));
        let mut stack = Self {
            programs: programs.to_owned(),
            folder,
            children: Vec::new(),
            links,
            culvert: target(at.public, host, headers),
            bytes,
            hop,
            nginx: target(at.edge, LOCAL_DOMAIN.to_owned(), HeaderMap::new()),
            uploaded,
            keys,
            ca,
        };
        let nginx = Path::new("nginx");
        let at_far_side = || settings.far_command(nginx);
        match settings.upstream {
            Upstream::Nginx => {
                stack.nginx("upstream", at_far_side(), &config::upstream(&at))?;
            }
            Upstream::Own => {
                let own = std::env::current_exe()?;
                stack.own_upstream(settings.far_command(&own), at.upstream)?;
            }
        }
        if !settings.without_nginx {
            stack.nginx(
                "inner",
                at_far_side(),
                &config::proxy(at.inner, at.upstream),
            )?;
            stack.nginx("edge", Command::new(nginx), &config::proxy(at.edge, next))?;
        }
        if let Some(cluster) = &cluster {
            let registry = cluster.registry(stack.folder.path());
            stack
                .spawn("registry", registry)
                .map_err(|error| format!("redis-server (Debian package redis-server): {error}"))?;
        }
        stack.start_relay()?;
        for node in cluster.iter().flat_map(|cluster| &cluster.others) {
            stack.program(node.name, Command::new(programs.join("culvert-relay")))?;
        }
        let agent = settings.far_command(&programs.join("culvert-agent"));
        stack.program("agent", agent)?;
        if !settings.without_nginx {
            stack.wait(&stack.nginx.clone()).await?;
        }
        stack.wait(&stack.culvert.clone()).await?;
        if let Some(hop) = stack.hop.clone() {
            stack.wait(&hop).await?;
        }
        Ok(stack)
    }

    fn nginx(
        &mut self,
        name: &'static str,
        mut command: Command,
        servers: &str,
    ) -> Result<(), Failure> {
        let path = self.folder.path().join(format!("{name}.conf"));
        fs::write(&path, config::nginx(name, servers))?;
        command.arg("-p").arg(self.folder.path());
        command.arg("-c").arg(path);
        self.spawn(name, command)
            .map_err(|error| format!("nginx (Debian package nginx-core): {error}").into())
    }

    /// This program as the upstream.
    fn own_upstream(&mut self, mut command: Command, at: SocketAddr) -> Result<(), Failure> {
        command.args(["upstream", "--listen", &at.to_string()]);
        command
            .arg("--certificate")
            .arg(self.folder.path().join("server.pem"));
        command
            .arg("--private-key")
            .arg(self.folder.path().join("server.key"));
        self.spawn("upstream", command)
            .map_err(|error| format!("culvert-bench upstream: {error}").into())
    }

    /// Ends the relay as a crash does (SIGKILL).
    pub fn kill_relay(&mut self) -> Result<(), Failure> {
        for (_, child) in self
            .children
            .iter_mut()
            .filter(|(name, _)| *name == "relay")
        {
            child.kill()?;
            child.wait()?;
        }
        self.children.retain(|(name, _)| *name != "relay");
        Ok(())
    }

    /// Starts the relay again, at the addresses that it had; does not wait for it.
    pub fn start_relay(&mut self) -> Result<(), Failure> {
        self.program("relay", Command::new(self.programs.join("culvert-relay")))
    }

    fn program(&mut self, name: &'static str, mut command: Command) -> Result<(), Failure> {
        let level = std::env::var("RUST_LOG").unwrap_or("info".into());
        command.args(["run", "--config"]);
        command.arg(self.folder.path().join(format!("{name}.toml")));
        command.env("RUST_LOG", level);
        self.spawn(name, command)
            .map_err(|error| format!("culvert-{name}: {error}").into())
    }

    /// Starts one part; what it says goes to its log.
    fn spawn(&mut self, name: &'static str, mut command: Command) -> Result<(), Failure> {
        let log = fs::File::create(self.folder.path().join(format!("{name}.log")))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in a terminal is for this program: the parts go when it has measured.
            .process_group(0)
            .spawn()?;
        self.children.push((name, child));
        Ok(())
    }

    /// Waits until a call works; a stack that is not up within 20 s is broken, and so is one of
    /// which a part has ended.
    async fn wait(&mut self, target: &Target) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let Err(error) = load::once(target).await else {
                return Ok(());
            };
            let logs = self.logs();
            for (name, child) in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    return Err(format!("{name} ended with {status}:\n{logs}").into());
                }
            }
            if Instant::now() > deadline {
                return Err(format!("{}: {error}\n{logs}", target.host).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What relay and agent have said.
    fn logs(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        ["relay.log", "agent.log"].map(read).join("\n")
    }

    /// The process ids behind some names: `relay`, `agent`, `edge`, `inner`, `upstream`.
    pub fn pids(&self, names: &[&str]) -> Vec<u32> {
        self.children
            .iter()
            .filter(|(name, _)| names.contains(name))
            .flat_map(|(_, child)| {
                let mut pids = process::children(child.id());
                pids.push(child.id());
                pids
            })
            .collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // An nginx master takes its workers with it only when it is asked, not killed.
            let pid = child.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &pid]).status();
        }
        for (_, child) in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// Ports that are free, below those that Linux gives to outgoing connections (32768 and above): none of
/// these takes one before its server does.
fn free_ports<const N: usize>() -> Result<[u16; N], Failure> {
    let listeners: Vec<_> = (0..1000)
        .map(|_| TcpListener::bind(("127.0.0.1", fastrand::u16(12_000..32_000))))
        .filter_map(Result::ok)
        .take(N)
        .collect();
    let ports: Vec<_> = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?;
    ports.try_into().map_err(|_| "no free ports".into())
}

/// Where relay and agent are: in this folder, or else where `cargo build` puts them, beside this program.
pub fn programs(folder: Option<&Path>) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let folder = folder.or(own.parent());
    let folder = folder.ok_or("this program lies in no folder")?;
    for program in ["culvert-relay", "culvert-agent"] {
        if !folder.join(program).exists() {
            return Err(format!(
                "{program} is not in {}; build it with the same profile (cargo build --release), or say \
                 where it is: --programs FOLDER",
                folder.display()
            )
            .into());
        }
    }
    Ok(folder.to_owned())
}
