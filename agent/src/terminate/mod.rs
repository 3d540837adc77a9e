//! Mode `terminate`: the caller's TLS ends here, so that the policy sees every call and the relay
//! none.
//!
//! * `identity`: what the agent shows callers: a certificate that it was given, or leaves that
//!   `issuer` makes on demand, short-lived, for declared names only;
//! * `connection`: one CONNECT: the TLS, then the strict HTTP server of [`culvert_http`] on it;
//! * `call`: a request on it becomes a call like those of host mode, served by the same code
//!   (`serve::exchange`); `handover` and `answer` bring its answer back.
//!
//! The policy is asked by `serve`, here nobody does.

mod answer;
mod call;
mod connection;
mod handover;
mod identity;
mod issuer;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use culvert_http::Server;
use culvert_http::pace::Pace;
use tokio_util::sync::CancellationToken;

pub(crate) use self::connection::{Ended, Host, Metered};
pub(crate) use self::handover::AnswerSender;
pub(crate) use self::identity::{Identity, IdentityError};

/// How long callers are waited for: as the relay does where it is the one that reads their HTTP.
pub(crate) const PACE: Pace = Pace {
    head: Duration::from_secs(10),
    keep_alive: Duration::from_secs(60),
    stall: Duration::from_secs(30),
};

/// Most calls in flight on one connection of HTTP/2.
const STREAMS: u32 = 100;

/// What every connection needs whose TLS ends here.
#[derive(Debug)]
pub(crate) struct Front {
    server: Server,
    /// The relay's: where the types of problems are explained.
    pub(crate) domain: String,
    /// Cancelled when the agent drains: connections take no further calls.
    pub(crate) draining: CancellationToken,
}

impl Front {
    pub(crate) fn new(domain: &str) -> Self {
        Self {
            server: Server::new(PACE, STREAMS, Arc::default()),
            domain: domain.to_owned(),
            draining: CancellationToken::new(),
        }
    }
}
