//! The certificates of the public address, and which one a client is shown: by the name that it asks
//! for (SNI, RFC 6066).

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use culvert_config::relay::RelayTls;
use culvert_session::tls::{TlsConfigError, server_identity};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::GeneralName;

use super::validity::{Validity, leaf, unreadable};

/// All certificates that there are.
pub(super) struct Identities {
    /// For whoever asks for no name, or for one that no certificate is for.
    first: Arc<CertifiedKey>,
    /// By the names in them, lower case: `relay.example.com`, `*.relay.example.com`. Of two
    /// certificates for a name, the one that is written first.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    validity: Vec<Validity>,
}

impl Identities {
    /// Reads every file. Blocks.
    pub(super) fn read(files: &RelayTls) -> Result<Self, TlsConfigError> {
        let first = server_identity(&files.certificate, &files.private_key)?;
        let mut identities = Self {
            first: first.clone(),
            by_name: HashMap::new(),
            validity: Vec::new(),
        };
        identities.add(&files.certificate, first)?;
        for further in &files.sni {
            let identity = server_identity(&further.certificate, &further.private_key)?;
            identities.add(&further.certificate, identity)?;
        }
        Ok(identities)
    }

    fn add(&mut self, file: &Path, identity: Arc<CertifiedKey>) -> Result<(), TlsConfigError> {
        let leaf = leaf(file, &identity)?;
        let names = leaf.subject_alternative_name();
        let names = names.map_err(|_| unreadable(file))?;
        let names = names
            .into_iter()
            .flat_map(|names| &names.value.general_names);
        for name in names {
            if let GeneralName::DNSName(name) = name {
                let name = name.to_ascii_lowercase();
                self.by_name.entry(name).or_insert_with(|| identity.clone());
            }
        }
        self.validity.push(Validity::of(file, &leaf));
        Ok(())
    }

    /// The certificate for those who ask for nothing that there is.
    pub(super) fn first(&self) -> &Arc<CertifiedKey> {
        &self.first
    }

    /// The certificate for a name in lower case: one that names it, or the whole domain above it.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.by_name.get(name).or_else(|| {
            let (_, domain) = name.split_once('.')?;
            self.by_name.get(&format!("*.{domain}"))
        })
    }

    /// Whether some certificate is for names right below a domain: for all of them, or for some.
    pub(super) fn has_below(&self, domain: &str) -> bool {
        let mut names = self.by_name.keys();
        names.any(|name| name.split_once('.').is_some_and(|(_, rest)| rest == domain))
    }

    /// What is to be said of certificates that are not good at this time.
    pub(super) fn out_of_time(&self, now: SystemTime) -> Vec<String> {
        let judged = self.validity.iter();
        judged.filter_map(|one| one.out_of_time(now)).collect()
    }

    /// What is to be said of certificates whose end is near, and not there yet.
    pub(super) fn near_their_end(&self, now: SystemTime) -> Vec<String> {
        let judged = self.validity.iter();
        judged.filter_map(|one| one.near_its_end(now)).collect()
    }

    /// When the first of them expires, in seconds since the Unix epoch.
    pub(super) fn first_end(&self) -> i64 {
        let ends = self.validity.iter().map(Validity::end);
        ends.min().unwrap_or_default()
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().map(str::to_ascii_lowercase);
        let found = asked.and_then(|name| self.find(&name));
        Some(found.unwrap_or(&self.first).clone())
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities")
            .field("names", &self.by_name.keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use culvert_config::relay::SniCertificate;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    use super::*;

    /// Writes a certificate for these names, good from 2000 to the end of 2009.
    fn write(folder: &TempDir, file: &str, names: &[&str]) -> SniCertificate {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2010, 1, 1);
        let written = SniCertificate {
            certificate: folder.path().join(format!("{file}.pem")),
            private_key: folder.path().join(format!("{file}.key")),
        };
        let signed = params.self_signed(&key).unwrap();
        std::fs::write(&written.certificate, signed.pem()).unwrap();
        std::fs::write(&written.private_key, key.serialize_pem()).unwrap();
        written
    }

    fn identities(certificates: &[(&str, &[&str])]) -> (TempDir, Identities) {
        let folder = tempfile::tempdir().unwrap();
        let mut written: Vec<_> = certificates
            .iter()
            .map(|(file, names)| write(&folder, file, names))
            .collect();
        let first = written.remove(0);
        let files = RelayTls {
            certificate: first.certificate,
            private_key: first.private_key,
            client_ca: None,
            sni: written,
        };
        let identities = Identities::read(&files).unwrap();
        (folder, identities)
    }

    #[test]
    fn a_name_finds_the_certificate_that_is_for_it() {
        let (folder, identities) = identities(&[
            ("relay", &["relay.example.com", "*.relay.example.com"]),
            ("customer", &["VC.customer.example", "relay.example.com"]),
            ("special", &["special--acme.relay.example.com"]),
        ]);
        let shown = |file: &str| {
            let (certificate, key) = (format!("{file}.pem"), format!("{file}.key"));
            let path = |name| folder.path().join(name);
            server_identity(&path(certificate), &path(key))
                .unwrap()
                .cert
                .clone()
        };
        for (name, file) in [
            ("relay.example.com", "relay"),
            ("vcenter--acme.relay.example.com", "relay"),
            ("vc.customer.example", "customer"),
            ("special--acme.relay.example.com", "special"),
        ] {
            assert_eq!(identities.find(name).unwrap().cert, shown(file), "{name}");
        }
        for name in [
            "customer.example",
            "a.b.relay.example.com",
            "example.com",
            "com",
            "",
        ] {
            assert!(identities.find(name).is_none(), "{name}");
        }
        assert_eq!(identities.first().cert, shown("relay"));
        assert!(
            identities.has_below("relay.example.com") && identities.has_below("customer.example")
        );
        assert!(!identities.has_below("vc.customer.example"));
    }

    #[test]
    fn certificates_that_are_not_good_now_are_named() {
        let (_folder, identities) = identities(&[("relay", &["a.example"]), ("b", &["b.example"])]);
        let at = |days: u64| {
            let since = Duration::from_secs(days * 24 * 3600);
            identities.out_of_time(UNIX_EPOCH + since)
        };
        let years = 365 * 30 + 7;
        assert!(at(years + 100).is_empty());
        let near = |days: u64| {
            let since = Duration::from_secs(days * 24 * 3600);
            identities.near_their_end(UNIX_EPOCH + since)
        };
        assert!(near(years + 3653 - 8).is_empty() && near(years + 3653 + 1).is_empty());
        assert!(near(years + 3653 - 5)[1].contains("b.pem expires in 5 days"));
        assert_eq!(identities.first_end(), 1_262_304_000);
        let early = at(years - 100);
        assert_eq!(early.len(), 2);
        assert!(early[0].contains("relay.pem is not valid yet"), "{early:?}");
        let late = at(years + 3653 + 10);
        assert!(late[1].contains("b.pem expired 10 days ago"), "{late:?}");
    }
}
