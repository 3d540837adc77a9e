//! A policy in force: its rules, and what was counted under them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_config::ConfigError;
use culvert_policy::{self as rules, Permit, Policy, Rate};
use culvert_proto::head::Mode;
use tokio::time::Instant;

/// The policy's word for how a call is carried.
pub(crate) fn mode(mode: Mode) -> rules::Mode {
    match mode {
        Mode::Http => rules::Mode::Http,
        Mode::Connect => rules::Mode::Connect,
        Mode::Terminate => rules::Mode::Terminate,
        Mode::Tcp => rules::Mode::Tcp,
    }
}

/// A policy in force, with what has been counted under it.
#[derive(Debug)]
pub(crate) struct ActivePolicy {
    pub(crate) policy: Policy,
    /// Callers learn the id of the rule that denied them.
    pub(crate) reveal_rule: bool,
    buckets: Mutex<HashMap<Arc<str>, Bucket>>,
}

/// What is left of a rule's rate: `tokens` calls at `since`, growing with time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
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

    /// Goes on counting where the policy before it stopped, for each rule that has kept id and rate:
    /// a reload is no fresh allowance.
    pub(crate) fn take_counts_of(&self, before: &Self) {
        let counted = before.buckets();
        let kept = self.policy.rules().filter_map(|rule| {
            let (id, bucket) = counted.get_key_value(&*rule.id)?;
            (rule.rate == Some(bucket.rate)).then(|| (id.clone(), *bucket))
        });
        self.buckets().extend(kept);
    }

    /// Counts a call against the rate of the rule that allowed it; where that is used up, says for how
    /// long.
    ///
    /// A rule may be used at its rate, with bursts of up to what the rate gives in its unit of
    /// time. One bucket per rule that has a rate: never more than the file has rules.
    pub(crate) fn count(&self, permit: &Permit) -> Result<(), Duration> {
        let Some(rate) = permit.rate() else {
            return Ok(());
        };
        let burst = f64::from(rate.count.get());
        let now = Instant::now();
        let mut buckets = self.buckets();
        let bucket = buckets.entry(permit.rule().clone()).or_insert(Bucket {
            rate,
            tokens: burst,
            since: now,
        });
        let grown = (now - bucket.since).as_secs_f64() / rate.per.as_secs_f64() * burst;
        *bucket = Bucket {
            rate,
            tokens: (bucket.tokens + grown).min(burst),
            since: now,
        };
        if bucket.tokens < 1.0 {
            return Err(rate.per.mul_f64((1.0 - bucket.tokens) / burst));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<Arc<str>, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a policy file and runs its tests.
pub(crate) fn read(file: &Path) -> Result<ActivePolicy, ConfigError> {
    let file = culvert_config::policy_file::load(file)?;
    Ok(ActivePolicy::new(file.policy, file.reveal_rule))
}
