//! The TLS of the public address: loaded at start, read again when its files change or on SIGHUP.
//! Which certificate a client is shown, [`identities`] says.
//!
//! New connections get the new certificate and are asked for certificates of the new authorities,
//! the old ones go on undisturbed. Files that cannot be used keep what there is and say so.

mod identities;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use culvert_config::relay::RelayTls;
use culvert_http::ALPN;
use culvert_session::tls::{TlsConfigError, acceptor_tls, client_certificates, pin_of};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;

use self::identities::Identities;

/// How often the files are looked at. A renewal is days early; this only has to beat patience.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// The TLS side of the public address: TLS 1.2 and 1.3, `h2` and `http/1.1`.
pub(crate) struct PublicTls {
    files: RelayTls,
    /// The files as they were before they were read for the first time.
    first: Version,
    current: ArcSwap<Loaded>,
}

/// What the files hold.
struct Loaded {
    server: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
    identities: Arc<Identities>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl PublicTls {
    /// Loads the files. Blocks: for the start of a program.
    pub(crate) fn load(files: &RelayTls) -> Result<Arc<Self>, TlsConfigError> {
        Ok(Arc::new(Self {
            files: files.clone(),
            first: version(files),
            current: ArcSwap::from_pointee(Loaded::read(files)?),
        }))
    }

    /// Loads the files again. On an error everything stays as it is.
    pub(crate) fn reload(&self) -> Result<(), TlsConfigError> {
        self.current.store(Arc::new(Loaded::read(&self.files)?));
        Ok(())
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

    /// What is wrong with the certificates, for a node of this domain that serves these hosts: names
    /// that none is for, and time that is over or has not come. Clients will say so, one by one.
    pub(crate) fn shortcomings<'a>(
        &self,
        domain: &'a str,
        hosts: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let identities = &self.current.load().identities;
        let mut found = identities.out_of_time(SystemTime::now());
        let missing = |name: &str| format!("no certificate of [tls] is for {name}");
        for name in std::iter::once(domain).chain(hosts) {
            if identities.find(name).is_none() {
                found.push(missing(name));
            }
        }
        if !identities.has_below(domain) {
            found.push(missing(&format!("*.{domain}, where callers come to")));
        }
        found
    }

    /// The SHA-256 of the first current certificate, in lower-case hex.
    fn fingerprint(&self) -> String {
        let current = self.current.load();
        let certificate = current.identities.first().cert.first();
        let digest = certificate.map(pin_of).unwrap_or_default();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What tells one version of the files from the next.
type Version = Vec<Result<(SystemTime, u64, u64), io::ErrorKind>>;

/// The version of the files that is there now, also when a link now points elsewhere.
fn version(files: &RelayTls) -> Version {
    let version = |path: &PathBuf| {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).map_err(|error| error.kind())?;
        let modified = metadata.modified().map_err(|error| error.kind())?;
        Ok((modified, metadata.len(), metadata.ino()))
    };
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
    files.chain(further).map(version).collect()
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

/// Reads the files again whenever they change, and whenever `asked` says so. Runs
/// until it is dropped.
pub(crate) async fn keep_fresh(tls: Arc<PublicTls>, mut asked: impl AsyncFnMut()) {
    let mut version_read = tls.first.clone();
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let by_hand = tokio::select! {
            () = asked() => true,
            _ = ticks.tick() => false,
        };
        let found = version(&tls.files);
        if !by_hand && found == version_read {
            continue;
        }
        version_read = found;
        let path: PathBuf = tls.files.certificate.clone();
        let path = path.display();
        let reloading = tls.clone();
        match tokio::task::spawn_blocking(move || reloading.reload()).await {
            Ok(Ok(())) => {
                let sha256 = tls.fingerprint();
                tracing::info!(%path, sha256, "loaded the certificates again");
            }
            Ok(Err(error)) => {
                tracing::warn!("the new certificate is of no use, the old one stays: {error}");
            }
            Err(error) => tracing::error!("loading the certificate failed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;
    use tokio::sync::mpsc;

    use super::*;

    fn write(folder: &Path) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["relay.example.com".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.join("relay.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("relay.key"), key.serialize_pem()).unwrap();
    }

    fn load() -> (TempDir, Arc<PublicTls>) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let files = RelayTls {
            certificate: folder.path().join("relay.pem"),
            private_key: folder.path().join("relay.key"),
            client_ca: None,
            sni: Vec::new(),
        };
        let certificate = PublicTls::load(&files).unwrap();
        (folder, certificate)
    }

    fn shown(tls: &PublicTls) -> String {
        tls.fingerprint()
    }

    #[test]
    fn files_that_are_of_no_use_keep_the_old_certificate() {
        let (folder, certificate) = load();
        let old = shown(&certificate);
        let stranger = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(folder.path().join("relay.key"), stranger).unwrap();
        assert!(matches!(
            certificate.reload(),
            Err(TlsConfigError::Key { .. })
        ));
        std::fs::write(folder.path().join("relay.pem"), "").unwrap();
        assert!(matches!(
            certificate.reload(),
            Err(TlsConfigError::NoCertificate { .. })
        ));
        std::fs::remove_file(folder.path().join("relay.pem")).unwrap();
        assert!(matches!(
            certificate.reload(),
            Err(TlsConfigError::Pem { .. })
        ));
        assert_eq!(shown(&certificate), old);

        write(folder.path());
        certificate.reload().unwrap();
        assert_ne!(shown(&certificate), old);
    }

    /// Waits, in real time, until the certificate is another one than `old`.
    async fn changed(certificate: &PublicTls, old: &str) {
        while shown(certificate) == old {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_reload_is_made_when_it_is_asked_for() {
        let (folder, certificate) = load();
        let old = shown(&certificate);
        let (ask, mut asked) = mpsc::channel(1);
        let wait = async move || {
            if asked.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        };
        tokio::spawn(keep_fresh(certificate.clone(), wait));
        write(folder.path());
        ask.send(()).await.unwrap();
        changed(&certificate, &old).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_made_when_the_files_change() {
        let (folder, certificate) = load();
        let old = shown(&certificate);
        // Those of the start too, which takes its time until it gets here.
        std::fs::remove_file(folder.path().join("relay.pem")).unwrap();
        write(folder.path());
        tokio::spawn(keep_fresh(certificate.clone(), async || {
            std::future::pending().await
        }));
        changed(&certificate, &old).await;
        let old = shown(&certificate);
        std::fs::remove_file(folder.path().join("relay.pem")).unwrap();
        write(folder.path());
        tokio::time::advance(WATCH_INTERVAL).await;
        changed(&certificate, &old).await;
    }
}
