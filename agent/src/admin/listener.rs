//! Where the agent listens for operators, as its configuration says.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use culvert_admin::Listener;
use culvert_config::agent_admin::{AgentAdmin, DEFAULT_ADMIN};
use http::Request;

use super::Desk;

/// The admin listener.
pub(crate) struct Admin {
    listener: Option<Listener>,
    desk: Arc<Desk>,
}

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address} ({error})")]
pub(crate) struct AdminError {
    key: &'static str,
    address: String,
    error: io::Error,
}

impl Admin {
    /// Binds the address. One that nobody asked for may be taken: another agent's, say; that is
    /// said, and the agent runs without.
    pub(crate) async fn bind(address: &AgentAdmin, desk: Desk) -> Result<Self, AdminError> {
        let desk = Arc::new(desk);
        let (key, written, bound) = match address {
            AgentAdmin::Listen(address) => {
                let bound = Listener::tcp(*address).await;
                ("admin.listen", address.to_string(), bound)
            }
            AgentAdmin::Socket(path) => {
                let bound = Listener::unix(path).await;
                ("admin.socket", path.display().to_string(), bound)
            }
        };
        let listener = match bound {
            Ok(listener) => Some(listener),
            Err(error) if *address == AgentAdmin::Listen(DEFAULT_ADMIN) => {
                tracing::warn!(
                    %error,
                    "nobody is answered on {written}, the default of admin.listen: give this agent \
                     an address of its own"
                );
                None
            }
            Err(error) => {
                return Err(AdminError {
                    key,
                    address: written,
                    error,
                });
            }
        };
        Ok(Self { listener, desk })
    }

    /// Answers until it is dropped.
    pub(crate) async fn run(self) {
        let Some(listener) = self.listener else {
            return;
        };
        let desk = self.desk;
        let answer = move |request: Request<Bytes>| {
            let response = super::answer(&desk, &request);
            async { response }
        };
        listener.run(answer).await;
    }
}
