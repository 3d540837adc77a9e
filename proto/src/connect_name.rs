//! `NAME:PORT`: what a caller may CONNECT to, as an endpoint declares it.

use std::borrow::Borrow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::limits::MAX_AUTHORITY;

/// Longest host name (RFC 1035, 2.3.4, as text).
const MAX_HOST: usize = 253;
/// Longest label of one.
const MAX_LABEL: usize = 63;

/// Why a text is no `NAME:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectNameError {
    /// Longer than [`MAX_AUTHORITY`].
    #[error("a name and port have at most {MAX_AUTHORITY} bytes")]
    TooLong,
    /// No port, port 0, or not a number.
    #[error("expected NAME:PORT, with a port from 1 to 65535")]
    Port,
    /// The part before the port is no host name and no address.
    #[error("expected a host name or an address, with an IPv6 address in brackets")]
    Host,
}

/// A host and a port in their one spelling: the name in lower case and without a dot at its end,
/// an address as RFC 5952 and dotted decimals write it, the port without zeros in front. Two that
/// mean the same are equal. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectName {
    text: Arc<str>,
    port: u16,
}

impl ConnectName {
    /// Reads `NAME:PORT`, `ADDRESS:PORT` or `[ADDRESS]:PORT`: no user, no path, nothing escaped.
    pub fn parse(text: &str) -> Result<Self, ConnectNameError> {
        if text.len() > MAX_AUTHORITY {
            return Err(ConnectNameError::TooLong);
        }
        let (host, port) = text.rsplit_once(':').ok_or(ConnectNameError::Port)?;
        let port = parse_port(port).ok_or(ConnectNameError::Port)?;
        let host = parse_host(host).ok_or(ConnectNameError::Host)?;
        Ok(Self {
            text: format!("{host}:{port}").into(),
            port,
        })
    }

    /// `NAME:PORT`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name or address; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        let host = self.text.rsplit_once(':').map_or("", |(host, _)| host);
        let inside = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        inside.unwrap_or(host)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, where the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|_| digits)?;
    (port != 0).then_some(port)
}

/// The one spelling of a host.
fn parse_host(text: &str) -> Option<String> {
    if let Some(inside) = text.strip_prefix('[') {
        let address: Ipv6Addr = inside.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > MAX_HOST || !name.split('.').all(label) {
        return None;
    }
    // What ends in a number is an address to every resolver, and to some an unexpected one
    // (`127.1`, `0x7f.1`): only the plain spelling is one here.
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .get(..2)
            .is_some_and(|two| two.eq_ignore_ascii_case("0x"));
    if number {
        let address: Ipv4Addr = name.parse().ok()?;
        return (name == text).then(|| address.to_string());
    }
    Some(name.to_ascii_lowercase())
}

impl Borrow<str> for ConnectName {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ConnectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ConnectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_the_same_are_equal() {
        for (text, expected, host, port) in [
            (
                "vcenter.sddc.local:443",
                "vcenter.sddc.local:443",
                "vcenter.sddc.local",
                443,
            ),
            (
                "VCenter.SDDC.local.:443",
                "vcenter.sddc.local:443",
                "vcenter.sddc.local",
                443,
            ),
            ("esx_01:0902", "esx_01:902", "esx_01", 902),
            ("10.0.0.5:443", "10.0.0.5:443", "10.0.0.5", 443),
            ("[FD00:0::1]:443", "[fd00::1]:443", "fd00::1", 443),
            (
                "[::ffff:10.0.0.1]:1",
                "[::ffff:10.0.0.1]:1",
                "::ffff:10.0.0.1",
                1,
            ),
            ("1.example:65535", "1.example:65535", "1.example", 65535),
        ] {
            let name = ConnectName::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (name.as_str(), name.host(), name.port()),
                (expected, host, port)
            );
            assert_eq!(ConnectName::parse(name.as_str()), Ok(name), "{text}");
        }
    }

    #[test]
    fn what_two_programs_could_read_differently_is_no_name() {
        let (long, label) = ("a.".repeat(130), "a".repeat(64));
        for text in [
            "",
            ":",
            ":443",
            "vcenter",
            "vcenter:",
            "vcenter:0",
            "vcenter:65536",
            "vcenter:+443",
            "vcenter: 443",
            "vcenter:443:443",
            "vcenter:443/",
            "user@vcenter:443",
            "https://vcenter:443",
            "vcenter..sddc:443",
            ".vcenter:443",
            "vcenter..:443",
            "-vcenter:443",
            "vcenter-:443",
            "vc enter:443",
            "vc%65nter:443",
            "vcénter:443",
            "vcenter\0:443",
            "127.1:443",
            "127.0.0.1.:443",
            "0x7f.1:443",
            "0x7f000001:443",
            "2130706433:443",
            "010.0.0.1:443",
            "256.0.0.1:443",
            "1.2.3.4.5:443",
            "::1:443",
            "[::1]",
            "[::1]443",
            "[::1:443",
            "::1]:443",
            "[fe80::1%25eth0]:443",
            "[10.0.0.1]:443",
            "*.sddc.local:443",
            &format!("{long}b:443"),
            &format!("{label}:443"),
        ] {
            assert!(ConnectName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_address_is_told_from_a_name() {
        let address = |text| ConnectName::parse(text).unwrap().address();
        assert_eq!(address("10.0.0.5:443"), Some("10.0.0.5".parse().unwrap()));
        assert_eq!(address("[::1]:443"), Some("::1".parse().unwrap()));
        assert_eq!(address("vcenter:443"), None);
    }
}
