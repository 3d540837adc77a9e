//! All streams of a session, by id, and what is true of them together.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use crate::frame::StreamId;
use crate::growth::{GrowthBudget, Share};
use crate::mux::Side;
use crate::mux::accounts::{AccountId, Accounts};
use crate::mux::budget::Late;
use crate::mux::stream::Stream;

/// Ids are small numbers that rise by two: a multiplication spreads them. A peer that picks
/// colliding ones slows down its own session, which has few streams.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Map = HashMap<StreamId, Stream, BuildHasherDefault<IdHasher>>;

/// Capacity that is worth giving back once no stream is left.
const SHRINK_ABOVE: usize = 64;

/// Ids of streams that are gone stay in a queue until they come up, up to so many more than twice
/// the streams that are there; then they are swept out together. A peer that takes nothing from its
/// socket would otherwise make a queue longer with every call that comes and goes.
pub(super) const STALE: usize = 64;

/// The streams, their counts and the bytes that they hold.
#[derive(Debug)]
pub(super) struct Streams {
    side: Side,
    map: Map,
    /// The id of our next stream. `u64`: it may go one step beyond the last.
    next: u64,
    /// The highest id of ours that is on the wire.
    pub(super) sent: u32,
    /// The highest id of the peer's.
    pub(super) highest: u32,
    /// Streams of ours, and of the peer's, that are open on the wire.
    pub(super) ours_open: u32,
    pub(super) theirs_open: u32,
    /// Bytes that wait to be sent, and to be read.
    pub(super) queued: usize,
    pub(super) buffered: usize,
    /// Receive windows together.
    pub(super) granted: u64,
    /// Streams that have RESET, STOP or WINDOW to send.
    pub(super) due: VecDeque<StreamId>,
    /// Streams that have news.
    pub(super) news: VecDeque<StreamId>,
    pub(super) late: Late,
    /// Bytes of windows beyond their initial size, out of the budget of the process. It is the
    /// session's also where streams have accounts of their own: what it costs a tenant is speed.
    pub(super) growth: Share,
    /// What covers what waits to be sent and read, out of the memory of the process.
    pub(super) accounts: Accounts,
}

impl Streams {
    pub(super) fn new(side: Side, growth: GrowthBudget, accounts: Accounts) -> Self {
        Self {
            side,
            map: Map::default(),
            next: if side == Side::Dialer { 1 } else { 2 },
            sent: 0,
            highest: 0,
            ours_open: 0,
            theirs_open: 0,
            queued: 0,
            buffered: 0,
            granted: 0,
            due: VecDeque::new(),
            news: VecDeque::new(),
            late: Late::new(),
            growth: Share::new(growth),
            accounts,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn is_ours(&self, id: StreamId) -> bool {
        (id.0 % 2 == 1) == (self.side == Side::Dialer)
    }

    /// Whether a stream of this id was ever opened on the wire.
    pub(super) fn was_opened(&self, id: StreamId) -> bool {
        id.0 <= if self.is_ours(id) {
            self.sent
        } else {
            self.highest
        }
    }

    /// An id for a stream of ours, unless they are used up.
    pub(super) fn next_id(&mut self) -> Option<StreamId> {
        let id = u32::try_from(self.next).ok()?;
        self.next += 2;
        Some(StreamId(id))
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.map.capacity() + self.due.capacity() + self.news.capacity()
    }

    /// What [`next_id`](Self::next_id) will give.
    #[cfg(any(test, feature = "model"))]
    pub(super) fn next_id_is(&self) -> StreamId {
        StreamId(self.next as u32)
    }

    /// Starts at another id, as if those before were used.
    #[cfg(any(test, feature = "model"))]
    pub(super) fn skip_to(&mut self, id: u32) {
        self.next = id.into();
    }

    pub(super) fn insert(&mut self, id: StreamId, stream: Stream) {
        let open = if self.is_ours(id) {
            &mut self.ours_open
        } else {
            &mut self.theirs_open
        };
        *open += 1;
        let (queued, buffered) = (stream.send.queued, stream.recv.window.buffered());
        self.queued += queued;
        self.buffered += buffered;
        self.accounts.add(stream.account, queued + buffered);
        self.granted += u64::from(stream.recv.window.size());
        self.late.on_stream();
        self.map.insert(id, stream);
    }

    pub(super) fn find(&self, id: StreamId) -> Option<&Stream> {
        self.map.get(&id)
    }

    pub(super) fn find_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.map.get_mut(&id)
    }

    pub(super) fn ids(&self) -> Vec<StreamId> {
        self.map.keys().copied().collect()
    }

    /// Streams of ours that nobody here holds any more, and since when.
    pub(super) fn left_alone(&self) -> Vec<(StreamId, Instant)> {
        let since = |(id, stream): (&StreamId, &Stream)| Some((*id, stream.left_alone?));
        self.map.iter().filter_map(since).collect()
    }

    #[cfg(any(test, feature = "model"))]
    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamId, &Stream)> {
        self.map.iter().map(|(id, stream)| (*id, stream))
    }

    /// Lists a stream among those with something to tell the peer, once.
    pub(super) fn list_due(&mut self, id: StreamId) {
        if let Some(stream) = self.map.get_mut(&id)
            && !std::mem::replace(&mut stream.listed, true)
        {
            if self.due.len() >= 2 * self.map.len() + STALE {
                let map = &self.map;
                self.due.retain(|id| map.contains_key(id));
            }
            self.due.push_back(id);
        }
    }

    /// Lists a stream among those with news, once.
    pub(super) fn list_news(&mut self, id: StreamId) {
        if let Some(stream) = self.map.get_mut(&id)
            && !std::mem::replace(&mut stream.news.listed, true)
        {
            self.news.push_back(id);
        }
    }

    /// Tells a reader that waits, if one does.
    pub(super) fn wake_reader(&mut self, id: StreamId) {
        if let Some(stream) = self.map.get_mut(&id)
            && std::mem::take(&mut stream.recv.waiting)
        {
            stream.news.readable = true;
            self.list_news(id);
        }
    }

    /// Tells a writer that waits, if one does.
    pub(super) fn wake_writer(&mut self, id: StreamId) {
        if let Some(stream) = self.map.get_mut(&id)
            && std::mem::take(&mut stream.send.blocked)
        {
            stream.news.writable = true;
            self.list_news(id);
        }
    }

    /// Drops what waits to be sent.
    pub(super) fn clear_send(&mut self, id: StreamId) {
        if let Some(stream) = self.map.get_mut(&id) {
            let (account, bytes) = (stream.account, stream.send.clear());
            self.on_sent(account, bytes);
        }
    }

    /// Drops what waits to be read.
    pub(super) fn clear_recv(&mut self, id: StreamId) {
        if let Some(stream) = self.map.get_mut(&id) {
            let (account, bytes) = (stream.account, stream.recv.clear());
            self.buffered -= bytes;
            self.accounts.remove(account, bytes);
        }
    }

    /// More bytes wait to be sent on a stream with this account.
    pub(super) fn on_queued(&mut self, account: AccountId, bytes: usize) {
        self.queued += bytes;
        self.accounts.add(account, bytes);
    }

    /// They do not wait any more.
    pub(super) fn on_sent(&mut self, account: AccountId, bytes: usize) {
        self.queued -= bytes;
        self.accounts.remove(account, bytes);
    }

    /// More bytes wait to be read.
    pub(super) fn on_received(&mut self, account: AccountId, bytes: usize) {
        self.buffered += bytes;
        self.accounts.add(account, bytes);
    }

    /// Bytes were read, and the stream's window shrank.
    pub(super) fn on_read(&mut self, account: AccountId, bytes: usize, shrunk: u32) {
        self.buffered -= bytes;
        self.accounts.remove(account, bytes);
        self.granted -= u64::from(shrunk);
        self.growth.give_back(shrunk.into());
    }

    /// Makes a window larger by as much of `wanted` as the budget has.
    pub(super) fn grow(&mut self, id: StreamId, wanted: u32) {
        let Some(stream) = self.map.get_mut(&id) else {
            return;
        };
        let taken = self.growth.take(wanted);
        stream.recv.window.grow(taken);
        self.granted += u64::from(taken);
    }

    /// Every few seconds: windows that nobody used, and those of a session that holds more than
    /// its part of a short budget, are to shrink as their bytes are read.
    pub(super) fn rebalance(&mut self) {
        self.accounts.rebalance();
        let mut excess = self.growth.rebalance();
        for stream in self.map.values_mut() {
            let initial = stream.recv.initial;
            let window = &mut stream.recv.window;
            let grown = u64::from(window.size() - initial);
            let unused = !window.was_read();
            if grown > 0 && (unused || excess > 0) {
                window.shrink_by(if unused { grown } else { grown.div_ceil(2) } as u32);
                excess = excess.saturating_sub(grown.div_ceil(2));
            }
        }
    }

    /// After every change that may end a stream: takes it off its opener's count once it is over
    /// on the wire, and forgets it once nobody needs it. The frame that ends a stream goes before
    /// any later OPEN, so both sides count alike.
    pub(super) fn settle(&mut self, id: StreamId) {
        let ours = self.is_ours(id);
        let Some(stream) = self.map.get_mut(&id) else {
            return;
        };
        // A stream of the peer's counts until its RESET is sent: one that never reads must not
        // have us keep more and more of them. Ours do not wait: their RESET goes first anyway,
        // unless it is kept back.
        let told = stream.reset_due.is_none() || ours && !stream.kept_back;
        if stream.is_over() && told && std::mem::take(&mut stream.counted) {
            if ours {
                self.ours_open -= 1;
            } else {
                self.theirs_open -= 1;
            }
        }
        if stream.is_done() {
            self.forget(id);
        }
    }

    /// Forgets a stream; what it holds is freed.
    pub(super) fn forget(&mut self, id: StreamId) {
        self.clear_send(id);
        self.clear_recv(id);
        let ours = self.is_ours(id);
        let Some(stream) = self.map.remove(&id) else {
            return;
        };
        if stream.counted {
            if ours {
                self.ours_open -= 1;
            } else {
                self.theirs_open -= 1;
            }
        }
        let window = &stream.recv.window;
        self.granted -= u64::from(window.size());
        self.growth
            .give_back(u64::from(window.size() - stream.recv.initial));
        self.late.on_forgotten(stream.late_credit());
        self.accounts.leave(stream.account);
        if self.map.is_empty() && self.map.capacity() > SHRINK_ABOVE {
            self.map = Map::default();
            self.due = VecDeque::new();
            self.news = VecDeque::new();
            self.accounts.shrink();
        }
    }
}
