//! No work is left lying: the narrow gaps between a handle and the driver.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::control::Control;
use culvert_proto::limits::Limits;
use culvert_proto::mux::{Item, Side};
use culvert_session::{SessionEvent, WebSocketIo};
use tokio::io::{AsyncWrite, DuplexStream, WriteHalf, join};
use tokio::time::Instant;

use crate::support::{End, WINDOW, config, config_with, connection, settle, stream};

/// What the next flushes of a connection do.
enum Flush {
    /// It blocks.
    Block,
    /// Something happens elsewhere in the meantime, and it is done.
    Meanwhile(Box<dyn FnOnce() + Send>),
}

type Script = Arc<Mutex<VecDeque<Flush>>>;

struct Scripted(WriteHalf<DuplexStream>, Script);

impl AsyncWrite for Scripted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let next = self.1.lock().unwrap().pop_front();
        match next {
            Some(Flush::Block) => return Poll::Pending,
            Some(Flush::Meanwhile(act)) => act(),
            None => {}
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_comes_while_a_full_socket_empties_is_not_left_lying() {
    let (near, far) = connection();
    let script = Script::default();
    let (read, write) = tokio::io::split(near);
    let near = WebSocketIo::dialer(join(read, Scripted(write, script.clone())), vec![]);
    let agent = End::over(near, config(Side::Dialer));
    let mut relay = End::over(WebSocketIo::acceptor(far), config(Side::Acceptor));
    agent.session.ready().await.unwrap();
    let (mut near, mut far) = stream(&agent, &mut relay).await;
    settle().await;

    // The driver writes a batch and finds the socket full; it is still full in the turn that
    // the peer's data brings; and just when it is empty again, a handle has work.
    let session = agent.session.clone();
    let notice = Control::Notice {
        code: None,
        text: "meanwhile".into(),
    };
    let act = Box::new(move || session.send_control(&notice).unwrap());
    script
        .lock()
        .unwrap()
        .extend([Flush::Block, Flush::Block, Flush::Meanwhile(act)]);
    near.send
        .write_bytes(Bytes::from_static(b"one"))
        .await
        .unwrap();
    settle().await;
    far.send
        .write_bytes(Bytes::from_static(b"two"))
        .await
        .unwrap();
    assert!(matches!(near.recv.item().await, Ok(Item::Data(_))));

    // Sooner than the next PING, which would wake the driver anyhow.
    let event = tokio::time::timeout(Duration::from_secs(1), relay.controls.recv()).await;
    assert!(
        matches!(event, Ok(Some(SessionEvent::Control(_)))),
        "{event:?}"
    );
    assert!(script.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_writer_goes_on_as_soon_as_its_queue_is_sent() {
    let (near, far) = connection();
    let limits = Limits {
        send_queue: 8 * 1024,
        ..Limits::default()
    };
    let near = WebSocketIo::dialer(near, vec![]);
    let agent = End::over(near, config_with(Side::Dialer, limits));
    let mut relay = End::over(WebSocketIo::acceptor(far), config(Side::Acceptor));
    agent.session.ready().await.unwrap();
    let (mut near, _far) = stream(&agent, &mut relay).await;
    // Each batch empties the queue; nothing but that happens, and the credit suffices.
    let before = Instant::now();
    near.send
        .write_bytes(Bytes::from(vec![0; WINDOW]))
        .await
        .unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
}
