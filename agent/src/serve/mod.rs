//! Serving calls: streams come in, each is decided on, forwarded and accounted for.
//!
//! * `hands`: the tasks that carry calls;
//! * `callers`: who calls, where the relay's word is not taken;
//! * `call`: what is known of a call, and what the relay ought to have checked;
//! * `caller`: the caller's side of it, through the tunnel or within TLS that ends here;
//! * `exchange`: a call of HTTP, top to bottom: check, decide, forward, answer;
//! * `soap`: the operation of a SOAP call, from the beginning of its body;
//! * `decide`: what the policy says; `failure`: how a call ends otherwise than well;
//! * `translate`: public names for local ones and back, in its headers;
//! * `pump`: the answer's body on its way back; `switched`: bytes both ways after a 101;
//! * `passage`: a CONNECT that is bytes, with `hello` for the beginning of the caller's TLS;
//! * `hosting`: a CONNECT whose TLS ends here;
//! * `leash`: how long a call may go on: a new policy or an expired credential ends it;
//! * `audit`: the record of a call, however it ends; `accounts`: where it is kept; `alarms`: warnings
//!   about relays, as many as a log bears.

mod accounts;
mod alarms;
mod audit;
mod call;
mod caller;
mod callers;
mod decide;
mod destination;
mod exchange;
mod failure;
mod hands;
mod hello;
mod hosting;
mod leash;
mod passage;
mod pump;
mod soap;
mod switched;
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
pub(crate) use self::call::{Call, Message};
pub(crate) use self::caller::{FromCaller, ToCaller};
pub(crate) use self::callers::CallerChecks;
pub(crate) use self::destination::destination_path;
pub(crate) use self::exchange::{note_refused, run_inside};
use self::hands::Hands;
pub(crate) use self::hello::UNRECOGNIZED_NAME;
use self::translate::LocalNames;
use crate::policy::ActivePolicy;
use crate::terminate::{Front, Host, Identity, IdentityError};
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
    /// For connections whose TLS ends here.
    front: Front,
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
    /// How CONNECTs are served whose TLS ends here, where it has such.
    host: Option<Host>,
    /// How urgent its answers are; `None`: each earns its class.
    priority: Option<Priority>,
    /// One for each call that may be in progress.
    slots: Semaphore,
    /// One for each connection whose TLS ends here: idle ones leave room for calls.
    connections: Semaphore,
}

/// An endpoint that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(crate) struct EndpointError {
    /// The key of the configuration that it is about.
    pub(crate) key: String,
    source: Box<BadEndpoint>,
}

#[derive(Debug, thiserror::Error)]
enum BadEndpoint {
    #[error(transparent)]
    Upstream(#[from] DialerError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl BadEndpoint {
    /// Which of the endpoint's keys it is about.
    fn key(&self, endpoint: &Endpoint) -> &'static str {
        match self {
            Self::Upstream(error) => error.key(endpoint),
            Self::Identity(_) => "terminate",
        }
    }
}

impl Serving {
    /// Prepares the clients of all upstreams, and what callers are shown: reads certificates and the
    /// system's roots. `domain` is the relay's.
    pub(crate) fn new(
        endpoints: &[Endpoint],
        domain: &str,
        policy: watch::Receiver<Arc<ActivePolicy>>,
        accounts: Accounts,
    ) -> Result<Self, EndpointError> {
        let prepare = |(number, endpoint): (usize, &Endpoint)| {
            let served = Upstream::new(endpoint)
                .map_err(BadEndpoint::from)
                .and_then(|upstream| ServedEndpoint::new(endpoint, upstream));
            match served {
                Ok(served) => Ok((endpoint.name.clone(), served)),
                Err(error) => Err(EndpointError {
                    key: format!("endpoint[{number}].{}", error.key(endpoint)),
                    source: Box::new(error),
                }),
            }
        };
        let names = LocalNames::of(endpoints);
        let endpoints = (1..).zip(endpoints).map(prepare);
        let endpoints = endpoints.collect::<Result<_, _>>()?;
        Ok(Self {
            endpoints,
            names,
            policy,
            accounts,
            callers: None,
            front: Front::new(domain),
            calls: TaskTracker::new(),
        })
    }

    /// The same, which does not take the relay's word for who calls.
    pub(crate) fn verifying(self, callers: Option<Arc<CallerChecks>>) -> Self {
        Self { callers, ..self }
    }

    /// Takes calls from a session until it is over, each in a task. How many there can be at
    /// once is the session's own limit.
    pub(crate) async fn serve(self: Arc<Self>, mut incoming: Incoming, node: Arc<str>) {
        let hands = Hands::new(self, node);
        while let Some((head, stream)) = incoming.accept().await {
            hands.carry(head, stream);
        }
    }

    /// Carries a call in a task of its own, which a drain waits for.
    pub(crate) fn spawn(&self, call: impl Future<Output = ()> + Send + 'static) {
        // In a box: a task's future is moved many times before it runs, and thrice after.
        self.calls.spawn(Box::pin(call));
    }

    /// The upstream of an endpoint.
    pub(crate) fn upstream(&self, endpoint: &EndpointName) -> Option<&Upstream> {
        self.endpoints.get(endpoint).map(|served| &served.upstream)
    }

    /// Calls in progress; waited for by a drain.
    pub(crate) fn calls(&self) -> &TaskTracker {
        &self.calls
    }

    /// What every connection needs whose TLS ends here.
    pub(crate) fn front(&self) -> &Front {
        &self.front
    }

    /// Reads again what upstreams are known by, and certificates that callers are shown, where the files
    /// have changed, or if it is `asked` for. Blocks.
    pub(crate) fn look_at_files(&self, asked: bool) {
        for (name, served) in &self.endpoints {
            served.upstream.look_at_files(name, asked);
            if let Some(host) = &served.host {
                host.identity.look(asked);
            }
        }
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
    /// The port of the upstream that a declared name leads to.
    fn port_of(&self, name: &ConnectName) -> Option<u16> {
        let place = self.names.iter().position(|known| known == name)?;
        Some(self.ports[place])
    }

    /// Whether calls of HTTP may come in this mode.
    fn serves(&self, mode: Mode) -> bool {
        match mode {
            Mode::Http => self.serves_http,
            Mode::Terminate => self.host.is_some(),
            Mode::Connect | Mode::Tcp => false,
        }
    }

    fn new(endpoint: &Endpoint, upstream: Upstream) -> Result<Self, BadEndpoint> {
        let paths = endpoint.paths();
        let host = match &endpoint.terminate {
            None => None,
            Some(terminate) => Some(Host {
                identity: Identity::load(terminate, &endpoint.connect)?,
                names: endpoint.connect.clone(),
                allow_no_sni: endpoint.allow_no_sni,
                handshake: endpoint.timeouts.tls.0,
                paths,
            }),
        };
        Ok(Self {
            upstream,
            paths,
            serves_http: endpoint.modes.contains(&Mode::Http),
            proxied: endpoint.proxied(),
            names: endpoint.connect.clone(),
            ports: endpoint
                .connect
                .iter()
                .map(|name| endpoint.port_of(name))
                .collect(),
            allow_no_sni: endpoint.allow_no_sni,
            host,
            priority: endpoint.priority,
            slots: Semaphore::new(endpoint.max_streams as usize),
            connections: Semaphore::new(endpoint.max_streams as usize),
        })
    }
}
