//! What the lines say: the fields of `docs/audit.md`, in their order.

use std::net::IpAddr;
use std::time::SystemTime;

use serde::Serialize;

use super::chain::Hash;
use super::suppress::Summary;

/// A time as RFC 3339 in UTC, with milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time(pub(crate) SystemTime);

impl Time {
    pub(crate) fn now() -> Self {
        Self(SystemTime::now())
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_rfc3339_millis(self.0).fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A call that is over. Every text has been escaped and masked before.
#[derive(Debug, Serialize)]
pub(crate) struct CallLine<'c> {
    pub(crate) time: Time,
    /// Always `call`.
    pub(crate) event: &'static str,
    pub(crate) call: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) within: Option<&'c str>,
    pub(crate) relay: &'c str,
    pub(crate) tenant: &'c str,
    pub(crate) caller: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<IpAddr>,
    pub(crate) endpoint: &'c str,
    pub(crate) mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'c str>,
    pub(crate) method: &'c str,
    pub(crate) target: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upgrade: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) soap_op: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) soap_ns: Option<&'c str>,
    pub(crate) decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination_rule: Option<&'c str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) shadow: Vec<&'c str>,
    pub(crate) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_status: Option<u16>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_ms: Option<u64>,
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) security: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<&'c str>,
}

/// What else happens to a log.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event<'e> {
    Start {
        version: &'static str,
        prev: &'e str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        torn: bool,
        #[serde(skip_serializing_if = "is_zero")]
        missing: u64,
    },
    Open {
        prev: &'e str,
    },
    Denied {
        tenant: &'e str,
        caller: &'e str,
        endpoint: &'e str,
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<&'e str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'e str>,
        suppressed: u64,
        since: Time,
    },
    Gap {
        lost: u64,
    },
    Stop,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event<'_> {
    fn fields(&self) -> String {
        #[derive(Serialize)]
        struct Timed<'t, 'e> {
            time: Time,
            #[serde(flatten)]
            event: &'t Event<'e>,
        }
        fields(&Timed {
            time: Time::now(),
            event: self,
        })
    }
}

/// Room for the line of most calls: one piece of memory, and not one that grows.
const ROOM: usize = 640;

/// The members of an object, without its braces.
pub(crate) fn fields(line: &impl Serialize) -> String {
    let mut json = Vec::with_capacity(ROOM);
    // Memory takes everything, and no field of ours is one that JSON has no words for.
    if serde_json::to_writer(&mut json, line).is_err() {
        json.clear();
    }
    let mut json = String::from_utf8(json).unwrap_or_default();
    json.pop();
    if !json.is_empty() {
        json.remove(0);
    }
    json
}

/// The agent began to write, after a line of hash `previous`.
pub(crate) fn start(previous: &Hash, torn: bool, missing: u64) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let prev = previous.as_str();
    Event::Start {
        version,
        prev,
        torn,
        missing,
    }
    .fields()
}

/// A new file begins, after a line of hash `previous`.
pub(crate) fn open(previous: &Hash) -> String {
    let prev = previous.as_str();
    Event::Open { prev }.fields()
}

/// Refused calls without a line.
pub(crate) fn denied(summary: &Summary) -> String {
    Event::Denied {
        tenant: &summary.of.tenant,
        caller: &summary.of.caller,
        endpoint: &summary.of.endpoint,
        rule: summary.of.rule.as_deref(),
        code: summary.of.code.as_deref(),
        suppressed: summary.suppressed,
        since: Time(summary.since),
    }
    .fields()
}

/// Lines that could not be written.
pub(crate) fn gap(lost: u64) -> String {
    Event::Gap { lost }.fields()
}

/// The agent ended in order.
pub(crate) fn stop() -> String {
    Event::Stop.fields()
}
