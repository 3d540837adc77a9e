//! A real Redis server, of a folder of its own, that keeps nothing.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::port;
use crate::process::Process;
use crate::wait::until;

/// A running server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = port::free();
        let mut redis = Self {
            process: launch(folder.path(), port),
            port,
            folder,
        };
        redis.await_listening();
        redis
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it at once, with everything that it knew.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, knowing nothing.
    pub fn restart(&mut self) {
        self.process = launch(self.folder.path(), self.port);
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
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(words)
            .output()
            .expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn await_listening(&mut self) {
        until("redis listens", || {
            self.process.assert_running();
            port::answers(self.port)
        });
    }
}

fn launch(folder: &Path, port: u16) -> Process {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder);
    Process::start("redis", folder, &mut command)
}
