//! Control messages of a session: greeting, registration, token renewal, notices.

use std::fmt;

use crate::code::ErrorCode;
use crate::head::Mode;
use crate::names::EndpointName;
use crate::priority::Priority;

/// The first frame that each side sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version that the sender speaks.
    pub min_version: u16,
    /// Highest protocol version that the sender speaks.
    pub max_version: u16,
    /// Bit set of optional features; both sides use the intersection.
    pub features: u64,
    /// The sender's name: the relay's node name, the agent's client id. At most 255 bytes.
    pub name: String,
    /// Random id of the sender's process instance.
    pub instance: [u8; 16],
    /// The sender's software version, for logs. At most 64 bytes.
    pub software: String,
    /// Most streams that the peer may have open at once.
    pub max_streams: u32,
    /// Receive window of a new stream, in bytes.
    pub initial_window: u32,
    /// Of a dialer: which connection this is of a session that may have several. Counts only
    /// where both sides name the feature [`LANES`](crate::mux::LANES).
    pub lane: Option<Lane>,
    /// Of an agent: whose place the session takes, if a relay node has an older one.
    pub slot: Option<Slot>,
}

/// Which of the sessions that an agent wants to hold at once a session is: on one relay node, a
/// newer one of the same process with the same number takes the place of the older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The number, from 0.
    pub number: u8,
    /// Whether an older session with this number goes on for its calls. Otherwise the agent knows
    /// of none: what the relay still believes to be one is dead.
    pub older_lives: bool,
}

/// Id of a session that may have several connections: random, chosen by its dialer.
pub type LaneId = [u8; 16];

/// Which connection of a session a dialer's greeting begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The first one: it is the session, which others may join under this id.
    First(LaneId),
    /// A further one, of the session whose first connection named this id.
    Joins(LaneId),
}

/// One endpoint that an agent offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The endpoint's name.
    pub endpoint: EndpointName,
    /// Modes that the agent serves.
    pub modes: Vec<Mode>,
    /// `NAME:PORT`s that callers may CONNECT to.
    pub connect: Vec<String>,
    /// How urgent its calls are among those of the session; `None`: each stream earns its class.
    pub priority: Option<Priority>,
}

/// The relay's word on one offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The endpoint's name.
    pub endpoint: EndpointName,
    /// `None`: registered. Otherwise why not, and what to do.
    pub refused: Option<String>,
}

/// A control message above the multiplexer, carried in order and without loss.
#[derive(Clone, PartialEq, Eq)]
pub enum Control {
    /// Agent to relay: serve these endpoints on this session (replaces an earlier REGISTER).
    Register {
        /// Chosen by the sender; comes back in REGISTERED.
        request: u32,
        /// At most [`crate::limits::MAX_OFFERS`].
        offers: Vec<Offer>,
    },
    /// Relay to agent: the outcome, offer by offer.
    Registered {
        /// The request that is answered.
        request: u32,
        /// One entry per offer.
        results: Vec<Registration>,
    },
    /// Agent to relay: a renewed access token. At most 16 KiB.
    Auth {
        /// The token; never shown by `Debug`.
        token: String,
    },
    /// Either way: something that a person should read in the log.
    Notice {
        /// What it is about, where a code says it.
        code: Option<ErrorCode>,
        /// At most 1 KiB of text.
        text: String,
    },
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { request, offers } => f
                .debug_struct("Register")
                .field("request", request)
                .field("offers", offers)
                .finish(),
            Self::Registered { request, results } => f
                .debug_struct("Registered")
                .field("request", request)
                .field("results", results)
                .finish(),
            Self::Auth { .. } => f.debug_struct("Auth").finish_non_exhaustive(),
            Self::Notice { code, text } => f
                .debug_struct("Notice")
                .field("code", code)
                .field("text", text)
                .finish(),
        }
    }
}
