//! The queue of those who want to come in.
//!
//! When a relay fails, everybody it had comes to the others at once. A handshake costs far more than a
//! call, and one that takes longer than its peer waits has cost all of that for nothing. So only so
//! many are worked on at once, others wait their turn in the order in which they came, and who has
//! waited for too long is turned away before it costs anything: it comes back later, at a moment of
//! its own.
//!
//! A turn is for work, and no seat to keep. It begins when the ClientHello or the token is there as a
//! whole, and ends when the relay has done what it can with that: keys are agreed on and signed for, a
//! signature is verified. Whatever is waited for then, the peer's next word or an issuer's, is waited
//! for without a turn, and what is left to do costs little.

#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use culvert_config::relay::RelayLimits;
use futures_util::poll;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::metrics::Metrics;

/// The handshakes of a node: TLS of everybody, and the tokens of agents.
#[derive(Debug)]
pub struct Handshakes {
    turns: Arc<Semaphore>,
    patience: Duration,
    metrics: Arc<Metrics>,
}

/// It was not its turn in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many handshakes wait")]
pub(crate) struct Late;

/// What is being worked on.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Handshakes {
    /// None yet, with what the limits say of them.
    pub fn new(limits: &RelayLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        let most = (limits.handshakes as usize).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            turns: Arc::new(Semaphore::new(most)),
            patience: limits.handshake_wait.0,
            metrics,
        })
    }

    /// Does a handshake, or a part of one, and begins when it is its turn. Cancel safe if `work` is.
    pub(crate) async fn take<T>(&self, work: impl Future<Output = T>) -> Result<T, Late> {
        let turn = self.turn().await?;
        let mut work = pin!(work);
        let begun = poll!(work.as_mut());
        // The next one's turn comes when everybody else who has something to do has been at it: with
        // more to do than the machine can, it is here that it shows.
        yield_now().await;
        drop(turn);
        match begun {
            Poll::Ready(done) => Ok(done),
            Poll::Pending => Ok(work.await),
        }
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self) -> Result<Turn, Late> {
        let counts = &self.metrics.handshakes;
        let permit = match self.turns.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = counts.wait();
                let granted = timeout(self.patience, self.turns.clone().acquire_owned()).await;
                granted
                    .ok()
                    .and_then(Result::ok)
                    .ok_or(Late)
                    .inspect_err(|_| _ = counts.late.inc())?
            }
        };
        counts.working.inc();
        Ok(Turn {
            _permit: permit,
            metrics: self.metrics.clone(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.metrics.handshakes.working.dec();
    }
}
