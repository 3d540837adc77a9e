//! One stream: two independent halves.
//!
//! ```text
//!   send half                          receive half
//!   Open ──finish──▶ Finished          Open ──FIN/FINISH──▶ Finished
//!     │ reset/STOP+release               │ RESET
//!     ▼                                  ▼
//!   Reset                              Reset
//! ```
//! A half is over when it is Finished (and, sending, everything was transmitted) or Reset. The
//! stream is forgotten when both halves are over and both handles are released.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::code::ResetCode;
use crate::head::Head;
use crate::mux::window::{RecvWindow, SendWindow};

/// What waits to be sent, in order.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// An encoded head; goes out whole.
    Head(Bytes),
    /// Bytes of a body.
    Data(Bytes),
}

impl Outgoing {
    fn len(&self) -> usize {
        match self {
            Self::Head(bytes) | Self::Data(bytes) => bytes.len(),
        }
    }
}

/// What waits to be read, in order.
#[derive(Debug)]
pub(super) enum Received {
    /// A decoded head and the credit that it holds.
    Head(Head, usize),
    /// Bytes of a body.
    Data(Bytes),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Open,
    Finished,
    Reset(ResetCode),
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) half: Half,
    pub(super) queue: VecDeque<Outgoing>,
    pub(super) queued: usize,
    pub(super) window: SendWindow,
    /// FINISH has been put on the wire.
    pub(super) fin_sent: bool,
    /// The peer's STOP.
    pub(super) stopped: Option<ResetCode>,
    /// A write got nothing; say when it can go on.
    pub(super) blocked: bool,
    pub(super) released: bool,
    /// Bytes that the scheduler owes this stream.
    pub(super) deficit: usize,
    /// The stream stands in the scheduler's queue.
    pub(super) scheduled: bool,
}

impl Sending {
    pub(super) fn new(window: u32) -> Self {
        Self {
            half: Half::Open,
            queue: VecDeque::new(),
            queued: 0,
            window: SendWindow::new(window),
            fin_sent: false,
            stopped: None,
            blocked: false,
            released: false,
            deficit: 0,
            scheduled: false,
        }
    }

    pub(super) fn push(&mut self, item: Outgoing) {
        self.queued += item.len();
        self.queue.push_back(item);
    }

    pub(super) fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.queued = 0;
    }

    /// Whether the scheduler can take anything now.
    pub(super) fn has_work(&self) -> bool {
        match (self.half, self.queue.front()) {
            (Half::Reset(_), _) => false,
            (_, Some(Outgoing::Head(head))) => self.window.available() >= head.len(),
            (_, Some(Outgoing::Data(_))) => self.window.available() > 0,
            (Half::Finished, None) => !self.fin_sent,
            (Half::Open, None) => false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self.half {
            Half::Open => false,
            Half::Finished => self.fin_sent,
            Half::Reset(_) => true,
        }
    }
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) half: Half,
    pub(super) queue: VecDeque<Received>,
    pub(super) window: RecvWindow,
    /// A read got nothing; say when there is something.
    pub(super) waiting: bool,
    pub(super) released: bool,
    pub(super) interim_heads: u8,
    pub(super) final_head: bool,
    pub(super) trailers: bool,
}

impl Receiving {
    pub(super) fn new(window: u32) -> Self {
        Self {
            half: Half::Open,
            queue: VecDeque::new(),
            window: RecvWindow::new(window),
            waiting: false,
            released: false,
            interim_heads: 0,
            final_head: false,
            trailers: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.half != Half::Open
    }
}

/// Both halves, and what is still to be told to the peer about them.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) send: Sending,
    pub(super) recv: Receiving,
    /// The encoded OPEN of a stream of ours that was not sent yet.
    pub(super) opening: Option<Bytes>,
    /// RESET to be sent.
    pub(super) pending_reset: Option<ResetCode>,
    /// STOP to be sent.
    pub(super) pending_stop: Option<ResetCode>,
    /// The stream stands in the queue of those with flags to send.
    pub(super) flagged: bool,
    /// It counts against the opener's limit no more.
    pub(super) uncounted: bool,
}

impl Stream {
    pub(super) fn new(send_window: u32, recv_window: u32) -> Self {
        Self {
            send: Sending::new(send_window),
            recv: Receiving::new(recv_window),
            opening: None,
            pending_reset: None,
            pending_stop: None,
            flagged: false,
            uncounted: false,
        }
    }

    /// Aborts what is not over yet. Bytes of a finished receive half stay readable.
    pub(super) fn reset(&mut self, code: ResetCode) {
        if !self.send.is_over() {
            self.send.half = Half::Reset(code);
            self.send.clear();
        }
        if self.recv.half == Half::Open {
            self.recv.half = Half::Reset(code);
            self.recv.queue = VecDeque::new();
        }
        self.pending_stop = None;
    }

    pub(super) fn is_over(&self) -> bool {
        self.send.is_over() && self.recv.is_over()
    }

    /// Late frames of the peer are dropped without a word: it was told to stop.
    pub(super) fn discards(&self) -> bool {
        matches!(self.recv.half, Half::Reset(_))
    }

    /// Nothing is left to do, for anybody.
    pub(super) fn is_done(&self) -> bool {
        self.is_over()
            && self.send.released
            && self.recv.released
            && self.pending_reset.is_none()
            && self.pending_stop.is_none()
            && self.opening.is_none()
    }
}
