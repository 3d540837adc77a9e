//! A rule as it was written, before it is compiled.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::facts::Mode;

/// What a matching rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lets the call through, unless a deny rule matches too.
    Allow,
    /// Refuses the call, whatever allow rules say.
    Deny,
}

impl Action {
    /// The word used in policy files, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Which SOAP operations a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoapOps {
    /// Every operation: `soap_op = "all"`.
    All,
    /// These, where `*` stands for any characters.
    Names(Vec<String>),
}

/// So many calls in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Calls.
    pub count: NonZeroU32,
    /// The time: a second, a minute or an hour.
    pub per: Duration,
}

/// The text is not a [`Rate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a rate; expected a positive number and a unit, such as \"20/s\", \"100/m\" or \"5/h\""
)]
pub struct RateError;

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (count, unit) = text.split_once('/').ok_or(RateError)?;
        let per = match unit.trim() {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            _ => return Err(RateError),
        };
        let digits = count.trim();
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(RateError);
        }
        let count = digits.parse().map_err(|_| RateError)?;
        Ok(Self {
            count,
            per: Duration::from_secs(per),
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            3600 => "h",
            seconds => return write!(f, "{}/{seconds}s", self.count),
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// One rule of a policy file. An empty list means that the key was not given: any call matches
/// it. Every key that is given must match; of a list, any item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// Names the rule in logs and refusals. Unique, 1 to 128 printable characters.
    pub id: String,
    /// What the rule does.
    pub action: Action,
    /// Endpoint names; `*` stands for any characters.
    pub endpoint: Vec<String>,
    /// Call modes.
    pub mode: Vec<Mode>,
    /// Methods, upper case.
    pub method: Vec<String>,
    /// Path patterns: `*` within a segment, `**` as a segment for any number of segments.
    pub path: Vec<String>,
    /// Subjects; `*` stands for any characters.
    pub caller: Vec<String>,
    /// Scopes, compared as whole words.
    pub scope: Vec<String>,
    /// Query parameters, each with the values it may have.
    pub query: Vec<(String, Vec<String>)>,
    /// SOAP operations. Without it an allow rule matches no SOAP call.
    pub soap_op: Option<SoapOps>,
    /// Namespace of the SOAP operations; only together with `soap_op`.
    pub soap_ns: Option<String>,
    /// Protocols to upgrade to. Without it an allow rule matches no upgrade.
    pub upgrade: Vec<String>,
    /// Networks that the caller's address is in.
    pub source: Vec<IpNet>,
    /// Names that the caller connects to in the proxy modes; `*` stands for any characters.
    pub host: Vec<String>,
    /// Ports that the caller connects to in the proxy modes.
    pub port: Vec<u16>,
    /// Longest body of an allowed call, in bytes.
    pub max_body: Option<u64>,
    /// How many calls the rule allows in a time, counted by the agent for all callers together.
    pub rate: Option<Rate>,
    /// `false` makes a shadow rule: its matches are reported, not applied.
    pub enforce: bool,
}

impl RuleSpec {
    /// An enforced rule that matches every call, to be narrowed.
    pub fn new(id: impl Into<String>, action: Action) -> Self {
        Self {
            id: id.into(),
            action,
            endpoint: Vec::new(),
            mode: Vec::new(),
            method: Vec::new(),
            path: Vec::new(),
            caller: Vec::new(),
            scope: Vec::new(),
            query: Vec::new(),
            soap_op: None,
            soap_ns: None,
            upgrade: Vec::new(),
            source: Vec::new(),
            host: Vec::new(),
            port: Vec::new(),
            max_body: None,
            rate: None,
            enforce: true,
        }
    }
}
