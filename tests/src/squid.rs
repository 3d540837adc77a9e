//! A real corporate proxy: squid, of a configuration and a folder of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::port;
use crate::process::Process;
use crate::wait::until;

/// The user whom it lets through.
pub const USER: &str = "agent";
/// The user's password, with characters that a URL must escape.
pub const PASSWORD: &str = "p@ss/word:1";
/// `openssl passwd -apr1` of it.
const HASH: &str = "$apr1$culvert$7upFgDWsdof24UzqUM92p.";

/// A running squid that lets [`USER`] CONNECT to some ports of this machine. It knows a host by
/// the name of `relay.test`, which nobody else does.
#[derive(Debug)]
pub struct Squid {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Squid {
    /// Starts one that lets through to `ports`.
    pub fn start(ports: &[u16]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        // Started by root, it goes on as a user of its own.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("our own");
        let port = port::free();
        std::fs::write(path.join("passwords"), format!("{USER}:{HASH}\n")).expect("passwords");
        std::fs::write(path.join("hosts"), "127.0.0.1 localhost relay.test\n").expect("hosts");
        let config = configuration(path, port, ports);
        std::fs::write(path.join("squid.conf"), config).expect("squid.conf");
        let mut command = Command::new("squid");
        command.args(["-N", "-n", &format!("culvert{port}"), "-f"]);
        command.arg(path.join("squid.conf"));
        let mut squid = Self {
            process: Process::start("squid", path, &mut command),
            port,
            folder,
        };
        until("squid listens", || {
            squid.process.assert_running();
            port::answers(port)
        });
        squid
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL without a credential.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its URL with the right credential, escaped.
    pub fn url_with_credential(&self) -> String {
        format!("http://{USER}:p%40ss%2Fword%3A1@127.0.0.1:{}", self.port)
    }

    /// One line for each request that has ended.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

fn configuration(folder: &Path, port: u16, ports: &[u16]) -> String {
    let folder = folder.display();
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    let ports = ports.join(" ");
    format!(
        r"http_port 127.0.0.1:{port}
visible_hostname proxy.test
pid_filename none
hosts_file {folder}/hosts
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
coredump_dir {folder}
cache deny all
shutdown_lifetime 0 seconds
auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/passwords
auth_param basic children 1
auth_param basic realm corporate
acl CONNECT method CONNECT
acl known proxy_auth REQUIRED
acl allowed port {ports}
http_access deny !allowed
http_access deny !CONNECT
http_access allow known
http_access deny all
"
    )
}
