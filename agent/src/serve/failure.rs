//! How a call ends otherwise than with a whole answer, and what its caller is told.

use culvert_proto::code::{ErrorCode, ResetCode};
use culvert_proto::head::{Head, Refusal};
use culvert_proto::mux::StreamError;
use culvert_session::SendStream;

use super::audit::{Outcome, Record};
use super::caller::ToCaller;
use super::leash;

/// Why a call ended otherwise than with a whole answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer has begun: the caller is told why there is none.
    Refused(Outcome, Refusal),
    /// The answer has begun: the caller sees it break off.
    Broken(Outcome, ResetCode),
    /// Nobody is there any more to be told.
    Gone(StreamError),
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::Gone(error)
    }
}

/// The last that the caller hears of a call.
#[derive(Debug)]
#[must_use]
pub(super) enum LastWord {
    Nothing,
    Refusal(Refusal),
    Reset(ResetCode),
}

impl Failure {
    fn refused(code: ErrorCode, detail: impl Into<String>) -> Self {
        let refusal = Refusal {
            code,
            detail: detail.into(),
            rule: None,
            soap: false,
        };
        Self::Refused(Outcome::Refused, refusal)
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::refused(ErrorCode::BadRequest, detail)
    }

    pub(super) fn unaudited() -> Self {
        Self::refused(
            ErrorCode::Overloaded,
            "The agent cannot write its audit log and is set to make no call without it; try \
             again later, and tell its operator.",
        )
    }

    pub(super) fn overloaded() -> Self {
        Self::refused(
            ErrorCode::Overloaded,
            "The endpoint has as many calls in progress as it may; try again later.",
        )
    }
}

impl Record<'_> {
    /// Notes how the call ended; gives what is left to be said.
    pub(super) fn settle(&mut self, ended: Result<(), Failure>) -> LastWord {
        match ended {
            Ok(()) => {
                self.outcome = Outcome::Answered;
                LastWord::Nothing
            }
            Err(Failure::Refused(outcome, refusal)) => {
                self.outcome = outcome;
                self.code = Some(refusal.code);
                self.status = if refusal.soap {
                    500
                } else {
                    refusal.code.status()
                };
                self.reason.get_or_insert_with(|| refusal.detail.clone());
                LastWord::Refusal(refusal)
            }
            Err(Failure::Broken(outcome, code)) => {
                self.outcome = outcome;
                LastWord::Reset(code)
            }
            Err(Failure::Gone(error)) => {
                let why = self.reason.take().unwrap_or_else(|| error.to_string());
                self.on_gone(error, why);
                LastWord::Nothing
            }
        }
    }

    /// Notes that nobody is there any more. The relay may have seen to that.
    pub(super) fn on_gone(&mut self, error: StreamError, why: String) {
        let (outcome, reason) = match error {
            StreamError::SessionLost => (Outcome::SessionLost, why),
            _ if leash::is_ended_by_relay(self.caller()) => {
                (Outcome::Withdrawn, leash::EXPIRED.to_owned())
            }
            _ => (Outcome::CallerGone, why),
        };
        self.outcome = outcome;
        self.reason = Some(reason);
    }
}

impl LastWord {
    /// Says it to the caller.
    pub(super) async fn tell(self, to: &mut ToCaller) {
        match to {
            ToCaller::Tunnel(send) => self.tell_relay(send).await,
            ToCaller::Inside(answer) => match self {
                Self::Nothing => {}
                Self::Reset(code) => answer.reset(code),
                Self::Refusal(refusal) => {
                    let told = answer.send_head(Head::Refusal(refusal));
                    let _ = told.and_then(|()| answer.finish());
                }
            },
        }
    }

    /// Says it to the relay.
    pub(super) async fn tell_relay(self, send: &mut SendStream) {
        match self {
            Self::Nothing => {}
            // What the upstream gave before it broke off is the caller's.
            Self::Reset(code @ ResetCode::Truncated) => send.cut_short(code),
            Self::Reset(code) => send.reset(code),
            Self::Refusal(refusal) => {
                let told = send.send_head(&Head::Refusal(refusal)).await;
                if let Err(error) = told.and_then(|()| send.finish()) {
                    tracing::debug!(%error, "nobody is there to be told of a refusal");
                }
            }
        }
    }
}
