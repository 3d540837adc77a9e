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

impl Bucket {
    /// Adds what time has brought, and says how long there is none for a call.
    fn grow(&mut self, now: Instant) -> Duration {
        let Rate { count, per } = self.rate;
        let burst = f64::from(count.get());
        let grown = (now - self.since).as_secs_f64() / per.as_secs_f64() * burst;
        self.tokens = (self.tokens + grown).min(burst);
        self.since = now;
        per.mul_f64((1.0 - self.tokens).max(0.0) / burst)
    }
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

    /// Counts a call against the rates of the rules that allowed it; where one is used up, says for how
    /// long, and counts it against none.
    ///
    /// A rule may be used at its rate, with bursts of up to what the rate gives in its unit of
    /// time. One bucket per rule that has a rate: never more than the file has rules.
    pub(crate) fn count(&self, permit: &Permit) -> Result<(), Duration> {
        if permit.rates().next().is_none() {
            return Ok(());
        }
        let now = Instant::now();
        let mut buckets = self.buckets();
        let mut wait = Duration::ZERO;
        for (rule, rate) in permit.rates() {
            let full = Bucket {
                rate,
                tokens: f64::from(rate.count.get()),
                since: now,
            };
            let bucket = buckets.entry(rule.clone()).or_insert(full);
            wait = wait.max(bucket.grow(now));
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        for (rule, _) in permit.rates() {
            if let Some(bucket) = buckets.get_mut(rule) {
                bucket.tokens -= 1.0;
            }
        }
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

#[cfg(test)]
mod tests {
    use culvert_policy::{CallFacts, CanonicalTarget, Decision, PathOptions};

    use super::*;
    use crate::testing::get;

    /// A MOVE is one call of the rule at each of its paths.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_one_rule_has_no_room_for_is_counted_against_none() {
        let policy = "version = 1\n\
            [[rule]]\nid = \"files\"\naction = \"allow\"\npath = [\"/files/*\"]\nrate = \"2/h\"\n\
            [[rule]]\nid = \"bin\"\naction = \"allow\"\npath = [\"/bin/*\"]\nrate = \"1/h\"\n";
        let policy = culvert_config::policy_file::parse(policy, Path::new("policy.toml")).unwrap();
        let policy = ActivePolicy::new(policy.policy, false);
        let moved = |from: &str, to: &str| {
            let parse = |path| CanonicalTarget::parse(path, PathOptions::default()).unwrap();
            let (target, destination) = (parse(from), parse(to));
            let facts = CallFacts {
                method: "MOVE",
                destination: Some(&destination),
                ..get(&target)
            };
            let Decision::Allow(permit) = policy.policy.decide(&facts) else {
                panic!("{from} to {to} is denied")
            };
            policy.count(&permit)
        };
        assert_eq!(moved("/files/a", "/bin/a"), Ok(()));
        let hour = Duration::from_secs(3600);
        assert_eq!(moved("/files/b", "/bin/b"), Err(hour), "one into bin");
        assert_eq!(moved("/bin/a", "/files/a"), Err(hour), "or out of it");
        assert_eq!(moved("/files/b", "/files/c"), Ok(()), "the second of files");
        assert_eq!(moved("/files/c", "/files/d"), Err(hour / 2));
        tokio::time::advance(hour / 2).await;
        assert_eq!(moved("/files/c", "/bin/c"), Err(hour / 2));
        assert_eq!(moved("/files/c", "/files/d"), Ok(()));
    }
}
