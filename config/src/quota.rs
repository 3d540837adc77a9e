//! What one tenant may take of a relay node: `[limits]` for all of them, `[[tenant]]` for one.

use std::fmt;

use bytesize::ByteSize;
use culvert_proto::limits::MAX_REGISTERED_NAMES;
use culvert_proto::names::TenantName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;

use crate::document::Document;
use crate::error::ConfigError;
use crate::units::{Size, text};

/// What one tenant may take of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// Most agent sessions at once, further connections of sessions included.
    pub max_sessions: u32,
    /// Most endpoints with a session.
    pub max_endpoints: u32,
    /// Most calls at once.
    pub max_calls: u32,
    /// Most calls that begin, one second's worth at once; `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_call_rate: Option<PerSecond>,
    /// Most bytes of bodies, both ways together, one second's worth at once; `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_byte_rate: Option<ByteRate>,
    /// Most bytes that wait in the tenant's sessions, of the node's `waiting_buffer`; `None`: an
    /// equal part when it is short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_buffer: Option<Size>,
}

/// Names to connect to for each endpoint that a tenant may have, taken together. A host has one or two,
/// and one endpoint may stand for many.
const NAMES_PER_ENDPOINT: usize = 4;

impl Quota {
    /// Most names to connect to of all endpoints with a session together; those of one registration at
    /// least. A name that several endpoints declare counts for each.
    pub fn max_names(&self) -> usize {
        (self.max_endpoints as usize)
            .saturating_mul(NAMES_PER_ENDPOINT)
            .max(MAX_REGISTERED_NAMES)
    }
}

/// The quota of a tenant that has one of its own.
#[derive(Debug, Clone, Serialize)]
pub struct Tenant {
    /// The tenant.
    #[serde(serialize_with = "crate::display")]
    pub name: TenantName,
    /// What it may take.
    #[serde(flatten)]
    pub quota: Quota,
}

/// `[[tenant]]` as written: what is left out is as for everybody.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenTenant {
    pub(crate) name: Spanned<String>,
    max_sessions: Option<Spanned<u32>>,
    max_endpoints: Option<Spanned<u32>>,
    max_calls: Option<Spanned<u32>>,
    max_call_rate: Option<PerSecond>,
    max_byte_rate: Option<ByteRate>,
    max_buffer: Option<Size>,
}

impl WrittenTenant {
    pub(crate) fn check(
        &self,
        document: &Document,
        everybody: &Quota,
    ) -> Result<Tenant, ConfigError> {
        let count = |written: &Option<Spanned<u32>>, default| match written {
            None => Ok(default),
            Some(count) if *count.get_ref() == 0 => Err(document.error(
                count.span(),
                "found 0; expected more: who may nothing is revoked, not limited",
            )),
            Some(count) => Ok(*count.get_ref()),
        };
        let quota = Quota {
            max_sessions: count(&self.max_sessions, everybody.max_sessions)?,
            max_endpoints: count(&self.max_endpoints, everybody.max_endpoints)?,
            max_calls: count(&self.max_calls, everybody.max_calls)?,
            max_call_rate: self.max_call_rate.or(everybody.max_call_rate),
            max_byte_rate: self.max_byte_rate.or(everybody.max_byte_rate),
            max_buffer: self.max_buffer.or(everybody.max_buffer),
        };
        Ok(Tenant {
            name: crate::check::name(document, &self.name)?,
            quota,
        })
    }
}

/// So many a second, written like `"50/s"`. At least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerSecond(pub u32);

impl<'de> Deserialize<'de> for PerSecond {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = text(deserializer, "a number a second, like \"50/s\"")?;
        let number = text
            .strip_suffix("/s")
            .and_then(|n| n.trim_end().parse().ok());
        number
            .filter(|&number| number > 0)
            .map(Self)
            .ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "{text:?} is not a rate; expected a positive number a second, like \"50/s\""
                ))
            })
    }
}

impl fmt::Display for PerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

impl Serialize for PerSecond {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bytes a second, written like `"10 MiB/s"`. At least 1 KiB/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate(pub u64);

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = text(deserializer, "a size a second, like \"10 MiB/s\"")?;
        let size = text
            .strip_suffix("/s")
            .and_then(|size| size.trim_end().parse::<ByteSize>().ok());
        let bytes = size.map(|size| size.as_u64());
        bytes
            .filter(|&bytes| bytes >= 1024)
            .map(Self)
            .ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "{text:?} is not a rate; expected at least 1 KiB a second, like \"10 MiB/s\""
                ))
            })
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteSize(self.0).display().iec())
    }
}

impl Serialize for ByteRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Rates {
        calls: Option<PerSecond>,
        bytes: Option<ByteRate>,
    }

    #[test]
    fn rates_are_read_as_people_write_them_and_written_as_they_are_read() {
        let rates: Rates = toml::from_str("calls = \"50/s\"\nbytes = \"10 MiB/s\"").unwrap();
        let (calls, bytes) = (rates.calls.unwrap(), rates.bytes.unwrap());
        assert_eq!((calls.0, bytes.0), (50, 10 << 20));
        assert_eq!(
            (calls.to_string(), bytes.to_string()),
            ("50/s".into(), "10.0 MiB/s".into())
        );
        for wrong in [
            "calls = \"0/s\"",
            "calls = \"50\"",
            "calls = \"50/m\"",
            "calls = \"-1/s\"",
            "calls = 50",
            "bytes = \"0/s\"",
            "bytes = \"1 KB/s\"",
            "bytes = \"10 MiB\"",
            "bytes = \"fast/s\"",
        ] {
            let error = toml::from_str::<Rates>(wrong).unwrap_err().to_string();
            assert!(
                wrong == "calls = 50" || error.contains("is not a rate"),
                "{wrong}: {error}"
            );
        }
    }
}
