//! The TLS of the public address: loaded at start, read again when its files change or on SIGHUP.
//! Which certificate a client is shown, [`identities`] says.
//!
//! New connections get the new certificate and are asked for certificates of the new authorities,
//! the old ones go on undisturbed. Files that cannot be used, or that clients would like less than what
//! there is, keep what there is and say so.

mod fresh;
mod identities;
#[cfg(test)]
mod tests;
mod validity;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use culvert_config::relay::RelayTls;
use culvert_http::ALPN;
use culvert_process::files::Watched;
use culvert_session::tls::{TlsConfigError, acceptor_tls, client_certificates};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;

use self::identities::Identities;
pub(crate) use fresh::{Renewed, keep_fresh};
pub(crate) use validity::{Validity, leaf};

/// The TLS side of the public address: TLS 1.2 and 1.3, `h2` and `http/1.1`.
pub(crate) struct PublicTls {
    files: RelayTls,
    names: Names,
    watched: Watched,
    current: ArcSwap<Loaded>,
}

/// The names that agents and callers come to.
struct Names {
    domain: String,
    /// Further host names of endpoints.
    hosts: Vec<String>,
}

/// What the files hold.
struct Loaded {
    server: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
    identities: Arc<Identities>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// What is wrong with the certificates of a node. Clients will say so, one by one.
pub(crate) struct Shortcomings {
    /// Time that is over or has not come: such a certificate is good for no name at all.
    pub(crate) out_of_time: Vec<String>,
    /// Names that none is for.
    pub(crate) missing: Vec<String>,
    /// Time that is over soon.
    pub(crate) ending: Vec<String>,
}

impl Shortcomings {
    /// Whether new certificates with these may take the place of those with the `old` ones: tools that renew
    /// certificates have their bad days, and a good one is not given for theirs.
    pub(crate) fn may_replace(&self, old: &Self) -> Result<(), NotTaken> {
        let weight = |of: &Self| (of.out_of_time.len(), of.missing.len());
        if weight(self) > weight(old) {
            Err(NotTaken::Worse(self.words()))
        } else {
            Ok(())
        }
    }

    /// All of it.
    pub(crate) fn words(&self) -> Vec<String> {
        let all = [&self.out_of_time, &self.missing, &self.ending];
        all.into_iter().flatten().cloned().collect()
    }

    /// What is to be said of the time that the certificates are good for.
    pub(crate) fn of_time(&self) -> Vec<String> {
        [&self.out_of_time[..], &self.ending].concat()
    }
}

/// Why new files do not take the place of the old ones.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error(transparent)]
    Unusable(#[from] TlsConfigError),
    #[error("{0}")]
    OpenKey(String),
    #[error("{}; the old one is better", .0.join("; "))]
    Worse(Vec<String>),
}

impl PublicTls {
    /// Loads the files, for a node of this domain that serves these hosts. Blocks: for the start of a
    /// program.
    pub(crate) fn load<'a>(
        files: &RelayTls,
        domain: &str,
        hosts: impl Iterator<Item = &'a str>,
    ) -> Result<Arc<Self>, TlsConfigError> {
        let names = Names {
            domain: domain.to_owned(),
            hosts: hosts.map(str::to_owned).collect(),
        };
        Ok(Arc::new(Self {
            files: files.clone(),
            names,
            watched: watched(files),
            current: ArcSwap::from_pointee(Loaded::read(files)?),
        }))
    }

    /// Loads the files again; says what is wrong with them all the same. On an error everything stays as
    /// it is. Blocks.
    pub(crate) fn reload(&self) -> Result<Vec<String>, NotTaken> {
        self.files.check_keys().map_err(NotTaken::OpenKey)?;
        let new = Loaded::read(&self.files)?;
        let now = SystemTime::now();
        let shortcomings = self.names.judge(&new.identities, now);
        shortcomings.may_replace(&self.judge(now))?;
        self.current.store(Arc::new(new));
        Ok(shortcomings.words())
    }

    /// What a new connection is accepted with.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// What a connection to the admin listener is accepted with: the same certificates, HTTP/1.1, and
    /// nobody is asked for one.
    pub(crate) fn admin(&self) -> Arc<ServerConfig> {
        self.current.load().admin.clone()
    }

    /// Judges clients' certificates; `None`: nobody is asked for one.
    pub(crate) fn clients(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.current.load().clients.clone()
    }

    /// What is wrong with the certificates. Clients will say so, one by one.
    pub(crate) fn shortcomings(&self) -> Vec<String> {
        self.judge(SystemTime::now()).words()
    }

    fn judge(&self, now: SystemTime) -> Shortcomings {
        self.names.judge(&self.current.load().identities, now)
    }
}

impl Renewed for PublicTls {
    fn watched(&self) -> &Watched {
        &self.watched
    }

    fn read_again(&self) -> Result<Vec<String>, String> {
        self.reload().map_err(|why| why.to_string())
    }

    fn time_left(&self) -> Vec<String> {
        self.judge(SystemTime::now()).of_time()
    }

    fn first_end(&self) -> i64 {
        self.current.load().identities.first_end()
    }

    fn file(&self) -> &Path {
        &self.files.certificate
    }

    fn first(&self) -> Arc<CertifiedKey> {
        self.current.load().identities.first().clone()
    }
}

impl Names {
    fn judge(&self, identities: &Identities, now: SystemTime) -> Shortcomings {
        let missing = |name: &str| format!("no certificate of [tls] is for {name}");
        let names = std::iter::once(&self.domain).chain(&self.hosts);
        let unknown = names.filter(|name| identities.find(name).is_none());
        let mut lacking: Vec<_> = unknown.map(|name| missing(name)).collect();
        if !identities.has_below(&self.domain) {
            lacking.push(missing(&format!(
                "*.{}, where callers come to",
                self.domain
            )));
        }
        Shortcomings {
            out_of_time: identities.out_of_time(now),
            missing: lacking,
            ending: identities.near_their_end(now),
        }
    }
}

/// All the files.
fn watched(files: &RelayTls) -> Watched {
    let RelayTls {
        certificate,
        private_key,
        client_ca,
        sni,
    } = files;
    let further = sni
        .iter()
        .flat_map(|further| [&further.certificate, &further.private_key]);
    let files = [certificate, private_key].into_iter().chain(client_ca);
    Watched::new(files.chain(further).cloned())
}

impl Loaded {
    fn read(files: &RelayTls) -> Result<Self, TlsConfigError> {
        let identities = Arc::new(Identities::read(files)?);
        let clients = files.client_ca.as_deref().map(client_certificates);
        let clients = clients.transpose()?;
        // Each version of the files has tickets of its own: a certificate of an authority that is
        // trusted no more resumes nothing.
        let server = acceptor_tls(identities.clone(), clients.clone(), &ALPN)?;
        let admin = acceptor_tls(identities.clone(), None, &[b"http/1.1"])?;
        Ok(Self {
            server,
            admin,
            identities,
            clients,
        })
    }
}

impl fmt::Debug for PublicTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicTls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}
