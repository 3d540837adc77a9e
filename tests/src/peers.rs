//! Peers that are programs of others: WebSocket and gRPC, in Node (`tests/peers`).

use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use serde_json::Value;
use tempfile::TempDir;

use crate::issuer::world;
use crate::wait::LONG;

fn node(script: &str) -> Command {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers");
    assert!(
        folder.join("node_modules").is_dir(),
        "the tests' peers are not installed: run tests/run.sh"
    );
    let mut command = Command::new("node");
    command.arg(folder.join(script));
    command
}

/// A server of the data centre.
#[derive(Debug)]
pub struct Server {
    port: u16,
    lines: Receiver<String>,
    _folder: TempDir,
    // Its standard input is ours: it ends when this process does, whatever way that is.
    _process: Ended,
}

impl Server {
    /// Starts the server of a script, with a certificate for `localhost` and `vcenter.sddc.local`.
    pub fn start(script: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let leaf = world()
            .authority
            .issue(&["localhost", "vcenter.sddc.local"]);
        let leaf = leaf.expect("a certificate");
        leaf.write(folder.path(), "server").expect("a certificate");
        let mut command = node(script);
        command.arg("serve");
        command.arg(folder.path().join("server.pem"));
        command.arg(folder.path().join("server.key"));
        let (process, mut output) = spawn(&mut command);
        let port = output.next().expect("it prints its port");
        let port = port.expect("readable").parse().expect("a port");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.map_while(Result::ok) {
                // The test is over if nobody waits any more.
                let _ = sender.send(line);
            }
        });
        Self {
            port,
            lines,
            _folder: folder,
            _process: process,
        }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The next thing that happened there.
    pub fn event(&self) -> String {
        self.lines.recv_timeout(LONG).expect("something happens")
    }

    /// Whether nothing has happened there.
    pub fn is_untouched(&self) -> bool {
        self.lines.try_recv().is_err()
    }
}

/// A caller under way.
#[derive(Debug)]
pub struct Caller {
    process: Ended,
    output: Lines<BufReader<ChildStdout>>,
}

impl Caller {
    /// Starts the caller of a script.
    pub fn start(script: &str, arguments: &[&str]) -> Self {
        let mut command = node(script);
        command.arg("call").args(arguments);
        let (process, output) = spawn(&mut command);
        Self { process, output }
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let line = self.output.next().expect("it says what came of it");
        line.expect("readable")
    }

    /// What came of it, as JSON.
    pub fn result(mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Ends it at once, as when a browser's window is closed by force.
    pub fn kill(mut self) {
        self.process.0.kill().expect("it is our child");
    }
}

/// A child that does not outlive the test.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command) -> (Ended, Lines<BufReader<ChildStdout>>) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    (Ended(child), output.lines())
}
