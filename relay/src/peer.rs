//! Other relay nodes: calls for endpoints whose agents are connected elsewhere.
//!
//! Nodes speak the session protocol with each other, over TLS on an address of its own
//! (`listen.peer`), where both sides show a certificate of the cluster's authority for the
//! cluster's name. Each node keeps one connection to each other node and opens streams on it; the
//! other node passes them on to a session of its own and to nothing else: one hop at most.
//!
//! - `link`: the connection to another node, dialled again and again.
//! - `accept`: the connections of other nodes.
//! - `carry`: one call of another node, between its stream and a session's.
//! - `strangers`: connections of which it is not known whether a node is on them.
//! - `tls`: who is a node of the cluster.

mod accept;
mod carry;
mod link;
mod strangers;
mod tls;

use culvert_proto::control::Hello;
use culvert_proto::growth::{GrowthBudget, TenantBudgets};
use culvert_proto::limits::Limits;
use culvert_proto::mux::{self, Side};

pub(crate) use accept::Acceptor;
pub(crate) use carry::Carried;
pub use link::Link;
pub(crate) use link::{Peers, Target};
pub(crate) use tls::PeerTls;

/// What ALPN says: nothing else is spoken on the address.
const ALPN: &[u8] = b"culvert-peer/1";

/// Most calls at once on one connection between two nodes.
const MAX_STREAMS: u32 = 65_536;

/// Receive window of a new stream: nodes are near each other.
const WINDOW: u32 = 256 * 1024;

/// On whose part of the memory windows between nodes grow: no tenant is called so.
const ACCOUNT: &str = "\u{0}nodes";

/// How a node introduces itself to another.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    /// The node's name.
    pub(crate) name: String,
    /// Its process.
    pub(crate) instance: [u8; 16],
    /// What receive windows may grow by.
    pub(crate) growth: GrowthBudget,
    /// What may wait, of each tenant's calls.
    pub(crate) waiting: TenantBudgets,
}

impl Introduction {
    /// The multiplexer's side of a connection between two nodes; the acceptor takes calls.
    fn config(&self, side: Side) -> mux::Config {
        let max_streams = match side {
            Side::Acceptor => MAX_STREAMS,
            Side::Dialer => 0,
        };
        mux::Config {
            side,
            hello: Hello {
                min_version: mux::VERSION,
                max_version: mux::VERSION,
                // For agents that verify callers themselves.
                features: mux::CALLER_TOKENS,
                name: self.name.clone(),
                instance: self.instance,
                software: concat!("culvert-relay/", env!("CARGO_PKG_VERSION")).to_owned(),
                max_streams,
                initial_window: WINDOW,
                lane: None,
                slot: None,
            },
            limits: Limits {
                max_opened: MAX_STREAMS,
                growth: self.growth.of_tenant(ACCOUNT),
                waiting_of: Some(self.waiting.clone()),
                ..Limits::default()
            },
        }
    }
}
