//! Who a client certificate speaks for. Pure: a certificate and the time in, a principal or the
//! failed check out. That an accepted authority signed it, and that its holder has the key, is
//! known already: TLS has seen to that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_proto::certificate_name::CertificateName;
use culvert_proto::names::TenantName;
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::verify::{EndpointPatterns, VerifiedToken};

/// A caller that is known by its certificates.
#[derive(Debug, Clone)]
pub struct KnownCaller {
    /// The name that its certificates have.
    pub name: CertificateName,
    /// Its tenant.
    pub tenant: TenantName,
    /// The endpoints of its tenant that it may call; all of them if `None`.
    pub endpoints: Option<EndpointPatterns>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// Whether calling is among them.
    pub may_call: bool,
}

/// Every caller that is known by its certificates.
#[derive(Debug)]
pub struct KnownCallers(HashMap<CertificateName, KnownCaller>);

/// Why a certificate speaks for nobody. Shows nothing that is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No X.509 certificate, or one with an extension that is malformed or there twice.
    #[error("the client certificate cannot be read")]
    Unreadable,
    /// Its time is over, or has not come.
    #[error("the client certificate is not valid at this time")]
    Time,
    /// No authority that is accepted now has signed it.
    #[error("the client certificate's authority is not accepted")]
    Authority,
    /// None of its names is a known caller's.
    #[error("the client certificate's names are those of no caller here")]
    Nobody,
    /// Its names are those of several callers: whose call it is, nobody can tell.
    #[error("the client certificate's names are those of several callers")]
    Several,
}

impl KnownCallers {
    /// These callers. Of two with one name, the last one counts.
    pub fn new(callers: impl IntoIterator<Item = KnownCaller>) -> Self {
        let named = |caller: KnownCaller| (caller.name.clone(), caller);
        Self(callers.into_iter().map(named).collect())
    }

    /// Judges a certificate, in DER, by its subject alternative names and its time. The common
    /// name of its subject is not looked at (RFC 9525, 6.3).
    pub fn judge(
        &self,
        certificate: &[u8],
        now: SystemTime,
    ) -> Result<VerifiedToken, CertificateError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::Unreadable)?;
        let validity = certificate.validity();
        let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let expires = validity.not_after.timestamp();
        if now < validity.not_before.timestamp() || now >= expires {
            return Err(CertificateError::Time);
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| CertificateError::Unreadable)?;
        let names = names.ok_or(CertificateError::Nobody)?;
        let mut found = None;
        for name in names.value.general_names.iter().filter_map(name) {
            let Some(caller) = self.0.get(&name) else {
                continue;
            };
            match found.replace(caller) {
                Some(other) if other.name != caller.name => return Err(CertificateError::Several),
                _ => {}
            }
        }
        let caller = found.ok_or(CertificateError::Nobody)?;
        Ok(VerifiedToken {
            principal: Principal {
                tenant: caller.tenant.clone(),
                subject: caller.name.to_string(),
                scopes: caller.scopes.clone(),
                kind: PrincipalKind::Caller,
                expires: u64::try_from(expires).unwrap_or_default(),
                proof: Proof::Certificate,
            },
            endpoints: EndpointPatterns::default(),
            may_register: false,
            may_call: caller.may_call,
            call_endpoints: caller.endpoints.clone(),
            bound_to: None,
        })
    }
}

/// A name of a certificate, if it is of a kind that callers are known by.
fn name(name: &GeneralName<'_>) -> Option<CertificateName> {
    Some(match name {
        GeneralName::URI(text) => CertificateName::Uri((*text).to_owned()),
        // Letter case means nothing in DNS (RFC 4343).
        GeneralName::DNSName(text) => CertificateName::Dns(text.to_ascii_lowercase()),
        GeneralName::RFC822Name(text) => CertificateName::Email((*text).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            CertificateName::Ip(v4.or_else(|_| v6()).ok()?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    /// A certificate with these names that is valid from 100 s before now to 100 s after.
    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "director.example.com");
        let at = |second: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
        (params.not_before, params.not_after) = (at(NOW - 100), at(NOW + 100));
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn email(text: &str) -> SanType {
        SanType::Rfc822Name(text.try_into().unwrap())
    }

    fn callers() -> KnownCallers {
        let known = |name: &str| KnownCaller {
            name: name.parse().unwrap(),
            tenant: TenantName::new("acme").unwrap(),
            endpoints: Some(EndpointPatterns::new(vec!["vc*".into()]).unwrap()),
            scopes: vec!["culvert:call".into()],
            may_call: true,
        };
        KnownCallers::new(
            [
                "spiffe://cloud.example.com/director",
                "director.example.com",
                "director@example.com",
                "10.0.0.7",
                "2001:db8::7",
            ]
            .map(known),
        )
    }

    #[test]
    fn a_known_name_of_any_kind_becomes_a_principal_that_lasts_as_long_as_the_certificate() {
        let address = |text: &str| SanType::IpAddress(text.parse().unwrap());
        for (san, subject) in [
            (
                uri("spiffe://cloud.example.com/director"),
                "spiffe://cloud.example.com/director",
            ),
            (dns("Director.Example.com"), "director.example.com"),
            (email("director@example.com"), "director@example.com"),
            (address("10.0.0.7"), "10.0.0.7"),
            (address("2001:db8::7"), "2001:db8::7"),
        ] {
            let other = dns("of.no.interest");
            let verified = callers().judge(&certificate(vec![other, san]), now());
            let verified = verified.unwrap_or_else(|error| panic!("{subject}: {error}"));
            assert_eq!(verified.principal.subject, subject);
            assert_eq!(verified.principal.tenant.as_str(), "acme");
            assert_eq!(verified.principal.expires, NOW + 100);
            assert_eq!(verified.principal.proof, Proof::Certificate);
            assert!(verified.may_call && !verified.may_register);
            let endpoint = |name| culvert_proto::names::EndpointName::new(name).unwrap();
            assert!(verified.may_call_endpoint(&endpoint("vcenter")));
            assert!(!verified.may_call_endpoint(&endpoint("nsx")));
        }
    }

    #[test]
    fn names_are_compared_exactly_and_within_their_kind() {
        for san in [
            uri("spiffe://cloud.example.com/director/"),
            uri("spiffe://cloud.example.com/Director"),
            uri("spiffe://cloud.example.com/director/x"),
            uri("director.example.com"),
            uri("director@example.com"),
            dns("spiffe://cloud.example.com/director"),
            dns("*.example.com"),
            dns("director.example.com.evil.example"),
            dns("director.example.com\0.evil.example"),
            dns("director.example.com."),
            dns("10.0.0.7"),
            email("Director@example.com"),
            email("director.example.com"),
            SanType::IpAddress("::ffff:10.0.0.7".parse().unwrap()),
        ] {
            let judged = callers().judge(&certificate(vec![san.clone()]), now());
            assert_eq!(judged, Err(CertificateError::Nobody), "{san:?}");
        }
        // The common name says director.example.com in all of these.
        let judged = callers().judge(&certificate(Vec::new()), now());
        assert_eq!(judged, Err(CertificateError::Nobody));
    }

    #[test]
    fn a_certificate_of_several_callers_is_nobodys() {
        let both = vec![dns("director.example.com"), email("director@example.com")];
        let judged = callers().judge(&certificate(both), now());
        assert_eq!(judged, Err(CertificateError::Several));
        let twice = vec![dns("director.example.com"), dns("Director.example.com")];
        assert!(callers().judge(&certificate(twice), now()).is_ok());
    }

    #[test]
    fn a_certificate_counts_within_its_time_only() {
        let certificate = certificate(vec![dns("director.example.com")]);
        let at = |second| {
            let judged = callers().judge(&certificate, UNIX_EPOCH + Duration::from_secs(second));
            judged.map(drop)
        };
        assert_eq!(at(NOW - 101), Err(CertificateError::Time));
        assert_eq!(at(NOW - 100), Ok(()));
        assert_eq!(at(NOW + 99), Ok(()));
        assert_eq!(at(NOW + 100), Err(CertificateError::Time));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let mut cut = certificate(vec![dns("director.example.com")]);
        cut.truncate(100);
        for bytes in [&b""[..], b"\x30\x03\x02\x01\x05", &cut] {
            let judged = callers().judge(bytes, now());
            assert_eq!(judged, Err(CertificateError::Unreadable));
        }
    }
}
