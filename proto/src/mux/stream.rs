//! One stream: two independent halves.
//!
//! ```text
//!   sending                                        receiving
//!
//!   Open --finish()--> Finishing                   Open --FIN--> Open, ended
//!    |  \                  |                        |  \
//!    |   `--STOP--> Stopped|                        |   `--stop()--> Stopped --FIN--> Stopped, ended
//!    |                 |   |                        |                  |
//!    | RESET, reset()  |   | FIN sent               | RESET, reset()   |
//!    v                 v   v                        v                  v
//!   Reset             (over)                       Reset             Reset
//! ```
//! A half is over when it is Reset, or when its FIN was sent or has come. The stream is over on
//! the wire when both halves are; it is forgotten when it is over, both handles are released, and
//! nothing about it remains to be told to the peer. A reset does not take back a half that is
//! over: what arrived whole stays readable.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::code::ResetCode;
use crate::head::{CallHead, Head};
use crate::limits::FRAME;
use crate::mux::accounts::AccountId;
use crate::mux::error::StreamError;
use crate::mux::order::Order;
use crate::mux::schedule::Turn;
use crate::mux::window::{RecvWindow, SendWindow};

/// Writes below this size are gathered in one buffer: they pin no large one, and many of them
/// make one frame.
const GATHER: usize = 2 * 1024;

/// What waits to be sent, in order.
#[derive(Debug)]
pub(super) enum Chunk {
    /// The encoded call head, always first.
    Open(Bytes),
    /// An encoded head. Travels whole.
    Head(Bytes),
    /// Data as it was written.
    Data(Bytes),
    /// Small writes.
    Gathered(BytesMut),
}

impl Chunk {
    /// Length of data; `None` for heads.
    pub(super) fn data_len(&self) -> Option<usize> {
        match self {
            Self::Data(data) => Some(data.len()),
            Self::Gathered(data) => Some(data.len()),
            Self::Open(_) | Self::Head(_) => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendState {
    Open,
    /// `finish` was called; the queue is still to be sent, then FIN.
    Finishing,
    /// The peer wants no more; the queue is dropped, FIN is still to be sent.
    Stopped(ResetCode),
    /// `cut_short` was called; the queue is still to be sent, then RESET.
    CutShort(ResetCode),
    Reset(ResetCode),
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) state: SendState,
    /// FIN is on the wire.
    pub(super) fin_sent: bool,
    /// OPEN is on the wire, ours or the peer's.
    pub(super) on_wire: bool,
    pub(super) queue: VecDeque<Chunk>,
    /// Bytes in the queue.
    pub(super) queued: usize,
    pub(super) window: SendWindow,
    pub(super) order: Order,
    /// A write took nothing: say when it can go on.
    pub(super) blocked: bool,
    pub(super) released: bool,
    pub(super) turn: Turn,
}

impl Sending {
    fn new(window: u32, opener: bool) -> Self {
        Self {
            state: SendState::Open,
            fin_sent: false,
            on_wire: !opener,
            queue: VecDeque::new(),
            queued: 0,
            window: SendWindow::new(window),
            order: Order::new(opener),
            blocked: false,
            released: false,
            turn: Turn::default(),
        }
    }

    pub(super) fn push(&mut self, chunk: Chunk, length: usize) {
        self.queued += length;
        self.queue.push_back(chunk);
    }

    /// Queues data: large pieces as they are, small ones copied together.
    pub(super) fn push_data(&mut self, data: Bytes) {
        let length = data.len();
        if length >= GATHER {
            return self.push(Chunk::Data(data), length);
        }
        match self.queue.back_mut() {
            Some(Chunk::Gathered(tail)) if tail.len() + length <= FRAME => {
                tail.extend_from_slice(&data);
                self.queued += length;
            }
            _ => self.push(Chunk::Gathered(BytesMut::from(&*data)), length),
        }
    }

    /// Drops what waits; says how much it was.
    pub(super) fn clear(&mut self) -> usize {
        self.queue = VecDeque::new();
        std::mem::take(&mut self.queued)
    }

    pub(super) fn is_over(&self) -> bool {
        self.fin_sent || matches!(self.state, SendState::Reset(_))
    }

    /// Whether a frame can be sent now.
    pub(super) fn has_work(&self) -> bool {
        if self.is_over() {
            return false;
        }
        match self.queue.front() {
            Some(Chunk::Open(_)) => true,
            Some(Chunk::Head(head)) => self.window.available() >= head.len(),
            Some(Chunk::Data(_) | Chunk::Gathered(_)) => self.window.available() > 0,
            None => matches!(self.state, SendState::Finishing | SendState::Stopped(_)),
        }
    }

    /// Bytes of data that can follow each other from the chunk at `from` on, at most `most`.
    pub(super) fn data_ready(&self, from: usize, most: usize) -> usize {
        let most = most.min(self.window.available());
        let mut ready = 0;
        for chunk in self.queue.iter().skip(from) {
            match chunk.data_len() {
                Some(length) if ready < most => ready += length,
                _ => break,
            }
        }
        ready.min(most)
    }

    /// Why nothing can be written.
    pub(super) fn writable(&self) -> Result<(), StreamError> {
        match self.state {
            _ if self.released => Err(StreamError::Unknown),
            SendState::Open => Ok(()),
            SendState::Finishing => Err(StreamError::Finished),
            SendState::Stopped(code) => Err(StreamError::Stopped(code)),
            SendState::CutShort(code) | SendState::Reset(code) => Err(StreamError::Reset(code)),
        }
    }
}

/// What waits to be read, in order, with the bytes that it takes of the window.
#[derive(Debug)]
pub(super) enum Received {
    Head(Box<Head>, usize),
    /// A large piece, a slice of its message.
    Data(Bytes),
    /// Small pieces, copied together: each for itself would take a multiple of its size.
    Gathered(BytesMut),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecvState {
    Open,
    /// We want no more: what comes is dropped.
    Stopped(ResetCode),
    /// The peer has aborted it; what came before is still to be read.
    CutShort(ResetCode),
    Reset(ResetCode),
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) state: RecvState,
    /// The peer's FIN has come.
    pub(super) ended: bool,
    pub(super) queue: VecDeque<Received>,
    pub(super) window: RecvWindow,
    /// What the window had when the stream began.
    pub(super) initial: u32,
    pub(super) order: Order,
    /// A read gave nothing: say when there is something.
    pub(super) waiting: bool,
    pub(super) released: bool,
}

impl Receiving {
    fn new(window: u32, from_opener: bool) -> Self {
        Self {
            state: RecvState::Open,
            ended: false,
            queue: VecDeque::new(),
            window: RecvWindow::new(window),
            initial: window,
            order: Order::new(from_opener),
            waiting: false,
            released: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended || matches!(self.state, RecvState::CutShort(_) | RecvState::Reset(_))
    }

    /// Whether what comes is of no use to anybody.
    pub(super) fn discards(&self) -> bool {
        self.released || self.state != RecvState::Open
    }

    /// Queues data. A piece that is `small` beside its message is copied out of it.
    pub(super) fn push_data(&mut self, data: Bytes, small: bool) {
        if !small {
            return self.queue.push_back(Received::Data(data));
        }
        match self.queue.back_mut() {
            Some(Received::Gathered(tail)) if tail.len() + data.len() <= FRAME => {
                tail.extend_from_slice(&data);
            }
            _ => {
                let gathered = Received::Gathered(BytesMut::from(&*data));
                self.queue.push_back(gathered);
            }
        }
    }

    /// Drops what waits to be read; says how much it was.
    pub(super) fn clear(&mut self) -> usize {
        self.queue = VecDeque::new();
        let dropped = self.window.buffered();
        self.window.read(dropped);
        dropped
    }

    /// Credit makes sense: the peer may send, and somebody reads.
    pub(super) fn wants_credit(&self) -> bool {
        !self.ended && !self.discards()
    }
}

/// What happened and was not told yet; see [`Event`](crate::mux::Event).
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) reset: Option<ResetCode>,
    pub(super) stopped: Option<ResetCode>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The stream stands in the list of those with news.
    pub(super) listed: bool,
}

/// Both halves, and what is to be told to the peer and to our side.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) send: Sending,
    pub(super) recv: Receiving,
    /// On whose part of the memory it draws for what waits.
    pub(super) account: AccountId,
    /// The head of a call of the peer that nobody has accepted yet, and its bytes on the wire.
    pub(super) call: Option<(Box<CallHead>, usize)>,
    /// When it was opened on the wire; nothing once it was cancelled.
    pub(super) opened: Option<Instant>,
    /// Since when nobody here holds it, if this side opened it.
    pub(super) left_alone: Option<Instant>,
    /// RESET to send.
    pub(super) reset_due: Option<ResetCode>,
    /// STOP to send.
    pub(super) stop_due: Option<ResetCode>,
    /// They are kept back for a while.
    pub(super) kept_back: bool,
    /// The stream stands in the list of those with RESET, STOP or WINDOW to send.
    pub(super) listed: bool,
    pub(super) news: News,
    /// We have reset it: the peer may not know.
    pub(super) reset_here: bool,
    /// It counts as open.
    pub(super) counted: bool,
}

impl Stream {
    /// `ours`: this side opened it.
    pub(super) fn new(ours: bool, send_window: u32, recv_window: u32) -> Self {
        Self {
            send: Sending::new(send_window, ours),
            recv: Receiving::new(recv_window, !ours),
            account: AccountId::SESSION,
            call: None,
            opened: None,
            left_alone: None,
            reset_due: None,
            stop_due: None,
            kept_back: false,
            listed: false,
            news: News::default(),
            reset_here: false,
            counted: true,
        }
    }

    /// Whether it was opened less than `age` ago. Asked when it is cancelled, and true once at most:
    /// a stream costs its opener one cancel.
    pub(super) fn take_young(&mut self, age: Duration, now: Instant) -> bool {
        let opened = self.opened.take();
        opened.is_some_and(|opened| now.saturating_duration_since(opened) < age)
    }

    /// Over on the wire.
    pub(super) fn is_over(&self) -> bool {
        self.send.is_over() && self.recv.is_over()
    }

    /// Nothing is left to do, for anybody.
    pub(super) fn is_done(&self) -> bool {
        self.is_over()
            && self.send.released
            && self.recv.released
            && self.reset_due.is_none()
            && self.stop_due.is_none()
    }

    /// What the peer may still send although we forget the stream.
    pub(super) fn late_credit(&self) -> u32 {
        if self.reset_here && !self.recv.ended && self.send.on_wire {
            self.recv.window.credit()
        } else {
            0
        }
    }
}
