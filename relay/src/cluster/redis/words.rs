//! Words about revocations in Redis: how they are said and heard, and how they are written, as JSON whose
//! unknown members are passed over. What is read there may be anybody's: what is none is left out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_proto::names::{EndpointName, TenantName};
use redis::{RedisError, Value, from_redis_value_ref, pipe};
use serde::{Deserialize, Serialize};

use super::{RedisRegistry, milliseconds};
use crate::cluster::registry::{Heard, RegistryError, Stamp, WORDS};
use crate::revocations::sharing::{LIFTED_MEMORY, Says, Word};
use crate::revocations::{LONGEST, MAX_REASON, MAX_REVOCATIONS, RevocationId, Scope};

/// Longest word that is read, in bytes. The longest subject and reason take less, each byte written as six.
const MAX_WORD: usize = 8 * 1024;

/// Most words about revocations that are read: what a node says at most, twice.
const MAX_WORDS: usize = 4 * MAX_REVOCATIONS;

impl RedisRegistry {
    /// See [`Registry::say`](crate::cluster::registry::Registry::say).
    pub(super) async fn say_words(&self, words: &[Word]) -> Result<(), RegistryError> {
        let mut commands = pipe();
        commands.atomic();
        for word in words {
            let set = commands.cmd("SET");
            set.arg(self.key("revocation", word.id));
            set.arg(Written::of(word).to_json());
            if word.says != Says::Lifted {
                set.arg("NX");
            }
            if let Some(left) = word.left {
                set.arg("PX").arg(milliseconds(left.min(LONGEST)).max(1));
            }
            set.ignore();
            commands
                .sadd(self.revocations(), word.id.to_string())
                .ignore();
        }
        let stamp = format!("{:032x}", fastrand::u128(..));
        commands
            .set(self.stamp(), stamp)
            .ignore()
            .publish(self.channel(), "revocations")
            .ignore();
        self.run(&commands).await
    }

    /// See [`Registry::hear`](crate::cluster::registry::Registry::hear).
    pub(super) async fn hear_words(
        &self,
        known: Option<&Stamp>,
    ) -> Result<Option<Heard>, RegistryError> {
        let (stamp,): (Stamp,) = self.run(pipe().get(self.stamp())).await?;
        if known == Some(&stamp) {
            return Ok(None);
        }
        let (mut names,): (Vec<String>,) = self.run(pipe().smembers(self.revocations())).await?;
        if names.len() > MAX_WORDS {
            tracing::error!(
                target: "culvert::security",
                words = names.len(),
                "there is more about revocations in the registry than nodes say: the rest is not read"
            );
            names.truncate(MAX_WORDS);
        }
        let mut words = Vec::new();
        for names in names.chunks(WORDS) {
            words.append(&mut self.read_words(names).await?);
        }
        Ok(Some(Heard { words, stamp }))
    }

    fn revocations(&self) -> String {
        format!("{}:revocations", self.prefix)
    }

    fn stamp(&self) -> String {
        format!("{}:revoked", self.prefix)
    }

    /// The words with these names; forgets the names of those that are over.
    async fn read_words(&self, names: &[String]) -> Result<Vec<Word>, RegistryError> {
        let mut commands = pipe();
        for name in names {
            let key = self.key("revocation", name);
            // One byte more than the longest: what is cut off is no word.
            commands.getrange(&key, 0, MAX_WORD as isize).pttl(&key);
        }
        let read: Vec<Value> = self.run(&commands).await?;
        let (mut words, mut over) = (Vec::new(), Vec::new());
        for (name, read) in names.iter().zip(read.chunks_exact(2)) {
            let text: Vec<u8> = from_redis_value_ref(&read[0]).map_err(RedisError::from)?;
            let left: i64 = from_redis_value_ref(&read[1]).map_err(RedisError::from)?;
            match text.is_empty() {
                true => over.push(name.as_str()),
                // What others left there is not ours to judge.
                false => words.extend(Written::read(name, &text, left)),
            }
        }
        if !over.is_empty() {
            self.forget(self.revocations(), over).await;
        }
        Ok(words)
    }
}

/// A word without its id and its end, which are the engine's to keep.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Written {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lifted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Seconds since the Unix epoch. For people: nothing is decided by it.
    since: u64,
    /// How long it holds from then on, in seconds. For people, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

impl Written {
    fn of(word: &Word) -> Self {
        match &word.says {
            Says::Lifted => Self {
                lifted: true,
                ..Self::default()
            },
            Says::Holds {
                scope,
                reason,
                since,
                ttl,
            } => Self {
                lifted: false,
                subject: scope.subject.clone(),
                tenant: scope.tenant.as_ref().map(ToString::to_string),
                endpoint: scope.endpoint.as_ref().map(ToString::to_string),
                reason: reason.clone(),
                since: since
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs(),
                ttl: ttl.map(|ttl| ttl.as_secs()),
            },
        }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The word that lies there under this name, for so many milliseconds yet; less than none: for
    /// good.
    fn read(name: &str, text: &[u8], left: i64) -> Option<Word> {
        let id: RevocationId = name.parse().ok()?;
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        let written: Self = serde_json::from_slice(text).ok()?;
        if written.lifted {
            let left = left.unwrap_or(LIFTED_MEMORY);
            return Some(Word {
                id,
                says: Says::Lifted,
                left: Some(left),
            });
        }
        let scope = Scope {
            subject: written.subject,
            tenant: written
                .tenant
                .map(|name| TenantName::new(&name))
                .transpose()
                .ok()?,
            session: None,
            endpoint: written
                .endpoint
                .map(|name| EndpointName::new(&name))
                .transpose()
                .ok()?,
        };
        scope.check().ok()?;
        let is_plain =
            |reason: &String| reason.len() <= MAX_REASON && !reason.contains(char::is_control);
        let says = Says::Holds {
            scope,
            reason: written.reason.filter(is_plain),
            since: UNIX_EPOCH
                .checked_add(Duration::from_secs(written.since))
                .unwrap_or(SystemTime::UNIX_EPOCH),
            ttl: written.ttl.map(Duration::from_secs),
        };
        Some(Word { id, says, left })
    }
}
