//! The session crate as its users see it.

#![allow(missing_docs, unreachable_pub)]

mod dialing;
mod relay;
