//! Looking after one session: what the agent says about itself, and how long its token is good.
//!
//! ```text
//! token good --exp + skew + 5 s--> suspended: no new calls --exp + skew + 30 s--> closed
//!     ^-------------AUTH---------------'
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_identity::VerifiedToken;
use culvert_process::words::{first, sentence};
use culvert_proto::code::{ErrorCode, GoawayCode};
use culvert_proto::control::{Control, Offer, Registration};
use culvert_proto::limits::MAX_REASON;
use culvert_session::{Controls, Session, SessionError, SessionEvent};
use culvert_trust::LEEWAY;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::admission::BOUND;
use super::allowance::Allowance;
use super::lanes::{self, Key, Place};
use super::places;
use super::registrations::{Registrations, SUSPENDED};
use super::{Agents, Record};
use crate::listener::Peer;
use crate::metrics::Metrics;
use crate::tenants::Account;

/// How long a session goes on as if nothing were after its token has expired: the time of a
/// renewal that was a little late.
const SUSPEND_AFTER: Duration = Duration::from_secs(5);

/// How long calls may go on after the token has expired.
const CLOSE_AFTER: Duration = Duration::from_secs(30);

/// Longest time that a token is good for here, whatever it says: a year.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often a session that drains is looked at, to end it once its calls are done.
const LAST_CALLS_TICK: Duration = Duration::from_millis(50);

/// Most endpoints that a log line names: enough for those of a data centre as a rule.
const MOST_NAMED: usize = 16;

/// The keeper of one session.
pub(crate) struct Keeper {
    agents: Arc<Agents>,
    session: Session,
    record: Arc<Record>,
    token: VerifiedToken,
    /// When the token expires, skew included.
    expiry: Instant,
    registrations: Registrations,
    /// What the agent was told of its last offers.
    results: Vec<Registration>,
    allowance: Allowance,
    /// Under which further connections may join the session.
    key: Option<Key>,
    /// Where it replaces an older session, and may be replaced.
    place: Option<places::Key>,
    /// The agent drains: the session ends with its last call.
    leaving: bool,
}

impl Keeper {
    pub(crate) fn new(
        agents: Arc<Agents>,
        session: Session,
        token: VerifiedToken,
        peer: Peer,
        account: Arc<Account>,
    ) -> Self {
        let expiry = expiry(&token, SystemTime::now());
        let record = agents.enter(&session, &token, peer);
        let registrations = Registrations::new(agents.clone(), record.clone(), account);
        let allowance = Allowance::new(Instant::now());
        Self {
            agents,
            session,
            record,
            token,
            expiry,
            registrations,
            results: Vec::new(),
            allowance,
            key: None,
            place: None,
            leaving: false,
        }
    }

    /// Keeps the session until it ends.
    pub(crate) async fn run(mut self, mut controls: Controls) {
        let hello = self.session.ready().await;
        if let Ok(hello) = &hello {
            match Place::of(&self.record, hello) {
                Place::Lane(key) => return self.run_as_lane(&key, &mut controls).await,
                Place::Session(key) => self.key = key,
            }
        }
        self.agents.metrics.sessions.opened.inc();
        if let Ok(hello) = hello {
            tracing::info!(
                session = %self.record.id,
                tenant = %self.record.tenant,
                subject = %self.record.subject.escape_debug(),
                agent = %hello.name.escape_debug(),
                software = %hello.software.escape_debug(),
                peer = %self.record.peer.address,
                "an agent is connected"
            );
            self.place = places::Key::of(&self.record, &hello);
            self.record.state().hello = Some(hello);
            if let Some(key) = &self.key {
                self.agents.joinable.offer(key, &self.record);
            }
            self.listen(&mut controls).await;
        }
        let error = self.session.closed().await;
        self.agents.metrics.sessions.on_end(goaway(&error));
        tracing::info!(
            session = %self.record.id,
            tenant = %self.record.tenant,
            endpoints = self.registrations.bound().len(),
            "the agent's session ended: {error}"
        );
    }

    /// The connection is one more of another session: it has no registrations and no token of its
    /// own to keep, only a place there, or none.
    async fn run_as_lane(self, key: &Key, controls: &mut Controls) {
        let (agents, lane, peer) = (self.agents.clone(), self.session.clone(), self.record.peer);
        let joined = agents.joinable.join(key, &lane);
        // Only now, so that a node that drains or closes finds it in one place or the other.
        drop(self);
        let counts = &agents.metrics.lanes;
        match joined {
            Ok(session) => {
                let peer = peer.address;
                tracing::info!(%session, %peer, "a further connection has joined the session");
                let _open = counts.joined();
                let error = lanes::keep(session, &lane, controls).await;
                tracing::info!(%session, %peer, "a further connection has ended: {error}");
            }
            Err(reason) => {
                tracing::info!(peer = %peer.address, "a connection joins no session: {reason}");
                counts.refused.inc();
                lane.close(GoawayCode::NotJoined, reason);
                lane.closed().await;
            }
        }
    }

    /// Reacts to the agent and to time, until either ends the session.
    async fn listen(&mut self, controls: &mut Controls) {
        loop {
            tokio::select! {
                biased;
                // First: whoever goes on talking does not put off what is due.
                () = sleep_until(self.next_step()) => {
                    if self.registrations.is_suspended() {
                        let reason = "the token expired and was not renewed";
                        self.session.close(GoawayCode::TokenExpired, reason);
                        return;
                    }
                    self.on_expiry();
                }
                event = controls.recv() => match event {
                    Some(event) => self.on_event(event).await,
                    None => return,
                },
                () = self.record.replaced.cancelled(), if !self.leaving => self.leaving = true,
                () = every_call_done(&self.session), if self.leaving => {
                    // Only this side knows when the last answer was read to its end.
                    self.session.close(self.farewell(), "every call is done");
                    return;
                }
            }
        }
    }

    async fn on_event(&mut self, event: SessionEvent) {
        if !self.allowance.take(Instant::now()) {
            self.session
                .close(GoawayCode::Flood, "too many control messages");
            return;
        }
        match event {
            SessionEvent::Control(Control::Register { request, offers }) => {
                self.on_register(request, &offers);
            }
            SessionEvent::Control(Control::Auth { token }) => self.on_auth(&token).await,
            SessionEvent::Control(Control::Notice { code, text }) => tracing::info!(
                session = %self.record.id,
                code = code.map(ErrorCode::as_str),
                text = %sentence(&text),
                "the agent says"
            ),
            SessionEvent::Control(Control::Registered { .. }) => {
                self.session
                    .close(GoawayCode::Protocol, "REGISTERED is what relays send");
            }
            SessionEvent::Draining { code, .. } => {
                let session = self.record.id;
                tracing::info!(%session, %code, "the agent takes no new calls here");
                self.leaving = true;
            }
        }
    }

    /// Why a session without calls ends.
    fn farewell(&self) -> GoawayCode {
        match self.record.replaced.is_cancelled() {
            true => GoawayCode::Replaced,
            false => GoawayCode::Drain,
        }
    }

    fn on_register(&mut self, request: u32, offers: &[Offer]) {
        let contested = self.registrations.contested().to_vec();
        let results = self.registrations.offer(offers, &self.token);
        if contested != self.registrations.contested() {
            self.tell_of_contested();
        }
        // An agent of whose endpoints one is refused offers all of them again every minute.
        let before = std::mem::replace(&mut self.results, results.clone());
        let news: Vec<_> = results.iter().filter(|it| !before.contains(it)).collect();
        self.log_registration(&news);
        let registered = news.iter().filter(|result| result.refused.is_none());
        let registered: Vec<_> = registered.map(|it| it.endpoint.clone()).collect();
        self.send(&Control::Registered { request, results });
        if self.registrations.bound().is_empty() {
            return;
        }
        if let Some(place) = &self.place {
            self.agents.take_place(place, &self.record);
        }
        self.agents.tell_of_sharing(&self.record, &registered);
    }

    /// Says what is new of a registration, in two lines at most: an agent may change all its endpoints with
    /// each.
    fn log_registration(&self, news: &[&Registration]) {
        let (session, tenant) = (self.record.id, &self.record.tenant);
        let (mut registered, mut refused) = (Vec::new(), Vec::new());
        for result in news {
            match &result.refused {
                None => registered.push(&result.endpoint),
                Some(reason) => refused.push(format!("{} ({reason})", result.endpoint)),
            }
        }
        if !registered.is_empty() {
            let (count, names) = (registered.len(), first(MOST_NAMED, registered));
            tracing::info!(%session, %tenant, count, "registered: {names}");
        }
        if !refused.is_empty() {
            let (count, names) = (refused.len(), first(MOST_NAMED, refused));
            tracing::info!(%session, %tenant, count, "registration refused: {names}");
        }
    }

    /// Tells the agent, before its answer, and whoever reads the log which of its names are others'. It
    /// may be a mistake in a configuration, or an agent that is after another's callers.
    fn tell_of_contested(&self) {
        let contested = self.registrations.contested();
        if contested.is_empty() {
            let text = "every endpoint that is registered has all its names to connect to";
            return self.record.inform(text.to_owned());
        }
        let mut names = contested.join(", ");
        names.truncate(names.floor_char_boundary(MAX_REASON));
        tracing::warn!(
            target: "culvert::security",
            session = %self.record.id,
            tenant = %self.record.tenant,
            subject = %self.record.subject.escape_debug(),
            names,
            "an agent declares names to connect to that are other endpoints'; they stay there"
        );
        let text = "calls to these names go to other endpoints until they are free";
        self.notify(ErrorCode::Forbidden, format!("{text}: {names}"));
    }

    /// A renewed token: of the same agent, or the session is over.
    async fn on_auth(&mut self, token: &str) {
        let metrics = self.agents.metrics.clone();
        let session = self.record.id;
        let verifying = self.agents.verifier.verify_refreshing(token);
        // An issuer that does not answer does not put off what is due because of the token before.
        let verified = timeout_at(self.next_step(), verifying).await;
        let token = match verified {
            Err(_) => {
                tracing::info!(%session, "the renewed token was not checked in time");
                let reason = "the token could not be checked in time";
                return self.refuse_renewal(&metrics, ErrorCode::Unauthenticated, reason);
            }
            Ok(Ok(token)) => token,
            Ok(Err(error)) => {
                tracing::info!(%session, "the renewed token is refused: {error}");
                return self.refuse_renewal(
                    &metrics,
                    ErrorCode::Unauthenticated,
                    error.public_reason(),
                );
            }
        };
        if token.bound_to.is_some() {
            tracing::info!(%session, "the renewed token is refused: {BOUND}");
            return self.refuse_renewal(&metrics, ErrorCode::Unauthenticated, BOUND);
        }
        let (old, new) = (&self.token.principal, &token.principal);
        if (&old.tenant, &old.subject) != (&new.tenant, &new.subject) {
            tracing::warn!(
                target: "culvert::security",
                %session,
                tenant = %new.tenant,
                subject = %new.subject.escape_debug(),
                "the renewed token is another agent's: the session is closed"
            );
            metrics.sessions.refused_renewals.inc();
            self.registrations.suspend();
            self.session
                .close(GoawayCode::Revoked, "the renewed token is another agent's");
            return;
        }
        if !token.may_register {
            tracing::info!(%session, "the renewed token lacks the scope to register");
            let reason = "the token lacks the scope to register endpoints";
            return self.refuse_renewal(&metrics, ErrorCode::Forbidden, reason);
        }
        metrics.sessions.renewals.inc();
        self.expiry = expiry(&token, SystemTime::now());
        self.record.state().token_expires = token.principal.expires;
        self.token = token;
        let lost = self.registrations.renew(&self.token);
        tracing::debug!(%session, lost = lost.len(), "the token is renewed");
        if !lost.is_empty() {
            let lost = lost.iter();
            let lost = lost.map(|(endpoint, reason)| format!("{endpoint} ({reason})"));
            let text = format!(
                "no longer registered since the token's renewal: {}",
                first(MOST_NAMED, lost)
            );
            tracing::info!(%session, "{text}");
            self.notify(ErrorCode::Forbidden, text);
        }
    }

    fn refuse_renewal(&mut self, metrics: &Metrics, code: ErrorCode, reason: &str) {
        metrics.sessions.refused_renewals.inc();
        self.notify(code, format!("the renewed token is refused: {reason}"));
    }

    /// When something is due because of the token's expiry.
    fn next_step(&self) -> Instant {
        self.expiry
            + if self.registrations.is_suspended() {
                CLOSE_AFTER
            } else {
                SUSPEND_AFTER
            }
    }

    fn on_expiry(&mut self) {
        let session = self.record.id;
        tracing::info!(%session, "the agent's token expired: no new calls until it is renewed");
        self.registrations.suspend();
        self.notify(ErrorCode::Unauthenticated, SUSPENDED.to_owned());
    }

    fn notify(&self, code: ErrorCode, mut text: String) {
        text.truncate(text.floor_char_boundary(MAX_REASON));
        self.send(&Control::Notice {
            code: Some(code),
            text,
        });
    }

    /// An agent that does not read what it is told loses its session.
    fn send(&self, control: &Control) {
        if let Err(error) = self.session.send_control(control)
            && self.session.is_open()
        {
            tracing::info!(session = %self.record.id, %error, "the agent cannot be told");
            self.session
                .close(GoawayCode::Flood, "control messages are not read");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.agents.joinable.withdraw(key, self.record.id);
        }
        if let Some(place) = &self.place {
            self.agents.places.leave(place, self.record.id);
        }
        self.agents.leave(self.record.id);
    }
}

/// When a token expires by the clock that never jumps, skew included.
fn expiry(token: &VerifiedToken, now: SystemTime) -> Instant {
    let void = token.principal.expires_at() + LEEWAY;
    Instant::now() + void.duration_since(now).unwrap_or_default().min(FAR)
}

/// Completes when no stream is left, and everything that came on them has been read.
pub(super) async fn every_call_done(session: &Session) {
    while session.stats().streams > 0 {
        sleep(LAST_CALLS_TICK).await;
    }
}

/// The code that ended a session, if one did.
fn goaway(error: &SessionError) -> Option<GoawayCode> {
    match error {
        SessionError::Protocol(error) => Some(error.code()),
        SessionError::WebSocket(_) => Some(GoawayCode::Protocol),
        SessionError::Disconnected | SessionError::Io(_) | SessionError::Aborted => None,
    }
}
