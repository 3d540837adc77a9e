//! The certificates and the upstream's files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls_pki_types::CertificateDer;

use crate::load::{Failure, tls_trusting};

/// The sizes of the files that the upstream serves, by path.
pub const FILES: [(&str, u64); 3] = [("small", 200), ("medium", 16 << 10), ("large", 1 << 30)];

/// A CA, and one certificate that every server of the stack uses.
pub(super) fn certificates(
    folder: &Path,
    domain: &str,
) -> Result<CertificateDer<'static>, Failure> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    // Not the default name, which the leaf has: OpenSSL takes equal names for self-signed.
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "Culvert bench CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    // By name: verifiers take no wildcard directly below a top-level domain.
    let names = [
        "localhost".to_owned(),
        domain.to_owned(),
        format!("api--bench.{domain}"),
        super::cluster::NAME.to_owned(),
        super::config::NAME.to_owned(),
    ];
    let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    fs::write(folder.join("ca.pem"), ca_certificate.pem())?;
    fs::write(folder.join("server.pem"), certificate.pem())?;
    write_private(&folder.join("server.key"), &key.serialize_pem())?;
    Ok(ca_certificate.der().clone())
}

/// Writes a file that only its owner may read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// Makes the files that the upstream serves.
pub(super) fn serve_files(folder: &Path) -> Result<(), Failure> {
    fs::create_dir(folder.join("files"))?;
    for (name, size) in FILES {
        fs::File::create(folder.join("files").join(name))?.set_len(size)?;
    }
    // nginx workers run as another user when the master is root.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// TLS of a caller that trusts the stack's CA.
pub(super) fn client_tls(
    ca: &CertificateDer<'static>,
) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone())?;
    tls_trusting(roots)
}
