//! What a failed handshake comes down to, for whoever has to mend it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::PinMismatch;

/// Why TLS with a server failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsTrouble {
    /// The authority that signed the certificate is not trusted.
    Untrusted,
    /// The certificate was good once.
    Expired,
    /// The certificate will be good.
    NotYetValid,
    /// The certificate is for other names.
    OtherName,
    /// The certificate is not the pinned one.
    NotPinned,
    /// Something else about the certificate.
    Certificate,
    /// No version of TLS that both sides speak, or nothing else in common.
    Version,
    /// What came is not TLS.
    NotTls,
    /// Something else about TLS.
    Other,
    /// The connection ended before TLS had anything to say.
    Cut,
}

impl TlsTrouble {
    /// What an error of a handshake comes down to.
    pub fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(Error::InvalidCertificate(certificate)) => Self::of_certificate(certificate),
            Some(
                Error::PeerIncompatible(_)
                | Error::AlertReceived(AlertDescription::ProtocolVersion),
            ) => Self::Version,
            Some(Error::InvalidMessage(_)) => Self::NotTls,
            Some(_) => Self::Other,
            None => Self::Cut,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Untrusted,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::OtherName
            }
            CertificateError::Other(other) if other.0.downcast_ref::<PinMismatch>().is_some() => {
                Self::NotPinned
            }
            _ => Self::Certificate,
        }
    }
}
