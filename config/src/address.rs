//! An address to listen on, as it is written.

use std::net::SocketAddr;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// An address with a port.
#[derive(Clone, Copy, Deserialize)]
#[serde(transparent)]
pub(crate) struct Address(#[serde(deserialize_with = "deserialize")] pub(crate) SocketAddr);

/// Reads one, also where it may be left out. The library's own error says neither what it found nor what
/// it wants.
pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: From<SocketAddr>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let address = text.parse::<SocketAddr>().map_err(|_| {
        let expected = "expected ADDRESS:PORT, like \"[::]:443\"";
        D::Error::custom(format_args!("found {text:?}; {expected}"))
    })?;
    Ok(address.into())
}
