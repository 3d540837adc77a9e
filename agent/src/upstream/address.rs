//! Where an upstream is, and which addresses its name may not lead to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::Host;

/// An address that a name may not resolve to: it leads into this machine or to a service of the
/// platform, so that whoever controls the name would reach what nobody meant to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// This machine (RFC 1122, RFC 4291).
    Loopback,
    /// Only on this link (RFC 3927, RFC 4291), among them the metadata services of most clouds.
    LinkLocal,
    /// A metadata service outside the link-local ranges.
    Metadata,
    /// No address of a host: unspecified, multicast or broadcast.
    NoHost,
    /// One of IPv4 behind a translator of this network (RFC 8215): which one, only that knows.
    Translated,
    /// Not one of the endpoint's `allow_networks`.
    Outside,
}

impl Forbidden {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a metadata service's address",
            Self::NoHost => "a multicast or unspecified address",
            Self::Translated => "an address for a local NAT64",
            Self::Outside => "an address outside of allow_networks",
        }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Metadata services that are not link-local: AWS over IPv6, Alibaba Cloud, Oracle Cloud.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);
const METADATA_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Which addresses an upstream may have, as its configuration says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The address itself is configured: it says so itself.
    Literal,
    /// `localhost`: this machine, and nothing else.
    Localhost,
    /// Any other name: no [`Forbidden`] address.
    Network,
}

impl Scope {
    pub(crate) fn of(host: &Host<&str>) -> Self {
        match host {
            Host::Ipv4(_) | Host::Ipv6(_) => Self::Literal,
            Host::Domain(name) if name.trim_end_matches('.') == "localhost" => Self::Localhost,
            Host::Domain(_) => Self::Network,
        }
    }

    /// Whether an upstream of this scope may be dialled at `address`. Where there are `networks`,
    /// it must be in one of them; one that names nothing but forbidden addresses of a kind (as
    /// 127.0.0.0/8 does, and 0.0.0.0/0 does not) allows these.
    pub(crate) fn check(self, address: IpAddr, networks: &[IpNet]) -> Result<(), Forbidden> {
        let plain = address.to_canonical();
        let mut around = networks.iter().filter(|network| network.contains(&plain));
        let kind = forbidden(address);
        let is_named = |network: &IpNet| {
            kind.is_some()
                && forbidden(network.network()) == kind
                && forbidden(network.broadcast()) == kind
        };
        match (self, kind) {
            (Self::Literal, _) => Ok(()),
            (_, Some(Forbidden::NoHost)) => Err(Forbidden::NoHost),
            (Self::Localhost, Some(Forbidden::Loopback)) if networks.is_empty() => Ok(()),
            (_, Some(kind)) => around.any(is_named).then_some(()).ok_or(kind),
            (_, None) if networks.is_empty() || around.next().is_some() => Ok(()),
            (_, None) => Err(Forbidden::Outside),
        }
    }
}

/// Why `address` is not one of an ordinary host. Looks through the IPv4 addresses that IPv6
/// carries: mapped (`::ffff:0:0/96`), compatible (`::/96`), NAT64 (`64:ff9b::/96`), 6to4.
fn forbidden(address: IpAddr) -> Option<Forbidden> {
    match address {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, .., g, h] = v6.segments();
            if v6.is_loopback() {
                Some(Forbidden::Loopback)
            } else if v6.is_unspecified() || v6.is_multicast() {
                Some(Forbidden::NoHost)
            } else if v6.is_unicast_link_local() {
                Some(Forbidden::LinkLocal)
            } else if v6 == METADATA_V6 {
                Some(Forbidden::Metadata)
            } else if v6.segments()[..5] == [0; 5] || v6.segments()[..6] == NAT64 {
                forbidden_v4(v4_of(g, h))
            } else if v6.segments()[..3] == LOCAL_NAT64 {
                Some(Forbidden::Translated)
            } else if a == 0x2002 {
                forbidden_v4(v4_of(b, c))
            } else {
                None
            }
        }
    }
}

const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// For translators of a network's own (RFC 8215): where the IPv4 address stands depends on the length
/// of the prefix that each has (RFC 6052, 2.2), so none can be looked at.
const LOCAL_NAT64: [u16; 3] = [0x64, 0xff9b, 1];

fn v4_of(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

fn forbidden_v4(address: Ipv4Addr) -> Option<Forbidden> {
    if address.is_loopback() {
        Some(Forbidden::Loopback)
    } else if address.is_link_local() {
        Some(Forbidden::LinkLocal)
    } else if METADATA_V4.contains(&address) {
        Some(Forbidden::Metadata)
    } else if address.octets()[0] == 0 || address.is_multicast() || address.is_broadcast() {
        Some(Forbidden::NoHost)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scope: Scope, address: &str) -> Result<(), Forbidden> {
        scope.check(address.parse().unwrap(), &[])
    }

    #[test]
    fn networks_bound_where_a_name_leads_and_allow_what_they_name() {
        for (networks, address, expected) in [
            (&["10.0.0.0/8"][..], "10.1.2.3", Ok(())),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", Ok(())),
            (&["10.0.0.0/8"], "11.1.2.3", Err(Forbidden::Outside)),
            (&["10.0.0.0/8"], "2001:db8::1", Err(Forbidden::Outside)),
            (&["10.0.0.0/8"], "127.0.0.1", Err(Forbidden::Loopback)),
            (&["10.0.0.0/8", "127.0.0.0/8"], "127.0.0.1", Ok(())),
            (&["127.0.0.1/32"], "127.0.0.1", Ok(())),
            (&["127.0.0.1/32"], "127.0.0.2", Err(Forbidden::Loopback)),
            (&["::1/128"], "::1", Ok(())),
            (&["fe80::/10"], "fe80::1", Ok(())),
            (&["169.254.7.0/24"], "169.254.7.1", Ok(())),
            (
                &["169.254.7.0/24"],
                "169.254.169.254",
                Err(Forbidden::LinkLocal),
            ),
            (&["0.0.0.0/0", "::/0"], "10.1.2.3", Ok(())),
            (
                &["0.0.0.0/0", "::/0"],
                "127.0.0.1",
                Err(Forbidden::Loopback),
            ),
            (
                &["0.0.0.0/0", "::/0"],
                "169.254.169.254",
                Err(Forbidden::LinkLocal),
            ),
            (
                &["0.0.0.0/0", "::/0"],
                "fd00:ec2::254",
                Err(Forbidden::Metadata),
            ),
            (&["0.0.0.0/0", "::/0"], "0.0.0.0", Err(Forbidden::NoHost)),
            (&["0.0.0.0/8"], "0.0.0.0", Err(Forbidden::NoHost)),
            (&["64:ff9b:1::/48"], "64:ff9b:1::a01:203", Ok(())),
            (
                &["64:ff9b::/32"],
                "64:ff9b:1::a01:203",
                Err(Forbidden::Translated),
            ),
            (
                &["127.0.0.0/8"],
                "64:ff9b::7f00:1",
                Err(Forbidden::Loopback),
            ),
        ] {
            let networks: Vec<_> = networks.iter().map(|text| text.parse().unwrap()).collect();
            for scope in [Scope::Network, Scope::Localhost] {
                let found = scope.check(address.parse().unwrap(), &networks);
                assert_eq!(found, expected, "{networks:?} {address}");
            }
        }
    }

    #[test]
    fn a_name_leads_to_hosts_of_the_network_only() {
        for address in [
            "10.1.2.3",
            "192.168.0.1",
            "8.8.8.8",
            "fd12::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(check(Scope::Network, address), Ok(()), "{address}");
        }
        for (address, expected) in [
            ("127.0.0.1", Forbidden::Loopback),
            ("127.255.0.3", Forbidden::Loopback),
            ("::1", Forbidden::Loopback),
            ("::ffff:127.0.0.1", Forbidden::Loopback),
            ("::127.0.0.1", Forbidden::Loopback),
            ("64:ff9b::7f00:1", Forbidden::Loopback),
            ("2002:7f00:1::", Forbidden::Loopback),
            ("64:ff9b:1::a9fe:a9fe", Forbidden::Translated),
            ("64:ff9b:1:a9fe:a9:fe00::", Forbidden::Translated),
            ("169.254.169.254", Forbidden::LinkLocal),
            ("::ffff:169.254.169.254", Forbidden::LinkLocal),
            ("64:ff9b::a9fe:a9fe", Forbidden::LinkLocal),
            ("fe80::1", Forbidden::LinkLocal),
            ("fd00:ec2::254", Forbidden::Metadata),
            ("100.100.100.200", Forbidden::Metadata),
            ("192.0.0.192", Forbidden::Metadata),
            ("0.0.0.0", Forbidden::NoHost),
            ("0.1.2.3", Forbidden::NoHost),
            ("::", Forbidden::NoHost),
            ("224.0.0.1", Forbidden::NoHost),
            ("255.255.255.255", Forbidden::NoHost),
            ("ff02::1", Forbidden::NoHost),
        ] {
            assert_eq!(check(Scope::Network, address), Err(expected), "{address}");
        }
    }

    #[test]
    fn localhost_is_this_machine_and_nothing_else_that_is_forbidden() {
        assert_eq!(check(Scope::Localhost, "127.0.0.1"), Ok(()));
        assert_eq!(check(Scope::Localhost, "::1"), Ok(()));
        assert_eq!(
            check(Scope::Localhost, "169.254.169.254"),
            Err(Forbidden::LinkLocal)
        );
    }

    #[test]
    fn an_address_or_localhost_in_the_configuration_speaks_for_itself() {
        let scope = |url: &str| Scope::of(&url::Url::parse(url).unwrap().host().unwrap());
        assert_eq!(scope("https://127.0.0.1:8443"), Scope::Literal);
        assert_eq!(scope("https://[::1]:8443"), Scope::Literal);
        assert_eq!(scope("https://localhost:8443"), Scope::Localhost);
        assert_eq!(scope("https://LOCALHOST./"), Scope::Localhost);
        assert_eq!(scope("https://localhost.example"), Scope::Network);
        assert_eq!(check(Scope::Literal, "127.0.0.1"), Ok(()));
    }
}
