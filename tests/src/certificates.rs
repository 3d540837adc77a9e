//! Authorities that sign callers' certificates, and what they sign.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_demo::files;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;

/// An authority, in a folder of its own.
#[derive(Debug)]
pub struct ClientAuthority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A caller's certificate and its key, as files that curl takes; they go with the authority.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl ClientAuthority {
    /// Makes a new one.
    pub fn generate() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Authority of callers");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        valid(&mut params, -3600, 3600);
        let certificate = params.self_signed(&key).expect("a certificate");
        files::write(&folder.path().join("ca.pem"), certificate.pem()).expect("ca.pem");
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    /// Its certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate with these names: URIs, addresses, e-mail addresses, DNS names.
    pub fn issue(&self, names: &[&str]) -> ClientCertificate {
        self.issue_until(names, 3600)
    }

    /// Signs one whose time is over in so many seconds.
    pub fn issue_until(&self, names: &[&str], seconds: i64) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| san(name)).collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        valid(&mut params, -3600, seconds);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let folder = tempfile::tempdir_in(&self.folder).expect("a folder").keep();
        self.write(&folder, &signed.pem(), &key.serialize_pem())
    }

    fn write(&self, folder: &Path, certificate: &str, key: &str) -> ClientCertificate {
        let shown = ClientCertificate {
            certificate: folder.join("client.pem"),
            key: folder.join("client.key"),
        };
        files::write(&shown.certificate, certificate).expect("client.pem");
        files::write_private(&shown.key, key).expect("client.key");
        shown
    }
}

fn san(name: &str) -> SanType {
    let text = || name.try_into().expect("ASCII");
    if let Ok(address) = name.parse() {
        SanType::IpAddress(address)
    } else if name.contains(':') {
        SanType::URI(text())
    } else if name.contains('@') {
        SanType::Rfc822Name(text())
    } else {
        SanType::DnsName(text())
    }
}

/// Sets the time of a certificate, in seconds from now.
fn valid(params: &mut CertificateParams, from: i64, until: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs().cast_signed();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |seconds: i64| epoch + Duration::from_secs((now + seconds).cast_unsigned());
    (params.not_before, params.not_after) = (at(from), at(until));
}
