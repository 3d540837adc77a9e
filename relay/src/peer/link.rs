//! The connection to another node: one for all calls that go there, dialled again and again for as
//! long as the node is one of the cluster.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use culvert_process::workers::Workers;
use culvert_proto::mux::Side;
use culvert_session::backoff::Backoff;
use culvert_session::socket::{self, ReadAhead};
use culvert_session::{Session, SessionError, WebSocketIo, race};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::tls::Refused;
use super::{Introduction, PeerTls};
use crate::directory::SessionId;

/// How long a dial may take, from the name to the greeting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait between two dials: a node that is back should not wait for long.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Numbers of links begin here: those of sessions never come so far.
const FIRST_LINK: u64 = 1 << 63;

/// Where another node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The node's name, for logs.
    pub(crate) name: String,
    /// The process that is meant, and no other that answers there.
    pub(crate) instance: [u8; 16],
    /// `HOST:PORT`.
    pub(crate) address: String,
}

/// The way to another node.
pub struct Link {
    id: SessionId,
    target: Target,
    session: ArcSwapOption<Session>,
    /// The node is about to leave: others come first.
    leaving: AtomicBool,
    /// The node had no session for a call.
    missed: AtomicBool,
}

impl Link {
    /// Its number among sessions.
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Where the node is.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The session with the node, if there is one.
    pub(crate) fn session(&self) -> Option<Session> {
        self.session.load().as_deref().cloned()
    }

    /// Whether the node answers, as far as is known.
    pub(crate) fn answers(&self) -> bool {
        self.session.load().is_some()
    }

    /// Whether the node said that it is about to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Notes whether the node says that it is about to leave.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Relaxed);
    }

    /// Notes that the node had no session for a call, and its route is out.
    pub(crate) fn note_miss(&self) {
        self.missed.store(true, Ordering::Release);
    }

    /// Whether that was so since this was asked last.
    pub(crate) fn take_miss(&self) -> bool {
        self.missed.swap(false, Ordering::Acquire)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("node", &self.target.name)
            .finish_non_exhaustive()
    }
}

/// Why there is no connection to a node.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the connection failed: {0}")]
    Io(io::Error),
    #[error("no greeting: {0}")]
    Session(SessionError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("another process answers there")]
    AnotherProcess,
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Timeout,
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Refused::of(&error).map_or(Self::Io(error), Self::Refused)
    }
}

impl From<SessionError> for LinkError {
    fn from(error: SessionError) -> Self {
        let refused = match &error {
            SessionError::Io(error) => Refused::of(error),
            _ => None,
        };
        refused.map_or(Self::Session(error), Self::Refused)
    }
}

/// Makes links.
#[derive(Debug)]
pub(crate) struct Peers {
    tls: Arc<PeerTls>,
    introduction: Introduction,
    workers: Arc<Workers>,
    next: AtomicU64,
}

impl Peers {
    /// For a node that introduces itself like this; the links are carried by `workers` in turn.
    pub(crate) fn new(
        tls: Arc<PeerTls>,
        introduction: Introduction,
        workers: Arc<Workers>,
    ) -> Arc<Self> {
        Arc::new(Self {
            tls,
            introduction,
            workers,
            next: AtomicU64::new(FIRST_LINK),
        })
    }

    /// A link to a node, which is kept up until the handle is dropped.
    pub(crate) fn link(self: &Arc<Self>, target: Target) -> (Arc<Link>, AbortOnDropHandle<()>) {
        let link = Arc::new(Link {
            id: SessionId(self.next.fetch_add(1, Ordering::Relaxed)),
            target,
            session: ArcSwapOption::empty(),
            leaving: AtomicBool::new(false),
            missed: AtomicBool::new(false),
        });
        let keeping = self.clone().keep_up(link.clone());
        let keeping = self.workers.next().spawn(keeping);
        (link, AbortOnDropHandle::new(keeping))
    }

    async fn keep_up(self: Arc<Self>, link: Arc<Link>) {
        let target = &link.target;
        let node = &target.name;
        let mut backoff = Backoff::new();
        let mut complained = false;
        loop {
            let dialled = timeout(PATIENCE, self.dial(target)).await;
            match dialled.unwrap_or(Err(LinkError::Timeout)) {
                Ok(session) => {
                    tracing::info!(node, address = target.address, "connected with a node");
                    (backoff, complained) = (Backoff::new(), false);
                    link.session.store(Some(Arc::new(session.clone())));
                    let error = session.closed().await;
                    link.session.store(None);
                    tracing::info!(node, "the connection with a node ended: {error}");
                }
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(
                        node,
                        address = target.address,
                        "a node cannot be reached: {error}"
                    );
                }
                Err(error) => tracing::debug!(node, "a node cannot be reached: {error}"),
            }
            sleep(backoff.next_delay().min(LONGEST_WAIT)).await;
        }
    }

    async fn dial(&self, target: &Target) -> Result<Session, LinkError> {
        let addresses = tokio::net::lookup_host(&target.address).await?.collect();
        let tcp = race::connect(addresses).await?;
        socket::tune(&tcp);
        let tls = TlsConnector::from(self.tls.client())
            .connect(self.tls.name(), ReadAhead::new(tcp))
            .await?;
        let config = self.introduction.config(Side::Dialer);
        let io = WebSocketIo::dialer(tls, Vec::new());
        // Calls go one way on a connection, and nodes have nothing to say about sessions.
        let (session, _, _) = Session::spawn(io, config);
        let hello = session.ready().await?;
        if hello.instance != target.instance {
            return Err(LinkError::AnotherProcess);
        }
        Ok(session)
    }
}
