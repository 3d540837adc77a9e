//! The strict HTTP server that callers speak to: at the relay's edge, and at the agent where it ends
//! a caller's TLS itself (mode `terminate`). Both refuse and pass on the same things, by the same
//! code (`docs/adr/0004-one-http-guard.md`).
//!
//! ```text
//!   TLS -- pace -- guard (HTTP/1) ---- hyper -- the service: relay's edge, agent's terminate
//!                  frames (HTTP/2)               |
//!                     |                          |
//!                     +------- Traffic ----------+    what they know of each other
//! ```
//!
//! - [`server::Server`] serves one connection over any byte stream, with a service that the caller
//!   of it supplies. Between TLS and hyper it puts the guard of HTTP/1 or the frame guard of HTTP/2,
//!   and the timers of [`pace`].
//! - [`request`] checks what only a parsed request shows (target, host, method); [`upgrade`] says
//!   which requests ask to leave HTTP, [`headers`] which fields pass and which are dropped, [`trace`]
//!   carries the caller's trace on, [`upload`] is the request's body.
//! - [`answer`] is the head of an upstream's answer, [`problem`] what a caller gets in its place.
//! - [`Written`] is what the body of an answer that broke off waits for.
//! - [`mask`] takes the secrets out of a target that a log shows.
//! - [`Bucket`] is a rate that many calls share, [`Throttle`] keeps one of them to it.
//! - [`Grip`] is a hand on the caller's side of what goes on when HTTP has ended.
//!
//! This room knows no tunnel, no policy, no identity and no configuration: limits come as
//! arguments.

// These pages are for people who read the code: private rooms are worth a link too.
#![allow(rustdoc::private_intra_doc_links)]

pub mod answer;
mod bucket;
mod frames;
mod grip;
mod guard;
pub mod headers;
mod long_heads;
pub mod mask;
pub mod pace;
mod peeked;
pub mod problem;
mod progress;
pub mod request;
pub mod server;
mod source;
mod stash;
mod throttle;
pub mod trace;
mod traffic;
pub mod upgrade;
pub mod upload;
mod written;

pub use bucket::{Bucket, Rate};
pub use grip::{Breaker, Grip, StreamGrip};
pub use guard::Violation;
pub use problem::Problem;
pub use progress::{Carried, Progress};
pub use server::{ALPN, Alpn, LAST_CALL, Server};
pub use source::Source;
pub use throttle::{Throttle, ThrottledIo};
pub use traffic::{HeadRoom, Traffic};
pub use written::Written;
