//! Every number that bounds what a peer can make this side hold or do.

use std::time::Duration;

/// Longest target of a call, in bytes.
pub const MAX_TARGET: usize = 16 * 1024;
/// Most offers in one REGISTER.
pub const MAX_OFFERS: usize = 256;
/// Most bytes of the encoded headers of one head.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Most header fields of one head.
pub const MAX_HEADERS: usize = 100;
/// Longest text of a reason, a detail or a notice, in bytes.
pub const MAX_REASON: usize = 1024;
/// Longest access token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// Longest free-form name (a node's, a client's, a `NAME:PORT`), in bytes.
pub const MAX_NAME_TEXT: usize = 255;
/// Longest subject of a principal, in bytes.
pub const MAX_SUBJECT: usize = 255;
/// Most scopes of a principal.
pub const MAX_SCOPES: usize = 64;
/// Longest head, encoded, in bytes: headers, target, scopes and the small fields.
pub const MAX_HEAD: usize = 112 * 1024;
/// Most payload of a DATA frame that we send: a small frame never waits behind more.
pub const MAX_DATA: usize = 16 * 1024;
/// Most interim answers (1xx) of one call.
pub const MAX_INTERIM: u8 = 10;
/// Control messages that may wait to be sent.
pub const MAX_CONTROLS: usize = 16;

/// What one session may hold and how long it waits. The defaults serve a relay and an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that a stream's writer may queue.
    pub send_queue: usize,
    /// About how many bytes one `poll_transmit` appends.
    pub batch: usize,
    /// Streams that the peer opened and nobody accepted yet; more are refused.
    pub backlog: usize,
    /// How long the peer may take to greet.
    pub hello_timeout: Duration,
    /// How long nothing may arrive before a PING is sent.
    pub ping_interval: Duration,
    /// How long nothing may arrive before the peer is considered dead.
    pub dead_after: Duration,
    /// Frames without payload (PING, RESET, empty DATA, ...) that the peer may send in
    /// `flood_period`, beside four for each stream that it opened.
    pub flood_frames: u32,
    /// See `flood_frames`.
    pub flood_period: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            send_queue: 256 * 1024,
            batch: 64 * 1024,
            backlog: 1024,
            hello_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(5),
            dead_after: Duration::from_secs(15),
            flood_frames: 10_000,
            flood_period: Duration::from_secs(10),
        }
    }
}
