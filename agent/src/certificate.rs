//! Certificates that a server shows: looked at without trusting any of them, and put into words.

use std::fmt::{self, Display};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use culvert_session::tls::{pin_of, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Most certificates of a chain that are looked at.
const MAX_CHAIN: usize = 10;

/// The certificates that the server at the other end of `io` shows to whoever asks for `name`,
/// its own first. The handshake goes no further: nothing is trusted, and nothing is sent.
pub(crate) async fn shown<IO>(
    io: IO,
    name: ServerName<'static>,
) -> io::Result<Vec<CertificateDer<'static>>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let onlooker = Arc::new(Onlooker::default());
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(onlooker.clone())
        .with_no_client_auth();
    let failed = TlsConnector::from(Arc::new(config))
        .connect(name, io)
        .await
        .err();
    match (onlooker.seen.get(), failed) {
        (Some(chain), _) => Ok(chain.clone()),
        (None, Some(error)) => Err(error),
        (None, None) => Err(io::Error::other("the server showed no certificate")),
    }
}

/// Takes note of the certificates, and refuses every one.
#[derive(Debug, Default)]
struct Onlooker {
    seen: OnceLock<Vec<CertificateDer<'static>>>,
}

fn refused<T>() -> Result<T, rustls::Error> {
    Err(rustls::Error::General("only looked at".to_owned()))
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.take(MAX_CHAIN).map(|c| c.clone().into_owned());
        let _ = self.seen.set(chain.collect());
        refused()
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refused()
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refused()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The SHA-256 of a certificate's DER in lower-case hex: what `pin_sha256` takes.
pub(crate) fn pin_hex(certificate: &CertificateDer<'_>) -> String {
    let pin = pin_of(certificate);
    pin.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a certificate says of itself, none of it verified, as text that is fit for a terminal.
#[derive(Debug)]
pub(crate) struct Facts {
    sha256: String,
    /// `None`: not a certificate that can be read.
    readable: Option<Readable>,
}

#[derive(Debug)]
struct Readable {
    subject: String,
    issuer: String,
    not_before: String,
    not_after: String,
    is_valid_now: bool,
    names: Vec<String>,
}

impl Facts {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        let parsed = X509Certificate::from_der(certificate).ok();
        Self {
            sha256: pin_hex(certificate),
            readable: parsed.map(|(_, certificate)| Readable::of(&certificate)),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let Some(it) = &self.readable else {
            return json!({ "sha256": self.sha256 });
        };
        json!({
            "subject": it.subject,
            "issuer": it.issuer,
            "not_before": it.not_before,
            "not_after": it.not_after,
            "valid_now": it.is_valid_now,
            "names": it.names,
            "sha256": self.sha256,
        })
    }
}

impl Readable {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        let names = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().map(name).collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        Self {
            subject: plain(certificate.subject()),
            issuer: plain(certificate.issuer()),
            not_before: plain(validity.not_before),
            not_after: plain(validity.not_after),
            is_valid_now: validity.is_valid(),
            names,
        }
    }
}

/// A name of the certificate, as people write it.
fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => plain(name),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = address.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.map_or_else(|_| "an unreadable address".to_owned(), |a| a.to_string())
        }
        other => plain(other),
    }
}

/// Text of a server's making, without what a terminal would obey, and not too long.
fn plain(text: impl Display) -> String {
    let text = text.to_string();
    let chars = text.chars().map(|c| if c.is_control() { '?' } else { c });
    chars.take(512).collect()
}

impl Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(it) = &self.readable {
            writeln!(f, "  subject  {}", it.subject)?;
            let itself = if it.subject == it.issuer {
                " (itself)"
            } else {
                ""
            };
            writeln!(f, "  issuer   {}{itself}", it.issuer)?;
            let now = if it.is_valid_now { "" } else { ": NOT NOW" };
            writeln!(f, "  valid    {} to {}{now}", it.not_before, it.not_after)?;
            if !it.names.is_empty() {
                writeln!(f, "  names    {}", it.names.join(", "))?;
            }
        } else {
            writeln!(f, "  not a certificate that can be read")?;
        }
        writeln!(f, "  sha256   {}", self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Identity;

    #[test]
    fn a_certificate_is_put_into_words_without_control_characters() {
        let identity = Identity::new(&["vc.example", "10.0.0.7", "2001:db8::7"]);
        let facts = Facts::of(&identity.certificate);
        let words = facts.to_string();
        assert!(
            words.contains("names    vc.example, 10.0.0.7, 2001:db8::7\n"),
            "{words}"
        );
        assert!(words.contains("(itself)"), "{words}");
        assert!(words.contains(&pin_hex(&identity.certificate)), "{words}");
        assert!(!words.contains("NOT NOW"), "{words}");
        assert_eq!(facts.to_json()["valid_now"], true);
        assert_eq!(plain("a\x1b[31m\r\nb"), "a?[31m??b");
        let broken = Facts::of(&CertificateDer::from(vec![1, 2, 3]));
        assert!(broken.to_string().contains("not a certificate"));
    }
}
