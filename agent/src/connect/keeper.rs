//! What an agent does for one session: it offers endpoints, passes tokens on, and hears the relay.

use std::sync::Arc;
use std::time::Duration;

use culvert_identity::AccessToken;
use culvert_process::words::sentence;
use culvert_proto::code::{ErrorCode, GoawayCode};
use culvert_proto::control::Control;
use culvert_session::{Controls, Incoming, Session, SessionEvent};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::again::Again;
use super::live::{Choice, LiveSession};
use super::lost::Lost;
use super::{Link, next_token};
use crate::drain::{LINGER, emptied};
use crate::register::Registrations;

/// Notices of one session, in the life of one token, that are logged aloud and acted upon: a relay
/// may inform, not fill the log.
pub(super) const MAX_NOTICES: u32 = 20;

/// Longest first and longest later wait before a token that the relay did not take is sent again:
/// the issuer, which the relay asks, may not answer for a moment. A session whose token expired is
/// closed 25 s after its agent was told, and there is a try in that time.
const AUTH_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(20));

/// The same before an endpoint that was refused is offered again: another agent's session may hold
/// the name, or the tenant's others all the room that it has.
const OFFER_AGAIN: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(60));

/// Looks after one session until it ends.
pub(super) struct Keeper {
    pub(super) link: Arc<Link>,
    /// The relay node's name, fit for a log.
    pub(super) node: Arc<str>,
    pub(super) session: Session,
    /// The token that the relay has, or was sent.
    pub(super) token: AccessToken,
    pub(super) replaced: CancellationToken,
    /// Told how many endpoints are registered.
    pub(super) registered: Option<oneshot::Sender<usize>>,
    /// Told that a new session is needed, for which the node is one like others.
    pub(super) lost: Option<(oneshot::Sender<Lost>, Choice)>,
    pub(super) tries: Tries,
}

/// What the relay said of what it was sent, and what it is sent again for that.
#[derive(Debug)]
pub(super) struct Tries {
    /// Notices in the life of the token.
    notices: u32,
    /// When the token is sent again that the relay did not take.
    auth: Again,
    /// When the endpoints are offered again of which it refused one.
    offers: Again,
}

impl Default for Tries {
    fn default() -> Self {
        Self {
            notices: 0,
            auth: Again::new(AUTH_AGAIN),
            offers: Again::new(OFFER_AGAIN),
        }
    }
}

impl Keeper {
    pub(super) async fn run(mut self, incoming: Incoming, mut controls: Controls) {
        tracing::info!(relay = &*self.node, "connected");
        let link = self.link.clone();
        let live = link.live.add(&self.session, self.node.clone());
        let calls = tokio::spawn(link.serving.clone().serve(incoming, self.node.clone()));

        let node = self.node.clone();
        let mut registrations = Registrations::new(&link.offers, &node);
        self.offer(&mut registrations);
        let mut tokens = link.tokens.clone();
        loop {
            tokio::select! {
                event = controls.recv() => match event {
                    Some(event) => self.on_event(event, &mut registrations, &live),
                    None => break,
                },
                token = next_token(&mut tokens, |token| !self.knows(token)) => {
                    self.token = token;
                    self.tries.notices = 0;
                    self.tries.auth.on_done();
                    self.pass_token_on(&mut registrations);
                }
                () = self.tries.auth.due() => {
                    self.tries.auth.on_try();
                    // The same one may count for longer than when it came, if it stands in a file.
                    let same = link.tokens.borrow().clone().filter(|token| self.knows(token));
                    self.token = same.unwrap_or(self.token);
                    // Its successor is sent as soon as there is one. Until then it is not taken, and may
                    // still turn out to count for longer.
                    if self.token.is_expired() {
                        self.tries.auth.later();
                    } else {
                        self.pass_token_on(&mut registrations);
                    }
                }
                () = self.tries.offers.due() => {
                    self.tries.offers.on_try();
                    // One that drains has a successor, which offers what it may.
                    if !self.session.is_draining() {
                        self.offer(&mut registrations);
                    }
                }
                // Nobody asks any more how it ends, and no slot has chosen its node.
                () = self.replaced.cancelled(), if self.lost.is_some() => self.lost = None,
                () = self.idle() => {
                    self.session.close(GoawayCode::Drain, "every call is done");
                    break;
                }
            }
        }
        let error = self.session.closed().await;
        let _ = calls.await;
        tracing::info!(relay = &*node, "the session ended: {error}");
        if let Some((lost, choice)) = self.lost.take() {
            drop(choice);
            let _ = lost.send(Lost::Session(error));
        }
    }

    /// Whether the relay has this token, or was sent it.
    fn knows(&self, token: &AccessToken) -> bool {
        self.token.expose() == token.expose()
    }

    fn offer(&self, registrations: &mut Registrations<'_>) {
        if let Err(error) = registrations.offer(&self.session) {
            tracing::warn!(relay = &*self.node, %error, "the registration cannot be sent");
        }
    }

    fn pass_token_on(&mut self, registrations: &mut Registrations<'_>) {
        if let Err(error) = registrations.renew(&self.session, &self.token) {
            tracing::warn!(relay = &*self.node, %error, "the renewed token cannot be sent");
            self.tries.auth.later();
        }
    }

    /// The relay has answered the last registration. If anything was wrong with the token that went
    /// before it, it has said so before.
    fn on_answer(&mut self, registrations: &Registrations<'_>) {
        if self.tries.auth.has_failed() && !self.tries.auth.is_to_come() {
            tracing::info!(relay = &*self.node, "the relay has taken the token");
            self.tries.auth.on_done();
        }
        let registered = registrations.registered();
        if registered < self.link.offers.len() {
            self.tries.offers.later();
        } else {
            self.tries.offers.on_done();
        }
        if let Some(told) = self.registered.take() {
            let _ = told.send(registered);
        }
    }

    fn on_event(
        &mut self,
        event: SessionEvent,
        registrations: &mut Registrations<'_>,
        live: &LiveSession,
    ) {
        let relay = &*self.node;
        match event {
            SessionEvent::Control(Control::Registered { request, results }) => {
                registrations.on_registered(request, &results);
                live.on_registered(registrations.results());
                if registrations.is_answered() {
                    self.on_answer(registrations);
                }
            }
            SessionEvent::Control(Control::Notice { code, text }) => {
                self.on_notice(code, sentence(&text), registrations, live);
            }
            SessionEvent::Control(Control::Register { .. } | Control::Auth { .. }) => {
                // What is still in the queue of a session that has ended is not said again.
                if self.session.is_open() {
                    tracing::warn!(
                        target: "culvert::security",
                        relay,
                        "the relay sent what only agents send: the session ends"
                    );
                }
                let reason = "REGISTER and AUTH are what agents send";
                self.session.close(GoawayCode::Protocol, reason);
            }
            SessionEvent::Draining { code, retry_after } => {
                if let Some((lost, choice)) = self.lost.take() {
                    drop(choice);
                    let _ = lost.send(Lost::Draining { code, retry_after });
                }
            }
        }
    }

    fn on_notice(
        &mut self,
        code: Option<ErrorCode>,
        text: String,
        registrations: &mut Registrations<'_>,
        live: &LiveSession,
    ) {
        let relay = &*self.node;
        let about_the_token = code == Some(ErrorCode::Unauthenticated);
        // What is said of a token that is sent again and again, is heard once.
        let repeated = about_the_token
            && self.tries.auth.has_failed()
            && live.notice().is_some_and(|before| before.text == text);
        if !repeated {
            self.tries.notices = self.tries.notices.saturating_add(1);
        }
        let heard = !repeated && self.tries.notices <= MAX_NOTICES;
        match code.map(ErrorCode::as_str) {
            // Without a code nothing is wrong.
            None if heard => tracing::info!(relay, text, "the relay says"),
            Some(code) if heard => tracing::warn!(relay, code, text, "the relay says"),
            code => tracing::debug!(relay, code, text, "the relay says"),
        }
        live.on_notice(text);
        if about_the_token {
            self.tries.auth.later();
        }
        // Something is wrong, and may concern what is registered: only the relay knows.
        if code.is_some() && heard && registrations.is_answered() {
            self.offer(registrations);
        }
    }

    /// Completes when another session has taken over, the calls here are done, and the relay has
    /// had time to end the session itself.
    async fn idle(&self) {
        self.replaced.cancelled().await;
        emptied(&self.session).await;
        sleep(LINGER).await;
    }
}
