//! Two ends, the line between them, and a clock that only the test moves.

use std::collections::VecDeque;

use super::*;

/// Dialer and acceptor with a line that delays each message and loses none.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) dialer: Mux,
    pub(super) acceptor: Mux,
    delay: Duration,
    to_acceptor: VecDeque<(Instant, Bytes)>,
    to_dialer: VecDeque<(Instant, Bytes)>,
}

impl Pair {
    /// Two ends that have greeted each other.
    pub(super) fn new(delay: Duration) -> Self {
        Self::with(config(Side::Dialer), config(Side::Acceptor), delay)
    }

    pub(super) fn with(dialer: Config, acceptor: Config, delay: Duration) -> Self {
        let now = start();
        let mut pair = Self {
            now,
            dialer: Mux::new(dialer, now),
            acceptor: Mux::new(acceptor, now),
            delay,
            to_acceptor: VecDeque::new(),
            to_dialer: VecDeque::new(),
        };
        pair.settle();
        assert!(matches!(pair.dialer.poll_event(), Some(Event::Ready)));
        assert!(matches!(pair.acceptor.poll_event(), Some(Event::Ready)));
        pair
    }

    pub(super) fn end(&mut self, side: Side) -> &mut Mux {
        match side {
            Side::Dialer => &mut self.dialer,
            Side::Acceptor => &mut self.acceptor,
        }
    }

    pub(super) fn ends(&self, side: Side) -> &Mux {
        match side {
            Side::Dialer => &self.dialer,
            Side::Acceptor => &self.acceptor,
        }
    }

    /// What is on the line to `side`, in order.
    pub(super) fn line_to(&self, side: Side) -> impl Iterator<Item = &Bytes> {
        let line = match side {
            Side::Dialer => &self.to_dialer,
            Side::Acceptor => &self.to_acceptor,
        };
        line.iter().map(|(_, message)| message)
    }

    /// Sends what both ends have, one batch each, as the driver does in a turn.
    pub(super) fn send(&mut self) -> bool {
        let due = self.now + self.delay;
        let mut sent = false;
        for (mux, line) in [
            (&mut self.dialer, &mut self.to_acceptor),
            (&mut self.acceptor, &mut self.to_dialer),
        ] {
            let mut batch = BytesMut::new();
            if mux.poll_transmit(&mut batch, self.now) {
                line.push_back((due, batch.freeze()));
                sent = true;
            }
        }
        sent
    }

    /// Delivers what is due.
    pub(super) fn deliver(&mut self) {
        while let Some((_, message)) = self.to_acceptor.pop_front_if(|(due, _)| *due <= self.now) {
            self.acceptor.handle_message(message, self.now).unwrap();
        }
        while let Some((_, message)) = self.to_dialer.pop_front_if(|(due, _)| *due <= self.now) {
            self.dialer.handle_message(message, self.now).unwrap();
        }
    }

    /// The next moment at which anything happens on the line.
    fn next(&self) -> Option<Instant> {
        [&self.to_acceptor, &self.to_dialer]
            .into_iter()
            .filter_map(|line| line.front().map(|(due, _)| *due))
            .min()
    }

    /// Moves the clock by `time`, delivering in order what falls due.
    pub(super) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        self.send();
        while let Some(due) = self.next().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.deliver();
            self.send();
        }
        self.now = end;
        for mux in [&mut self.dialer, &mut self.acceptor] {
            mux.handle_timeout(end).unwrap();
        }
        self.send();
    }

    /// Exchanges messages until nobody has anything to say, moving the clock as the line needs.
    pub(super) fn settle(&mut self) {
        loop {
            while self.send() {}
            let Some(due) = self.next() else { return };
            self.now = self.now.max(due);
            self.deliver();
        }
    }

    /// Opens a stream from the acceptor's side (as a relay does) and accepts it.
    pub(super) fn open(&mut self) -> StreamId {
        let id = self
            .acceptor
            .open(&call_head(), Bytes::new(), false)
            .unwrap();
        self.settle();
        assert_eq!(self.dialer.accept().unwrap().0, id);
        id
    }
}

/// Reads all that is there.
pub(super) fn drain(mux: &mut Mux, id: StreamId, now: Instant) -> (Vec<Item>, Option<StreamError>) {
    let mut items = Vec::new();
    loop {
        match mux.read(id, now) {
            Ok(Some(Item::Finished)) => {
                items.push(Item::Finished);
                return (items, None);
            }
            Ok(Some(item)) => items.push(item),
            Ok(None) => return (items, None),
            Err(error) => return (items, Some(error)),
        }
    }
}

pub(super) fn bytes_of(items: &[Item]) -> Vec<u8> {
    items
        .iter()
        .filter_map(|item| {
            if let Item::Data(data) = item {
                Some(data.to_vec())
            } else {
                None
            }
        })
        .flatten()
        .collect()
}
