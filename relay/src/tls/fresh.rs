//! Certificates that are renewed while the node runs: read again as their files change, and spoken of when
//! nobody renews them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use culvert_process::files::Watched;
use culvert_session::tls::pin_of;
use prometheus_client::metrics::gauge::Gauge;
use rustls::sign::CertifiedKey;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

/// How often the files are looked at. A renewal is days early; this only has to beat patience.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// How often it is looked how long the certificates are good for.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);

/// How often it is said at most that they are not for long.
const REMIND_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Certificates that a node shows, and their files.
pub(crate) trait Renewed: Send + Sync + 'static {
    /// All the files.
    fn watched(&self) -> &Watched;

    /// Reads the files again; says what is wrong with them all the same, or why everything stays as it is.
    /// Blocks.
    fn read_again(&self) -> Result<Vec<String>, String>;

    /// What is to be said of the time that the certificates are good for.
    fn time_left(&self) -> Vec<String>;

    /// When the first of the certificates expires, in seconds since the Unix epoch.
    fn first_end(&self) -> i64;

    /// Where the first one is.
    fn file(&self) -> &Path;

    /// The first one.
    fn first(&self) -> Arc<CertifiedKey>;

    /// The SHA-256 of the first one, in lower-case hex.
    fn fingerprint(&self) -> String {
        let digest = self.first().cert.first().map(pin_of).unwrap_or_default();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Reads the files again whenever they change, and whenever `asked` says so; says when the certificates'
/// time is over or nearly so, and notes in `expiry` when it is. Runs until it is dropped.
pub(crate) async fn keep_fresh<T: Renewed>(
    tls: Arc<T>,
    expiry: Gauge,
    mut asked: impl AsyncFnMut(),
) {
    expiry.set(tls.first_end());
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
        if !tls.watched().are_due(by_hand || again) {
            continue;
        }
        let reading = tls.clone();
        match tokio::task::spawn_blocking(move || reading.read_again()).await {
            Ok(Ok(shortcomings)) => {
                let path = tls.file().display();
                let sha256 = tls.fingerprint();
                tracing::info!(%path, sha256, "loaded the certificates again");
                for shortcoming in shortcomings {
                    tracing::warn!("{shortcoming}");
                }
                expiry.set(tls.first_end());
                refused = None;
            }
            Ok(Err(why)) => {
                if !again || refused.as_ref() != Some(&why) {
                    tracing::warn!("the new certificate is of no use, the old one stays: {why}");
                }
                refused = Some(why);
            }
            Err(error) => tracing::error!("loading the certificate failed: {error}"),
        }
    }
}
