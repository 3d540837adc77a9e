//! One public connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use culvert_http::{Breaker, Traffic};

use super::authenticate::LastToken;
use super::certificates::ShownCertificate;
use crate::listener::Peer;

/// Refused credentials after which a connection is closed: nobody guesses in peace, and nobody
/// gets many answers for little.
const MAX_REFUSED: u32 = 20;

/// What the calls of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other side.
    pub(crate) peer: Peer,
    /// Makes the connection end by a reset.
    pub(crate) breaker: Breaker,
    pub(crate) traffic: Arc<Traffic>,
    /// The client certificate that was shown.
    pub(crate) certificate: Option<ShownCertificate>,
    /// The last token that was good.
    pub(crate) last_token: LastToken,
    refused: AtomicU32,
}

impl Connection {
    pub(crate) fn new(
        mut peer: Peer,
        breaker: Breaker,
        certificate: Option<ShownCertificate>,
    ) -> Self {
        // An IPv4 address that came through an IPv6 socket is still one.
        peer.address.set_ip(peer.address.ip().to_canonical());
        Self {
            peer,
            breaker,
            traffic: Arc::default(),
            certificate,
            last_token: LastToken::default(),
            refused: AtomicU32::new(0),
        }
    }

    /// A credential was refused; says whether that was the last one.
    pub(crate) fn on_refused(&self) -> bool {
        let last = self.refused.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_REFUSED;
        if last {
            self.traffic.wind_up();
        }
        last
    }
}
