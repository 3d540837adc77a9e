//! What tests do with two ends, and with what one of them gives.

use super::*;
use crate::head::CallHead;
pub(super) use crate::mux::model::pair::Pair;

impl Pair {
    /// Opens a stream from the acceptor's side (as a relay does) and accepts it.
    pub(super) fn open(&mut self) -> StreamId {
        self.open_call(&call_head())
    }

    /// The same for this call.
    pub(super) fn open_call(&mut self, head: &CallHead) -> StreamId {
        let id = self.acceptor.open(head, Bytes::new(), false).unwrap();
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
