//! The further connections of one session, where the configuration wants any: dialled once the
//! session is registered, served like its first one, dialled again when they are lost, and over
//! when the session is.

use std::sync::Arc;
use std::time::Duration;

use culvert_proto::code::GoawayCode;
use culvert_proto::control::{Hello, Lane, LaneId};
use culvert_proto::limits::MAX_LANES;
use culvert_proto::mux::{self, LANES};
use culvert_session::backoff::Backoff;
use culvert_session::dial::{DialError, dial};
use culvert_session::{Incoming, JoinError, Session, SessionError, WebSocketIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{GREETING_TIMEOUT, Link, SOFTWARE, STEADY, token};

/// Refusals in a row after which a lane is given up. Of three relay nodes behind one address,
/// twelve dials miss the session's own one time in a hundred; and with the usual waits they last
/// longer than a relay takes to notice that a lane which it still counts is dead.
const MAX_REFUSALS: u32 = 12;

/// Why there is no lane, or no longer one.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0}")]
    Ended(#[from] SessionError),
    #[error("no greeting within {} s", GREETING_TIMEOUT.as_secs())]
    Greeting,
    #[error("another relay node answered: {0}")]
    Elsewhere(String),
    #[error(transparent)]
    Join(#[from] JoinError),
}

impl Lost {
    /// Whether the relay node that answered has no place for the lane, and will have none.
    fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Elsewhere(_)
                | Self::Ended(SessionError::Protocol(mux::SessionError::Closed {
                    code: GoawayCode::NotJoined,
                    ..
                }))
        )
    }
}

/// How the first connection of a session greets: with an id for the session, if it is to have
/// further ones. The id is fresh, so that nothing joins a session of the past.
pub(super) fn first(link: &Link) -> (mux::Config, Option<LaneId>) {
    let mut config = link.mux.clone();
    let mut id = [0; 16];
    if link.lanes == 1 || aws_lc_rs::rand::fill(&mut id).is_err() {
        return (config, None);
    }
    config.hello.features |= LANES;
    config.hello.lane = Some(Lane::First(id));
    (config, Some(id))
}

/// A session that is to have lanes.
pub(super) struct Lanes {
    pub(super) link: Arc<Link>,
    pub(super) session: Session,
    pub(super) id: LaneId,
    /// The relay node's greeting on the first connection.
    pub(super) relay: Hello,
    /// Its name, fit for a log.
    pub(super) node: Arc<str>,
}

impl Lanes {
    /// Keeps the lanes up until the session is over, as far as the relay has a place for them.
    pub(super) async fn keep(self) {
        let (relay, wanted) = (self.node.clone(), self.link.lanes.min(MAX_LANES));
        if self.session.features() & LANES == 0 {
            tracing::warn!(
                relay = &*relay,
                "the relay takes one connection a session: going on without lanes"
            );
            return;
        }
        let lanes = Arc::new(self);
        let mut slots = JoinSet::new();
        for _ in 1..wanted {
            slots.spawn(lanes.clone().slot());
        }
        let mut said = false;
        while let Some(ended) = slots.join_next().await {
            if let (Ok(Some(refusal)), false) = (ended, said) {
                said = true;
                tracing::warn!(
                    relay = &*relay,
                    wanted,
                    connections = lanes.session.lanes(),
                    "going on with fewer connections in this session: {refusal}"
                );
            }
        }
    }

    /// Keeps one lane up. Says why it was given up, if it was.
    async fn slot(self: Arc<Self>) -> Option<Lost> {
        let mut backoff = Backoff::new();
        let mut refusals = 0;
        loop {
            let attempt = tokio::select! {
                () = self.over() => return None,
                attempt = self.connect() => attempt,
            };
            let lost = match attempt {
                Err(lost) => lost,
                Ok((lane, incoming)) => {
                    let since = Instant::now();
                    let serving = self.link.serving.clone();
                    serving.serve(incoming, self.node.clone()).await;
                    let lost = lane.closed().await.into();
                    if since.elapsed() >= STEADY {
                        backoff.reset();
                        refusals = 0;
                    }
                    lost
                }
            };
            // What goes with the session is not news.
            if !self.session.is_open() || self.session.is_draining() {
                return None;
            }
            if lost.is_refusal() {
                refusals += 1;
                if refusals == MAX_REFUSALS {
                    return Some(lost);
                }
            }
            let wait = self.wait(&lost, &mut backoff);
            tracing::debug!(
                relay = &*self.node,
                refusals,
                retry_s = wait.as_secs_f32(),
                "a lane is not up: {lost}"
            );
            tokio::select! {
                () = self.over() => return None,
                () = sleep(wait) => {}
            }
        }
    }

    fn wait(&self, lost: &Lost, backoff: &mut Backoff) -> Duration {
        match lost {
            Lost::Dial(error) if error.retry_after().is_some() => {
                backoff.next_delay_after(error.retry_after())
            }
            _ => backoff.next_delay().min(self.link.reconnect),
        }
    }

    /// Completes when no further lane is of use: the session ended, or the agent is to.
    async fn over(&self) {
        tokio::select! {
            () = self.link.stop.cancelled() => {}
            _ = self.session.closed() => {}
        }
    }

    async fn connect(&self) -> Result<(Session, Incoming), Lost> {
        let token = token(self.link.tokens.clone()).await;
        let io = dial(&self.link.target, token.expose(), SOFTWARE).await?;
        self.join(io).await
    }

    /// Makes a connection a lane. Whether the relay agrees shows only in whether it stays.
    async fn join<IO>(&self, io: WebSocketIo<IO>) -> Result<(Session, Incoming), Lost>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut config = self.link.mux.clone();
        config.hello.features |= LANES;
        config.hello.lane = Some(Lane::Joins(self.id));
        // What a relay says about the session, it says on the first connection.
        let (lane, incoming, _) = Session::spawn(io, config);
        let hello = timeout(GREETING_TIMEOUT, lane.ready())
            .await
            .map_err(|_| Lost::Greeting)??;
        if hello.instance != self.relay.instance || lane.features() & LANES == 0 {
            lane.close(GoawayCode::Drain, "the session is on another node");
            return Err(Lost::Elsewhere(hello.name.escape_debug().to_string()));
        }
        self.session.join(&lane, usize::from(MAX_LANES))?;
        tracing::debug!(relay = &*self.node, "a lane is up");
        Ok((lane, incoming))
    }
}

#[cfg(test)]
mod tests;
