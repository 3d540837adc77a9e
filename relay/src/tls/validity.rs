//! For how long a certificate is good, and what is to be said of it.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_session::tls::TlsConfigError;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

/// In seconds.
const DAY: i64 = 24 * 3600;

/// How long before its end a certificate is spoken of: who renews by itself has done so by then.
const NEAR_THE_END: i64 = 7 * DAY;

/// From when until when a certificate is good, in seconds since the Unix epoch.
pub(crate) struct Validity {
    file: PathBuf,
    not_before: i64,
    not_after: i64,
}

impl Validity {
    /// That of the [`leaf`] in a file.
    pub(crate) fn of(file: &Path, leaf: &X509Certificate<'_>) -> Self {
        Self {
            file: file.to_owned(),
            not_before: leaf.validity().not_before.timestamp(),
            not_after: leaf.validity().not_after.timestamp(),
        }
    }

    /// What is to be said of a certificate that is not good at this time.
    pub(crate) fn out_of_time(&self, now: SystemTime) -> Option<String> {
        let now = seconds(now);
        let file = self.file.display();
        if now > self.not_after {
            let days = (now - self.not_after) / DAY;
            Some(format!("the certificate in {file} expired {days} days ago"))
        } else if now < self.not_before {
            Some(format!("the certificate in {file} is not valid yet"))
        } else {
            None
        }
    }

    /// What is to be said of one whose end is near, and not there yet.
    pub(crate) fn near_its_end(&self, now: SystemTime) -> Option<String> {
        let left = self.not_after - seconds(now);
        // One that is good for a few days only is renewed in its last third.
        let last_third = (self.not_after - self.not_before) / 3;
        let file = self.file.display();
        (0..=NEAR_THE_END.min(last_third)).contains(&left).then(|| {
            let days = left / DAY;
            format!("the certificate in {file} expires in {days} days, and nobody has renewed it")
        })
    }

    /// When it expires, in seconds since the Unix epoch.
    pub(crate) fn end(&self) -> i64 {
        self.not_after
    }
}

/// The certificate itself, of a chain that was read from this file.
pub(crate) fn leaf<'a>(
    file: &Path,
    identity: &'a CertifiedKey,
) -> Result<X509Certificate<'a>, TlsConfigError> {
    let read = identity
        .cert
        .first()
        .map(|leaf| X509Certificate::from_der(leaf));
    match read {
        Some(Ok((_, leaf))) => Ok(leaf),
        _ => Err(unreadable(file)),
    }
}

/// The first certificate of a file is none that can be understood.
pub(super) fn unreadable(file: &Path) -> TlsConfigError {
    TlsConfigError::BadCertificate {
        path: file.to_owned(),
        number: 1,
        source: rustls::CertificateError::BadEncoding.into(),
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
