//! What a call through Culvert costs, beside nginx in the same run.
//!
//! - [`stack`] brings up a complete installation, each part its own process: on loopback, with a
//!   [`link`] in user space between agent and relay, or with a [`lab`] of two network namespaces
//!   and a [`wire`] of packets between them, which [`probe`] checks.
//! - [`load`] calls through it, [`bulk`] transfers beside the calls, [`swarm`] is thousands of
//!   agents and their callers; [`process`] reads what the processes used.
//! - The scenarios are in [`startline`], [`mod@line`], [`beside`], [`trouble`], [`lossy`],
//!   [`neighbour`] and [`idle`]; `benches/README.md` says what each measures and why.

pub mod beside;
pub mod bulk;
pub mod idle;
pub mod lab;
pub mod line;
pub mod link;
pub mod load;
pub mod lossy;
pub mod neighbour;
pub mod probe;
pub mod process;
pub mod sink;
pub mod stack;
pub mod startline;
pub mod stats;
pub mod swarm;
pub mod token;
pub mod trouble;
pub mod wire;
