//! How a new policy comes into force: on SIGHUP, and by itself when its file changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use culvert_config::ConfigError;
use culvert_process::files::Stamp;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::policy::{ActivePolicy, read};

/// How often the file is looked at. A file that has changed is read once it stays as it is for
/// one look: one that is still being written may be a policy already, and a wider one.
const LOOK: Duration = Duration::from_millis(250);

/// The policy file, and the policy that is in force.
///
/// Calls hold a receiver: a new policy wakes every live call, which then asks it again.
#[derive(Debug)]
pub(crate) struct PolicySource {
    file: PathBuf,
    active: watch::Sender<Arc<ActivePolicy>>,
    /// SIGHUP came.
    asked: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The file that was read last, good or bad.
    read: Option<Stamp>,
    /// The file at the last look.
    seen: Option<Stamp>,
    status: PolicyStatus,
}

/// How the policy is doing, for status and metrics.
#[derive(Debug, Clone)]
pub(crate) struct PolicyStatus {
    /// When the policy in force was loaded.
    pub(crate) loaded: SystemTime,
    /// Rules in force.
    pub(crate) rules: usize,
    /// Policies that came into force after the first.
    pub(crate) reloads: u64,
    /// Files that were refused.
    pub(crate) failures: u64,
    /// Why the file as it is now is refused, and since when; the policy in force is an older one.
    pub(crate) refused: Option<(SystemTime, String)>,
}

impl PolicySource {
    /// Loads the policy file and runs its tests.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        // Taken before it is read: what changes meanwhile is noticed at the next look.
        let stamp = Stamp::of(file);
        let active = read(file)?;
        let status = PolicyStatus {
            loaded: SystemTime::now(),
            rules: active.policy.rules().len(),
            reloads: 0,
            failures: 0,
            refused: None,
        };
        Ok(Self {
            file: file.to_owned(),
            active: watch::Sender::new(Arc::new(active)),
            asked: Notify::new(),
            state: Mutex::new(State {
                read: stamp,
                seen: stamp,
                status,
            }),
        })
    }

    /// The policy in force and its successors.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ActivePolicy>> {
        self.active.subscribe()
    }

    /// Where the policy comes from.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    pub(crate) fn status(&self) -> PolicyStatus {
        self.lock().status.clone()
    }

    /// Asks for the file to be read again, whether it has changed or not.
    pub(crate) fn reload(&self) {
        self.asked.notify_one();
    }

    /// Reads the file again when it changes, or when asked to, for as long as the agent runs.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = self.asked.notified() => true,
                _ = look.tick() => false,
            };
            let source = self.clone();
            // File systems may take their time, and so may the tests of a long policy.
            let looked = tokio::task::spawn_blocking(move || source.look(asked));
            if let Err(error) = looked.await {
                tracing::error!(%error, "a defect while the policy was read");
            }
        }
    }

    /// Looks at the file once, and reads it if it is due.
    fn look(&self, asked: bool) {
        let now = Stamp::of(&self.file);
        {
            let mut state = self.lock();
            let steady = state.seen == now;
            state.seen = now;
            if !asked && (!steady || state.read == now) {
                return;
            }
            state.read = now;
        }
        match read(&self.file) {
            Ok(policy) => self.enforce(policy),
            Err(error) => self.refuse(&error),
        }
    }

    fn enforce(&self, policy: ActivePolicy) {
        let rules = policy.policy.rules().len();
        policy.take_counts_of(&self.active.borrow());
        self.active.send_replace(Arc::new(policy));
        let mut state = self.lock();
        state.status.loaded = SystemTime::now();
        state.status.rules = rules;
        state.status.reloads += 1;
        state.status.refused = None;
        tracing::info!(file = %self.file.display(), rules, "a new policy is in force");
    }

    /// A bad file changes nothing but the log and the status.
    fn refuse(&self, error: &ConfigError) {
        let mut state = self.lock();
        state.status.failures += 1;
        state.status.refused = Some((SystemTime::now(), error.to_string()));
        tracing::error!(
            target: "culvert::security",
            %error,
            "the new policy is refused; the old one stays in force"
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use culvert_policy::{CanonicalTarget, Decision, PathOptions};

    use super::*;
    use crate::testing::get;

    fn policy(action: &str) -> String {
        format!("version = 1\n[[rule]]\nid = \"all\"\naction = \"{action}\"\npath = [\"/**\"]\n")
    }

    struct Watched {
        folder: tempfile::TempDir,
        source: PolicySource,
    }

    impl Watched {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("policy.toml"), policy("allow")).unwrap();
            let source = PolicySource::load(&folder.path().join("policy.toml")).unwrap();
            Self { folder, source }
        }

        fn write(&self, text: &str) {
            let new = self.folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, self.source.file()).unwrap();
        }

        /// Whether a call is allowed, and counted within the rate.
        fn allows(&self) -> bool {
            let target = CanonicalTarget::parse("/x", PathOptions::default()).unwrap();
            let policy = self.source.watch().borrow().clone();
            match policy.policy.decide(&get(&target)) {
                Decision::Allow(permit) => policy.count(&permit).is_ok(),
                Decision::Deny(_) => false,
            }
        }
    }

    #[test]
    fn a_changed_file_is_read_once_it_stays_as_it_is() {
        let watched = Watched::new();
        watched.source.look(false);
        assert_eq!(watched.source.status().reloads, 0, "nothing has changed");
        watched.write(&policy("deny"));
        watched.source.look(false);
        assert!(watched.allows(), "it may still be written to");
        watched.source.look(false);
        assert!(!watched.allows());
        watched.source.look(false);
        assert_eq!(watched.source.status().reloads, 1);
    }

    /// As in a projected volume of Kubernetes, where a link to the folder is replaced.
    #[test]
    fn a_link_on_the_way_to_the_file_counts_as_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, action) in [("1", "allow"), ("2", "deny")] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("policy.toml"), policy(action)).unwrap();
        }
        std::os::unix::fs::symlink("1", at("data")).unwrap();
        std::os::unix::fs::symlink("data/policy.toml", at("policy.toml")).unwrap();
        let source = PolicySource::load(&at("policy.toml")).unwrap();
        let watched = Watched { folder, source };
        std::os::unix::fs::symlink("2", watched.folder.path().join("new")).unwrap();
        std::fs::rename(
            watched.folder.path().join("new"),
            watched.folder.path().join("data"),
        )
        .unwrap();
        watched.source.look(false);
        watched.source.look(false);
        assert!(!watched.allows());
    }

    #[test]
    fn a_bad_file_keeps_the_old_policy_and_is_refused_once() {
        for bad in [
            Some(""),
            Some("version = 1\n[[rule]]\nid = \"x\"\n"),
            Some("version = 1"),
            None,
        ] {
            let watched = Watched::new();
            match bad {
                Some(text) => watched.write(text),
                None => std::fs::remove_file(watched.source.file()).unwrap(),
            }
            (0..5).for_each(|_| watched.source.look(false));
            let status = watched.source.status();
            assert!(watched.allows());
            assert_eq!((status.failures, status.reloads), (1, 0), "{bad:?}");
            assert!(status.refused.unwrap().1.contains("policy.toml"));
            // Whoever asks is told again.
            watched.source.look(true);
            assert_eq!(watched.source.status().failures, 2);
            watched.write(&policy("deny"));
            (0..2).for_each(|_| watched.source.look(false));
            assert!(!watched.allows() && watched.source.status().refused.is_none());
        }
    }

    #[test]
    fn whoever_asks_gets_the_file_read_at_once() {
        let watched = Watched::new();
        watched.write(&policy("deny"));
        watched.source.look(true);
        assert!(!watched.allows());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_no_fresh_allowance_to_a_rule_that_stays() {
        let watched = Watched::new();
        let with = |id: &str, rate: &str| {
            let text = policy("allow").replace("\"all\"", &format!("\"{id}\""));
            watched.write(&format!("{text}rate = \"{rate}\"\n"));
            watched.source.look(true);
        };
        with("a", "2/h");
        assert!(watched.allows(), "the first of two");
        with("a", "2/h");
        assert!(watched.allows(), "the second");
        assert!(!watched.allows());
        with("a", "2/h");
        assert!(!watched.allows(), "nothing has changed");
        with("a", "3/h");
        assert!(watched.allows(), "another rate");
        with("b", "3/h");
        (0..3).for_each(|_| assert!(watched.allows(), "another rule"));
        assert!(!watched.allows());
    }
}
