//! An address to listen on, as it is written.

use std::net::SocketAddr;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::units::text;

/// An address with a port.
#[derive(Clone, Copy, Deserialize)]
#[serde(transparent)]
pub(crate) struct Address(#[serde(deserialize_with = "deserialize")] pub(crate) SocketAddr);

/// How one is written.
const EXPECTED: &str = "ADDRESS:PORT, like \"[::]:443\"";

/// Reads one, also where it may be left out. The library's own error says neither what it found nor what
/// it wants.
pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: From<SocketAddr>,
    D: Deserializer<'de>,
{
    let text = text(deserializer, EXPECTED)?;
    let address = text
        .parse::<SocketAddr>()
        .map_err(|_| D::Error::custom(format_args!("found {text:?}; expected {EXPECTED}")))?;
    Ok(address.into())
}
