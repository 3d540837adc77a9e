//! The cloud relay of a Culvert tunnel: callers on one side, agents' sessions on the other.
//!
//! ```text
//! caller --TLS--> listener --> edge --> directory --> session --> agent
//! caller --TLS--> listener --> edge --> directory --> peer --> another node --> ...
//! agent  --TLS--> listener --> edge --> sessions: token checked, upgraded, registered
//! operator -----> admin (loopback)
//! ```
//!
//! - [`listener`] takes TCP and TLS within limits, and hands each connection to the edge.
//! - [`edge`] speaks HTTP with callers: parses, authenticates, routes, forwards, answers.
//! - [`sessions`] are the agents: the upgrade on `/.culvert/v1/session`, registration within what
//!   the agent's token allows, renewal, expiry.
//! - [`handshakes`] are worked on in turn, so that a storm of them is survived.
//! - [`strangers`] are limited before anybody knows who they are.
//! - [`revocations`] are what operators have withdrawn, [`tenants`] what each tenant has in
//!   progress.
//! - [`directory`] knows which sessions serve (tenant, endpoint).
//! - [`place`] is where a call can go: a session, or another node. `cluster` learns what other nodes
//!   serve, [`peer`] passes calls on to them and takes theirs.
//! - `admin` answers operators: health, metrics, status, drain.
//! - `drain` ends the node without breaking calls; `app` wires everything together; [`cli`] is
//!   the command line.

// These pages are for people who read the code: private rooms are worth a link too.
#![allow(rustdoc::private_intra_doc_links)]

mod admin;
mod app;
pub mod cli;
mod cluster;
mod descriptors;
pub mod directory;
mod drain;
pub mod edge;
pub mod handshakes;
pub mod listener;
pub mod metrics;
mod node;
pub mod peer;
pub mod place;
pub mod revocations;
pub mod sessions;
pub mod strangers;
pub mod tenants;
#[cfg(test)]
mod testing;
mod tls;
