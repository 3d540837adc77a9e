//! The names in a client certificate by which callers are known: one subject alternative name
//! (RFC 5280, 4.2.1.6), of one of four kinds.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::limits::MAX_SUBJECT;

/// A subject alternative name, in its one spelling.
///
/// Names of different kinds are never equal, and nothing in them stands for anything else: a
/// certificate for `*.example.com` is not one for `a.example.com`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertificateName {
    /// A URI, like the SPIFFE id `spiffe://cloud.example.com/director`; compared byte by byte.
    Uri(String),
    /// A DNS name, in lower case.
    Dns(String),
    /// An e-mail address; compared byte by byte.
    Email(String),
    /// An IP address.
    Ip(IpAddr),
}

/// The text is not a name that a certificate could have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a URI (\"spiffe://cloud.example.com/director\"), a DNS name in lower case, an e-mail \
     address or an IP address, of at most {MAX_SUBJECT} printable characters"
)]
pub struct CertificateNameError;

impl FromStr for CertificateName {
    type Err = CertificateNameError;

    /// The kind shows in the text: an IP address reads as one, a URI has a colon, an e-mail
    /// address an `@`, and everything else is a DNS name.
    fn from_str(text: &str) -> Result<Self, CertificateNameError> {
        if text.len() > MAX_SUBJECT || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CertificateNameError);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        if let Some((scheme, rest)) = text.split_once(':') {
            return if is_scheme(scheme) && !rest.is_empty() {
                Ok(Self::Uri(text.to_owned()))
            } else {
                Err(CertificateNameError)
            };
        }
        if let Some((user, host)) = text.rsplit_once('@') {
            return if user.is_empty() || host.is_empty() {
                Err(CertificateNameError)
            } else {
                Ok(Self::Email(text.to_owned()))
            };
        }
        if text.split('.').all(is_label) {
            Ok(Self::Dns(text.to_owned()))
        } else {
            Err(CertificateNameError)
        }
    }
}

/// RFC 3986, 3.1.
fn is_scheme(scheme: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(legal)
}

fn is_label(label: &str) -> bool {
    let legal =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (1..=63).contains(&label.len()) && label.bytes().all(legal)
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(text) | Self::Dns(text) | Self::Email(text) => f.write_str(text),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_name_shows_in_its_text() {
        let uri = |text: &str| CertificateName::Uri(text.into());
        let dns = |text: &str| CertificateName::Dns(text.into());
        let cases = [
            ("spiffe://a.example/x", uri("spiffe://a.example/x")),
            ("https://u@a.example/x", uri("https://u@a.example/x")),
            ("urn:uuid:1", uri("urn:uuid:1")),
            ("director.example.com", dns("director.example.com")),
            ("director", dns("director")),
            ("a@b.example", CertificateName::Email("a@b.example".into())),
            ("10.0.0.7", CertificateName::Ip([10, 0, 0, 7].into())),
            (
                "::1",
                CertificateName::Ip(std::net::Ipv6Addr::LOCALHOST.into()),
            ),
        ];
        for (text, name) in cases {
            assert_eq!(text.parse(), Ok(name.clone()), "{text}");
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_no_certificate_can_have_or_what_stands_for_several_names_is_refused() {
        let long = "a".repeat(MAX_SUBJECT + 1);
        for text in [
            "",
            "*.example.com",
            "A.example.com",
            "a..b",
            ".a",
            "a.",
            "a b",
            "a\0b",
            "@b",
            "a@",
            "1://x",
            "://x",
            "urn:",
            "spiffe://\u{e9}",
            &long,
        ] {
            assert!(text.parse::<CertificateName>().is_err(), "{text}");
        }
    }
}
