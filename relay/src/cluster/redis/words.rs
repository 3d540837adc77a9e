//! Words about revocations as they are written in Redis: JSON, whose unknown members are passed over.
//! What is read there may be anybody's: what is none is left out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_proto::names::{EndpointName, TenantName};
use serde::{Deserialize, Serialize};

use crate::revocations::sharing::{LIFTED_MEMORY, Says, Word};
use crate::revocations::{MAX_REASON, RevocationId, Scope};

/// Longest word that is read, in bytes. The longest subject and reason take less, each byte written as six.
pub(super) const MAX_WORD: usize = 8 * 1024;

/// A word without its id and its end, which are the engine's to keep.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Written {
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
    pub(super) fn of(word: &Word) -> Self {
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

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The word that lies there under this name, for so many milliseconds yet; less than none: for
    /// good.
    pub(super) fn read(name: &str, text: &[u8], left: i64) -> Option<Word> {
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
