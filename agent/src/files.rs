//! Files of TLS while the agent runs: read again when they change, and on SIGHUP, for the connections
//! that begin from then on. The policy's is [`reload`](crate::reload)'s.

use std::sync::Arc;
use std::time::Duration;

use culvert_process::files::ReadOnce;
use culvert_session::dial::DialTarget;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::connect::RelayTrust;
use crate::serve::Serving;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// All of them.
pub(crate) struct Files {
    pub(crate) config: ReadOnce,
    pub(crate) relay: RelayTrust,
    pub(crate) target: DialTarget,
    pub(crate) serving: Arc<Serving>,
    /// SIGHUP came.
    pub(crate) asked: Notify,
}

impl Files {
    /// Asks for the files to be read again, whether they have changed or not.
    pub(crate) fn reload(&self) {
        self.asked.notify_one();
    }

    /// Reads files again when they change, or when asked to, for as long as the agent runs. One look at
    /// a time: file systems may take their time, and a look takes a thread.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            let asked = timeout(LOOK, self.asked.notified()).await.is_ok();
            let files = self.clone();
            let looked = tokio::task::spawn_blocking(move || files.look(asked));
            if let Err(error) = looked.await {
                tracing::error!(%error, "a defect while files were read again");
            }
        }
    }

    fn look(&self, asked: bool) {
        if asked {
            self.config.warn_if_changed();
        }
        self.relay.look(&self.target, asked);
        self.serving.look_at_files(asked);
    }
}
