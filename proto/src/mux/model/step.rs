//! What can happen in a conversation, and how numbers become one: random ones in tests, a
//! fuzzer's bytes in `fuzz/`. Any numbers will do, so that a conversation can be cut short or
//! thinned out and is still one.

use super::SIDES;
use crate::code::ResetCode;
use crate::limits::MIN_WINDOW;
use crate::mux::{Side, StreamId};

/// What a conversation takes place in.
#[derive(Debug, Clone, Copy)]
pub(in crate::mux) struct Setup {
    /// Milliseconds that the line takes each way.
    pub(super) delay: u64,
    /// Bytes that the line takes each way before a sender has to wait.
    pub(super) capacity: usize,
    /// Bytes by which windows of both sides together may grow.
    pub(super) growth: u64,
    /// Bytes that may wait on both sides together.
    pub(super) waiting: u64,
    /// Tenants whose calls these are; several have a part of that each, and leave room if they are
    /// more than two.
    pub(super) tenants: u32,
    /// Window of a new stream, and the most that one may grow to.
    pub(super) window: u32,
    pub(super) max_window: u32,
    /// Streams that each side may have open.
    pub(super) streams: u32,
    /// Calls that wait to be accepted before further ones are refused.
    pub(super) backlog: usize,
    /// Bytes that wait on a stream before a write takes no more: at least a call's first body.
    pub(super) send_queue: usize,
    /// Bytes of a batch.
    pub(super) batch: usize,
    /// Streams that each side can open before its ids are used up, if that is soon.
    pub(super) ids: Option<u32>,
    /// Each side keeps most of its cancels back.
    pub(super) patient: bool,
}

impl Setup {
    /// Bytes that [`of`](Self::of) takes.
    pub(super) const BYTES: usize = 10;

    pub(in crate::mux) fn of(numbers: [u8; Self::BYTES]) -> Self {
        let pick = |at: usize, among: &[u64]| among[usize::from(numbers[at]) % among.len()];
        let window = pick(3, &[MIN_WINDOW.into(), 256 * 1024]);
        Self {
            delay: pick(0, &[0, 1, 10, 75, 150]),
            capacity: pick(1, &[u64::MAX, 1 << 20, 32 * 1024]) as usize,
            growth: pick(2, &[0, 100_000, 1 << 20, 64 << 20]),
            waiting: pick(9, &[u64::MAX, u64::MAX, 1 << 20, 100_000]),
            tenants: u32::from(numbers[9] / 4 % 3) + 1,
            window: window as u32,
            max_window: pick(4, &[8 << 20, 1 << 20, window]) as u32,
            streams: pick(5, &[1000, 30, 3]) as u32,
            backlog: pick(6, &[1024, 1024, 2]) as usize,
            send_queue: pick(7, &[256 * 1024, 40_000, 5000]) as usize,
            batch: pick(8, &[32 * 1024, 64 * 1024, 4 * 1024]) as usize,
            patient: numbers[6] >= 160,
            ids: (numbers[8] >= 232).then(|| u32::from(numbers[8] - 232)),
        }
    }

    /// Whose call the stream of this id carries.
    pub(super) fn tenant_of(&self, id: StreamId) -> String {
        format!("tenant-{}", id.0 / 2 % self.tenants)
    }
}

/// A head that the accepting side may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mux) enum HeadKind {
    Taken,
    Interim,
    Answer,
    Refusal,
    Trailers,
}

/// One step of a conversation. `usize`s pick among the handles that there are.
#[derive(Debug, Clone)]
pub(in crate::mux) enum Step {
    Open {
        side: Side,
        body: usize,
        end: bool,
    },
    Accept(Side),
    Write {
        handle: usize,
        bytes: usize,
    },
    /// `filling`: length of a header's value.
    Head {
        handle: usize,
        kind: HeadKind,
        filling: usize,
    },
    Finish(usize),
    Read {
        handle: usize,
        items: usize,
    },
    /// One side writes as much as it can and the other reads all of it, round trip by round trip.
    Bulk {
        handle: usize,
        rounds: usize,
    },
    /// The reader stops reading, or goes on.
    Doze(usize),
    Reset {
        handle: usize,
        code: ResetCode,
    },
    CutShort(usize),
    Stop {
        handle: usize,
        code: ResetCode,
    },
    ReleaseSend(usize),
    ReleaseRecv(usize),
    Release(usize),
    /// A control message.
    Notice {
        side: Side,
        bytes: usize,
    },
    /// Both drivers have a turn.
    Send,
    /// Milliseconds pass.
    Advance(u64),
    /// Everything happens that can happen without commands.
    Settle,
    /// The line to this side takes nothing, or does again.
    Stick(Side),
    Drain(Side),
    Close {
        side: Side,
        reason: usize,
    },
    /// The line loses everything from now on.
    Cut,
}

impl Step {
    /// Bytes that [`from_bytes`](Self::from_bytes) takes.
    pub(super) const BYTES: usize = 5;

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [what, a, b, c, d] = bytes;
        Self::of(what, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    }

    /// `what` picks the kind (common ones more often), `pick` whom it concerns, `size` how much.
    pub(in crate::mux) fn of(what: u8, pick: u16, size: u16) -> Self {
        let side = SIDES[usize::from(pick % 2)];
        let (handle, size) = (usize::from(pick), usize::from(size));
        match what {
            0..14 => Self::Open {
                side,
                body: size % 5000,
                end: pick & 6 == 6,
            },
            14..30 => Self::Accept(side),
            30..72 => Self::Write {
                handle,
                bytes: spread(size),
            },
            72..88 => Self::Head {
                handle,
                kind: match size % 16 {
                    0..8 => HeadKind::Answer,
                    8 => HeadKind::Taken,
                    9..13 => HeadKind::Interim,
                    13 | 14 => HeadKind::Trailers,
                    _ => HeadKind::Refusal,
                },
                // Now and then one that takes more than a batch.
                filling: if size >= 0xf800 { 60_000 } else { size % 200 },
            },
            88..96 => Self::Finish(handle),
            96..142 => Self::Read {
                handle,
                items: 1 + size % 60,
            },
            142..146 => Self::Bulk {
                handle,
                rounds: 1 + size % 8,
            },
            146..148 => Self::Doze(handle),
            148 => Self::CutShort(handle),
            149..151 => Self::Reset {
                handle,
                code: code(size),
            },
            151..155 => Self::Stop {
                handle,
                code: code(size),
            },
            155..157 => Self::ReleaseSend(handle),
            157..159 => Self::ReleaseRecv(handle),
            159..172 => Self::Release(handle),
            172..175 => Self::Notice {
                side,
                bytes: size % 1100,
            },
            175..208 => Self::Send,
            // Rarely so long that a ping becomes due, and that windows are looked over.
            208..246 => Self::Advance(match size % 64 {
                0 => 5100,
                size => size as u64 * 3,
            }),
            246..250 => Self::Settle,
            250..254 => Self::Stick(side),
            _ => match size % 64 {
                0..8 => Self::Drain(side),
                8..12 => Self::Close { side, reason: size },
                12..14 => Self::Cut,
                _ => Self::Send,
            },
        }
    }
}

/// Crumbs, pieces and bulk.
fn spread(size: usize) -> usize {
    match size % 4 {
        0 | 1 => 1 + size % 200,
        2 => 1 + size % 40_000,
        _ => 100_000 + 4 * size,
    }
}

fn code(number: usize) -> ResetCode {
    [
        ResetCode::Cancelled,
        ResetCode::NotNeeded,
        ResetCode::Timeout,
        ResetCode::Truncated,
    ][number % 4]
}
