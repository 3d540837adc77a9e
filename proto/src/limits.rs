//! Every number that bounds what a peer can make this side hold or do.
//!
//! Constants are part of the protocol: both sides keep them, whatever they are configured to.
//! [`Limits`] is what an operator may set; [`Limits::default`] says why each is what it is.

use std::time::Duration;

use crate::growth::{GrowthBudget, TenantBudgets};

/// Longest target of a call, in bytes.
pub const MAX_TARGET: usize = 16 * 1024;

/// Longest authority of a call: a DNS name, a colon, a port.
pub const MAX_AUTHORITY: usize = 261;

/// Longest method, in bytes. The longest one registered with IANA has 17.
pub const MAX_METHOD: usize = 32;

/// Longest name of a protocol that a call asks to switch to.
pub const MAX_UPGRADE: usize = 32;

/// Most header fields in one head.
pub const MAX_HEADERS: usize = 100;

/// Largest header list of one head: the sum of names, values and 32 bytes a field, as
/// RFC 9113, 6.5.2 counts it. The 32 bytes cover what the encoding adds.
pub const MAX_HEADER_LIST: usize = 64 * 1024;

/// Longest `sub` of a principal, in bytes.
pub const MAX_SUBJECT: usize = 255;

/// Most scopes of a principal.
pub const MAX_SCOPES: usize = 64;

/// All scopes of a principal together, in bytes; no token is longer.
pub const MAX_SCOPE_BYTES: usize = MAX_TOKEN;

/// Longest call head on the wire: its parts at their largest, and 2 KiB for everything small.
pub const MAX_CALL_HEAD: usize =
    MAX_HEADER_LIST + MAX_TARGET + MAX_SCOPE_BYTES + MAX_TOKEN + MAX_PROOF + 2048;

/// Longest payload of a HEAD frame: a header list, and 1 KiB for everything else.
pub const MAX_HEAD: usize = MAX_HEADER_LIST + 1024;

/// Most interim answers (1xx) before the answer.
pub const MAX_INTERIM: u8 = 10;

/// Longest human text: details, reasons, notices. In bytes.
pub const MAX_REASON: usize = 1024;

/// Longest phrase beside a status, in bytes.
pub const MAX_PHRASE: usize = 255;

/// Longest rule id in a refusal, in bytes.
pub const MAX_RULE: usize = 255;

/// Longest access token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Longest proof that a caller has its token's key, in bytes. RSA keys make long ones.
pub const MAX_PROOF: usize = 8 * 1024;

/// Longest name of a peer in HELLO, in bytes.
pub const MAX_PEER_NAME: usize = 255;

/// Longest software version in HELLO, in bytes.
pub const MAX_SOFTWARE: usize = 64;

/// How long a call may go on after its caller's credential expired, since clocks differ. The relay keeps
/// this; an agent, which ends calls too, waits longer, so that the caller hears the relay's 401 first.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(30);

/// Most connections of one session, the first one included.
pub const MAX_LANES: u8 = 8;

/// Most offers in one REGISTER.
pub const MAX_OFFERS: usize = 256;

/// Most CONNECT names in one offer.
pub const MAX_CONNECT_NAMES: usize = 64;

/// Most CONNECT names in one REGISTER: a short name takes far more memory than bytes of the wire.
pub const MAX_REGISTERED_NAMES: usize = 1024;

/// Longest payload of a control message (REGISTER, REGISTERED, AUTH, NOTICE), in bytes.
pub const MAX_CONTROL: usize = 64 * 1024;

/// Smallest initial window that a peer may announce. A head travels in one piece, so a window
/// must always hold the largest one, also while an eighth of it is yet to be granted.
pub const MIN_WINDOW: u32 = 128 * 1024;

/// Most credit that a stream can have: what a peer holds beyond it is a violation.
pub const MAX_WINDOW: u32 = 1 << 30;

/// A call of the peer's that is cancelled so long after it was opened, or later, is no part of a
/// rapid reset and costs nothing.
pub const RAPID: Duration = Duration::from_secs(1);

/// Cancels of young calls that every peer bears with, at once and per second; where more streams may
/// be open, as many and an eighth of them.
pub const MIN_CANCELS: (u32, u32) = (2048, 500);

/// How long a cancel is kept back that a peer could take for a part of a flood: [`RAPID`], and
/// whatever the line does to the time between two frames. A driver that sleeps learns of it in its next
/// turn, with the next ping at the latest.
pub const KEPT_BACK: Duration = Duration::from_millis(1500);

/// How long the peer may take to end an answer on a stream that this side opened and nobody here
/// holds any more; it was asked to. Then the stream is reset.
pub const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Longest DATA payload that this side sends: what one stream puts before the next one's turn.
pub const FRAME: usize = 16 * 1024;

/// Bytes that may wait on a stream, each way, however short memory is: one frame, so that every
/// stream moves on.
pub const FLOOR: usize = FRAME;

/// What one session may hold and do. A plain struct: take the default and change fields.
///
/// Values out of range are brought into it by [`Mux::new`](crate::mux::Mux::new).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams that this side opens at most, whatever the peer allows.
    pub max_opened: u32,
    /// Bytes that wait to be sent on one stream before `write` takes no more.
    pub send_queue: usize,
    /// Largest receive window of one stream, in bytes. Windows start at what HELLO says and double
    /// while the peer fills them within two round trips and the reader keeps up.
    pub max_window: u32,
    /// The memory by which windows may grow, shared with other sessions. An empty one: windows
    /// keep their size.
    pub growth: GrowthBudget,
    /// The memory that bytes may take while they wait to be sent or read, shared with other
    /// sessions. When it is used up, every stream still has 16 KiB each way: writers wait for
    /// more, and a stream that receives more is broken off.
    pub waiting: GrowthBudget,
    /// Whose memory the bytes of a stream take instead, by the tenant of its call: for a session
    /// that carries calls of many, so that one of them leaves the others their part.
    pub waiting_of: Option<TenantBudgets>,
    /// Calls that wait to be accepted; further ones are refused.
    pub backlog: usize,
    /// Heads of the calls that wait to be accepted, together, in bytes of the wire.
    pub backlog_bytes: usize,
    /// Bytes of a batch. Frames are added while they fit; a single head that is larger goes alone.
    pub batch: usize,
    /// Largest message that is taken from the peer, in bytes.
    pub max_message: usize,
    /// Control messages (both directions, each) that wait.
    pub control_queue: usize,
    /// Calls younger than [`RAPID`] that the peer may cancel, have refused or break the rules on,
    /// in one go and ... At least as many as our greeting lets it have open, since they may all
    /// vanish at once.
    pub cancel_burst: u32,
    /// ... per second: more is a flood (rapid reset). At least an eighth of those that it may have
    /// open.
    pub cancel_rate: u32,
    /// How long the peer may take to greet.
    pub hello_timeout: Duration,
    /// Time between pings.
    pub ping_interval: Duration,
    /// A peer of which nothing came for so long is dead.
    pub dead_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_opened: 65_536,
            send_queue: 256 * 1024,
            // A gigabit at 150 ms has 19 MB under way.
            max_window: 32 * 1024 * 1024,
            growth: GrowthBudget::default(),
            waiting: GrowthBudget::new(u64::MAX),
            waiting_of: None,
            backlog: 1024,
            backlog_bytes: 4 * 1024 * 1024,
            batch: 64 * 1024,
            max_message: 512 * 1024,
            control_queue: 16,
            // A peer that may have fewer calls open, or none, can still have many refused that were
            // on their way.
            cancel_burst: MIN_CANCELS.0,
            cancel_rate: MIN_CANCELS.1,
            hello_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(5),
            // Known within 15 s, whatever a busy machine adds: two pings may be lost.
            dead_after: Duration::from_secs(14),
        }
    }
}
