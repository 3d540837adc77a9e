//! Free ports for servers that are told where to listen.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::{Failure, Result};

/// Below what Linux gives to outgoing connections and to who asks for any port (32768 and above), so
/// that none of those takes a port between its choice and its use.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A loopback port that is free now and that this process does not hand out again soon.
///
/// # Errors
/// That none is free, or that there is no loopback.
pub fn free() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Programs that run at the same time start at different places.
    let start = std::process::id().wrapping_mul(101);
    (0..COUNT)
        .map(|_| start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)))
        .filter_map(|next| u16::try_from(FIRST + next % COUNT).ok())
        .find(|port| is_free(*port))
        .ok_or_else(|| Failure::new("no port of 127.0.0.1 is free from 12000 to 31999"))
}

/// Whether nobody listens on a loopback port.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_different_and_below_those_of_outgoing_connections() {
        let ports: std::collections::HashSet<_> = (0..100).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| (12_000..32_000).contains(port)));
        let taken = free().unwrap();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        assert!(!is_free(taken));
    }
}
