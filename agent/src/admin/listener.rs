//! Where the agent listens for operators, as its configuration says.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use culvert_admin::{Credential, Listener};
use culvert_config::admin::{AdminAddress, AdminTls, AgentAdmin};
use culvert_session::tls::{TlsConfigError, server_identity, server_tls};
use http::Request;
use rustls::ServerConfig;

use super::Desk;

/// The admin listener.
pub(crate) struct Admin {
    listener: Option<Listener>,
    desk: Arc<Desk>,
}

/// The listener cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("cannot listen on {address} ({error})")]
    Address {
        key: &'static str,
        address: String,
        error: io::Error,
    },
    #[error("found no folder {}; expected one for the socket", .0.display())]
    Folder(PathBuf),
    #[error("{error}")]
    Tls {
        key: &'static str,
        error: Box<TlsConfigError>,
    },
}

impl AdminError {
    /// The key of the configuration that it is about.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Address { key, .. } | Self::Tls { key, .. } => key,
            Self::Folder(_) => "admin.socket",
        }
    }

    /// Whether it is as wrong at the next start, unless somebody changes something.
    pub(crate) fn is_lasting(&self) -> bool {
        !matches!(self, Self::Address { .. })
    }
}

impl Admin {
    /// Looks at the files that the listener needs. Blocks.
    pub(crate) fn check(config: &AgentAdmin) -> Result<(), AdminError> {
        if let Some(files) = &config.tls {
            tls(files).map_err(|error| bad_tls(files, error))?;
        }
        match &config.address {
            AdminAddress::Listen(_) => Ok(()),
            // Service managers make folders there when they start the agent, and remove them after.
            AdminAddress::Socket(path) if path.starts_with("/run") => Ok(()),
            AdminAddress::Socket(path) => folder(path),
        }
    }

    /// Binds the address. One that nobody asked for may be taken: another agent's, say; that is
    /// said, and the agent runs without.
    pub(crate) async fn bind(config: &AgentAdmin, desk: Desk) -> Result<Self, AdminError> {
        let desk = Arc::new(desk);
        let (key, written, bound) = match &config.address {
            AdminAddress::Listen(address) => {
                let bound = Listener::tcp(*address).await;
                ("admin.listen", address.to_string(), bound)
            }
            AdminAddress::Socket(path) => {
                folder(path)?;
                let bound = Listener::unix(path).await;
                ("admin.socket", path.display().to_string(), bound)
            }
        };
        let listener = match bound {
            Ok(listener) => Some(secured(listener, config)),
            Err(error) if *config == AgentAdmin::default() => {
                tracing::warn!(
                    %error,
                    "nobody is answered on {written}, the default of admin.listen: give this agent \
                     an address of its own"
                );
                None
            }
            Err(error) => {
                return Err(AdminError::Address {
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

/// With the certificate and the token that are configured.
fn secured(mut listener: Listener, config: &AgentAdmin) -> Listener {
    if let Some(files) = config.tls.clone() {
        // Read for each connection, so that a renewed one counts at once.
        listener = listener.over_tls(move || tls(&files).map_err(|error| error.to_string()));
    }
    if let Some(token) = config.token.clone() {
        listener = listener.asking_for(Credential::new(move || token.read()));
    }
    listener
}

fn folder(socket: &Path) -> Result<(), AdminError> {
    // A bare name is in the folder where the agent runs.
    match socket.parent().filter(|folder| *folder != Path::new("")) {
        Some(folder) if !folder.is_dir() => Err(AdminError::Folder(folder.to_owned())),
        _ => Ok(()),
    }
}

fn bad_tls(files: &AdminTls, error: TlsConfigError) -> AdminError {
    let key = match error.is_about_key_in(&files.private_key) {
        true => "admin.private_key",
        false => "admin.certificate",
    };
    AdminError::Tls {
        key,
        error: Box::new(error),
    }
}

fn tls(files: &AdminTls) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let identity = server_identity(&files.certificate, &files.private_key)?;
    Ok(server_tls(identity, &[b"http/1.1"]))
}
