//! A development certificate authority, and the certificates it signs.
//!
//! For one machine: the names are loopback names, the keys lie in a folder that only its user
//! can read, and nothing is ever committed.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::failure::{Doing, Failure, Result};
use crate::files;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long a new authority is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a leaf is valid. Leaves are made anew at every start.
const LEAF_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A certificate authority for development.
#[derive(Debug)]
pub struct Authority {
    pem: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority that is valid for a year.
    pub fn generate() -> Result<Self> {
        let key = KeyPair::generate().doing(|| "cannot make a key")?;
        let mut params = authority_params();
        valid_for(&mut params, AUTHORITY_LIFE);
        let certificate = params
            .self_signed(&key)
            .doing(|| "cannot sign the authority")?;
        Ok(Self {
            pem: certificate.pem(),
            key: key.serialize_pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority kept in `folder` as `ca.pem` and `ca.key`; made there if there is none, or
    /// if it has less than a leaf's life left.
    ///
    /// The flag says whether it was made now.
    pub fn load_or_generate(folder: &Path) -> Result<(Self, bool)> {
        let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        if let (Ok(pem), Ok(key)) = (
            std::fs::read_to_string(&certificate),
            std::fs::read_to_string(&key),
        ) && let Some(authority) = Self::from_pem(pem, key)
        {
            return Ok((authority, false));
        }
        let authority = Self::generate()?;
        files::write_private(&key, &authority.key)?;
        files::write(&certificate, &authority.pem)?;
        Ok((authority, true))
    }

    /// An authority that was made by this module, unless it is damaged or ends too soon.
    fn from_pem(pem: String, key: String) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
        let key_pair = KeyPair::from_pem(&key).ok()?;
        let left = parsed.validity().time_to_expiration()?;
        let same_key = parsed.public_key().subject_public_key.data == key_pair.public_key_raw();
        (same_key && left.unsigned_abs() > LEAF_LIFE).then(|| Self {
            pem,
            key,
            issuer: Issuer::new(authority_params(), key_pair),
        })
    }

    /// The authority's certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server certificate for `names` (DNS names or addresses), valid from yesterday on.
    pub fn issue(&self, names: &[&str]) -> Result<Leaf> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).doing(|| "cannot name a certificate")?;
        params.distinguished_name = distinguished_name(&name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // For servers, and for agents that show one to their upstreams.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, LEAF_LIFE);
        let key = KeyPair::generate().doing(|| "cannot make a key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .doing(|| "cannot sign a certificate")?;
        Ok(Leaf {
            pem: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The part of an authority's certificate that is the same whenever it was made, so that a
/// stored key is enough to go on signing.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("Culvert development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn distinguished_name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// Valid from yesterday, against clocks that differ, for `life` from now.
fn valid_for(params: &mut CertificateParams, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + life;
}

/// A certificate and its private key, both in PEM.
pub struct Leaf {
    pem: String,
    key: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf")
            .field("pem", &self.pem)
            .finish_non_exhaustive()
    }
}

impl Leaf {
    /// Writes `NAME.pem` and, for the owner's eyes only, `NAME.key` into `folder`.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        files::write_private(&folder.join(format!("{name}.key")), &self.key)?;
        files::write(&folder.join(format!("{name}.pem")), &self.pem)
    }

    /// The TLS configuration of a server that shows this certificate and offers `alpn`.
    pub fn server_config(&self, alpn: &[&str]) -> Result<rustls::ServerConfig> {
        server_config(self.pem.as_bytes(), self.key.as_bytes(), alpn)
    }
}

/// The TLS configuration of a server whose certificate and key are `NAME.pem` and `NAME.key` in
/// `folder`.
pub fn server_config_from(folder: &Path, name: &str) -> Result<rustls::ServerConfig> {
    let read = |extension: &str| {
        let file = folder.join(format!("{name}.{extension}"));
        std::fs::read(&file).doing(|| format!("cannot read {}", file.display()))
    };
    server_config(&read("pem")?, &read("key")?, &["http/1.1"])
}

fn server_config(pem: &[u8], key: &[u8], alpn: &[&str]) -> Result<rustls::ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .doing(|| "cannot read a certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).doing(|| "cannot read a private key")?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .doing(|| "cannot set up TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .doing(|| "cannot use a certificate")?;
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// The TLS configuration of a client that trusts `ca` (PEM) alone and offers `alpn`.
pub fn client_config(ca: &str, alpn: &[&str]) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.doing(|| "cannot read the authority")?;
        roots
            .add(certificate)
            .doing(|| "cannot trust the authority")?;
    }
    if roots.is_empty() {
        return Err(Failure::new("the authority's file holds no certificate"));
    }
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .doing(|| "cannot set up TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_reused_and_still_signs_under_its_own_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let (first, made) = Authority::load_or_generate(folder.path()).unwrap();
        assert!(made);
        let (second, made) = Authority::load_or_generate(folder.path()).unwrap();
        assert!(!made);
        assert_eq!(first.pem(), second.pem());

        let leaf = second.issue(&["localhost"]).unwrap();
        let leaf = CertificateDer::from_pem_slice(leaf.pem.as_bytes()).unwrap();
        let ca = CertificateDer::from_pem_slice(first.pem.as_bytes()).unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let (_, ca) = x509_parser::parse_x509_certificate(&ca).unwrap();
        assert_eq!(leaf.issuer(), ca.subject());
        assert!(leaf.validity().is_valid() && ca.validity().is_valid());
    }

    #[test]
    fn a_damaged_authority_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) = Authority::load_or_generate(folder.path()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), "not a certificate").unwrap();
        let (second, made) = Authority::load_or_generate(folder.path()).unwrap();
        assert!(made && first.pem() != second.pem());
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        Authority::load_or_generate(folder.path()).unwrap();
        let mode = folder
            .path()
            .join("ca.key")
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
