//! Real Redis servers, of folders of their own, that keep nothing: one, or the ways in which several
//! are run.
//!
//! | engine | is |
//! |---|---|
//! | [`Redis`] | one server; [`Redis::guarded`]: over TLS, for a user that may do only what it must |
//! | [`Sentinels`] | a primary, its replica, and three Sentinels that change them |
//! | [`Shards`] | a Redis Cluster of three primaries |

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::issuer::world;
use crate::port;
use crate::process::Process;
use crate::wait::until;

/// What relays use as their registry.
pub trait Engine {
    /// The lines of a relay's table `[directory]`, but for `kind` and `lease`.
    fn directory(&self) -> String;
}

/// A running server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    folder: TempDir,
    options: Vec<String>,
    guarded: bool,
}

/// The user of a [`Redis::guarded`] server, and the password.
const USER: (&str, &str) = ("culvert", "a-password-of-tests");

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with further options of the command line.
    pub fn with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = port::free();
        let given = ["--port", &port.to_string()].map(str::to_owned);
        let options = given
            .into_iter()
            .chain(options.iter().map(ToString::to_string));
        Self::launched(folder, port, options.collect(), false)
    }

    /// Starts one that speaks TLS only, to a user with these rights only: what `docs/scaling.md` says
    /// that relays need.
    pub fn guarded(rights: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = port::free();
        let leaf = world()
            .authority
            .issue(&["localhost"])
            .expect("a certificate");
        leaf.write(folder.path(), "redis").expect("a certificate");
        let (user, password) = USER;
        let users = format!("user default off\nuser {user} on >{password} {rights}\n");
        std::fs::write(folder.path().join("users.acl"), users).expect("a list of users");
        let file = |name: &str| folder.path().join(name).display().to_string();
        culvert_demo::files::write_private(&folder.path().join("password"), password)
            .expect("a password");
        let options = [
            ["--port", "0"].map(str::to_owned),
            ["--tls-port".to_owned(), port.to_string()],
            ["--tls-cert-file".to_owned(), file("redis.pem")],
            ["--tls-key-file".to_owned(), file("redis.key")],
            [
                "--tls-ca-cert-file".to_owned(),
                world().ca_file().display().to_string(),
            ],
            ["--tls-auth-clients", "no"].map(str::to_owned),
            ["--aclfile".to_owned(), file("users.acl")],
        ];
        Self::launched(folder, port, options.concat(), true)
    }

    fn launched(folder: TempDir, port: u16, options: Vec<String>, guarded: bool) -> Self {
        let mut redis = Self {
            process: launch(folder.path(), &options),
            port,
            folder,
            options,
            guarded,
        };
        redis.await_listening();
        redis
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        match self.guarded {
            true => format!("rediss://localhost:{}", self.port),
            false => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Everything that it has written.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it at once, with everything that it knew.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, knowing nothing.
    pub fn restart(&mut self) {
        self.process = launch(self.folder.path(), &self.options);
        self.await_listening();
    }

    /// Lets it stand still: connections stay, nobody answers.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// What a command gives, as text.
    pub fn command(&self, words: &[&str]) -> String {
        command(self.port, words)
    }

    fn await_listening(&mut self) {
        until("redis listens", || {
            self.process.assert_running();
            port::answers(self.port)
        });
    }
}

impl Engine for Redis {
    fn directory(&self) -> String {
        let url = self.url();
        if !self.guarded {
            return format!("url = \"{url}\"\n");
        }
        let (password, ca) = (self.folder.path().join("password"), world().ca_file());
        format!(
            "url = \"{url}\"\nusername = \"{}\"\npassword_file = \"{}\"\nca = \"{}\"\n",
            USER.0,
            password.display(),
            ca.display()
        )
    }
}

/// The name under which [`Sentinels`] watch the primary.
const PRIMARY: &str = "relays";

/// A primary and its replica under three Sentinels.
#[derive(Debug)]
pub struct Sentinels {
    /// The primary at first.
    pub primary: Redis,
    /// Its replica.
    pub replica: Redis,
    watchers: Vec<(Process, u16)>,
    _folder: TempDir,
}

impl Sentinels {
    /// Starts all, and waits until the Sentinels know each other and the replica.
    pub fn start() -> Self {
        let primary = Redis::with(&["--repl-diskless-sync-delay", "0"]);
        let port = primary.port();
        let replica = Redis::with(&["--replicaof", &format!("127.0.0.1 {port}")]);
        let folder = tempfile::tempdir().expect("a folder");
        let mut watchers = Vec::new();
        for number in 0..3 {
            let own = port::free();
            let file = folder.path().join(format!("sentinel-{number}.conf"));
            let config = format!(
                "port {own}\nbind 127.0.0.1\n\
                 sentinel monitor {PRIMARY} 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds {PRIMARY} 1000\n\
                 sentinel failover-timeout {PRIMARY} 5000\n"
            );
            std::fs::write(&file, config).expect("a configuration");
            let mut command = Command::new("redis-server");
            command.arg(&file).arg("--sentinel");
            let name = format!("sentinel-{number}");
            watchers.push((Process::start(&name, folder.path(), &mut command), own));
        }
        let sentinels = Self {
            primary,
            replica,
            watchers,
            _folder: folder,
        };
        until("the Sentinels can decide and know the replica", || {
            sentinels.watchers.iter().all(|(_, port)| {
                let asked = |words: &[&str]| command(*port, words);
                asked(&["SENTINEL", "CKQUORUM", PRIMARY]).starts_with("OK 3")
                    && asked(&["SENTINEL", "REPLICAS", PRIMARY])
                        .contains(&sentinels.replica.port().to_string())
            })
        });
        sentinels
    }

    /// Whether the replica has become the primary.
    pub fn has_changed(&self) -> bool {
        self.replica.command(&["ROLE"]).starts_with("master")
    }
}

impl Engine for Sentinels {
    fn directory(&self) -> String {
        let urls = self.watchers.iter();
        let urls: Vec<_> = urls
            .map(|(_, port)| format!("\"redis://127.0.0.1:{port}\""))
            .collect();
        format!("url = [{}]\nsentinel = \"{PRIMARY}\"\n", urls.join(", "))
    }
}

/// A Redis Cluster of three primaries.
#[derive(Debug)]
pub struct Shards {
    /// The servers.
    pub servers: Vec<Redis>,
}

impl Shards {
    /// Starts three servers and makes them one Cluster.
    pub fn start() -> Self {
        let one = || {
            // The usual one, 10000 above the other, may be somebody's.
            let bus = port::free().to_string();
            Redis::with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-config-file",
                "nodes.conf",
                "--cluster-node-timeout",
                "2000",
            ])
        };
        let servers: Vec<_> = (0..3).map(|_| one()).collect();
        let addresses = servers
            .iter()
            .map(|server| format!("127.0.0.1:{}", server.port()));
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .arg("--cluster-yes")
            .output()
            .expect("redis-cli is installed");
        assert!(made.status.success(), "{made:?}");
        until("the Cluster is whole", || {
            servers.iter().all(|server| {
                server
                    .command(&["CLUSTER", "INFO"])
                    .contains("cluster_state:ok")
            })
        });
        Self { servers }
    }
}

impl Engine for Shards {
    fn directory(&self) -> String {
        // Two of three: the others are found.
        let urls = self.servers.iter().take(2).map(Redis::url);
        let urls: Vec<_> = urls.map(|url| format!("\"{url}\"")).collect();
        format!("url = [{}]\ncluster = true\n", urls.join(", "))
    }
}

fn command(port: u16, words: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(words)
        .output()
        .expect("redis-cli is installed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn launch(folder: &Path, options: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder)
        .args(options);
    Process::start("redis", folder, &mut command)
}
