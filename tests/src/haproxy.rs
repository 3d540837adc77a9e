//! A real TCP balancer in front of the relay.

use std::process::Command;

use tempfile::TempDir;

use crate::port;
use crate::process::Process;
use crate::wait::until;

/// A running HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    _process: Process,
    /// Where it listens.
    pub port: u16,
    _folder: TempDir,
}

impl Haproxy {
    /// Passes connections on to a port, from its own address `source`, with these words of the
    /// configuration (`send-proxy`).
    pub fn to(relay: u16, source: &str, words: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = port::free();
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n\
             frontend callers\n  bind 127.0.0.1:{port}\n  default_backend relays\n\
             backend relays\n  source {source}\n  server relay 127.0.0.1:{relay} {words}\n"
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, config).expect("haproxy.cfg");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        let mut process = Process::start("haproxy", folder.path(), &mut command);
        until("haproxy listens", || {
            process.assert_running();
            port::answers(port)
        });
        Self {
            _process: process,
            port,
            _folder: folder,
        }
    }
}
