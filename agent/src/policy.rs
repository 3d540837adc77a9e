//! The policy that is in force, and how a new one comes into force.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use culvert_config::ConfigError;
use culvert_policy::{Permit, Policy};
use tokio::sync::watch;
use tokio::time::Instant;

/// A policy in force, with what has been counted under it.
#[derive(Debug)]
pub(crate) struct ActivePolicy {
    pub(crate) policy: Policy,
    /// Callers learn the id of the rule that denied them.
    pub(crate) reveal_rule: bool,
    buckets: Mutex<HashMap<Arc<str>, Bucket>>,
}

/// What is left of a rule's rate: `tokens` calls at `since`, growing with time.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    since: Instant,
}

impl ActivePolicy {
    pub(crate) fn new(policy: Policy, reveal_rule: bool) -> Self {
        Self {
            policy,
            reveal_rule,
            buckets: Mutex::default(),
        }
    }

    /// Counts a call against the rate of the rule that allowed it. False: the rate is used up.
    ///
    /// A rule may be used at its rate, with bursts of up to what the rate gives in its unit of
    /// time. One bucket per rule that has a rate: never more than the file has rules.
    pub(crate) fn count(&self, permit: &Permit) -> bool {
        let Some(rate) = permit.rate() else {
            return true;
        };
        let burst = f64::from(rate.count.get());
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(permit.rule().clone()).or_insert(Bucket {
            tokens: burst,
            since: now,
        });
        let grown = (now - bucket.since).as_secs_f64() / rate.per.as_secs_f64() * burst;
        *bucket = Bucket {
            tokens: (bucket.tokens + grown).min(burst),
            since: now,
        };
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }
}

/// The policy file, and the policy that is in force.
///
/// Calls hold a receiver: a new policy wakes every live call, which then asks it again.
#[derive(Debug)]
pub(crate) struct PolicySource {
    file: PathBuf,
    active: watch::Sender<Arc<ActivePolicy>>,
}

impl PolicySource {
    /// Loads the policy file and runs its tests.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let active = Arc::new(read(file)?);
        Ok(Self {
            file: file.to_owned(),
            active: watch::Sender::new(active),
        })
    }

    /// The policy in force and its successors.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ActivePolicy>> {
        self.active.subscribe()
    }

    /// Loads the file again. A bad file changes nothing but the log.
    pub(crate) fn reload(&self) {
        match read(&self.file) {
            Ok(policy) => {
                let rules = policy.policy.rules().len();
                self.active.send_replace(Arc::new(policy));
                tracing::info!(file = %self.file.display(), rules, "a new policy is in force");
            }
            Err(error) => tracing::error!(
                target: "culvert::security",
                %error,
                "the new policy is refused; the old one stays in force"
            ),
        }
    }
}

fn read(file: &Path) -> Result<ActivePolicy, ConfigError> {
    let file = culvert_config::policy_file::load(file)?;
    Ok(ActivePolicy::new(file.policy, file.reveal_rule))
}
