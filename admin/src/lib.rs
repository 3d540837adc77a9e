//! The admin listener of relay and agent, where operators ask for health, metrics and status: plain
//! HTTP/1.1 on a loopback address or on a socket in the file system.
//!
//! - [`Listener`] takes the connections, and as many of them as it has room for.
//! - [`admit`] says who may ask, [`Found`] and [`Refused`] how the answers look.
//! - [`Client`] is the other side: how `status` and its like ask a program that runs.
//!
//! What there is to ask for is each program's own.

mod answer;
mod client;
mod listener;

pub use self::answer::{Found, Refused, admit, answered, status_page};
pub use self::client::{AskError, Client};
pub use self::listener::Listener;
