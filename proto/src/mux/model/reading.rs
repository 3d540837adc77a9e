//! Reading, compared with what the other end has written.

use super::handle::{bytes, kind_of};
use super::other;
use super::world::World;
use crate::code::ResetCode;
use crate::mux::{Item, Side, StreamError, StreamId};

impl World {
    pub(super) fn read(&mut self, index: usize, items: usize) {
        let Some(handle) = self.handles.get(index) else {
            return;
        };
        if handle.dozes {
            return;
        }
        let (id, side, now) = (handle.id, handle.side, self.pair.now);
        let peer = self.peer_of(index);
        for _ in 0..items {
            let before = self.window(side, id);
            let item = self.pair.end(side).read(id, now);
            let after = self.window(side, id);
            self.seen.windows_grown += u64::from(after > before);
            self.seen.windows_shrunk += u64::from(after < before);
            let handle = &self.handles[index];
            let peer = peer.map(|at| &self.handles[at]);
            let next = peer.and_then(|peer| peer.heads.get(handle.heads_read).copied());
            let (mut read, mut heads, mut ended, mut waiting) = (0, 0, false, false);
            match item {
                Ok(Some(Item::Data(data))) => {
                    let want = bytes(id, other(side), handle.read, data.len());
                    assert!(data == want, "bytes arrive in order and unchanged");
                    read = data.len();
                    assert!(
                        next.is_none_or(|(at, _)| handle.read + read <= at),
                        "data in front of a head that was sent before it"
                    );
                }
                Ok(Some(Item::Head(head))) => {
                    if peer.is_some() {
                        let was = Some((handle.read, kind_of(&head)));
                        assert_eq!(was, next, "heads arrive in order and in their place");
                    }
                    heads = 1;
                }
                Ok(Some(Item::Finished)) => {
                    if let Some(peer) = peer {
                        // An end in good order means that all of it arrived.
                        assert!(peer.finished, "an end that nobody made");
                        assert_eq!(peer.written, handle.read);
                        assert_eq!(next, None, "a head is missing");
                    }
                    ended = true;
                }
                Ok(None) => waiting = true,
                Err(error) => {
                    assert!(!handle.ended || !handle.receives, "an end stays the end");
                    if error == StreamError::Reset(ResetCode::Truncated)
                        && let Some(peer) = peer.filter(|peer| peer.cut_short)
                        && handle.codes.is_empty()
                    {
                        assert_eq!(peer.written, handle.read, "what came before the break");
                        assert_eq!(next, None, "a head is missing");
                        self.seen.cut_short += 1;
                    }
                    return;
                }
            }
            self.seen.bytes += read as u64;
            self.seen.heads += heads as u64;
            let handle = &mut self.handles[index];
            self.seen.ends += u64::from(ended && !handle.ended);
            handle.read += read;
            handle.heads_read += heads;
            handle.ended |= ended;
            handle.waiting |= waiting;
            if ended || waiting {
                return;
            }
        }
    }

    fn window(&self, side: Side, id: StreamId) -> u32 {
        let stream = self.pair.ends(side).streams.find(id);
        stream.map_or(0, |stream| stream.recv.window.size())
    }
}
