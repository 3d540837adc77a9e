//! What a call through Culvert costs, beside nginx in the same run.
//!
//! [`stack`] brings up a complete installation on loopback, each part its own process, with a
//! [`link`] in user space between agent and relay; [`load`] calls through it; [`process`] reads
//! what the processes used. The scenarios are in [`startline`], [`mod@line`], [`beside`] and
//! [`trouble`]; `benches/README.md` says what each measures and why.

pub mod beside;
pub mod line;
pub mod link;
pub mod load;
pub mod process;
pub mod sink;
pub mod stack;
pub mod startline;
pub mod token;
pub mod trouble;
