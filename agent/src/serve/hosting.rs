//! A CONNECT whose TLS ends here (mode `terminate`): what is decided on the connection itself, and
//! how it is served. Each call on it is decided on by itself (`exchange`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Head;
use culvert_session::{SendStream, Stream};
use http::StatusCode;
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::timeout;

use super::audit::{Outcome, Record};
use super::call::BadHead;
use super::decide::decide_connection;
use super::exchange::Exchange;
use super::failure::Failure;
use super::leash::{Withdrawn, withdrawn};
use super::passage::opened;
use crate::policy::ActivePolicy;
use crate::terminate::{Ended, Host, Metered};
use crate::upstream::Progress;

/// How long the calls of a connection that is withdrawn may take to end, which they do for the same
/// reason and at the same moment.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection that may begin.
pub(super) struct Admitted<'e> {
    host: &'e Host,
    name: ConnectName,
    /// One policy after the other, from the one that was asked on.
    policies: watch::Receiver<Arc<ActivePolicy>>,
    _slot: SemaphorePermit<'e>,
}

impl<'c> Exchange<'c> {
    /// Decides on a connection, and lets the caller begin.
    pub(super) async fn admit(
        &self,
        send: &mut SendStream,
        record: &mut Record<'_>,
    ) -> Result<Admitted<'c>, Failure> {
        let endpoint = self.endpoint()?;
        let name = self.connect_name(endpoint)?;
        let host = endpoint.host.as_ref();
        let host = host.ok_or_else(|| self.bad_head(BadHead::Mode))?;
        let slot = endpoint.connections.try_acquire();
        let slot = slot.map_err(|_| Failure::overloaded())?;
        send.set_priority(endpoint.priority);
        let mut policies = self.serving.policy.clone();
        let policy = policies.borrow_and_update().clone();
        decide_connection(&policy, &self.call.passage_facts(&name), record)?;
        record.status = StatusCode::OK.as_u16();
        send.send_head(&Head::Response(opened())).await?;
        Ok(Admitted {
            host,
            name,
            policies,
            _slot: slot,
        })
    }

    /// Serves a connection to its end.
    pub(super) async fn host(
        &self,
        admitted: Admitted<'_>,
        stream: Stream,
        record: &mut Record<'_>,
    ) {
        let Admitted {
            host,
            name,
            policies,
            _slot,
        } = admitted;
        let (received, sent) = (Progress::new(), Arc::new(AtomicU64::new(0)));
        record.request = Some(received.clone());
        let io = Metered::new(stream, received, sent.clone());
        let leave = self.serving.front().draining.child_token();
        let facts = self.call.passage_facts(&name);
        let withdrawn = withdrawn(policies, facts, &self.call.caller);
        let serving = host.serve(self.serving, self.call, self.node, &name, io, &leave);
        let mut serving = pin!(serving);
        tokio::select! {
            biased;
            Withdrawn { reason, .. } = withdrawn => {
                leave.cancel();
                let _ = timeout(FAREWELL, serving).await;
                record.outcome = Outcome::Withdrawn;
                record.reason = Some(reason.to_owned());
            }
            ended = &mut serving => match ended {
                Ended::Whole => record.outcome = Outcome::Answered,
                Ended::NoTls(why) => {
                    record.outcome = Outcome::Refused;
                    record.reason = Some(why);
                }
                Ended::Broken(error, why) => record.on_gone(error, why),
            }
        }
        record.answered = sent.load(Ordering::Relaxed);
    }
}
