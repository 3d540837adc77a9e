//! A program under test: started, watched, signalled, and surely ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::eventually;

/// Lines of its log that are shown when a test failed.
const LAST_LINES: usize = 60;

/// The folder that programs are built into, `target/PROFILE`.
pub fn build_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.ancestors().nth(2);
    folder.expect("tests lie in target/PROFILE/deps").to_owned()
}

/// A program of the workspace: `culvert-relay`, `culvert-agent`.
pub fn program(name: &str) -> PathBuf {
    let program = build_folder().join(name);
    assert!(
        program.is_file(),
        "{} is not built: run tests/run.sh, or `cargo build --workspace --bins` first",
        program.display()
    );
    program
}

/// A running program. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; what it writes goes to `NAME.log` in `folder`, after what an earlier
    /// program of that name wrote.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let copy = file.try_clone().expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            name: name.into(),
            log,
            child,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id is positive");
        kill_process(pid, signal).expect("it is our child");
    }

    /// Asks it to end in order: SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once, as a crash does: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        eventually(&what, || self.ended())
    }

    /// Panics if it has ended, which nothing in the test asked it to.
    pub fn assert_running(&mut self) {
        let ended = self.ended();
        assert!(ended.is_none(), "{} ended: {ended:?}", self.name);
    }

    /// The most memory that it ever held resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.memory_of("VmHWM:")
    }

    /// The memory that it holds resident now, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory_of("VmRSS:")
    }

    fn memory_of(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it is running");
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kib = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .expect("in every status");
        1024 * kib.trim().parse::<u64>().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            eprintln!(
                "--- the end of {}'s log\n{}\n---",
                self.name,
                last.join("\n")
            );
        }
    }
}
