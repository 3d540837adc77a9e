//! Networks as they are written: `10.0.0.0/8`, or one address.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serializer};

/// A network, or an address as the network of itself; none where bits of a host are set.
pub(crate) fn parse(text: &str) -> Option<IpNet> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let network = address.or_else(|_| text.parse::<IpNet>());
    network.ok().filter(|network| network.trunc() == *network)
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
