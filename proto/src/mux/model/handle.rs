//! What the model knows of one end of a stream.

use std::sync::OnceLock;

use bytes::Bytes;

use super::step::HeadKind;
use crate::code::ResetCode;
use crate::head::Head;
use crate::limits::FRAME;
use crate::mux::{Side, StreamId};

/// One end of a stream, as its user sees it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) side: Side,
    pub(super) id: StreamId,
    pub(super) opener: bool,
    /// Bytes that the core took.
    pub(super) written: usize,
    /// Heads that the core took, each behind so many bytes.
    pub(super) heads: Vec<(usize, HeadKind)>,
    pub(super) finished: bool,
    /// The send half was ended by something else than `finish`.
    pub(super) broken: bool,
    /// It was `cut_short`, and nothing had ended it before.
    pub(super) cut_short: bool,
    /// Codes with which this side broke the stream off, or asked the other to stop.
    pub(super) codes: Vec<ResetCode>,
    pub(super) read: usize,
    pub(super) heads_read: usize,
    pub(super) ended: bool,
    pub(super) sends: bool,
    pub(super) receives: bool,
    /// Nobody reads at the moment.
    pub(super) dozes: bool,
    /// A write took nothing, and no event came since.
    pub(super) blocked: bool,
    /// A read gave nothing, and no event came since.
    pub(super) waiting: bool,
}

impl Handle {
    pub(super) fn new(side: Side, id: StreamId, opener: bool) -> Self {
        Self {
            side,
            id,
            opener,
            written: 0,
            heads: Vec::new(),
            finished: false,
            broken: false,
            cut_short: false,
            codes: Vec::new(),
            read: 0,
            heads_read: 0,
            ended: false,
            sends: true,
            receives: true,
            dozes: false,
            blocked: false,
            waiting: false,
        }
    }
}

pub(super) fn kind_of(head: &Head) -> HeadKind {
    match head {
        Head::Taken => HeadKind::Taken,
        Head::Interim(_) => HeadKind::Interim,
        Head::Response(_) => HeadKind::Answer,
        Head::Refusal(_) => HeadKind::Refusal,
        Head::Trailers(_) => HeadKind::Trailers,
    }
}

/// Most bytes that [`bytes`] gives at once.
const MOST: usize = 512 * 1024;

/// What streams carry repeats itself after so many bytes: a prime, so that nothing that is lost
/// or comes twice fits what follows.
const PERIOD: usize = 65_537;

const _: () = assert!(PERIOD > FRAME);

/// `length` bytes from `from` on of what `side` sends on a stream.
pub(super) fn bytes(id: StreamId, side: Side, from: usize, length: usize) -> Bytes {
    static ALL: OnceLock<Bytes> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        (0..PERIOD + MOST)
            .map(|at| ((at % PERIOD).wrapping_mul(0x9e37_79b9) >> 16) as u8)
            .collect()
    });
    let start = (from + id.0 as usize % PERIOD * 977 + side as usize * 31_013) % PERIOD;
    all.slice(start..start + length)
}
