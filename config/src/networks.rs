//! Networks as they are written: `10.0.0.0/8`, or one address.

use std::net::IpAddr;

use culvert_policy::plain_network;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serializer};

/// A network, or an address as the network of itself; none where bits of a host are set, or where
/// it is of IPv4 in part. Mapped addresses are those of IPv4, as they are where they are looked for.
pub(crate) fn parse(text: &str) -> Option<IpNet> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let network = address.or_else(|_| text.parse::<IpNet>());
    let network = network.ok().filter(|network| network.trunc() == *network)?;
    plain_network(network).ok()
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let written = Vec::<String>::deserialize(from)?;
    let parsed = written.iter().map(|text| {
        parse(text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "found {text:?}; expected networks like \"10.0.0.0/8\", or addresses"
            ))
        })
    });
    parsed.collect()
}

pub(crate) fn serialize<S: Serializer>(
    networks: &[IpNet],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(networks.iter().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_mapped_addresses_is_the_ipv4_network_that_it_maps() {
        for (text, network) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.0.0.1", Some("10.0.0.1/32")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:10.0.0.1", Some("10.0.0.1/32")),
            ("fd00::/8", Some("fd00::/8")),
            ("::/0", Some("::/0")),
            ("::/64", None),
            ("10.0.0.1/8", None),
            ("::ffff:10.0.0.1/104", None),
        ] {
            let expected = network.map(|network| network.parse().unwrap());
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
