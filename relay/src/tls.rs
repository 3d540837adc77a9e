//! The TLS of the public address: loaded at start, read again when its files change or on SIGHUP.
//! Which certificate a client is shown, [`identities`] says.
//!
//! New connections get the new certificate and are asked for certificates of the new authorities,
//! the old ones go on undisturbed. Files that cannot be used, or that clients would like less than what
//! there is, keep what there is and say so.

mod identities;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use culvert_config::relay::RelayTls;
use culvert_http::ALPN;
use culvert_process::files::Watched;
use culvert_session::tls::{TlsConfigError, acceptor_tls, client_certificates, pin_of};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use self::identities::Identities;
use crate::metrics::Metrics;

/// How often the files are looked at. A renewal is days early; this only has to beat patience.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// How often it is looked how long the certificates are good for.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);

/// How often it is said at most that they are not for long.
const REMIND_INTERVAL: Duration = Duration::from_secs(24 * 3600);

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
struct Shortcomings {
    /// Time that is over or has not come: such a certificate is good for no name at all.
    out_of_time: Vec<String>,
    /// Names that none is for.
    missing: Vec<String>,
    /// Time that is over soon.
    ending: Vec<String>,
}

impl Shortcomings {
    /// Whether clients are worse off with these.
    fn are_worse_than(&self, others: &Self) -> bool {
        let weight = |of: &Self| (of.out_of_time.len(), of.missing.len());
        weight(self) > weight(others)
    }

    fn into_words(self) -> Vec<String> {
        [self.out_of_time, self.missing, self.ending].concat()
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
        // Tools that renew certificates have their bad days: a good one is not given for theirs.
        if shortcomings.are_worse_than(&self.judge(now)) {
            return Err(NotTaken::Worse(shortcomings.into_words()));
        }
        self.current.store(Arc::new(new));
        Ok(shortcomings.into_words())
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
        self.judge(SystemTime::now()).into_words()
    }

    fn judge(&self, now: SystemTime) -> Shortcomings {
        self.names.judge(&self.current.load().identities, now)
    }

    /// What is to be said of the time that the certificates are good for.
    fn time_left(&self) -> Vec<String> {
        let found = self.judge(SystemTime::now());
        [found.out_of_time, found.ending].concat()
    }

    /// When the first of the certificates expires, in seconds since the Unix epoch.
    fn first_end(&self) -> i64 {
        self.current.load().identities.first_end()
    }

    /// The SHA-256 of the first current certificate, in lower-case hex.
    fn fingerprint(&self) -> String {
        let current = self.current.load();
        let certificate = current.identities.first().cert.first();
        let digest = certificate.map(pin_of).unwrap_or_default();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Reads the files again whenever they change, and whenever `asked` says so; says when the certificates'
/// time is over or nearly so. Runs until it is dropped.
pub(crate) async fn keep_fresh(
    tls: Arc<PublicTls>,
    metrics: Arc<Metrics>,
    mut asked: impl AsyncFnMut(),
) {
    metrics.certificate_expiry.set(tls.first_end());
    let mut ticks = interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = interval_at(Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // At the start it was said.
    let mut reminded = Instant::now();
    let mut refused = None;
    loop {
        let (by_hand, look) = tokio::select! {
            () = asked() => (true, false),
            _ = ticks.tick() => (false, false),
            _ = looks.tick() => (false, true),
        };
        if look && reminded.elapsed() >= REMIND_INTERVAL {
            for what in tls.time_left() {
                tracing::warn!("{what}");
                reminded = Instant::now();
            }
        }
        // What was refused may be the better one by now: its time has come, or that of the old one is over.
        let again = look && refused.is_some();
        if !tls.watched.are_due(by_hand || again) {
            continue;
        }
        let reloading = tls.clone();
        match tokio::task::spawn_blocking(move || reloading.reload()).await {
            Ok(Ok(shortcomings)) => {
                let path = tls.files.certificate.display();
                let sha256 = tls.fingerprint();
                tracing::info!(%path, sha256, "loaded the certificates again");
                for shortcoming in shortcomings {
                    tracing::warn!("{shortcoming}");
                }
                metrics.certificate_expiry.set(tls.first_end());
                refused = None;
            }
            Ok(Err(why)) => {
                let why = why.to_string();
                if !again || refused.as_ref() != Some(&why) {
                    tracing::warn!("the new certificate is of no use, the old one stays: {why}");
                }
                refused = Some(why);
            }
            Err(error) => tracing::error!("loading the certificate failed: {error}"),
        }
    }
}
