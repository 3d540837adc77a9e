//! The caller-facing edge: HTTP in, calls through the tunnel, HTTP out.
//!
//! The life of a call, and the files in its order:
//!
//! 1. [`serve`] takes a connection from the listener. [`culvert_http::Server`] speaks HTTP/1.1 or
//!    HTTP/2 with it, strictly and within its timers; [`connection`] is what the calls of one
//!    connection share.
//! 2. [`call`] is one call from top to bottom: [`route`] makes an endpoint of the host,
//!    [`authenticate`] a principal of the [`credential`] (a token, or one of [`certificates`]);
//!    [`culvert_http`] drops what must not pass and
//!    carries the caller's trace on.
//!    What the relay serves itself are the pages in [`pages`]: [`errors`], [`pac`].
//!    [`leave`] is its right to go on, from then to its end.
//! 3. [`forward`] carries it through the tunnel; [`download`] is the body of what comes back. Both
//!    ways go at the rate of the caller's tenant ([`culvert_http::Throttle`]).
//!    [`connect`] is a CONNECT from top to bottom: it has no body, and after its answer [`passage`]
//!    carries bytes both ways.
//! 4. [`answer`] is the body of whatever is answered; where there is no answer from the upstream,
//!    [`culvert_http::Problem`] is one, explained on the page in [`errors`].
//! 5. [`record`] is what remains of it: an access line and the metrics, however it ended.
//!
//! Nothing here knows frames of the tunnel or where a session lives.

mod answer;
mod authenticate;
mod call;
mod certificates;
mod connect;
mod connection;
mod credential;
mod download;
mod errors;
mod find;
mod forward;
mod leave;
mod pac;
mod pages;
mod passage;
mod record;
mod retry;
mod route;
mod serve;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_config::relay::{RelayLimits, Route};
use culvert_http::Server;
use culvert_http::pace::Pace;
use culvert_identity::Verifier;
use culvert_identity::verify::Proofs;
use culvert_proto::growth::TenantBudgets;
use tokio::sync::Semaphore;

pub use self::certificates::CertificateCallers;
use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::revocations::Revocations;
use crate::sessions::Agents;
use crate::strangers::Strangers;
use crate::tenants::Tenants;

/// Where the `type` of every problem points to.
pub const ERRORS_PATH: &str = "/.culvert/errors";

/// What the edge of a node consists of. Cheap to share, never changes.
pub struct Edge {
    routes: route::Routes,
    verifier: Arc<Verifier>,
    certificates: Option<CertificateCallers>,
    proofs: Proofs,
    directory: Arc<Directory>,
    strangers: Arc<Strangers>,
    tenants: Arc<Tenants>,
    revocations: Arc<Revocations>,
    /// An empty directory: where endpoints of other tenants are looked up.
    nowhere: Directory,
    agents: Arc<Agents>,
    /// What may wait of each tenant.
    waiting: TenantBudgets,
    metrics: Arc<Metrics>,
    limits: RelayLimits,
    /// One for each call that may be in progress.
    seats: Arc<Semaphore>,
    server: Server,
    errors: Bytes,
}

/// The parts of a node that the edge needs.
#[derive(Debug)]
pub struct Parts {
    /// Judges callers' tokens.
    pub verifier: Arc<Verifier>,
    /// Judges callers' certificates, where they are asked for any.
    pub certificates: Option<CertificateCallers>,
    /// Finds sessions for calls.
    pub directory: Arc<Directory>,
    /// Limits those who come with wrong credentials.
    pub strangers: Arc<Strangers>,
    /// Knows what callers have in progress.
    pub tenants: Arc<Tenants>,
    /// What is withdrawn.
    pub revocations: Arc<Revocations>,
    /// Takes agents' sessions.
    pub agents: Arc<Agents>,
    /// Counts calls.
    pub metrics: Arc<Metrics>,
}

impl Edge {
    /// The edge of a node with this domain, these further hosts and limits.
    pub fn new(domain: &str, routes: &[Route], limits: &RelayLimits, parts: Parts) -> Self {
        let Parts {
            verifier,
            certificates,
            directory,
            strangers,
            tenants,
            revocations,
            agents,
            metrics,
        } = parts;
        let (_, waiting) = agents.memory();
        let pace = Pace {
            head: limits.request_head.0,
            keep_alive: limits.keep_alive.0,
            stall: limits.stall.0,
        };
        Self {
            routes: route::Routes::new(domain, routes),
            verifier,
            certificates,
            proofs: Proofs::default(),
            directory,
            strangers,
            tenants,
            revocations,
            nowhere: Directory::new(Duration::ZERO),
            waiting,
            agents,
            server: Server::new(pace, limits.streams_per_connection, metrics.carried()),
            metrics,
            limits: limits.clone(),
            seats: Arc::new(Semaphore::new(limits.calls as usize)),
            errors: errors::page(domain),
        }
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge")
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}
