//! What nodes tell each other, and where they leave it.

use std::fmt;
use std::time::Duration;

use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::priority::Priority;
use serde::{Deserialize, Serialize};

use crate::directory::RouteHere;
use crate::revocations::sharing::Word;

/// A node's process: a node that is started again is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Instance {
    /// The node's name.
    pub(crate) node: String,
    /// Random.
    pub(crate) process: [u8; 16],
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:032x}",
            self.node,
            u128::from_be_bytes(self.process)
        )
    }
}

impl Instance {
    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (node, process) = text.rsplit_once('.')?;
        let whole = process.len() == 32 && !node.is_empty() && node.len() <= 255;
        let process = u128::from_str_radix(process, 16).ok().filter(|_| whole)?;
        Some(Self {
            node: node.to_owned(),
            process: process.to_be_bytes(),
        })
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Which process says it.
    pub(crate) instance: Instance,
    /// Grows with every change.
    pub(crate) version: u64,
    /// Where other nodes reach it: `HOST:PORT`.
    pub(crate) address: String,
    /// Whether it is about to leave.
    pub(crate) leaving: bool,
    /// What its sessions serve.
    pub(crate) routes: Vec<Route>,
}

/// How busy a node is, as of the last time that it said so: its status, not what calls go by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Agents' sessions.
    pub(crate) sessions: u64,
    /// Public connections, agents' included.
    pub(crate) connections: u64,
    /// Calls that are not over.
    pub(crate) calls: u64,
}

/// An endpoint that a node serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) tenant: TenantName,
    pub(crate) endpoint: EndpointName,
    pub(crate) names: Vec<ConnectName>,
    pub(crate) tunnel: Option<Mode>,
    pub(crate) priority: Option<Priority>,
}

impl Route {
    /// Whose endpoint it is, and which.
    pub(crate) fn of(&self) -> (&TenantName, &EndpointName) {
        (&self.tenant, &self.endpoint)
    }
}

impl From<&RouteHere> for Route {
    fn from(here: &RouteHere) -> Self {
        Self {
            tenant: here.tenant.clone(),
            endpoint: here.endpoint.clone(),
            names: here.names.clone(),
            tunnel: here.tunnel,
            priority: here.priority,
        }
    }
}

/// An entry as it was read, but for its routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) instance: Instance,
    pub(crate) version: u64,
    pub(crate) address: String,
    pub(crate) leaving: bool,
    /// None of a node of an older version.
    pub(crate) load: Option<Load>,
}

/// The routes of an entry, as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Routes {
    /// Of which version they are.
    pub(crate) version: u64,
    pub(crate) routes: Vec<Route>,
}

/// Changes with every word about revocations; `None`: there has been none.
pub(crate) type Stamp = Option<String>;

/// All words about revocations.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) words: Vec<Word>,
    /// No younger than the words.
    pub(crate) stamp: Stamp,
}

/// Why the registry gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// The engine cannot be reached, or what it says cannot be understood.
    #[error("{0}")]
    Engine(String),
    /// The engine says no to what it was asked; it may say yes to something else.
    #[error("{0}")]
    Refused(String),
    /// Nothing within the time.
    #[error("no answer within {:.1} s", .0.as_secs_f64())]
    Timeout(Duration),
}

/// Most words about revocations that are said at once.
pub(crate) const WORDS: usize = 128;

/// Where entries lie, and words about revocations. Whatever it is, it forgets an entry that is not
/// renewed within its lease, and a word that is over; it shows the routes of an entry whole or not at
/// all; and each question that it asks of an engine ends in time.
///
/// Nothing here is trusted beyond what [`crate::cluster`] says.
pub(crate) trait Registry: Send + Sync + 'static {
    /// Leaves out routes for which one entry has no room: no more would be read. The same of the same.
    fn fit(routes: Vec<Route>) -> Vec<Route>;

    /// Leaves an entry, in place of an older one of the same process, and hints at it.
    fn publish(
        &self,
        entry: &Entry,
        load: Load,
        lease: Duration,
    ) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// Lets an entry that was left live for another lease, with this load; `false` if there is none.
    fn renew(
        &self,
        entry: &Entry,
        load: Load,
        lease: Duration,
    ) -> impl Future<Output = Result<bool, RegistryError>> + Send;

    /// Every entry whose lease has not ended, without routes: those of all nodes together may be more
    /// than a slow engine gives in one answer.
    fn read(&self) -> impl Future<Output = Result<Vec<Seen>, RegistryError>> + Send;

    /// The routes of an entry; `None`: there are none that can be read whole.
    fn routes(
        &self,
        instance: &Instance,
    ) -> impl Future<Output = Result<Option<Routes>, RegistryError>> + Send;

    /// Takes an entry back, and hints at it.
    fn withdraw(
        &self,
        instance: &Instance,
    ) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// Leaves up to [`WORDS`] words about revocations, and hints at them. That something was lifted takes the place of
    /// what was said of it before; that something holds, of nothing.
    fn say(&self, words: &[Word]) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// All words about revocations that are not over; nothing if the stamp is the `known` one.
    fn hear(
        &self,
        known: Option<&Stamp>,
    ) -> impl Future<Output = Result<Option<Heard>, RegistryError>> + Send;

    /// Completes when an entry or a word may have changed; with an error where nothing of that is heard at
    /// the moment. May miss changes, and may be wrong.
    fn hint(&self) -> impl Future<Output = Result<(), RegistryError>> + Send;
}
