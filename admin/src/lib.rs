//! The admin listener of relay and agent, where operators ask for health, metrics and status: HTTP/1.1,
//! plain on a loopback address or on a socket in the file system; beyond that over TLS, and for a token.
//!
//! - [`Listener`] takes the connections, and as many of them as it has room for.
//! - [`Credential`] is the token that has to be shown.
//! - [`admit`] says who may ask, [`Found`] and [`Refused`] how the answers look.
//! - [`Client`] is the other side: how `status` and its like ask a program that runs.
//!
//! What there is to ask for is each program's own.

mod answer;
mod client;
mod credential;
mod listener;

pub use self::answer::{Found, Refused, admit, answered, status_page};
pub use self::client::{Access, AskError, Client};
pub use self::credential::Credential;
pub use self::listener::Listener;
