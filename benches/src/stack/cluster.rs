//! Several relays: what the configuration of each says of the others, and where they find each other.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use super::free_ports;
use crate::load::Failure;

/// The name in the relays' certificate.
pub(super) const NAME: &str = "relays.bench";

/// The names of the relays in the order in which they are started; the agent knows the first one.
const NAMES: [&str; 4] = ["relay", "relay-2", "relay-3", "relay-4"];

/// Most relays.
pub const MOST: usize = NAMES.len();

/// One relay beside others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) public: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Where it takes connections of the others.
    pub(super) peer: SocketAddr,
}

/// The relays beside the first one, and the port of what they find each other in.
#[derive(Debug)]
pub(super) struct Cluster {
    registry: u16,
    /// Where the first relay takes connections of the others.
    pub(super) first: SocketAddr,
    pub(super) others: Vec<Node>,
}

impl Cluster {
    /// Of `count` relays, if these are more than one; they listen at `near`.
    pub(super) fn of(count: usize, near: IpAddr) -> Result<Option<Self>, Failure> {
        if count < 2 {
            return Ok(None);
        }
        let [registry, first] = free_ports()?;
        let nodes = NAMES.iter().take(count).skip(1).map(|name| {
            let [public, admin, peer] = free_ports()?;
            let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
            Ok::<_, Failure>(Node {
                name,
                public: SocketAddr::new(near, public),
                admin: local(admin),
                peer: local(peer),
            })
        });
        Ok(Some(Self {
            registry,
            first: SocketAddr::from(([127, 0, 0, 1], first)),
            others: nodes.collect::<Result<_, _>>()?,
        }))
    }

    /// A server that keeps nothing.
    pub(super) fn registry(&self, folder: &Path) -> Command {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.registry.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(folder);
        command
    }

    /// What the configuration of a relay says that takes connections of others at `peer`: under `[listen]`,
    /// and as tables.
    pub(super) fn settings(&self, peer: SocketAddr) -> (String, String) {
        let tables = format!(
            "\n[directory]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\n\n[peer]\n\
             name = \"{NAME}\"\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\n\
             ca = \"ca.pem\"\naddress = \"{peer}\"\n",
            self.registry
        );
        (format!("peer = \"{peer}\"\n"), tables)
    }
}
