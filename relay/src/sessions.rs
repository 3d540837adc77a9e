//! The agents: how one gets a session, and what becomes of it.
//!
//! 1. [`handshake`] judges the request on [`SESSION_PATH`](culvert_session::dial::SESSION_PATH): a WebSocket handshake of ours, over TLS 1.3.
//! 2. [`admission`] checks the token and finds room; [`Agents::upgrade`] answers 101, or says why not.
//! 3. [`keeper`] looks after the session until it ends: registration, renewal, expiry. A further
//!    connection of a session that there is joins it instead ([`lanes`]); a session of an agent that
//!    comes back takes the place of its older one ([`places`]).
//!
//! A connection costs one task here and one in its driver; there are never more than the limit.

mod admission;
mod allowance;
mod handshake;
mod keeper;
mod lanes;
mod places;
mod record;
mod registrations;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_config::relay::RelayLimits;
use culvert_http::Problem;
use culvert_identity::{VerifiedToken, Verifier};
use culvert_proto::code::{ErrorCode, GoawayCode};
use culvert_proto::control::Hello;
use culvert_proto::growth::{GrowthBudget, TenantBudgets};
use culvert_proto::mux;
use culvert_session::{Session, WebSocketIo};
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::admission::Seats;
use self::keeper::Keeper;
use self::lanes::Joinable;
use self::places::Places;
pub(crate) use self::record::Record;
use self::record::RecordState;
use crate::directory::{Directory, SessionId};
use crate::handshakes::Handshakes;
use crate::listener::Peer;
use crate::metrics::{Metrics, Refused};
use crate::revocations::Revocations;
use crate::strangers::Strangers;
use crate::tenants::Tenants;

/// What the relay calls itself towards agents.
const SOFTWARE: &str = concat!("culvert-relay/", env!("CARGO_PKG_VERSION"));

/// Receive window of a new stream, in bytes.
const WINDOW: u32 = 256 * 1024;

/// Agents that a draining node sends away at once come back spread over this time.
pub(crate) const SPREAD: Duration = Duration::from_secs(1);

/// Every agent session of a node.
pub struct Agents {
    node: Node,
    verifier: Arc<Verifier>,
    directory: Arc<Directory>,
    strangers: Arc<Strangers>,
    handshakes: Arc<Handshakes>,
    tenants: Arc<Tenants>,
    revocations: Arc<Revocations>,
    metrics: Arc<Metrics>,
    /// How long a connection may take from 101 to the upgrade, and to greet.
    patience: Duration,
    /// What windows of all sessions may grow by.
    growth: GrowthBudget,
    /// What may wait in all sessions.
    waiting: TenantBudgets,
    streams_per_session: u32,
    seats: Arc<Semaphore>,
    next: AtomicU64,
    refusing: AtomicBool,
    live: Mutex<BTreeMap<SessionId, Arc<Record>>>,
    joinable: Joinable,
    places: Places,
}

/// How the node introduces itself.
struct Node {
    name: String,
    instance: [u8; 16],
}

/// The parts of a node that its agents need.
#[derive(Debug)]
pub struct Parts {
    /// Judges agents' tokens.
    pub verifier: Arc<Verifier>,
    /// Where endpoints are registered.
    pub directory: Arc<Directory>,
    /// Limits those who come with wrong tokens.
    pub strangers: Arc<Strangers>,
    /// The queue in which tokens wait to be verified.
    pub handshakes: Arc<Handshakes>,
    /// Knows how many sessions and endpoints a tenant may have.
    pub tenants: Arc<Tenants>,
    /// What is withdrawn.
    pub revocations: Arc<Revocations>,
    /// Counts sessions.
    pub metrics: Arc<Metrics>,
}

impl Agents {
    /// The agents of a node of this name; none yet.
    pub fn new(node: &str, limits: &RelayLimits, parts: Parts) -> Arc<Self> {
        let Parts {
            verifier,
            directory,
            strangers,
            handshakes,
            tenants,
            revocations,
            metrics,
        } = parts;
        let mut instance = [0; 16];
        // Only tells a restarted node from the one before: anything that differs will do.
        let random = culvert_session::tls::provider()
            .secure_random
            .fill(&mut instance);
        if random.is_err() {
            instance = fastrand::u128(..).to_ne_bytes();
        }
        let waiting = tenants.budgets(GrowthBudget::new(limits.waiting_buffer.0));
        Arc::new(Self {
            node: Node {
                name: node.to_owned(),
                instance,
            },
            verifier,
            directory,
            strangers,
            handshakes,
            tenants,
            revocations,
            metrics,
            patience: limits.open.0,
            growth: GrowthBudget::new(limits.receive_buffer.0),
            waiting,
            streams_per_session: limits.streams_per_session,
            seats: Arc::new(Semaphore::new(limits.sessions as usize)),
            next: AtomicU64::new(1),
            refusing: AtomicBool::new(false),
            live: Mutex::new(BTreeMap::new()),
            joinable: Joinable::new(limits.lanes_per_session),
            places: Places::default(),
        })
    }

    /// Answers the request for a session: with 101, after which the connection is a session, or
    /// with the reason why not. The token is verified before anything is upgraded.
    pub async fn upgrade<B>(
        self: Arc<Self>,
        mut request: Request<B>,
        peer: Peer,
    ) -> Result<Response<()>, Problem> {
        let admitted = self.admit(&request, peer).await;
        let (handshake, token, seats) = admitted.inspect_err(|problem| {
            self.metrics.sessions.on_refused(match problem.code {
                ErrorCode::Unauthenticated | ErrorCode::RateLimited => Refused::Unauthenticated,
                ErrorCode::Forbidden => Refused::Forbidden,
                ErrorCode::QuotaExceeded => Refused::QuotaExceeded,
                ErrorCode::Overloaded => Refused::Overloaded,
                _ => Refused::Handshake,
            });
        })?;
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(self.run(upgraded, token, peer, seats));
        Ok(handshake.response())
    }

    /// The life of a session.
    async fn run(
        self: Arc<Self>,
        upgraded: OnUpgrade,
        token: VerifiedToken,
        peer: Peer,
        seats: Seats,
    ) {
        let io = match timeout(self.patience, upgraded).await {
            Ok(Ok(upgraded)) => TokioIo::new(upgraded),
            Ok(Err(error)) => {
                tracing::debug!(peer = %peer.address, %error, "the upgrade failed");
                return;
            }
            Err(_) => {
                tracing::debug!(peer = %peer.address, "the upgrade took too long");
                return;
            }
        };
        let (session, incoming, controls) =
            Session::spawn(WebSocketIo::acceptor(io), self.session_config(&token));
        // Calls come from callers, never from agents: streams that an agent opens are refused.
        drop(incoming);
        let account = seats.of_tenant.account.clone();
        let keeper = Keeper::new(self, session, token, peer, account);
        keeper.run(controls).await;
    }

    fn session_config(&self, token: &VerifiedToken) -> mux::Config {
        let tenant = &token.principal.tenant;
        mux::Config {
            side: mux::Side::Acceptor,
            hello: Hello {
                min_version: mux::VERSION,
                max_version: mux::VERSION,
                features: self.joinable.features() | mux::CALLER_TOKENS,
                name: self.node.name.clone(),
                instance: self.node.instance,
                software: SOFTWARE.to_owned(),
                max_streams: 0,
                initial_window: WINDOW,
                lane: None,
                slot: None,
            },
            limits: culvert_proto::limits::Limits {
                hello_timeout: self.patience,
                max_opened: self.streams_per_session,
                growth: self.growth.of_tenant(tenant.as_str()),
                waiting: self.waiting.of(tenant),
                ..Default::default()
            },
        }
    }

    /// What tells this process of the node from others: random.
    pub(crate) fn instance(&self) -> [u8; 16] {
        self.node.instance
    }

    /// What windows of sessions may grow by, and what may wait in them.
    pub(crate) fn memory(&self) -> (GrowthBudget, TenantBudgets) {
        (self.growth.clone(), self.waiting.clone())
    }

    /// Takes no further agents.
    pub(crate) fn refuse_new(&self) {
        self.refusing.store(true, Ordering::Release);
    }

    /// Tells every agent to open its session elsewhere. Calls in flight go on, new ones are not
    /// taken.
    pub(crate) fn drain(&self) {
        for record in self.records() {
            record.session.drain(SPREAD.mul_f32(fastrand::f32()));
        }
    }

    /// Ends every call, wherever it goes: on sessions here and through other nodes.
    pub(crate) fn give_up_calls(&self) {
        self.tenants.give_up();
    }

    /// Ends every session, with the calls on it.
    pub(crate) fn close(&self, code: GoawayCode, reason: &str) {
        for record in self.records() {
            record.session.close(code, reason);
        }
    }

    /// Ends every session that an operator has withdrawn; says how many.
    pub(crate) fn end_revoked(&self) -> usize {
        let records = self.records();
        let ended = records.iter().filter(|record| self.end_if_revoked(record));
        ended.count()
    }

    fn end_if_revoked(&self, record: &Record) -> bool {
        let (tenant, subject) = (&record.tenant, &record.subject);
        let found = self.revocations.of_agent(tenant, subject, Some(record.id));
        let Some(revocation) = found.filter(|_| record.session.is_open()) else {
            return false;
        };
        tracing::info!(
            session = %record.id,
            %tenant,
            subject = %subject.escape_debug(),
            revocation = %revocation.id,
            "the session is revoked"
        );
        self.metrics.revocations.ended_sessions.inc();
        let told = revocation.told();
        record.session.close(GoawayCode::Revoked, &told);
        true
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.live().len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.live().is_empty()
    }

    /// Every live session, oldest first.
    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        self.live().values().cloned().collect()
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<Record>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a session into the list of the living.
    fn enter(&self, session: &Session, token: &VerifiedToken, peer: Peer) -> Arc<Record> {
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let token_expires = token.principal.expires;
        let state = RecordState {
            hello: None,
            endpoints: Vec::new(),
            token_expires,
            replaces: None,
            replaced_by: None,
            told_of_sharing: None,
        };
        let record = Arc::new(Record {
            id,
            tenant: token.principal.tenant.clone(),
            subject: token.principal.subject.clone(),
            peer,
            since: Instant::now(),
            session: session.clone(),
            replaced: CancellationToken::new(),
            state: Mutex::new(state),
        });
        self.live().insert(id, record.clone());
        self.metrics.sessions.open.inc();
        // It was admitted just before somebody revoked it.
        self.end_if_revoked(&record);
        if self.refusing.load(Ordering::Acquire) {
            // It was admitted just before the node began to drain.
            session.drain(SPREAD);
        }
        record
    }

    fn leave(&self, id: SessionId) {
        if self.live().remove(&id).is_some() {
            self.metrics.sessions.open.dec();
        }
    }
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agents")
            .field("sessions", &self.len())
            .finish_non_exhaustive()
    }
}
