//! When certificates are read again, and when the old ones are better.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::fresh::WATCH_INTERVAL;
use super::*;
use crate::metrics::Metrics;
use crate::testing::Lines;

const DOMAIN: &str = "relay.example.com";
const BELOW: &str = "*.relay.example.com";

fn write(folder: &Path) {
    write_for(folder, &[DOMAIN, BELOW], 2100);
}

/// Writes a certificate for these names that is good until this year.
fn write_for(folder: &Path, names: &[&str], until: i32) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_after = date_time_ymd(until, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("relay.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("relay.key"), key.serialize_pem()).unwrap();
    set_mode(folder, 0o600);
}

fn set_mode(folder: &Path, mode: u32) {
    let mode = Permissions::from_mode(mode);
    std::fs::set_permissions(folder.join("relay.key"), mode).unwrap();
}

fn load() -> (TempDir, Arc<PublicTls>) {
    load_for(&[DOMAIN, BELOW], 2100)
}

fn load_for(names: &[&str], until: i32) -> (TempDir, Arc<PublicTls>) {
    let folder = tempfile::tempdir().unwrap();
    write_for(folder.path(), names, until);
    let files = RelayTls {
        certificate: folder.path().join("relay.pem"),
        private_key: folder.path().join("relay.key"),
        client_ca: None,
        sni: Vec::new(),
    };
    let certificate = PublicTls::load(&files, DOMAIN, std::iter::empty()).unwrap();
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
        Err(NotTaken::Unusable(TlsConfigError::Key { .. }))
    ));
    std::fs::write(folder.path().join("relay.pem"), "").unwrap();
    assert!(matches!(
        certificate.reload(),
        Err(NotTaken::Unusable(TlsConfigError::NoCertificate { .. }))
    ));
    std::fs::remove_file(folder.path().join("relay.pem")).unwrap();
    assert!(matches!(
        certificate.reload(),
        Err(NotTaken::Unusable(TlsConfigError::Pem { .. }))
    ));
    assert_eq!(shown(&certificate), old);

    write(folder.path());
    certificate.reload().unwrap();
    assert_ne!(shown(&certificate), old);
}

#[test]
fn a_good_certificate_is_not_given_for_one_that_clients_like_less() {
    let (folder, certificate) = load();
    let old = shown(&certificate);
    for (names, until, why) in [
        (&[DOMAIN, BELOW], 2010, "expired"),
        (
            &[DOMAIN, "*.other.example.com"],
            2100,
            "is for *.relay.example.com",
        ),
        (
            &["other.example.com", BELOW],
            2100,
            "is for relay.example.com",
        ),
    ] {
        write_for(folder.path(), names, until);
        let refused = certificate.reload().unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        assert_eq!(shown(&certificate), old, "{refused}");
    }
    write(folder.path());
    set_mode(folder.path(), 0o644);
    let refused = certificate.reload().unwrap_err().to_string();
    assert!(refused.contains("has mode 644"), "{refused}");
    assert_eq!(shown(&certificate), old);
    set_mode(folder.path(), 0o600);
    assert_eq!(certificate.reload().unwrap(), Vec::<String>::new());
    assert_ne!(shown(&certificate), old);
}

#[test]
fn a_certificate_that_is_no_good_gives_way_to_one_that_is_no_worse() {
    let (folder, certificate) = load_for(&[DOMAIN], 2010);
    for (names, until, wrong) in [
        // As many shortcomings, then fewer.
        (&[DOMAIN][..], 2011, 2),
        (&[DOMAIN, BELOW], 2012, 1),
        // It is good for something, which the one before was not.
        (&[BELOW], 2100, 1),
        (&[DOMAIN, BELOW], 2100, 0),
    ] {
        let old = shown(&certificate);
        write_for(folder.path(), names, until);
        assert_eq!(certificate.reload().unwrap().len(), wrong, "{names:?}");
        assert_ne!(shown(&certificate), old, "{names:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_node_runs_it_says_once_a_day_that_its_certificate_has_expired() {
    let (lines, _guards) = Lines::listen();
    let (_folder, certificate) = load_for(&[DOMAIN, BELOW], 2010);
    let metrics = Metrics::new();
    let never = async || std::future::pending().await;
    tokio::spawn(keep_fresh(
        certificate,
        metrics.certificate_expiry.clone(),
        never,
    ));
    let said = || lines.text().matches("expired").count();
    let hour = Duration::from_secs(3600);
    tokio::time::sleep(23 * hour).await;
    assert_eq!(said(), 0, "at the start it was said: {}", lines.text());
    tokio::time::sleep(3 * hour).await;
    assert_eq!(said(), 1, "{}", lines.text());
    tokio::time::sleep(24 * hour).await;
    assert_eq!(said(), 2, "{}", lines.text());
    let metrics = metrics.render().unwrap();
    let gauge = "culvert_relay_certificate_expiry_timestamp_seconds 1262304000\n";
    assert!(metrics.contains(gauge), "{metrics}");
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
    tokio::spawn(keep_fresh(certificate.clone(), Gauge::default(), wait));
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
    tokio::spawn(keep_fresh(
        certificate.clone(),
        Gauge::default(),
        async || std::future::pending().await,
    ));
    changed(&certificate, &old).await;
    let old = shown(&certificate);
    std::fs::remove_file(folder.path().join("relay.pem")).unwrap();
    write(folder.path());
    tokio::time::advance(WATCH_INTERVAL).await;
    changed(&certificate, &old).await;
}
