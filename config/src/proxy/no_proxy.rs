//! `NO_PROXY`: the hosts that are reached without a proxy.

use std::net::IpAddr;

use culvert_policy::plain_network;
use ipnet::IpNet;

/// Hosts that are reached without a proxy.
#[derive(Debug, Clone, Default)]
pub(super) struct NoProxy {
    entries: Vec<(Matcher, Option<u16>)>,
}

#[derive(Debug, Clone)]
enum Matcher {
    /// `*`
    All,
    /// Addresses, of which a single one is a network too.
    Network(IpNet),
    /// `example.com`: the name and those below it. `.example.com` and `*.example.com`: only
    /// those below it.
    Name { suffix: String, itself: bool },
}

impl NoProxy {
    /// Entries with commas or spaces between them; each may end in a port. As Go's programs and
    /// curl understand them.
    pub(super) fn parse(text: &str) -> Self {
        let entries = text.split([',', ' ']).map(str::trim);
        let entries = entries.filter(|entry| !entry.is_empty()).map(entry);
        Self {
            entries: entries.collect(),
        }
    }

    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse().ok().map(|a: IpAddr| a.to_canonical());
        self.entries.iter().any(|(matcher, only)| {
            only.is_none_or(|only| only == port)
                && match matcher {
                    Matcher::All => true,
                    Matcher::Network(network) => address.is_some_and(|a| network.contains(&a)),
                    Matcher::Name { suffix, itself } => {
                        let below = host.strip_suffix(suffix.as_str());
                        address.is_none()
                            && below.is_some_and(|rest| {
                                rest.ends_with('.') || rest.is_empty() && *itself
                            })
                    }
                }
        })
    }
}

fn entry(text: &str) -> (Matcher, Option<u16>) {
    let text = text.to_ascii_lowercase();
    let network = |text: &str| {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let address = bare.parse::<IpAddr>().map(IpNet::from);
        let network = address.ok().or_else(|| bare.parse().ok())?;
        Some(plain_network(network).unwrap_or(network))
    };
    if let Some(network) = network(&text) {
        return (Matcher::Network(network), None);
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, digits)) => match digits.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (text.as_str(), None),
        },
        None => (text.as_str(), None),
    };
    let matcher = if name == "*" {
        Matcher::All
    } else if let Some(network) = network(name) {
        Matcher::Network(network)
    } else {
        let name = name.strip_prefix('*').unwrap_or(name);
        Matcher::Name {
            itself: !name.starts_with('.'),
            suffix: name.trim_matches('.').to_owned(),
        }
    };
    (matcher, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_has_names_suffixes_networks_ports_and_everything() {
        for (list, host, port, expected) in [
            ("example.com", "example.com", 443, true),
            ("example.com", "relay.example.com", 443, true),
            ("example.com", "RELAY.Example.COM.", 443, true),
            ("example.com", "notexample.com", 443, false),
            (".example.com", "relay.example.com", 443, true),
            (".example.com", "example.com", 443, false),
            ("*.example.com", "relay.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("example.com:8443", "example.com", 8443, true),
            ("example.com:8443", "example.com", 443, false),
            ("*", "anything", 1, true),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("10.1.2.3", "10.1.2.3", 443, true),
            ("10.1.2.3:80", "10.1.2.3", 443, false),
            ("3", "10.1.2.3", 443, false),
            ("[2001:db8::1]:443", "2001:db8::1", 443, true),
            ("2001:db8::/32", "2001:db8::7", 443, true),
            ("2001:db8::1", "2001:db8::1", 443, true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", 443, true),
            (
                "other, relay.example.com ,10.0.0.0/8",
                "relay.example.com",
                443,
                true,
            ),
            ("other relay.example.com", "relay.example.com", 443, true),
            (" , ,", "relay.example.com", 443, false),
        ] {
            assert_eq!(
                NoProxy::parse(list).covers(host, port),
                expected,
                "{list:?} {host}:{port}"
            );
        }
    }
}
