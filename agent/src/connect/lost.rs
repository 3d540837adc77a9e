//! Why there is no session: what to do about it, how long to stay away, and how to say so without
//! saying it over and over.

use std::sync::Arc;
use std::time::Duration;

use culvert_proto::code::GoawayCode;
use culvert_proto::mux;
use culvert_session::SessionError;
use culvert_session::dial::DialError;

use super::GREETING_TIMEOUT;
use crate::register::ANSWER_TIMEOUT;

/// Longest time that a draining relay is believed to want before the agent comes back.
const MAX_DRAIN_HINT: Duration = Duration::from_secs(10);

/// Least wait after the relay said that another session took this one's place: to dial at once
/// would only take it back.
const REPLACED_WAIT: Duration = Duration::from_secs(60);

/// Why there is no session, or no longer one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the session ended: {0}")]
    Session(#[from] SessionError),
    #[error("the relay did not greet within {} s", GREETING_TIMEOUT.as_secs())]
    Greeting,
    #[error("the relay did not answer the registration within {} s", ANSWER_TIMEOUT.as_secs())]
    Registration,
    #[error("the relay registered none of the endpoints; the reasons are logged above")]
    Nothing,
    #[error("the relay node {0} has a session of this agent already")]
    SameNode(Arc<str>),
    #[error(
        "the relay asks for another session ({code}{})",
        if *code == GoawayCode::Replaced {
            ": it has a newer one of this process, with which this one does not compete"
        } else {
            ""
        }
    )]
    Draining {
        code: GoawayCode,
        retry_after: Duration,
    },
}

impl Lost {
    fn advice(&self) -> &'static str {
        match self {
            Self::Dial(error) => error.advice(),
            Self::Session(_) | Self::Draining { .. } | Self::SameNode(_) => "",
            Self::Greeting | Self::Registration => {
                "something between here and the relay holds messages back, or the relay is stuck"
            }
            Self::Nothing => "check the endpoints claim and the scope of the agent's token",
        }
    }

    /// The least time to stay away.
    pub(super) fn floor(&self) -> Option<Duration> {
        match self {
            Self::Dial(error) => error.retry_after(),
            Self::Draining {
                code: GoawayCode::Replaced,
                ..
            } => Some(REPLACED_WAIT),
            Self::Draining { retry_after, .. } => Some((*retry_after).min(MAX_DRAIN_HINT)),
            Self::Session(error) if is_replaced(error) => Some(REPLACED_WAIT),
            _ => None,
        }
    }

    /// Whether the relay found fault with the token.
    pub(super) fn blames_the_token(&self) -> bool {
        matches!(self, Self::Dial(error)
            if error.refusal().is_some_and(|refusal| refusal.status.as_u16() == 401))
    }
}

fn is_replaced(error: &SessionError) -> bool {
    matches!(
        error,
        SessionError::Protocol(mux::SessionError::Closed {
            code: GoawayCode::Replaced,
            ..
        })
    )
}

/// Says why there is no session: aloud when it is news, and now and then while it lasts.
#[derive(Default)]
pub(super) struct Quiet {
    said: String,
}

impl Quiet {
    pub(super) fn say(&mut self, lost: &Lost, attempts: u32, wait: Duration) {
        let retry_s = wait.as_secs_f32();
        let text = lost.to_string();
        let replaced = Some(REPLACED_WAIT) == lost.floor();
        if matches!(lost, Lost::Draining { .. }) && !replaced {
            tracing::info!(retry_s, "{text}");
        } else if matches!(lost, Lost::SameNode(_)) {
            tracing::debug!(retry_s, "{text}");
        } else if text != self.said || attempts.is_power_of_two() {
            tracing::warn!(
                attempts,
                retry_s,
                advice = lost.advice(),
                "no session: {text}"
            );
        } else {
            tracing::debug!(attempts, retry_s, "no session: {text}");
        }
        self.said = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_cannot_send_the_agent_away_for_long() {
        let away = |code| Lost::Draining {
            code,
            retry_after: Duration::from_secs(1_000_000),
        };
        assert_eq!(away(GoawayCode::Drain).floor(), Some(MAX_DRAIN_HINT));
        assert_eq!(away(GoawayCode::Replaced).floor(), Some(REPLACED_WAIT));
    }
}
