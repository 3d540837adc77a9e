//! `terminate` of an endpoint: what the agent shows callers whose TLS it ends itself.

use std::net::IpAddr;
use std::path::PathBuf;

use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use url::Url;
use x509_parser::pem::Pem;
use x509_parser::prelude::{GeneralName, X509Certificate};

use crate::document::Document;
use crate::error::ConfigError;

/// Whose certificates the agent shows where it ends callers' TLS. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Terminate {
    /// One certificate for all names of the endpoint.
    Certificate {
        /// The certificate, and those between it and its CA.
        certificate: PathBuf,
        /// Its private key.
        private_key: PathBuf,
    },
    /// One for each name, made on demand by this CA.
    Issue {
        /// The CA's certificate, and those between it and a root.
        ca_certificate: PathBuf,
        /// Its private key.
        ca_private_key: PathBuf,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenTerminate {
    certificate: Option<Spanned<PathBuf>>,
    private_key: Option<Spanned<PathBuf>>,
    ca_certificate: Option<Spanned<PathBuf>>,
    ca_private_key: Option<Spanned<PathBuf>>,
}

impl Terminate {
    /// The files of certificate and private key.
    pub fn files(&self) -> (&PathBuf, &PathBuf) {
        match self {
            Self::Certificate {
                certificate,
                private_key,
            } => (certificate, private_key),
            Self::Issue {
                ca_certificate,
                ca_private_key,
            } => (ca_certificate, ca_private_key),
        }
    }

    /// Reads the certificate: it must be good now, and good for every one of these names, or that of
    /// a CA. Says what is wrong with it, and names the file.
    pub fn check(&self, names: &[ConnectName]) -> Result<(), String> {
        let file = self.files().0;
        let wrong = |what: &str| format!("{} {what}", file.display());
        let bytes =
            std::fs::read(file).map_err(|error| wrong(&format!("cannot be read ({error})")))?;
        let first = Pem::iter_from_buffer(&bytes)
            .filter_map(Result::ok)
            .find(|block| block.label == "CERTIFICATE");
        let first = first.ok_or_else(|| wrong("has no certificate in it; expected PEM"))?;
        let certificate = first
            .parse_x509()
            .map_err(|_| wrong("has no certificate that can be read"))?;
        let validity = certificate.validity();
        if !validity.is_valid() {
            return Err(wrong(&format!(
                "is not valid now, but from {} to {}",
                validity.not_before, validity.not_after
            )));
        }
        match self {
            Self::Issue { .. } if !is_authority(&certificate) => {
                Err(wrong("is not the certificate of a CA that may sign others"))
            }
            Self::Issue { .. } => Ok(()),
            Self::Certificate { .. } => {
                match names.iter().find(|name| !covers(&certificate, name)) {
                    Some(name) => Err(wrong(&format!(
                        "is not for {}, which `connect` declares; expected a certificate with all \
                         of those names, or an [[endpoint]] for each",
                        name.host()
                    ))),
                    None => Ok(()),
                }
            }
        }
    }
}

fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    let may_sign = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    certificate.is_ca() && may_sign
}

/// Whether a client that follows RFC 9525 takes the certificate for this name: by its subject
/// alternative names alone, where `*` stands for the first label.
fn covers(certificate: &X509Certificate<'_>, name: &ConnectName) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    names
        .value
        .general_names
        .iter()
        .any(|san| match (san, name.address()) {
            (GeneralName::IPAddress(bytes), Some(address)) => match address {
                IpAddr::V4(v4) => *bytes == v4.octets(),
                IpAddr::V6(v6) => *bytes == v6.octets(),
            },
            (GeneralName::DNSName(san), None) => {
                let wildcard = || {
                    let above = san.strip_prefix("*.")?;
                    let (_, host) = name.host().split_once('.')?;
                    Some(above.eq_ignore_ascii_case(host) && host.contains('.'))
                };
                san.eq_ignore_ascii_case(name.host()) || wildcard() == Some(true)
            }
            _ => false,
        })
}

/// The table, which there is exactly where the mode is.
pub(crate) fn check(
    document: &Document,
    written: Option<&Spanned<WrittenTerminate>>,
    modes: &Spanned<&[Mode]>,
    names: &[ConnectName],
    upstream: &Url,
) -> Result<Option<Terminate>, ConfigError> {
    let wanted = modes.get_ref().contains(&Mode::Terminate);
    let Some(written) = written else {
        return match wanted {
            false => Ok(None),
            true => Err(document.error(
                modes.span(),
                "found the mode \"terminate\" and nothing to show callers; expected terminate = { \
                 certificate = \"...\", private_key = \"...\" } or { ca_certificate = \"...\", \
                 ca_private_key = \"...\" }",
            )),
        };
    };
    if !wanted {
        let message = "found terminate, and no mode for it; expected mode = [\"terminate\"] or \
                       [\"http\", \"terminate\"]";
        return Err(document.error(written.span(), message));
    }
    let port = upstream.port_or_known_default().unwrap_or(443);
    if let Some(name) = names
        .iter()
        .find(|name| crate::proxied::is_host_of(upstream, name) && name.port() != port)
    {
        let message = format!(
            "found the mode \"terminate\" for {name}, which is another port than that of {upstream}; \
             expected an [[endpoint]] with that port in its upstream"
        );
        return Err(document.error(modes.span(), message));
    }
    let files = |certificate: &Spanned<PathBuf>, key: &Spanned<PathBuf>| {
        let certificate = crate::check::file(document, certificate)?;
        let key = crate::check::private_file(document, key)?;
        Ok::<_, ConfigError>((certificate, key))
    };
    let table = written.get_ref();
    let (terminate, place) = match table {
        WrittenTerminate {
            certificate: Some(certificate),
            private_key: Some(key),
            ca_certificate: None,
            ca_private_key: None,
        } => {
            let (file, private_key) = files(certificate, key)?;
            let terminate = Terminate::Certificate {
                certificate: file,
                private_key,
            };
            (terminate, certificate.span())
        }
        WrittenTerminate {
            certificate: None,
            private_key: None,
            ca_certificate: Some(certificate),
            ca_private_key: Some(key),
        } => {
            let (file, ca_private_key) = files(certificate, key)?;
            let terminate = Terminate::Issue {
                ca_certificate: file,
                ca_private_key,
            };
            (terminate, certificate.span())
        }
        _ => {
            let message = "expected certificate and private_key, or ca_certificate and \
                           ca_private_key: one pair, and both of it";
            return Err(document.error(written.span(), message));
        }
    };
    terminate
        .check(names)
        .map_err(|wrong| document.error(place, format!("the certificate {wrong}")))?;
    Ok(Some(terminate))
}
