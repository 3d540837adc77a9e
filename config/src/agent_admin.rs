//! `[admin]` of `agent.toml`: where the agent answers its operators.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::document::Document;
use crate::error::ConfigError;

/// The address where nothing is written.
pub const DEFAULT_ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9902);

/// Where health, metrics and status are answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentAdmin {
    /// A loopback address: whoever is on this machine may ask.
    Listen(SocketAddr),
    /// A socket in the file system: whoever may write to it may ask.
    Socket(PathBuf),
}

impl Default for AgentAdmin {
    fn default() -> Self {
        Self::Listen(DEFAULT_ADMIN)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenAdmin {
    listen: Option<Spanned<SocketAddr>>,
    socket: Option<Spanned<PathBuf>>,
}

pub(crate) fn check(
    document: &Document,
    written: &WrittenAdmin,
) -> Result<AgentAdmin, ConfigError> {
    match (&written.listen, &written.socket) {
        (None, None) => Ok(AgentAdmin::default()),
        (Some(listen), None) if listen.get_ref().ip().is_loopback() => {
            Ok(AgentAdmin::Listen(*listen.get_ref()))
        }
        (Some(listen), None) => {
            let message = format!(
                "found {}; expected a loopback address: the admin listener speaks plain HTTP and \
                 asks for no credential",
                listen.get_ref()
            );
            Err(document.error(listen.span(), message))
        }
        (None, Some(socket)) => Ok(AgentAdmin::Socket(document.path(socket.get_ref()))),
        (Some(_), Some(socket)) => {
            let message = "found listen and socket; expected one of them";
            Err(document.error(socket.span(), message))
        }
    }
}
