//! The status of a node: what `/api/v1/status` answers and `culvert-relay status` shows.

mod text;

use serde::{Deserialize, Serialize};

use crate::cluster::{Load, Neighbours};
use crate::node::Node;
use crate::sessions::Record;
use crate::tenants::Usage;

/// What a node is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It waits for something before it takes calls.
    Starting,
    /// It takes calls.
    Ready,
    /// It takes no new work.
    Draining,
}

impl State {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// The answer to a request to drain.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Draining {
    /// Always [`State::Draining`].
    pub(crate) state: State,
}

/// Everything about a node at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The node's name.
    pub(crate) node: String,
    /// The version that runs.
    pub(crate) version: String,
    /// What it is up to.
    pub(crate) state: State,
    /// What it waits for, unless it is ready.
    pub(crate) waiting_for: Vec<String>,
    /// Seconds since it started.
    pub(crate) uptime_s: u64,
    /// When the first of the public certificates expires: seconds since the Unix epoch.
    #[serde(default)]
    pub(crate) certificate_expires: Option<u64>,
    /// Public connections, agents' included.
    pub(crate) connections: u64,
    /// Calls that are not over.
    pub(crate) calls: u64,
    /// Agents' sessions, oldest first.
    pub(crate) sessions: Vec<SessionStatus>,
    /// Endpoints, by tenant and name; those remembered without a session too.
    pub(crate) endpoints: Vec<EndpointStatus>,
    /// Tenants that have something in progress, by name.
    pub(crate) tenants: Vec<TenantStatus>,
    /// Whose tokens are accepted.
    pub(crate) issuers: Vec<IssuerStatus>,
    /// The other nodes; none of a node alone.
    #[serde(default)]
    pub(crate) cluster: Option<ClusterStatus>,
}

/// The cluster as the node sees it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClusterStatus {
    /// All nodes together, this one included; of the others what they said last, some seconds ago.
    pub(crate) load: Load,
    /// The other nodes, by name.
    pub(crate) nodes: Vec<NodeStatus>,
    /// What could not be done with the registry when it was last tried, and why, joined by `; `.
    pub(crate) registry_error: Option<String>,
}

/// Another node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    /// Its name.
    pub(crate) node: String,
    /// Where the other nodes reach it.
    pub(crate) address: String,
    /// Whether there is a connection to it.
    pub(crate) reached: bool,
    /// Whether it is about to leave.
    pub(crate) leaving: bool,
    /// Endpoints that its sessions serve.
    pub(crate) endpoints: usize,
    /// How busy it is; none of a node that does not say.
    pub(crate) load: Option<Load>,
}

/// One agent's session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionStatus {
    /// Unique among the node's sessions.
    pub(crate) id: u64,
    /// The agent's tenant.
    pub(crate) tenant: String,
    /// `sub` of the agent's token.
    pub(crate) subject: String,
    /// What the agent calls itself, once it greeted.
    pub(crate) agent: Option<String>,
    /// The agent's software.
    pub(crate) software: Option<String>,
    /// Where it comes from.
    pub(crate) peer: String,
    /// Seconds since it began.
    pub(crate) age_s: u64,
    /// Round trip time, once measured.
    pub(crate) rtt_ms: Option<f64>,
    /// Calls in flight.
    pub(crate) calls: usize,
    /// Connections, the first one included.
    pub(crate) lanes: usize,
    /// Whether it takes no further calls.
    pub(crate) draining: bool,
    /// The session of the same agent whose place it took.
    #[serde(default)]
    pub(crate) replaces: Option<u64>,
    /// The session of the same agent that took its place; it ends with its last call.
    #[serde(default)]
    pub(crate) replaced_by: Option<u64>,
    /// Endpoints that are registered.
    pub(crate) endpoints: Vec<String>,
    /// When its token expires: seconds since the Unix epoch.
    pub(crate) token_expires: u64,
    /// Bytes sent to the agent.
    pub(crate) sent: u64,
    /// Bytes received from the agent.
    pub(crate) received: u64,
}

/// One endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndpointStatus {
    /// Its tenant.
    pub(crate) tenant: String,
    /// Its name.
    pub(crate) endpoint: String,
    /// Sessions with this node that take calls to it.
    pub(crate) sessions: usize,
    /// Sessions with this node that take no further calls, and end with their last ones.
    #[serde(default)]
    pub(crate) draining: usize,
    /// Other nodes that serve it; where none takes calls, here or there, it is offline.
    #[serde(default)]
    pub(crate) elsewhere: usize,
}

/// One tenant that has something in progress.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TenantStatus {
    /// Its name.
    pub(crate) tenant: String,
    /// Its agents' sessions, further connections of sessions included.
    pub(crate) sessions: u32,
    /// Most of them.
    pub(crate) max_sessions: u32,
    /// Its calls in progress.
    pub(crate) calls: usize,
    /// Most of them.
    pub(crate) max_calls: u32,
    /// What was refused because its quota was used up.
    pub(crate) refused: u64,
}

/// One issuer of tokens.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct IssuerStatus {
    /// Its URL.
    pub(crate) issuer: String,
    /// Keys that are known.
    pub(crate) keys: usize,
    /// Seconds since they were fetched.
    pub(crate) age_s: Option<u64>,
    /// Why the last attempt to fetch them failed.
    pub(crate) error: Option<String>,
}

impl Status {
    /// Looks at a node.
    pub(crate) fn of(node: &Node) -> Self {
        let (state, waiting_for) = node.state();
        let endpoints = node
            .directory
            .list()
            .into_iter()
            .map(|listed| EndpointStatus {
                tenant: listed.tenant.to_string(),
                endpoint: listed.endpoint.to_string(),
                sessions: listed.sessions,
                draining: listed.draining,
                elsewhere: listed.elsewhere,
            });
        let issuers = node
            .verifier
            .status()
            .into_iter()
            .map(|issuer| IssuerStatus {
                issuer: issuer.issuer,
                keys: issuer.keys,
                age_s: issuer.age.map(|age| age.as_secs()),
                error: issuer.error.map(|error| error.to_string()),
            });
        Self {
            node: node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state,
            waiting_for,
            uptime_s: node.started.elapsed().as_secs(),
            certificate_expires: node.metrics.certificate_expires(),
            connections: node.metrics.open_connections(),
            calls: node.metrics.calls_in_flight(),
            sessions: node
                .agents
                .records()
                .iter()
                .map(|record| session(record))
                .collect(),
            endpoints: endpoints.collect(),
            tenants: node.tenants.list().into_iter().map(tenant).collect(),
            issuers: issuers.collect(),
            cluster: node.neighbours.as_ref().map(|others| {
                let here = node.metrics.load();
                ClusterStatus::of(here, others)
            }),
        }
    }
}

impl ClusterStatus {
    fn of(mut load: Load, others: &Neighbours) -> Self {
        let nodes = others.nodes();
        for other in nodes.iter().filter_map(|node| node.load) {
            load.sessions = load.sessions.saturating_add(other.sessions);
            load.connections = load.connections.saturating_add(other.connections);
            load.calls = load.calls.saturating_add(other.calls);
        }
        let nodes = nodes.into_iter().map(|node| NodeStatus {
            node: node.link.target().name.clone(),
            address: node.link.target().address.clone(),
            reached: node.link.answers(),
            leaving: node.link.is_leaving(),
            endpoints: node.endpoints,
            load: node.load,
        });
        Self {
            load,
            nodes: nodes.collect(),
            registry_error: others.trouble(),
        }
    }
}

fn tenant(usage: Usage) -> TenantStatus {
    TenantStatus {
        tenant: usage.tenant.to_string(),
        sessions: usage.sessions,
        max_sessions: usage.quota.max_sessions,
        calls: usage.calls,
        max_calls: usage.quota.max_calls,
        refused: usage.refused,
    }
}

fn session(record: &Record) -> SessionStatus {
    let state = record.state().clone();
    let stats = record.session.stats();
    SessionStatus {
        id: record.id.0,
        tenant: record.tenant.to_string(),
        subject: record.subject.clone(),
        agent: state.hello.as_ref().map(|hello| hello.name.clone()),
        software: state.hello.map(|hello| hello.software),
        peer: record.peer.address.to_string(),
        age_s: record.since.elapsed().as_secs(),
        rtt_ms: record.session.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
        calls: record.session.stream_count(),
        lanes: record.session.lanes(),
        draining: record.session.is_draining(),
        replaces: state.replaces.map(|session| session.0),
        replaced_by: state.replaced_by.map(|session| session.0),
        endpoints: state.endpoints.iter().map(ToString::to_string).collect(),
        token_expires: state.token_expires,
        sent: stats.sent,
        received: stats.received,
    }
}
