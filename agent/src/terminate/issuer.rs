//! Leaves made on demand by a CA that the agent was given: for declared names only, short-lived,
//! kept until they are half used up.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use culvert_proto::connect_name::ConnectName;
use culvert_session::tls::{TlsConfigError, provider, server_identity};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::tls;

/// How long a leaf is good for: a stolen key is of no use for long, and a clock that is wrong by
/// hours does no harm.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How far a leaf begins in the past: callers' clocks may be behind.
const BEFORE: Duration = Duration::from_secs(3600);

/// A certificate authority that signs for the names of one endpoint.
#[derive(Debug)]
pub(super) struct Issuer {
    ca: rcgen::Issuer<'static, KeyPair>,
    /// The CA's certificate, and those between it and a root.
    chain: Vec<CertificateDer<'static>>,
    /// When the CA's own certificate ends.
    not_after: SystemTime,
    hosts: Vec<String>,
    /// One for each host at most.
    leaves: Mutex<HashMap<String, Leaf>>,
}

#[derive(Debug)]
struct Leaf {
    tls: Arc<ServerConfig>,
    /// When another one is made.
    renew: SystemTime,
}

/// A CA that cannot sign.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadIssuer {
    #[error(transparent)]
    Files(#[from] TlsConfigError),
    #[error("{}: the CA cannot sign: {source}", .path.display())]
    Sign { path: PathBuf, source: rcgen::Error },
    #[error("{}: the CA's key cannot be read: {source}", .path.display())]
    Key {
        path: PathBuf,
        source: rustls_pki_types::pem::Error,
    },
    #[error("{}: the CA's certificate cannot be read", .path.display())]
    Certificate { path: PathBuf },
}

/// A leaf that could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoLeaf {
    #[error("it is no name of this endpoint")]
    Name,
    #[error("the CA's certificate has expired")]
    Expired,
    #[error(transparent)]
    Sign(#[from] rcgen::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl Issuer {
    /// Reads the CA's files, and makes sure that it can sign. Blocks.
    pub(super) fn load(
        certificate: &Path,
        key: &Path,
        names: &[ConnectName],
    ) -> Result<Self, BadIssuer> {
        // Also refuses a key that is not the certificate's.
        let chain = server_identity(certificate, key)?.cert.clone();
        let unreadable = || BadIssuer::Certificate {
            path: certificate.to_owned(),
        };
        let own = chain.first().ok_or_else(unreadable)?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|_| unreadable())?;
        let end = parsed.validity().not_after.timestamp();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(end).unwrap_or(0));
        let private = PrivateKeyDer::from_pem_file(key).map_err(|source| BadIssuer::Key {
            path: key.to_owned(),
            source,
        })?;
        let refused = |source| BadIssuer::Sign {
            path: certificate.to_owned(),
            source,
        };
        let signer = KeyPair::try_from(&private).map_err(refused)?;
        let ca = rcgen::Issuer::from_ca_cert_der(own, signer).map_err(refused)?;
        let hosts = names.iter().map(|name| name.host().to_owned()).collect();
        Ok(Self {
            ca,
            not_after: end,
            hosts,
            leaves: Mutex::default(),
            chain,
        })
    }

    /// The TLS for a host, with a leaf that is good for a while.
    pub(super) fn config_for(
        &self,
        host: &str,
        now: SystemTime,
    ) -> Result<Arc<ServerConfig>, NoLeaf> {
        if !self.hosts.iter().any(|known| known == host) {
            return Err(NoLeaf::Name);
        }
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaves.get(host).filter(|leaf| now < leaf.renew) {
            return Ok(leaf.tls.clone());
        }
        let leaf = self.issue(host, now)?;
        let tls = leaf.tls.clone();
        leaves.insert(host.to_owned(), leaf);
        Ok(tls)
    }

    fn issue(&self, host: &str, now: SystemTime) -> Result<Leaf, NoLeaf> {
        let end = self.not_after.min(now + LIFE);
        let left = end.duration_since(now).map_err(|_| NoLeaf::Expired)?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        // A common name has 64 characters at most (RFC 5280, A.1); the names are in the SAN.
        if host.len() <= 64 {
            params.distinguished_name.push(DnType::CommonName, host);
        }
        params.not_before = (now - BEFORE).into();
        params.not_after = end.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.ca)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend_from_slice(&self.chain);
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let identity = CertifiedKey::from_der(chain, private, &provider())?;
        tracing::info!(host, "issued a certificate for callers");
        Ok(Leaf {
            tls: tls(Arc::new(identity))?,
            renew: now + left / 2,
        })
    }
}
