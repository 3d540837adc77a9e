//! What a decision is made on.

use std::net::IpAddr;

use crate::canonical::CanonicalTarget;

/// How a call is carried, and so what of it can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Host mode: the whole call is seen.
    Http,
    /// Proxy mode: bytes; TLS ends at the upstream.
    Connect,
    /// Proxy mode; TLS ends at the agent, so the whole call is seen.
    Terminate,
    /// Bytes that are not TLS.
    Tcp,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Http, Self::Connect, Self::Terminate, Self::Tcp];

    /// The word used in policy files, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Connect => "connect",
            Self::Terminate => "terminate",
            Self::Tcp => "tcp",
        }
    }

    /// The mode that `word` names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }

    /// Whether calls of this mode have a target.
    pub fn has_target(self) -> bool {
        matches!(self, Self::Http | Self::Terminate)
    }

    pub(crate) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What the body says about SOAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Soap<'a> {
    /// The call is not SOAP ([`crate::Policy::look`] says [`crate::Look::No`]).
    No,
    /// The call is one of SOAP's JSON twin: [`CanonicalTarget::twin_operation`] is what it calls.
    /// A rule allows it only where a path pattern of its own begins with `/sdk/vim25/`.
    Json,
    /// The call is SOAP or its twin, but what it calls could not be read. Never allowed.
    Undetermined,
    /// The call is SOAP and calls this operation. Allowed for a `POST` only, which is how SOAP is
    /// called.
    Operation {
        /// The namespace of the operation's element, empty without one.
        ns: &'a str,
        /// The local name of the operation's element.
        name: &'a str,
    },
}

/// The facts of one call, all verified or parsed by the agent itself.
#[derive(Debug, Clone, Copy)]
pub struct CallFacts<'a> {
    /// The endpoint that is called.
    pub endpoint: &'a str,
    /// How the call is carried.
    pub mode: Mode,
    /// The method, as sent.
    pub method: &'a str,
    /// The target, in the modes that have one ([`Mode::has_target`]).
    pub target: Option<&'a CanonicalTarget>,
    /// Where the call leads besides, where it [has a destination](has_destination).
    pub destination: Option<&'a CanonicalTarget>,
    /// The caller's subject.
    pub caller: &'a str,
    /// The caller's scopes, as whole words.
    pub scopes: &'a [String],
    /// What the body says about SOAP.
    pub soap: Soap<'a>,
    /// The protocol that the call asks to upgrade to, if it does.
    pub upgrade: Option<&'a str>,
    /// The caller's address, where it is known.
    pub source: Option<IpAddr>,
    /// The declared name that the caller connects to, lower case, in the proxy modes; an IPv6
    /// address has no brackets.
    pub host: Option<&'a str>,
    /// The port beside it.
    pub port: Option<u16>,
}

/// Whether calls of this method have a second target, WebDAV's `Destination` (RFC 4918, 10.3).
pub fn has_destination(method: &str) -> bool {
    matches!(method, "COPY" | "MOVE")
}

impl CallFacts<'_> {
    /// Whether these are the facts of a connection whose calls are decided on one by one
    /// ([`crate::Policy::decide_connection`]), and not of a call.
    pub fn is_connection(&self) -> bool {
        self.mode == Mode::Terminate && self.target.is_none()
    }

    /// The same call as if its destination, where it has one, were its target.
    pub(crate) fn at_destination(&self) -> Option<Self> {
        let target = Some(self.destination?);
        Some(Self {
            target,
            destination: None,
            ..*self
        })
    }
}
