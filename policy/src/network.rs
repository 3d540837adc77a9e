//! Networks in one spelling: callers' addresses come as IPv4 where they are, and so must the
//! networks that they are looked for in.

use std::fmt;
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net};

/// The first address that stands for one of IPv4 (RFC 4291, 2.5.5.2), and how many bits all of
/// these have in common.
const MAPPED: (Ipv6Addr, u8) = (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// A network that covers IPv6 addresses and, in their IPv6 spelling, those of IPv4: whoever wrote
/// it may have meant either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfMapped(IpNet);

impl fmt::Display for HalfMapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "found \"{}\", which covers IPv4-mapped addresses among others; write IPv4 networks as \
             such (\"10.0.0.0/8\"), and all of IPv6 as \"::/0\"",
            self.0
        )
    }
}

/// `network` without bits of a host, and as a network of IPv4 where its addresses are mapped ones
/// (`::ffff:10.0.0.0/104` is `10.0.0.0/8`). `::/0` is all of IPv6, and nothing of IPv4.
pub fn plain_network(network: IpNet) -> Result<IpNet, HalfMapped> {
    let IpNet::V6(v6) = network.trunc() else {
        return Ok(network.trunc());
    };
    let (mapped, common) = MAPPED;
    let v4 = v6.addr().to_ipv4_mapped();
    let length = v6.prefix_len().checked_sub(common);
    if let (Some(v4), Some(length)) = (v4, length)
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        return Ok(v4.into());
    }
    match v6.prefix_len() != 0 && v6.contains(&mapped) {
        true => Err(HalfMapped(v6.into())),
        false => Ok(v6.into()),
    }
}
