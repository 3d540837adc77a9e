//! A drain of ours, in two steps.
//!
//! A GOAWAY takes a while to arrive, and what the peer opens in that time can often go nowhere else:
//! the beginning of its body may be all that there is of it. So the first one asks for no more and
//! takes all that is on its way. The second one comes once the peer has answered a PING that was sent
//! after the first, and names the last stream.

use crate::controls::Goaway;

/// The last stream of a GOAWAY that takes every stream.
pub(super) const EVERY: u32 = u32::MAX;

/// How far a drain of ours is.
#[derive(Debug)]
pub(super) enum Drain {
    /// It has not begun.
    None,
    /// The first GOAWAY is to be sent.
    Due(Goaway),
    /// It was sent. The peer has heard it once it answers the PING of this number.
    Announced(Goaway, u64),
    /// The second one is to be sent, which names the last stream that came.
    Heard(Goaway),
    /// It was sent. What the peer opens nevertheless is refused.
    Done,
}

impl Drain {
    /// Whether there is one. This side opens no more streams.
    pub(super) fn is_begun(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether a GOAWAY is to be sent.
    pub(super) fn has_transmit(&self) -> bool {
        matches!(self, Self::Due(_) | Self::Heard(_))
    }

    /// The peer has answered the PING of this number.
    pub(super) fn on_pong(&mut self, number: u64) {
        match std::mem::replace(self, Self::None) {
            Self::Announced(goaway, ping) if number >= ping => *self = Self::Heard(goaway),
            other => *self = other,
        }
    }
}
