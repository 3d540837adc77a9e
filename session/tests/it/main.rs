//! The session crate as its users see it.

#![allow(missing_docs, unreachable_pub)]

mod batches;
mod bodies;
mod dialing;
mod ends;
mod hostile;
mod lanes;
mod relay;
mod splice;
mod streams;
mod support;
mod wakes;
