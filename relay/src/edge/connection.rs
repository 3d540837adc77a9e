//! One public connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use culvert_http::{Breaker, HeadRoom, Problem, Source, Traffic};
use http::HeaderMap;

use super::authenticate::LastToken;
use super::certificates::ShownCertificate;
use crate::listener::{Peer, Transport};
use crate::strangers::Standing;

/// Answers after which a connection is closed on which nobody is known, and refused credentials after
/// which any is: nobody guesses in peace, and nobody gets much for little.
const MAX_ANSWERS: usize = 10;

/// So many bytes of an answer's body, begun or whole, are one answer more.
const LONG_ANSWER: usize = 512;

/// Most bytes of heads that wait for their credentials to be verified, before the first one was
/// valid; one alone may be larger.
const STRANGER_HEADS: usize = 64 * 1024;

/// What the calls of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other side.
    pub(crate) peer: Peer,
    /// Its address as access lines show it.
    pub(crate) shown_address: String,
    /// Makes the connection end by a reset.
    pub(crate) breaker: Breaker,
    /// Whether anybody here has proved who they are.
    pub(crate) standing: Standing,
    pub(crate) traffic: Arc<Traffic>,
    /// The client certificate that was shown.
    pub(crate) certificate: Option<ShownCertificate>,
    /// The last token that was good.
    pub(crate) last_token: LastToken,
    /// What was answered to nobody that is known, and refused credentials.
    answered: AtomicUsize,
}

impl Connection {
    pub(crate) fn new(mut peer: Peer, transport: &impl Transport) -> Self {
        // An IPv4 address that came through an IPv6 socket is still one.
        peer.address.set_ip(peer.address.ip().to_canonical());
        Self {
            shown_address: peer.address.to_string(),
            peer,
            breaker: transport.breaker(),
            standing: transport.standing(),
            traffic: Arc::new(Traffic::of_stranger(Source::from(peer.address.ip()))),
            certificate: ShownCertificate::of(transport.client_certificates()),
            last_token: LastToken::default(),
            answered: AtomicUsize::new(0),
        }
    }

    /// Somebody on the connection has shown a valid credential.
    pub(crate) fn prove(&self) {
        if !self.standing.is_proven() {
            self.standing.prove();
            self.traffic.trust();
        }
    }

    /// Room for a head while its credential is verified: plenty, once somebody is proven.
    pub(crate) fn stranger_room(&self, headers: &HeaderMap) -> Result<Option<HeadRoom>, Problem> {
        if self.standing.is_proven() {
            return Ok(None);
        }
        self.traffic
            .take_room_within(headers, STRANGER_HEADS)
            .map(Some)
    }

    /// The relay answers by itself, with a body of so many bytes; says whether that is the last answer
    /// on the connection.
    pub(crate) fn on_own_answer(&self, length: usize, refused_credential: bool) -> bool {
        if self.standing.is_proven() && !refused_credential {
            return false;
        }
        let answers = 1 + length / LONG_ANSWER;
        let last = self.answered.fetch_add(answers, Ordering::Relaxed) + answers >= MAX_ANSWERS;
        if last {
            self.traffic.wind_up();
        }
        last
    }
}
