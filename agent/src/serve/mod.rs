//! Serving calls: streams come in, each is decided on, forwarded and accounted for.
//!
//! * `callers`: who calls, where the relay's word is not taken;
//! * `call`: what is known of a call, and what the relay ought to have checked;
//! * `soap`: the operation of a SOAP call, from the beginning of its body;
//! * `exchange`: the call itself, top to bottom: check, decide, forward, answer;
//! * `translate`: public names for local ones and back, in its headers;
//! * `passage`: a call that is bytes, with `hello` for the beginning of the caller's TLS;
//! * `pump`: the answer's body on its way back;
//! * `leash`: how long a call may go on: a new policy or an expired credential ends it;
//! * `audit`: the record of a call, however it ends; `accounts`: where it is kept.

mod accounts;
mod audit;
mod call;
mod callers;
mod exchange;
mod hello;
mod leash;
mod passage;
mod pump;
mod soap;
#[cfg(test)]
mod tests;
mod translate;

use std::collections::HashMap;
use std::sync::Arc;

use culvert_config::endpoint::Endpoint;
use culvert_policy::PathOptions;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::names::EndpointName;
use culvert_proto::priority::Priority;
use culvert_session::Incoming;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

pub(crate) use self::accounts::{Accounts, RefusedCall};
pub(crate) use self::audit::Outcome;
pub(crate) use self::callers::CallerChecks;
use self::translate::LocalNames;
use crate::policy::ActivePolicy;
use crate::upstream::{DialerError, Upstream};

/// Everything that a call needs and no call changes.
#[derive(Debug)]
pub(crate) struct Serving {
    endpoints: HashMap<EndpointName, ServedEndpoint>,
    names: LocalNames,
    policy: watch::Receiver<Arc<ActivePolicy>>,
    accounts: Accounts,
    /// Verifies callers; `None`: the relay's word is taken.
    callers: Option<Arc<CallerChecks>>,
    /// Calls in progress, of all sessions.
    calls: TaskTracker,
}

/// An endpoint that this agent offers.
#[derive(Debug)]
struct ServedEndpoint {
    upstream: Upstream,
    paths: PathOptions,
    serves_http: bool,
    /// How a CONNECT to one of its names is carried.
    proxied: Option<Mode>,
    names: Vec<ConnectName>,
    /// The port of the upstream that each name leads to.
    ports: Vec<u16>,
    allow_no_sni: bool,
    /// How urgent its answers are; `None`: each earns its class.
    priority: Option<Priority>,
    /// One for each call that may be in progress.
    slots: Semaphore,
}

/// An endpoint that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("endpoint {endpoint}: {source}")]
pub(crate) struct EndpointError {
    endpoint: EndpointName,
    source: Box<DialerError>,
}

impl Serving {
    /// Prepares the clients of all upstreams: reads CA files and the system's roots.
    pub(crate) fn new(
        endpoints: &[Endpoint],
        policy: watch::Receiver<Arc<ActivePolicy>>,
        accounts: Accounts,
    ) -> Result<Self, EndpointError> {
        let prepare = |endpoint: &Endpoint| {
            let name = endpoint.name.clone();
            match Upstream::new(endpoint) {
                Ok(upstream) => Ok((name, ServedEndpoint::new(endpoint, upstream))),
                Err(error) => Err(EndpointError {
                    endpoint: name,
                    source: Box::new(error),
                }),
            }
        };
        let names = LocalNames::of(endpoints);
        let endpoints = endpoints.iter().map(prepare).collect::<Result<_, _>>()?;
        Ok(Self {
            endpoints,
            names,
            policy,
            accounts,
            callers: None,
            calls: TaskTracker::new(),
        })
    }

    /// The same, which does not take the relay's word for who calls.
    pub(crate) fn verifying(self, callers: Option<Arc<CallerChecks>>) -> Self {
        Self { callers, ..self }
    }

    /// Takes calls from a session until it is over, a task for each. How many there can be at
    /// once is the session's own limit.
    pub(crate) async fn serve(self: Arc<Self>, mut incoming: Incoming, node: Arc<str>) {
        while let Some((head, stream)) = incoming.accept().await {
            let exchange = exchange::run(self.clone(), head, stream, node.clone());
            self.calls.spawn(exchange);
        }
    }

    /// The upstream of an endpoint.
    pub(crate) fn upstream(&self, endpoint: &EndpointName) -> Option<&Upstream> {
        self.endpoints.get(endpoint).map(|served| &served.upstream)
    }

    /// Calls in progress; waited for by a drain.
    pub(crate) fn calls(&self) -> &TaskTracker {
        &self.calls
    }

    /// Where calls are accounted for.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Closes upstream connections that idled too long. Call it every few seconds.
    pub(crate) fn sweep(&self) {
        self.endpoints
            .values()
            .for_each(|endpoint| endpoint.upstream.sweep());
    }
}

impl ServedEndpoint {
    /// Whether one of the declared names has this host.
    fn has_host(&self, host: &str) -> bool {
        let mut hosts = self.names.iter().map(ConnectName::host);
        hosts.any(|known| known.eq_ignore_ascii_case(host))
    }

    /// The port of the upstream that a declared name leads to.
    fn port_of(&self, name: &ConnectName) -> Option<u16> {
        let place = self.names.iter().position(|known| known == name)?;
        Some(self.ports[place])
    }

    fn new(endpoint: &Endpoint, upstream: Upstream) -> Self {
        Self {
            upstream,
            paths: PathOptions {
                allow_semicolon: endpoint.allow_semicolon,
                allow_encoded_slash: endpoint.allow_encoded_slash,
            },
            serves_http: endpoint.modes.contains(&Mode::Http),
            proxied: endpoint.proxied(),
            names: endpoint.connect.clone(),
            ports: endpoint
                .connect
                .iter()
                .map(|name| endpoint.port_of(name))
                .collect(),
            allow_no_sni: endpoint.allow_no_sni,
            priority: endpoint.priority,
            slots: Semaphore::new(endpoint.max_streams as usize),
        }
    }
}
