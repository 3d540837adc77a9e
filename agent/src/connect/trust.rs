//! By what the agent knows its relay: the system's authorities, or those in `relay.ca`, which are read
//! again when the file changes.

use std::path::Path;
use std::sync::Arc;

use culvert_process::files::Watched;
use culvert_session::dial::DialTarget;
use culvert_session::tls::{ServerTrust, TlsConfigError, TlsMin, client_tls};
use rustls::ClientConfig;

/// The authorities of the relay's certificate.
pub(crate) struct RelayTrust {
    trust: ServerTrust,
    files: Watched,
}

impl RelayTrust {
    /// The ones in this file, or the system's.
    pub(crate) fn new(ca: Option<&Path>) -> Self {
        Self {
            trust: match ca {
                Some(file) => ServerTrust::CaFile(file.to_owned()),
                None => ServerTrust::SystemRoots,
            },
            files: Watched::new(ca.map(Path::to_owned)),
        }
    }

    /// Reads them. Blocks.
    pub(crate) fn load(&self) -> Result<Arc<ClientConfig>, TlsConfigError> {
        client_tls(&self.trust, TlsMin::V13)
    }

    /// Reads the file again if it has changed, or if it is `asked` for: `target` is dialled with what it
    /// holds from then on. A file that cannot be used keeps the old one in force. Blocks.
    pub(crate) fn look(&self, target: &DialTarget, asked: bool) {
        if !self.files.are_due(asked) {
            return;
        }
        let file = &self.files;
        match self.load() {
            Ok(tls) => {
                target.set_tls(tls);
                tracing::info!(%file, "loaded the authorities of the relay again");
            }
            Err(error) => {
                tracing::warn!("the new relay.ca is of no use, the old one stays: {error}");
            }
        }
    }
}
