//! The guard of HTTP/1: it stands between TLS and hyper and lets only strictly framed requests
//! pass, one at a time.
//!
//! A request that two parsers may read differently is how requests are smuggled, so what is
//! doubtful is refused, not repaired: what passes here has exactly one reading. hyper alone is
//! more lenient (it drops a Content-Length beside a Transfer-Encoding, takes two Hosts, ...).
//!
//! - [`head`] scans a request's head, [`body`] the framing of its body: pure state machines over
//!   bytes that say how many bytes are good, or which [`Violation`] they hold.
//! - [`io`] puts them around a connection. In the steady state a request is read straight into
//!   hyper's buffer and looked at there: nothing is copied, nothing allocated. A head that comes
//!   in pieces waits in the guard until it is whole.
//! - The next request is held back until the last one is answered, so hyper sees one message at
//!   a time and notices at once when a caller that waits goes away.
//!
//! hyper never sees a head that was refused: in its place it gets [`io::REFUSED_REQUEST`], which
//! the service answers with the violation that the guard noted in the connection's
//! [`Traffic`](crate::traffic::Traffic); then the connection closes. A violation within a body
//! reaches hyper as an I/O error, so that the call is broken off.

pub(crate) mod body;
pub(crate) mod head;
pub(crate) mod io;
#[cfg(test)]
mod tests;
mod violation;

pub use violation::Violation;

/// What hyper and the service see in place of `Expect`. hyper would answer it by itself, as soon as
/// somebody looks at the body; that is for the upstream to do.
pub(crate) const MASKED_EXPECT: &str = "~xpect";

/// What a byte may be part of, by one look into a table.
const TOKEN: u8 = 1;
const VALUE: u8 = 2;
const TARGET: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let mut class = 0;
        if b.is_ascii_alphanumeric() || is_in(b, b"!#$%&'*+-.^_`|~") {
            class |= TOKEN;
        }
        if b == b'\t' || (b >= b' ' && b != 0x7F) {
            class |= VALUE;
        }
        // pchar, '/', '?' and '%' (RFC 3986), and what tools send raw: the canonical target has its escapes.
        if b.is_ascii_alphanumeric() || is_in(b, b"-._~!$&'()*+,;=:@/?%[]{}|^`") {
            class |= TARGET;
        }
        classes[byte] = class;
        byte += 1;
    }
    classes
};

const fn is_in(byte: u8, set: &[u8]) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

fn is(class: u8, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}
