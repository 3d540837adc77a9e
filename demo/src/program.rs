//! The programs that the demo starts: found or built, logged to files, ended with it.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::failure::{Doing, Failure, Result};

/// How long a program may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// How many lines of its log are shown when a program ends unexpectedly.
const LAST_LINES: usize = 15;

/// The relay's and the agent's programs.
#[derive(Debug)]
pub struct Binaries {
    /// `culvert-relay`.
    pub relay: PathBuf,
    /// `culvert-agent`.
    pub agent: PathBuf,
}

impl Binaries {
    /// Finds both beside this program. Under `cargo run` they are built first, in the same
    /// profile, because cargo then builds this program alone and they may be older.
    pub async fn find_or_build() -> Result<Self> {
        let me = std::env::current_exe().doing(|| "cannot find this program")?;
        let folder = me.parent().unwrap_or(Path::new("."));
        let found = Self {
            relay: folder.join("culvert-relay"),
            agent: folder.join("culvert-agent"),
        };
        if let (Some(cargo), Some(package)) = (
            std::env::var_os("CARGO"),
            std::env::var_os("CARGO_MANIFEST_DIR"),
        ) {
            let profile = match folder.file_name().and_then(|name| name.to_str()) {
                None | Some("debug") => "dev",
                Some(profile) => profile,
            };
            let built = Command::new(cargo)
                .args(["build", "--profile", profile])
                .args(["--bin", "culvert-relay", "--bin", "culvert-agent"])
                .current_dir(Path::new(&package).join(".."))
                .stdin(Stdio::null())
                .status()
                .await
                .doing(|| "cannot run cargo")?;
            if !built.success() {
                return Err(Failure::new(
                    "cargo could not build the relay and the agent",
                ));
            }
        }
        for program in [&found.relay, &found.agent] {
            if !program.is_file() {
                return Err(Failure::new(format!(
                    "{} is not there; build it with `cargo build --bins`, or start the demo with \
                     `cargo run -p culvert-demo`",
                    program.display()
                )));
            }
        }
        Ok(found)
    }
}

/// A running program. Dropped, it is killed; [`Program::stop`] is the gentle way.
#[derive(Debug)]
pub struct Program {
    name: String,
    log: PathBuf,
    child: Child,
    /// Of our own helpers, held open: they end when it closes, even if we are killed.
    stdin: Option<ChildStdin>,
}

impl Program {
    /// Starts the relay or the agent; both of its outputs go to `NAME.log` in `folder`.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).doing(|| format!("cannot write {name}.log"))?;
        let copy = file
            .try_clone()
            .doing(|| format!("cannot write {name}.log"))?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        Self::spawn(name, log, command)
    }

    /// Starts a helper of our own and waits for its first line of output, its address.
    pub async fn start_helper(name: &str, folder: &Path) -> Result<(Self, String)> {
        let me = std::env::current_exe().doing(|| "cannot find this program")?;
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).doing(|| format!("cannot write {name}.log"))?;
        let mut command = Command::new(me);
        command.arg(name).arg("--state").arg(folder);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file);
        let mut program = Self::spawn(name, log, &mut command)?;
        let mut address = String::new();
        if let Some(stdout) = program.child.stdout.take() {
            let read = BufReader::new(stdout).read_line(&mut address).await;
            read.doing(|| format!("cannot read the address of the {name}"))?;
        }
        if address.is_empty() {
            return Err(program.ended().await);
        }
        Ok((program, address.trim_end().to_owned()))
    }

    fn spawn(name: &str, log: PathBuf, command: &mut Command) -> Result<Self> {
        // A group of its own: Ctrl-C reaches the demo alone, which then ends all in order.
        let child = command.kill_on_drop(true).process_group(0).spawn();
        let mut child = child.doing(|| format!("cannot start the {name}"))?;
        let stdin = child.stdin.take();
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
            stdin,
        })
    }

    /// Its process, as long as nobody has waited for its end.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends the program at once, as a crash does: SIGKILL. Completes when it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        let name = &self.name;
        self.child
            .kill()
            .await
            .doing(|| format!("cannot kill the {name}"))
    }

    /// Completes when the program has ended, with words on what it last said.
    pub async fn ended(&mut self) -> Failure {
        match self.child.wait().await {
            Ok(status) => self.epitaph(status),
            Err(error) => Failure::new(format!("lost sight of the {}: {error}", self.name)),
        }
    }

    /// An error with words on what it last said, if the program has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.epitaph(status)),
            Err(error) => Err(Failure::new(format!("lost the {}: {error}", self.name))),
        }
    }

    /// Whether it has ended by SIGKILL, which is nobody's mistake but the wish of whoever sent it.
    pub fn was_killed(&mut self) -> bool {
        let ended = self.child.try_wait().ok().flatten();
        ended.is_some_and(|status| status.signal() == Some(Signal::KILL.as_raw()))
    }

    fn epitaph(&self, status: ExitStatus) -> Failure {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        Failure::new(format!(
            "the {} ended ({status}). The end of {}:\n    {}",
            self.name,
            self.log.display(),
            if last.is_empty() {
                "(nothing)".to_owned()
            } else {
                last.join("\n    ")
            },
        ))
    }

    /// Asks the program to end and waits; kills it if it does not. Says what was wrong with
    /// its end, if anything.
    pub async fn stop(mut self) -> Option<Failure> {
        let running = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()));
        match (self.stdin.take(), running) {
            (Some(stdin), _) => drop(stdin),
            // It may end by itself just now, which is what we ask of it.
            (None, Some(pid)) => drop(kill_process(pid, Signal::TERM)),
            (None, None) => (),
        }
        match tokio::time::timeout(GRACE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => None,
            Ok(Ok(status)) => Some(self.epitaph(status)),
            Ok(Err(error)) => Some(Failure::new(format!("lost the {}: {error}", self.name))),
            Err(_) => {
                // Only fails if it has ended meanwhile.
                let _ = self.child.kill().await;
                let seconds = GRACE.as_secs();
                Some(Failure::new(format!(
                    "the {} did not end within {seconds} s when asked to, and was killed",
                    self.name
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_was_killed_is_told_from_who_failed_and_from_who_runs() {
        let folder = tempfile::tempdir().unwrap();
        let start = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Program::start("program", folder.path(), &mut command).unwrap()
        };
        for (script, killed) in [
            ("kill -KILL $$", true),
            ("kill -TERM $$", false),
            ("exit 1", false),
        ] {
            let mut program = start(script);
            program.ended().await;
            assert_eq!(program.was_killed(), killed, "{script}");
        }
        assert!(!start("exec sleep 1000").was_killed());
    }
}
