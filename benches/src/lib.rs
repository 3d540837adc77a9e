//! What a call through Culvert costs, beside nginx in the same run.
//!
//! - [`stack`] brings up a complete installation, each part its own process: on loopback, with a
//!   [`link`] in user space between agent and relay, or with a [`lab`] of two network namespaces
//!   and a [`wire`] of packets between them, which [`probe`] checks.
//! - [`load`] calls through it, [`bulk`] transfers beside the calls, [`swarm`] is thousands of
//!   agents and their callers; [`process`] reads what the processes used.
//! - [`suite`] runs the [`scenarios`] of `local` and `run` on a [`site`]: [`drive`] drives the
//!   callers of [`client`] and the [`upstream`] answers them, [`record`] and [`sample`] see what
//!   happens, [`progress`] shows it and [`report`] keeps it; [`compare`] reads two of them.
//! - The other subcommands are in [`startline`], [`mod@line`], [`beside`], [`trouble`], [`lossy`],
//!   [`neighbour`] (with load in the [`background`]) and [`idle`]; `benches/README.md` says what each
//!   measures and why.

pub mod background;
pub mod beside;
pub mod bulk;
pub mod client;
pub mod compare;
pub mod drive;
pub mod idle;
pub mod lab;
pub mod line;
pub mod link;
pub mod load;
pub mod lossy;
pub mod neighbour;
pub mod probe;
pub mod process;
pub mod progress;
pub mod record;
pub mod report;
pub mod sample;
pub mod scenarios;
pub mod sink;
pub mod site;
pub mod stack;
pub mod startline;
pub mod stats;
pub mod suite;
pub mod swarm;
pub mod token;
pub mod trouble;
pub mod upstream;
pub mod wire;
