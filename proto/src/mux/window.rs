//! Credit of one direction of a stream. All arithmetic on it is here.

/// Most credit that a sender may hold at once, in bytes: 1 GiB.
pub(super) const MAX_CREDIT: u64 = 1 << 30;

/// What the peer lets us send.
#[derive(Debug)]
pub(super) struct SendWindow {
    /// Bytes granted since the stream began.
    granted: u64,
    /// Bytes sent since the stream began; never more than `granted`.
    sent: u64,
}

impl SendWindow {
    pub(super) fn new(initial: u32) -> Self {
        Self {
            granted: initial.into(),
            sent: 0,
        }
    }

    pub(super) fn available(&self) -> usize {
        (self.granted - self.sent) as usize
    }

    pub(super) fn spend(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.available());
        self.sent += bytes as u64;
    }

    /// Takes a grant; `false` if it is nothing or too much.
    #[must_use]
    pub(super) fn grant(&mut self, credit: u32) -> bool {
        self.granted += u64::from(credit);
        credit > 0 && self.granted - self.sent <= MAX_CREDIT
    }
}

/// What we let the peer send.
///
/// Always `consumed <= received <= granted <= consumed + size`: what is buffered never exceeds
/// what was granted, and what is granted never exceeds the window.
#[derive(Debug)]
pub(super) struct RecvWindow {
    size: u64,
    granted: u64,
    received: u64,
    consumed: u64,
}

impl RecvWindow {
    pub(super) fn new(size: u32) -> Self {
        Self {
            size: size.into(),
            granted: size.into(),
            received: 0,
            consumed: 0,
        }
    }

    /// Counts arriving bytes; `false` if they are beyond the credit.
    #[must_use]
    pub(super) fn receive(&mut self, bytes: usize) -> bool {
        self.received += bytes as u64;
        self.received <= self.granted
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.consumed += bytes as u64;
        debug_assert!(self.consumed <= self.received);
    }

    pub(super) fn buffered(&self) -> usize {
        (self.received - self.consumed) as usize
    }

    /// Credit worth a WINDOW frame: an eighth of the window, or, once everything is read, as
    /// little as a 64th. Waiting for half a window would halve the rate on a long line.
    pub(super) fn due(&self) -> Option<u32> {
        let due = self.consumed + self.size - self.granted;
        let step = if self.received == self.consumed {
            self.size / 64
        } else {
            self.size / 8
        };
        (due >= step.max(1)).then_some(due as u32)
    }

    pub(super) fn granted(&mut self, credit: u32) {
        self.granted += u64::from(credit);
    }
}
