//! `[limits]` of `relay.toml`: what a peer can make a relay hold or wait for.

use culvert_proto::limits::MAX_LANES;
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::error::ConfigError;
use crate::quota::{ByteRate, PerSecond, Quota};
use crate::units::{Size, Span};

/// So many calls or sessions a tenant may have unless somebody says otherwise, if the node may.
const FEW: u32 = 1000;

/// What a peer can make a relay hold or wait for. Every limit has a default.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayLimits {
    /// Most public connections at once, callers and agents together.
    pub connections: u32,
    /// Most agent sessions at once, further connections of sessions included.
    pub sessions: u32,
    /// Most calls at once, of all callers together.
    pub calls: u32,
    /// Most calls at once on one connection of a session.
    pub streams_per_session: u32,
    /// Most connections of one session, each of which counts as a session; 1: no further ones.
    pub lanes_per_session: u32,
    /// Most calls at once on one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// Most connections at once of one source (an IPv4 address, or a /64 of IPv6) of which nobody
    /// has proved who they are.
    pub unauthenticated_per_source: u32,
    /// TCP accepted to the first valid credential.
    pub unauthenticated: Span,
    /// Wrong credentials that one source may send; ten seconds' worth at once.
    pub failures_per_source: PerSecond,
    /// TCP accepted to TLS established.
    pub tls_handshake: Span,
    /// Most handshakes that are worked on at once: TLS of callers and agents, tokens of agents.
    pub handshakes: u32,
    /// Longest wait of a handshake for its turn; then the connection is closed, or an agent told when
    /// to come back.
    pub handshake_wait: Span,
    /// First byte to last byte of a request's head.
    pub request_head: Span,
    /// Longest wait for the next request on a connection that is kept alive.
    pub keep_alive: Span,
    /// Longest pause of a caller that is sending a body or taking an answer.
    pub stall: Span,
    /// Longest wait for an agent's session to offer a free stream.
    pub open: Span,
    /// How long a drain waits for calls in flight.
    pub drain: Span,
    /// How long an endpoint that went away is answered with `endpoint-offline` and not with
    /// `unknown-endpoint`.
    pub offline_memory: Span,
    /// Bytes by which the receive windows of all sessions together may grow on long lines.
    pub receive_buffer: Size,
    /// Bytes that may wait to be sent or read in all sessions together; beyond it, a stream has
    /// 16 KiB each way.
    pub waiting_buffer: Size,
    /// Most agent sessions of one tenant; by default half of `sessions`, but no fewer than 1000.
    pub tenant_max_sessions: Option<u32>,
    /// Most endpoints of one tenant.
    pub tenant_max_endpoints: u32,
    /// Most calls of one tenant at once; by default half of `calls`, but no fewer than 1000.
    pub tenant_max_calls: Option<u32>,
    /// Most calls of one tenant a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_max_call_rate: Option<PerSecond>,
    /// Most bytes of bodies of one tenant a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_max_byte_rate: Option<ByteRate>,
    /// Most bytes that wait in the sessions of one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_max_buffer: Option<Size>,
}

impl RelayLimits {
    /// What a tenant without a quota of its own may take.
    pub fn quota(&self) -> Quota {
        // A node that is limited to few has few tenants, or one.
        let half = |all: u32| all.div_ceil(2).max(all.min(FEW));
        Quota {
            max_sessions: self.tenant_max_sessions.unwrap_or(half(self.sessions)),
            max_endpoints: self.tenant_max_endpoints,
            max_calls: self.tenant_max_calls.unwrap_or(half(self.calls)),
            max_call_rate: self.tenant_max_call_rate,
            max_byte_rate: self.tenant_max_byte_rate,
            max_buffer: self.tenant_max_buffer,
        }
    }
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            connections: 16_000,
            sessions: 5_000,
            calls: 32_768,
            streams_per_session: 4_096,
            lanes_per_session: u32::from(MAX_LANES),
            streams_per_connection: 200,
            unauthenticated_per_source: 1000,
            unauthenticated: Span::secs(10),
            failures_per_source: PerSecond(10),
            tls_handshake: Span::secs(10),
            handshakes: 512,
            handshake_wait: Span::secs(5),
            request_head: Span::secs(10),
            keep_alive: Span::secs(60),
            stall: Span::secs(30),
            open: Span::secs(5),
            drain: Span::secs(30),
            offline_memory: Span::secs(3600),
            receive_buffer: Size(1 << 30),
            waiting_buffer: Size(1 << 30),
            tenant_max_sessions: None,
            tenant_max_endpoints: 4096,
            tenant_max_calls: None,
            tenant_max_call_rate: None,
            tenant_max_byte_rate: None,
            tenant_max_buffer: None,
        }
    }
}

/// A limit of zero would refuse everything, or wait for nothing.
pub(super) fn check(document: &Document, limits: &RelayLimits) -> Result<(), ConfigError> {
    if !(1..=u32::from(MAX_LANES)).contains(&limits.lanes_per_session) {
        return Err(document.error_of(
            "limits.lanes_per_session",
            format!(
                "found {}; expected 1 to {MAX_LANES} connections",
                limits.lanes_per_session
            ),
        ));
    }
    let quota = limits.quota();
    let limits = [
        ("connections", limits.connections == 0),
        ("sessions", limits.sessions == 0),
        ("calls", limits.calls == 0),
        ("streams_per_session", limits.streams_per_session == 0),
        ("streams_per_connection", limits.streams_per_connection == 0),
        (
            "unauthenticated_per_source",
            limits.unauthenticated_per_source == 0,
        ),
        ("handshakes", limits.handshakes == 0),
        ("tenant_max_sessions", quota.max_sessions == 0),
        ("tenant_max_endpoints", limits.tenant_max_endpoints == 0),
        ("tenant_max_calls", quota.max_calls == 0),
        ("unauthenticated", limits.unauthenticated.0.is_zero()),
        ("tls_handshake", limits.tls_handshake.0.is_zero()),
        ("handshake_wait", limits.handshake_wait.0.is_zero()),
        ("request_head", limits.request_head.0.is_zero()),
        ("keep_alive", limits.keep_alive.0.is_zero()),
        ("stall", limits.stall.0.is_zero()),
        ("open", limits.open.0.is_zero()),
        ("receive_buffer", limits.receive_buffer.0 == 0),
        ("waiting_buffer", limits.waiting_buffer.0 == 0),
    ];
    crate::check::not_zero(document, &limits)
}
