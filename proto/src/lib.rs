//! Frames, call heads and the multiplexer core of Culvert: pure state machines, no I/O, no clock.
//!
//! - [`frame`]: the eight-byte header and the kinds of frames. `docs/protocol.md` has the wire
//!   format byte by byte.
//! - [`head`]: what a call and an answer begin with, as they cross the tunnel; [`heads`] is their
//!   encoding.
//! - [`control`]: greeting, registration, token renewal, notices; [`controls`] is their encoding.
//! - [`mux`]: one session's streams, credit and schedule. [`mux::Mux`] says how it is driven.
//! - [`growth`]: the memory that windows of all sessions share.
//! - [`websocket`]: the framing of the messages that carry all this.
//! - [`code`], [`limits`], [`names`], [`connect_name`], [`certificate_name`], [`principal`],
//!   [`priority`], [`trace`]: the words that the other rooms share.
//!
//! A driver owns the connection and a `Mux`. In each turn it hands over what came
//! (`handle_message`) and the time (`handle_timeout`), tells its users what happened
//! (`poll_event`), sends one batch (`poll_transmit`) and sleeps until `poll_timeout`, input, or
//! a command of a handle (`open`, `accept`, `read`, `write`, `finish`, ...) that leaves something
//! to send. The tests drive two of them with a virtual clock over a line that delays.
//!
//! Nothing here waits, allocates without a bound, or panics on input. Heads are types of the
//! `http` crate (`docs/adr/0001-heads-are-http-types.md`).

pub mod certificate_name;
pub mod code;
pub mod connect_name;
pub mod control;
pub mod controls;
pub mod frame;
pub mod growth;
pub mod head;
mod headers;
pub mod heads;
mod hex;
pub mod limits;
pub mod mux;
mod name_table;
pub mod names;
pub mod principal;
pub mod priority;
pub mod trace;
pub mod websocket;
mod wire;

pub use wire::{Malformed, Unencodable};
