//! Certificates of nodes: when new ones are taken, and what is said of them.

use std::fs::Permissions;
use std::future::pending;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::metrics::Metrics;
use crate::testing::Lines;
use crate::tls::keep_fresh;

pub(crate) const NAME: &str = "relays.test";

/// The authority of a cluster.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes the certificate of a node, for a name and good until a year.
    pub(crate) fn write(&self, node: &str, name: &str, until: i32) -> PeerTlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |ending: &str| self.folder.path().join(format!("{node}.{ending}"));
        let files = PeerTlsFiles {
            name: NAME.into(),
            certificate: path("pem"),
            private_key: path("key"),
            ca: self.folder.path().join("ca.pem"),
        };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.private_key, key.serialize_pem()).unwrap();
        let private = Permissions::from_mode(0o600);
        std::fs::set_permissions(&files.private_key, private).unwrap();
        files
    }
}

#[test]
fn what_other_nodes_will_not_take_is_a_shortcoming() {
    let authority = Authority::new();
    for (name, until, wrong) in [
        (NAME, 2100, None),
        (NAME, 2010, Some("a.pem expired")),
        ("relay.test", 2100, Some("a.pem is not for relays.test")),
    ] {
        let files = authority.write("a", name, until);
        let said = PeerTls::load(&files).unwrap().shortcomings();
        match wrong {
            None => assert_eq!(said, Vec::<String>::new()),
            Some(wrong) => assert!(said.len() == 1 && said[0].contains(wrong), "{said:?}"),
        }
    }
}

#[test]
fn a_good_certificate_is_not_given_for_one_that_other_nodes_like_less() {
    let authority = Authority::new();
    let files = authority.write("a", NAME, 2100);
    let tls = PeerTls::load(&files).unwrap();
    let old = tls.fingerprint();
    for (name, until, why) in [(NAME, 2010, "expired"), ("relay.test", 2100, "is not for")] {
        authority.write("a", name, until);
        let refused = tls.reload().unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        assert!(refused.contains("the old one is better"), "{refused}");
        assert_eq!(tls.fingerprint(), old);
    }
    let files = authority.write("a", NAME, 2100);
    let everybodys = Permissions::from_mode(0o644);
    std::fs::set_permissions(&files.private_key, everybodys).unwrap();
    let refused = tls.reload().unwrap_err().to_string();
    assert!(refused.contains("has mode 644"), "{refused}");
    assert_eq!(tls.fingerprint(), old);
    authority.write("a", NAME, 2100);
    assert_eq!(tls.reload().unwrap(), Vec::<String>::new());
    assert_ne!(tls.fingerprint(), old);
}

#[tokio::test(start_paused = true)]
async fn while_a_node_runs_it_says_once_a_day_that_its_certificate_for_other_nodes_has_expired() {
    let (lines, _guards) = Lines::listen();
    let authority = Authority::new();
    let tls = PeerTls::load(&authority.write("a", NAME, 2010)).unwrap();
    let metrics = Metrics::new();
    let gauge = "culvert_relay_peer_certificate_expiry_timestamp_seconds";
    let alone = metrics.render().unwrap();
    assert!(!alone.contains(&format!("{gauge}{{")), "{alone}");
    let expiry = metrics.peers.certificate_expiry(NAME);
    tokio::spawn(keep_fresh(Arc::new(tls), expiry, async || pending().await));
    sleep(Duration::from_secs(26 * 3600)).await;
    let said = lines.text().matches("a.pem expired").count();
    assert_eq!(said, 1, "{}", lines.text());
    let metrics = metrics.render().unwrap();
    let gauge = format!("{gauge}{{name=\"relays.test\"}} 1262304000\n");
    assert!(metrics.contains(&gauge), "{metrics}");
}
