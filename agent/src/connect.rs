//! Keeping sessions with the relay: one loop per session, for as long as the agent runs.

mod again;
mod keeper;
mod lanes;
mod live;
mod lost;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use culvert_identity::AccessToken;
use culvert_proto::code::GoawayCode;
use culvert_proto::control::{self, LaneId, Offer};
use culvert_proto::mux;
use culvert_session::backoff::Backoff;
use culvert_session::dial::{DialTarget, dial};
use culvert_session::{Session, SessionError, WebSocketIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::keeper::{Keeper, Tries};
use self::lanes::Lanes;
pub(crate) use self::live::{LiveSession, LiveSessions};
use self::lost::{Lost, Quiet};
pub(crate) use self::trust::RelayTrust;
use crate::register::ANSWER_TIMEOUT;
use crate::serve::Serving;

/// What the agent calls itself towards the relay.
pub(crate) const SOFTWARE: &str = concat!("culvert-agent/", env!("CARGO_PKG_VERSION"));

/// How long the greeting of a new session may take.
pub(crate) const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a session must have lasted to prove that the next attempt needs no long wait.
const STEADY: Duration = Duration::from_secs(3);

/// How often a slot dials again because the node that answered has a session of this agent already:
/// behind one address it is chance which one answers, and there may be only one.
const SPREAD_TRIES: u32 = 4;

/// How long a session that shares its node with another one goes on before its slot looks for
/// another node. Doubled at random, so that agents do not look at the same time.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Most sessions of one slot, the one that it holds and earlier ones that go on for their calls. A relay that
/// replaces all its nodes in turn leaves some behind for as long as a drain takes; one that asks for another
/// session again and again, and keeps each from ending, leaves no more.
const MAX_SESSIONS: usize = 16;

/// The way to the relay, and what all sessions have in common.
pub(crate) struct Link {
    pub(crate) target: DialTarget,
    /// The current token and its successors.
    pub(crate) tokens: watch::Receiver<Option<AccessToken>>,
    /// Asks for another token: the relay refused this one.
    pub(crate) renew: Box<dyn Fn() + Send + Sync>,
    pub(crate) mux: mux::Config,
    /// Connections of each session.
    pub(crate) lanes: u8,
    pub(crate) offers: Vec<Offer>,
    pub(crate) serving: Arc<Serving>,
    /// Longest wait between two attempts.
    pub(crate) reconnect: Duration,
    /// Set when the agent ends.
    pub(crate) stop: CancellationToken,
    pub(crate) live: Arc<LiveSessions>,
}

/// One of the sessions that the agent wants to hold.
pub(crate) struct Slot {
    link: Arc<Link>,
    /// Tells it from the others, from 0.
    number: u8,
    /// Its sessions that have not ended, oldest first.
    open: Vec<Session>,
}

impl Slot {
    pub(crate) fn new(link: Arc<Link>, number: u8) -> Self {
        Self {
            link,
            number,
            open: Vec::new(),
        }
    }

    /// Keeps a session up until the agent stops: dials, registers, serves, and dials again.
    pub(crate) async fn keep(mut self) {
        let link = self.link.clone();
        let mut backoff = Backoff::new();
        let mut quiet = Quiet::default();
        let mut draining: Option<Running> = None;
        let mut same_node = 0;
        loop {
            let lost = tokio::select! {
                () = link.stop.cancelled() => return,
                lost = self.attempt(same_node >= SPREAD_TRIES) => lost,
            };
            same_node = match &lost {
                Err(Lost::SameNode(_)) => same_node + 1,
                _ => 0,
            };
            let lost = match lost {
                Err(lost) => lost,
                Ok(mut running) => {
                    let since = Instant::now();
                    link.live.note_trouble(None);
                    if let Some(earlier) = draining.take() {
                        earlier.replace();
                    }
                    let Some(lost) = self.hold(&mut running).await else {
                        return;
                    };
                    // A relay that takes sessions only to drop them is not dialled ever faster.
                    if since.elapsed() >= STEADY {
                        backoff.reset();
                    }
                    draining = Some(running);
                    lost
                }
            };
            if lost.blames_the_token() {
                (link.renew)();
            }
            let wait = match lost.floor() {
                // A node that leaves has spread its agents over time itself.
                Some(hint) if matches!(lost, Lost::Draining { .. }) => hint + backoff.next_delay(),
                Some(floor) => backoff.next_delay_after(Some(floor)),
                None => backoff.next_delay().min(link.reconnect),
            };
            link.live.note_trouble(Some(lost.to_string()));
            quiet.say(&lost, backoff.attempts(), wait);
            tokio::select! {
                () = link.stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Waits until the session is lost; `None` where the agent stops before. While it shares its node
    /// with another one, looks for another node meanwhile.
    async fn hold(&mut self, running: &mut Running) -> Option<Lost> {
        let link = self.link.clone();
        loop {
            // An attempt can take long, or wait for a token for ever: it is given up when there is
            // news.
            tokio::select! {
                () = link.stop.cancelled() => return None,
                lost = &mut running.lost => {
                    return Some(lost.unwrap_or(Lost::Session(SessionError::Aborted)));
                }
                elsewhere = self.look_again(), if running.shares => {
                    if let Ok(elsewhere) = elsewhere {
                        std::mem::replace(running, elsewhere).replace();
                    }
                }
            }
        }
    }

    /// After a while, tries to make a session with a node that has none of this agent.
    async fn look_again(&mut self) -> Result<Running, Lost> {
        sleep(LOOK_AGAIN.mul_f64(1.0 + fastrand::f64())).await;
        self.attempt(false).await
    }

    /// Makes a session with a relay node; `may_share`: even with one that another slot has a session
    /// with.
    async fn attempt(&mut self, may_share: bool) -> Result<Running, Lost> {
        let token = token(self.link.tokens.clone()).await;
        let io = dial(&self.link.target, token.expose(), SOFTWARE).await?;
        self.begin(io, token, may_share).await
    }

    /// How the next session of the slot greets.
    fn greeting(&mut self) -> (mux::Config, Option<LaneId>) {
        let (mut config, lane_id) = lanes::first(&self.link);
        self.open.retain(Session::is_open);
        if self.open.len() == MAX_SESSIONS {
            let oldest = self.open.remove(0);
            oldest.close(GoawayCode::Drain, "too many later sessions");
        }
        config.hello.slot = Some(control::Slot {
            number: self.number,
            older_lives: !self.open.is_empty(),
        });
        (config, lane_id)
    }

    /// Registers over a new connection; from then on a task of its own looks after the session,
    /// which goes on for its calls while the slot already dials the next one.
    async fn begin<IO>(
        &mut self,
        io: WebSocketIo<IO>,
        token: AccessToken,
        may_share: bool,
    ) -> Result<Running, Lost>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (config, lane_id) = self.greeting();
        let link = &self.link;
        let (session, incoming, controls) = Session::spawn(io, config);
        let hello = timeout(GREETING_TIMEOUT, session.ready())
            .await
            .map_err(|_| Lost::Greeting)??;
        let node: Arc<str> = hello.name.escape_debug().to_string().into();
        let Some(choice) = link.live.choose(hello.instance, may_share) else {
            session.close(GoawayCode::Drain, "another node is wanted");
            return Err(Lost::SameNode(node));
        };
        self.open.push(session.clone());
        let shares = choice.shared;
        if shares {
            tracing::warn!(
                relay = &*node,
                "two sessions are with one relay node: if it fails, both are lost"
            );
        }
        let (registered, on_registered) = oneshot::channel();
        let (lost, on_lost) = oneshot::channel();
        let replaced = CancellationToken::new();
        let keeper = Keeper {
            link: link.clone(),
            node: node.clone(),
            session: session.clone(),
            token,
            replaced: replaced.clone(),
            registered: Some(registered),
            lost: Some((lost, choice)),
            tries: Tries::default(),
        };
        tokio::spawn(keeper.run(incoming, controls));
        let mut begun = Begun(Some((session.clone(), replaced.clone())));
        match timeout(ANSWER_TIMEOUT, on_registered).await {
            Ok(Ok(0)) => {
                session.close(GoawayCode::Drain, "nothing is registered");
                Err(Lost::Nothing)
            }
            Ok(Ok(_)) => {
                if let Some(id) = lane_id {
                    let lanes = Lanes {
                        link: link.clone(),
                        session: session.clone(),
                        id,
                        relay: hello,
                        node,
                    };
                    tokio::spawn(lanes.keep());
                }
                begun.0 = None;
                Ok(Running {
                    session,
                    lost: on_lost,
                    replaced,
                    shares,
                })
            }
            Ok(Err(_)) => Err(on_lost
                .await
                .unwrap_or(Lost::Session(SessionError::Aborted))),
            Err(_) => {
                session.close(GoawayCode::Timeout, "no answer to the registration");
                Err(Lost::Registration)
            }
        }
    }
}

/// The first token that is valid. Why there is none is in the token source's log.
async fn token(mut tokens: watch::Receiver<Option<AccessToken>>) -> AccessToken {
    next_token(&mut tokens, |token| !token.is_expired()).await
}

/// The current token or its first successor that is `wanted`. The source ends with the agent.
async fn next_token(
    tokens: &mut watch::Receiver<Option<AccessToken>>,
    wanted: impl Fn(&AccessToken) -> bool,
) -> AccessToken {
    loop {
        let current = tokens.borrow_and_update().clone();
        if let Some(token) = current.filter(&wanted) {
            return token;
        }
        if tokens.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A session that is registered.
struct Running {
    session: Session,
    lost: oneshot::Receiver<Lost>,
    replaced: CancellationToken,
    /// Whether the node has a session of another slot too.
    shares: bool,
}

impl Running {
    /// Another session has taken over: no new calls here, and the end once those here are done.
    fn replace(self) {
        retire(&self.session, &self.replaced);
    }
}

/// Asks for no new calls; the session's keeper ends it once those here are done.
fn retire(session: &Session, replaced: &CancellationToken) {
    session.drain(Duration::ZERO);
    replaced.cancel();
}

/// A session that has a keeper and no slot yet. Where no slot takes it, because the attempt at it was
/// given up, it ends like one that was replaced.
struct Begun(Option<(Session, CancellationToken)>);

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some((session, replaced)) = &self.0 {
            retire(session, replaced);
        }
    }
}

#[cfg(test)]
mod tests;
