//! What goes on after an answer that ends HTTP: bytes both ways between caller and agent.

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use culvert_http::pace::{PacedIo, Untaken};
use culvert_http::{Grip, ThrottledIo};
use culvert_session::Stream;
use culvert_session::splice::{Cut, Moved, SpliceError, splice};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::leave::{Leave, Withdrawn};
use super::record::CallRecord;

/// The agent has the limit for silence.
const NO_LIMIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A caller's way through the tunnel, opened at the other end.
pub(crate) struct Passage {
    /// Gives the caller's side once the answer is on its way.
    pub(crate) upgrade: OnUpgrade,
    pub(crate) stream: Stream,
    pub(crate) leave: Leave,
    /// What it is if the caller ends its TLS without goodbye.
    pub(crate) cut: Cut,
    /// How long a caller may take nothing.
    pub(crate) stall: Duration,
}

/// Why a passage ended before both directions had.
enum End {
    Splice(SpliceError),
    Withdrawn(Withdrawn),
    CallerGone,
}

impl Passage {
    /// Carries bytes until both directions have ended, or one side is gone.
    pub(crate) async fn carry(self, mut record: CallRecord, grip: Grip) {
        let mut leave = self.leave;
        let Ok(upgraded) = self.upgrade.await else {
            return;
        };
        let Stream { mut send, mut recv } = self.stream;
        let progress = record.progress.clone();
        let io = PacedIo::new(TokioIo::new(upgraded), self.stall);
        let mut io = ThrottledIo::new(io, record.throttle(), record.throttle());
        let all_sent = AtomicBool::new(false);
        let moved = |moved| match moved {
            Moved::In(bytes) => progress.on_received(bytes),
            Moved::Out(bytes) => progress.on_sent(bytes),
            Moved::OutEnd => all_sent.store(true, Ordering::Relaxed),
        };
        let ended = tokio::select! {
            biased;
            ended = splice(&mut send, &mut recv, &mut io, self.cut, NO_LIMIT, moved) => ended.map_err(End::Splice),
            withdrawn = poll_fn(|cx| leave.poll(cx)) => Err(End::Withdrawn(withdrawn)),
            () = gone(&grip, &all_sent) => Err(End::CallerGone),
        };
        match ended {
            Ok(()) => return record.on_end(),
            Err(End::CallerGone) => {}
            Err(End::Splice(SpliceError::Io(error))) => {
                if let Some(untaken) = Untaken::of(&error) {
                    record.on_cut_short(untaken.to_string());
                }
            }
            Err(End::Splice(error)) => {
                record.on_cut_short(error.to_string());
                if error.is_behind_data() {
                    return grip.cut_behind();
                }
            }
            Err(End::Withdrawn(withdrawn)) => record.on_cut_short(withdrawn.to_string()),
        }
        grip.cut();
    }
}

/// Completes when the caller cannot be sent to, although there may be more to send. That all is
/// sent looks the same to its hand; whether the caller goes on then shows when it is read.
async fn gone(grip: &Grip, all_sent: &AtomicBool) {
    grip.gone().await;
    if all_sent.load(Ordering::Relaxed) {
        pending().await
    }
}
