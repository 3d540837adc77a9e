//! Bytes that a guard holds back.

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

/// Moves as much of the first `cleared` bytes of `stash` into `out` as there is room for; gives how much.
/// An empty stash holds no memory.
pub(crate) fn release(stash: &mut BytesMut, cleared: usize, out: &mut ReadBuf<'_>) -> usize {
    let given = cleared.min(out.remaining());
    out.put_slice(&stash[..given]);
    stash.advance(given);
    if stash.is_empty() {
        *stash = BytesMut::new();
    }
    given
}
