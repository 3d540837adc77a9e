//! Frames, call heads and the multiplexer core of Culvert: pure state machines, no I/O, no clock.

pub mod code;
pub mod control;
pub mod head;
pub mod limits;
pub mod names;
pub mod principal;
