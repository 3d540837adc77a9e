//! Credit of one direction of a stream. All arithmetic on it is here, and checked.

use std::time::{Duration, Instant};

use crate::limits::MAX_WINDOW;

/// The peer sent more than it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overrun;

/// What the peer lets us send.
#[derive(Debug)]
pub(super) struct SendWindow {
    credit: u32,
}

impl SendWindow {
    pub(super) fn new(initial: u32) -> Self {
        Self { credit: initial }
    }

    /// Bytes that may be sent now.
    pub(super) fn available(&self) -> usize {
        self.credit as usize
    }

    /// Takes credit for bytes that are sent; never more than is available.
    pub(super) fn spend(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.available());
        self.credit = self.credit.saturating_sub(bytes as u32);
    }

    /// Takes a grant. None at all, or more than a stream can have, is an error.
    pub(super) fn grant(&mut self, credit: u32) -> Result<(), Overrun> {
        match self.credit.checked_add(credit) {
            Some(sum) if credit > 0 && sum <= MAX_WINDOW => self.credit = sum,
            _ => return Err(Overrun),
        }
        Ok(())
    }
}

/// What we let the peer send.
///
/// Always `credit + buffered + owed == size`: what the peer may still send, what waits to be
/// read, and what was read but not granted again make up the window. So what is buffered never
/// exceeds the window, and credit is neither lost nor made.
#[derive(Debug)]
pub(super) struct RecvWindow {
    size: u32,
    credit: u32,
    buffered: u32,
    owed: u32,
    /// What the window is to lose as bytes of it are read.
    excess: u32,
    /// Whether anything was read since [`was_read`](Self::was_read) last asked.
    used: bool,
    turn: Turnover,
}

/// How fast a window turns over: the bytes read since an instant.
#[derive(Debug, Default)]
struct Turnover {
    since: Option<Instant>,
    read: u32,
}

impl RecvWindow {
    /// Least part of a window that a WINDOW frame is sent for once everything was read.
    const LEAST: u32 = 64;
    /// Part of a window that a WINDOW frame is sent for in any case. Waiting for half of it
    /// would halve the rate on a long line; eight frames a window cost nothing.
    const STEP: u32 = 8;

    pub(super) fn new(size: u32) -> Self {
        Self {
            size,
            credit: size,
            buffered: 0,
            owed: 0,
            excess: 0,
            used: true,
            turn: Turnover::default(),
        }
    }

    fn check(&self) {
        debug_assert_eq!(
            u64::from(self.credit) + u64::from(self.buffered) + u64::from(self.owed),
            u64::from(self.size)
        );
    }

    /// The whole window.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// What the peer may still send.
    pub(super) fn credit(&self) -> u32 {
        self.credit
    }

    /// What waits to be read.
    pub(super) fn buffered(&self) -> usize {
        self.buffered as usize
    }

    /// What was read and is not granted again yet.
    #[cfg(any(test, feature = "model"))]
    pub(super) fn owed(&self) -> u32 {
        self.owed
    }

    /// Counts arriving bytes.
    pub(super) fn receive(&mut self, bytes: usize) -> Result<(), Overrun> {
        let bytes = u32::try_from(bytes).or(Err(Overrun))?;
        self.credit = self.credit.checked_sub(bytes).ok_or(Overrun)?;
        self.buffered += bytes;
        self.check();
        Ok(())
    }

    /// Counts bytes that were read, or thrown away.
    pub(super) fn read(&mut self, bytes: usize) {
        let bytes = bytes as u32;
        debug_assert!(bytes <= self.buffered);
        self.buffered -= bytes;
        self.owed += bytes;
        self.check();
    }

    /// Whether a WINDOW frame is worth sending.
    pub(super) fn is_due(&self) -> bool {
        let part = if self.buffered == 0 {
            Self::LEAST
        } else {
            Self::STEP
        };
        self.owed >= (self.size / part).max(1)
    }

    /// Grants everything that was read.
    pub(super) fn grant(&mut self) -> u32 {
        let credit = std::mem::take(&mut self.owed);
        self.credit += credit;
        self.check();
        credit
    }

    /// After a read: by how many bytes the window should grow, because the peer fills all of it
    /// within two round trips and the reader keeps up. At most `most` bytes.
    ///
    /// A window that turns over more slowly is large enough; a reader that leaves bytes lying
    /// would only have more of them lying.
    pub(super) fn growth(
        &mut self,
        bytes: usize,
        now: Instant,
        rtt: Option<Duration>,
        most: u32,
    ) -> u32 {
        self.used = true;
        let since = *self.turn.since.get_or_insert(now);
        self.turn.read = self.turn.read.saturating_add(bytes as u32);
        if self.turn.read < self.size {
            return 0;
        }
        self.turn = Turnover {
            since: Some(now),
            read: 0,
        };
        let fast = rtt.is_some_and(|rtt| now.saturating_duration_since(since) < 2 * rtt);
        let keeps_up = self.buffered <= self.size / 2;
        if fast && keeps_up && self.excess == 0 {
            self.size.min(most)
        } else {
            0
        }
    }

    /// Makes the window larger; the next grant has the difference.
    pub(super) fn grow(&mut self, by: u32) {
        self.size += by;
        self.owed += by;
        self.check();
    }

    /// Makes the window smaller, as far as bytes are read: credit that the peer has stays its own.
    pub(super) fn shrink_by(&mut self, by: u32) {
        self.excess = by.min(self.size);
    }

    /// After a read: by how much the window has become smaller.
    pub(super) fn shrink(&mut self) -> u32 {
        let cut = self.excess.min(self.owed);
        self.excess -= cut;
        self.owed -= cut;
        self.size -= cut;
        self.check();
        cut
    }

    /// Whether anything was read since this was last asked.
    pub(super) fn was_read(&mut self) -> bool {
        std::mem::take(&mut self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::model::start;

    #[test]
    fn credit_is_granted_in_eighths_while_bytes_wait() {
        let mut window = RecvWindow::new(80_000);
        window.receive(80_000).unwrap();
        window.read(9_999);
        assert!(!window.is_due());
        window.read(1);
        assert!(window.is_due());
        assert_eq!(window.grant(), 10_000);
        assert_eq!(window.credit(), 10_000);
    }

    #[test]
    fn credit_is_granted_when_everything_was_read_but_not_for_crumbs() {
        let mut window = RecvWindow::new(64_000);
        window.receive(999).unwrap();
        window.read(999);
        assert!(!window.is_due());
        window.receive(1).unwrap();
        window.read(1);
        assert!(window.is_due());
        assert_eq!(window.grant(), 1000);
    }

    #[test]
    fn bytes_beyond_the_credit_are_an_overrun() {
        let mut window = RecvWindow::new(10);
        window.receive(10).unwrap();
        assert_eq!(window.receive(1), Err(Overrun));
        window.read(10);
        assert_eq!(
            window.receive(1),
            Err(Overrun),
            "what was read is not yet granted"
        );
        window.grant();
        window.receive(10).unwrap();
        assert_eq!(window.receive(usize::MAX), Err(Overrun));
    }

    #[test]
    fn grants_of_nothing_or_too_much_are_errors() {
        let mut window = SendWindow::new(1);
        assert_eq!(window.grant(0), Err(Overrun));
        assert_eq!(window.grant(u32::MAX), Err(Overrun));
        assert_eq!(window.grant(MAX_WINDOW), Err(Overrun));
        window.grant(MAX_WINDOW - 1).unwrap();
        assert_eq!(window.available(), MAX_WINDOW as usize);
    }

    #[test]
    fn a_window_grows_only_if_it_turns_over_fast_and_is_read() {
        let (start, rtt) = (start(), Duration::from_millis(100));
        let turn = |unread: usize, time: Duration, rtt: Option<Duration>| {
            let mut window = RecvWindow::new(1000);
            window.receive(unread).unwrap();
            assert_eq!(window.growth(0, start, rtt, 5000), 0);
            window.growth(1000, start + time, rtt, 5000)
        };
        assert_eq!(turn(0, rtt, Some(rtt)), 1000);
        assert_eq!(turn(0, 2 * rtt, Some(rtt)), 0, "slow enough");
        assert_eq!(turn(501, rtt, Some(rtt)), 0, "the reader does not keep up");
        assert_eq!(turn(0, rtt, None), 0, "no round trip measured");

        let mut window = RecvWindow::new(1000);
        window.shrink_by(1);
        assert_eq!(window.growth(0, start, Some(rtt), 5000), 0);
        let growth = window.growth(1000, start + rtt, Some(rtt), 5000);
        assert_eq!(growth, 0, "it is to shrink");
    }

    #[test]
    fn a_window_shrinks_only_by_what_was_read_and_credit_is_never_taken_back() {
        let mut window = RecvWindow::new(1000);
        window.grow(1000);
        window.grant();
        window.receive(600).unwrap();
        window.shrink_by(1000);
        assert_eq!(window.shrink(), 0, "all of it is granted or waits");
        window.read(600);
        assert_eq!(
            (window.shrink(), window.size(), window.owed()),
            (600, 1400, 0)
        );
        assert_eq!(window.credit(), 1400, "what the peer has, it keeps");
        window.receive(1400).unwrap();
        window.read(1400);
        assert_eq!(
            (window.shrink(), window.size(), window.grant()),
            (400, 1000, 1000)
        );
    }
}
