//! Two ends, the line between them, and a clock that only the test moves.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{SIDES, other, start};
use crate::mux::{Config, Event, Mux, SessionError, Side, Silence};

/// One direction of the line. Delays each message, and loses none unless it is cut.
#[derive(Debug)]
pub(in crate::mux) struct Line {
    messages: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// While so many bytes are on it, it takes no more: the sender's socket is full.
    pub(in crate::mux) capacity: usize,
    /// How much longer messages take on it than on the other.
    pub(in crate::mux) queue: Duration,
    /// It takes nothing for now.
    pub(in crate::mux) stuck: bool,
    /// Whatever is put on it is lost, and nobody is told.
    cut: bool,
}

impl Line {
    fn new() -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            capacity: usize::MAX,
            queue: Duration::ZERO,
            stuck: false,
            cut: false,
        }
    }

    fn is_writable(&self) -> bool {
        !self.stuck && self.bytes < self.capacity
    }

    fn put(&mut self, due: Instant, message: Bytes) {
        if !self.cut {
            self.bytes += message.len();
            self.messages.push_back((due, message));
        }
    }

    fn take(&mut self, now: Instant) -> Option<Bytes> {
        let (_, message) = self.messages.pop_front_if(|(due, _)| *due <= now)?;
        self.bytes -= message.len();
        Some(message)
    }

    fn next(&self) -> Option<Instant> {
        self.messages.front().map(|(due, _)| *due)
    }
}

/// Dialer and acceptor with a line each way.
pub(in crate::mux) struct Pair {
    pub(in crate::mux) now: Instant,
    pub(in crate::mux) dialer: Mux,
    pub(in crate::mux) acceptor: Mux,
    delay: Duration,
    to_dialer: Line,
    to_acceptor: Line,
    /// When each side was last sent something.
    dialer_heard: Instant,
    acceptor_heard: Instant,
}

impl Pair {
    /// Two ends that have greeted each other.
    #[cfg(test)]
    pub(in crate::mux) fn new(delay: Duration) -> Self {
        use super::config;
        Self::with(config(Side::Dialer), config(Side::Acceptor), delay)
    }

    pub(in crate::mux) fn with(dialer: Config, acceptor: Config, delay: Duration) -> Self {
        let now = start();
        let mut pair = Self {
            now,
            dialer: Mux::new(dialer, now),
            acceptor: Mux::new(acceptor, now),
            delay,
            to_dialer: Line::new(),
            to_acceptor: Line::new(),
            dialer_heard: now,
            acceptor_heard: now,
        };
        pair.settle();
        assert!(matches!(pair.dialer.poll_event(), Some(Event::Ready)));
        assert!(matches!(pair.acceptor.poll_event(), Some(Event::Ready)));
        pair
    }

    pub(in crate::mux) fn end(&mut self, side: Side) -> &mut Mux {
        match side {
            Side::Dialer => &mut self.dialer,
            Side::Acceptor => &mut self.acceptor,
        }
    }

    pub(in crate::mux) fn ends(&self, side: Side) -> &Mux {
        match side {
            Side::Dialer => &self.dialer,
            Side::Acceptor => &self.acceptor,
        }
    }

    pub(in crate::mux) fn line(&mut self, to: Side) -> &mut Line {
        match to {
            Side::Dialer => &mut self.to_dialer,
            Side::Acceptor => &mut self.to_acceptor,
        }
    }

    /// What is on the line to `side`, in order.
    pub(in crate::mux) fn line_to(&self, side: Side) -> impl Iterator<Item = &Bytes> {
        let line = match side {
            Side::Dialer => &self.to_dialer,
            Side::Acceptor => &self.to_acceptor,
        };
        line.messages.iter().map(|(_, message)| message)
    }

    /// Both directions lose everything from now on, also what is under way.
    pub(in crate::mux) fn cut(&mut self) {
        for side in SIDES {
            let line = self.line(side);
            *line = Line {
                cut: true,
                ..Line::new()
            };
        }
    }

    pub(in crate::mux) fn is_cut(&self) -> bool {
        self.to_dialer.cut
    }

    /// Sends what both ends have, one batch each, as the driver does in a turn.
    pub(in crate::mux) fn send(&mut self) -> bool {
        let due = self.now + self.delay;
        let mut sent = false;
        for (mux, line) in [
            (&mut self.dialer, &mut self.to_acceptor),
            (&mut self.acceptor, &mut self.to_dialer),
        ] {
            if !line.is_writable() {
                continue;
            }
            let told = mux.has_transmit();
            let mut batch = BytesMut::new();
            if mux.poll_transmit(&mut batch, self.now) {
                assert!(told, "the driver would sleep and not send this");
                line.put(due + line.queue, batch.freeze());
                sent = true;
            }
        }
        sent
    }

    /// Delivers what is due.
    pub(in crate::mux) fn deliver(&mut self) {
        let now = self.now;
        for side in [Side::Acceptor, Side::Dialer] {
            while let Some(message) = self.line(side).take(now) {
                match side {
                    Side::Dialer => self.dialer_heard = now,
                    Side::Acceptor => self.acceptor_heard = now,
                }
                let over = self.ends(side).ended.is_some();
                let result = self.end(side).handle_message(message, now);
                if !over {
                    self.judge(side, result);
                }
            }
        }
    }

    /// Lets both ends know what time it is, if they want to.
    fn fire(&mut self) {
        let now = self.now;
        for side in SIDES {
            if self.ends(side).poll_timeout().is_some_and(|at| at <= now) {
                let result = self.end(side).handle_timeout(now);
                self.judge(side, result);
            }
        }
    }

    /// A session ends only because the other side ended it, or because nothing came for too long;
    /// and in the latter case it does.
    fn judge(&self, side: Side, result: Result<(), SessionError>) {
        let heard = match side {
            Side::Dialer => self.dialer_heard,
            Side::Acceptor => self.acceptor_heard,
        };
        let silent = self.now - heard >= self.ends(side).limits.dead_after;
        match result {
            Ok(()) => assert!(!silent, "{side:?} does not notice that its peer is dead"),
            Err(SessionError::Closed { code, .. }) => {
                let reason = self.ends(other(side)).ended.as_ref();
                assert_eq!(reason.map(SessionError::code), Some(code), "{side:?}");
            }
            Err(SessionError::Timeout(Silence::Dead(_))) if silent => {}
            Err(error) => panic!("{side:?}: {error}"),
        }
    }

    /// The next moment at which a message arrives.
    fn arrival(&self) -> Option<Instant> {
        let lines = [self.to_dialer.next(), self.to_acceptor.next()];
        lines.into_iter().flatten().min()
    }

    /// The next moment at which anything happens by itself.
    fn next(&self) -> Option<Instant> {
        let timers = [self.dialer.poll_timeout(), self.acceptor.poll_timeout()];
        timers.into_iter().flatten().chain(self.arrival()).min()
    }

    /// Moves the clock by `time`; what falls due happens in order.
    pub(in crate::mux) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        self.send();
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.deliver();
            self.fire();
            self.send();
        }
        self.now = end;
    }

    /// Exchanges messages until nobody has anything to say, moving the clock as the line needs.
    pub(in crate::mux) fn settle(&mut self) {
        loop {
            while self.send() {}
            let Some(due) = self.arrival() else { return };
            self.now = self.now.max(due);
            self.deliver();
        }
    }
}
