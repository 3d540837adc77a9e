//! What leaves in one piece, as the layer below sees it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_proto::mux::Side;
use culvert_session::WebSocketIo;
use tokio::io::{AsyncWrite, DuplexStream, WriteHalf, join};

use crate::support::{End, WINDOW, config, settle, stream};

/// Most that TLS puts into a record (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;

/// Notes the longest write.
struct Noting(WriteHalf<DuplexStream>, Arc<AtomicUsize>);

impl AsyncWrite for Noting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_max(bytes.len(), Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_bulk_fills_two_tls_records_and_begins_no_third() {
    let (near, far) = tokio::io::duplex(WINDOW);
    let longest = Arc::new(AtomicUsize::new(0));
    let (read, write) = tokio::io::split(near);
    let near = join(read, Noting(write, longest.clone()));
    // Masked, so that the header is the longest.
    let agent = End::over(WebSocketIo::dialer(near, vec![]), config(Side::Dialer));
    let mut relay = End::over(WebSocketIo::acceptor(far), config(Side::Acceptor));
    agent.session.ready().await.unwrap();
    let (mut near, _far) = stream(&agent, &mut relay).await;
    near.send
        .write_bytes(Bytes::from(vec![0; WINDOW]))
        .await
        .unwrap();
    settle().await;
    let longest = longest.load(Ordering::Relaxed);
    assert!(longest <= 2 * RECORD, "{longest}");
    assert!(longest > 2 * RECORD - 64, "{longest}: room is left unused");
}
