//! Where a connection comes from, as far as limits go.

use std::net::IpAddr;

/// An IPv4 address, or the first 64 bits of an IPv6 address, which is what one customer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(u64);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            // No IPv4 address: those have nothing in the upper half.
            IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64 | 1 << 63,
        })
    }
}

#[cfg(test)]
impl Source {
    /// One of many, for tests.
    pub(crate) fn of_test(number: u8) -> Self {
        Self::from(IpAddr::from([192, 0, 2, number]))
    }
}
