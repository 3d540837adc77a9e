//! A local HTTP proxy for tools that cannot speak TLS to a proxy, or cannot carry a token.
//!
//! ```text
//! tool --CONNECT, plain, loopback--> culvert-connect --CONNECT, TLS, token--> relay --> ...
//! ```
//!
//! - [`listener`] takes tools' connections; [`request`] is what a tool may ask, and what it gets
//!   where it is refused here.
//! - [`relay`] asks the relay for the same, with the token, and gives its answer.
//! - [`passage`] is one tool's connection from its request to its end: the relay's answer goes to the
//!   tool as it is; after a 200 it is bytes both ways.
//! - [`cli`] is the command line.
//!
//! What a tool sends through is TLS with the upstream: nothing is seen of it here.

// These pages are for people who read the code: private rooms are worth a link too.
#![allow(rustdoc::private_intra_doc_links)]

pub mod cli;
mod listener;
mod passage;
mod relay;
mod request;
