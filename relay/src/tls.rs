//! The public certificate: loaded at start, read again when its files change or on SIGHUP.
//!
//! New connections get the new certificate, the old ones go on undisturbed. Files that cannot be
//! used keep the old certificate and say so.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use culvert_config::relay::RelayTls;
use culvert_session::tls::{TlsConfigError, provider, server_identity};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// How often the files are looked at. A renewal is days early; this only has to beat patience.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// The node's certificate and private key.
pub(crate) struct Certificate {
    files: RelayTls,
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Loads the files. Blocks: for the start of a program.
    pub(crate) fn load(files: &RelayTls) -> Result<Arc<Self>, TlsConfigError> {
        let identity = server_identity(&files.certificate, &files.private_key)?;
        Ok(Arc::new(Self {
            files: files.clone(),
            current: ArcSwap::new(identity),
        }))
    }

    /// Loads the files again. On an error the old certificate stays.
    pub(crate) fn reload(&self) -> Result<(), TlsConfigError> {
        let identity = server_identity(&self.files.certificate, &self.files.private_key)?;
        self.current.store(identity);
        Ok(())
    }

    /// What tells one version of the files from the next, also when a link now points elsewhere.
    fn stamp(&self) -> [Result<Stamp, io::ErrorKind>; 2] {
        [&self.files.certificate, &self.files.private_key].map(|path| {
            use std::os::unix::fs::MetadataExt;
            let metadata = std::fs::metadata(path).map_err(|error| error.kind())?;
            let modified = metadata.modified().map_err(|error| error.kind())?;
            Ok((modified, metadata.len(), metadata.ino()))
        })
    }
}

type Stamp = (SystemTime, u64, u64);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// The TLS side of the public listener: TLS 1.2 and 1.3, `h2` and `http/1.1`.
pub(crate) fn server_config(
    certificate: Arc<Certificate>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Callers such as govc connect anew for every command: let them resume, and hold nothing
    // for them meanwhile.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Reads the certificate again whenever its files change, and whenever `asked` says so. Runs
/// until it is dropped.
pub(crate) async fn keep_fresh(certificate: Arc<Certificate>, mut asked: impl AsyncFnMut()) {
    let mut stamp = certificate.stamp();
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let by_hand = tokio::select! {
            () = asked() => true,
            _ = ticks.tick() => false,
        };
        let found = certificate.stamp();
        if !by_hand && found == stamp {
            continue;
        }
        stamp = found;
        let path: PathBuf = certificate.files.certificate.clone();
        let path = path.display();
        let reloading = certificate.clone();
        match tokio::task::spawn_blocking(move || reloading.reload()).await {
            Ok(Ok(())) => tracing::info!(%path, "loaded the certificate again"),
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

    fn load() -> (TempDir, Arc<Certificate>) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let files = RelayTls {
            certificate: folder.path().join("relay.pem"),
            private_key: folder.path().join("relay.key"),
        };
        let certificate = Certificate::load(&files).unwrap();
        (folder, certificate)
    }

    fn shown(certificate: &Certificate) -> Vec<u8> {
        certificate.current.load().cert[0].to_vec()
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
    async fn changed(certificate: &Certificate, old: &[u8]) {
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
        tokio::spawn(keep_fresh(certificate.clone(), async || {
            std::future::pending().await
        }));
        // The first look is at the files as they were.
        tokio::task::yield_now().await;
        std::fs::remove_file(folder.path().join("relay.pem")).unwrap();
        write(folder.path());
        tokio::time::advance(WATCH_INTERVAL).await;
        changed(&certificate, &old).await;
    }
}
