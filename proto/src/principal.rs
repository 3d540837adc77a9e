//! Who calls, as verified by the relay and told to the agent with every call.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::names::TenantName;

/// What kind of party a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// Calls endpoints.
    Caller,
    /// Registers endpoints.
    Agent,
    /// Another relay node of the same cluster.
    Node,
}

/// How the relay convinced itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// A signed access token (RFC 9068 style JWT).
    Jwt,
    /// Token introspection at the issuer (RFC 7662).
    Introspection,
    /// A client certificate.
    Certificate,
}

/// The verified identity after checking a token or certificate.
///
/// Holds no secret: the token itself is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The tenant, from the verified credential and from nowhere else.
    pub tenant: TenantName,
    /// `sub` of the token, or the mapped name of the certificate. At most 255 bytes.
    pub subject: String,
    /// Granted scopes as whole words, in the order of the token. At most 64.
    pub scopes: Vec<String>,
    /// Caller, agent or node.
    pub kind: PrincipalKind,
    /// Seconds since the Unix epoch after which the credential is void.
    pub expires: u64,
    /// How it was proven.
    pub proof: Proof,
}

impl Principal {
    /// Whether `scope` was granted, compared as a whole word.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|s| s == scope)
    }

    /// When the credential is void.
    pub fn expires_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.expires)
    }
}
