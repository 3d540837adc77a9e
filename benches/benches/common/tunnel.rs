//! Two whole sessions, drivers and WebSocket included, over a pipe in memory.

use bytes::Bytes;
use culvert_proto::mux::{Item, Side};
use culvert_session::{Incoming, RecvStream, Session, WebSocketIo};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::{answer, call_head, config};

/// Bytes that the pipe holds each way, like a small socket buffer.
const PIPE: usize = 64 * 1024;

/// The relay's session; the agent's answers every call with as many bytes as its path says.
pub struct Tunnel {
    runtime: Runtime,
    relay: Session,
    _serving: JoinHandle<()>,
}

impl Tunnel {
    /// On a runtime of its own: one thread, and a clock that stands still while anything happens,
    /// so that no ping comes in between.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (relay, serving) = runtime.block_on(async {
            let (near, far) = tokio::io::duplex(PIPE);
            let relay = Session::spawn(WebSocketIo::acceptor(near), config(Side::Acceptor));
            let agent = Session::spawn(WebSocketIo::dialer(far, vec![]), config(Side::Dialer));
            relay.0.ready().await.unwrap();
            agent.0.ready().await.unwrap();
            let serving = tokio::spawn(async move {
                let _agent = &agent.0;
                serve(agent.1).await;
            });
            (relay.0, serving)
        });
        Self {
            runtime,
            relay,
            _serving: serving,
        }
    }

    /// One call whose answer has so many bytes.
    pub fn call(&self, bytes: usize) {
        self.runtime.block_on(async {
            let mut head = call_head();
            head.target = format!("/{bytes}").into();
            let mut stream = self.relay.open(&head, Bytes::new(), true).unwrap();
            assert_eq!(read_all(&mut stream.recv).await, bytes);
        });
    }
}

async fn serve(mut incoming: Incoming) {
    let piece = Bytes::from(vec![7; 64 * 1024]);
    while let Some((head, mut stream)) = incoming.accept().await {
        let target = std::str::from_utf8(&head.target[1..]).unwrap();
        let mut left: usize = target.parse().unwrap();
        stream.send.send_head(&answer()).await.unwrap();
        while left > 0 {
            let part = left.min(piece.len());
            stream.send.write_bytes(piece.slice(..part)).await.unwrap();
            left -= part;
        }
        stream.send.finish().unwrap();
    }
}

async fn read_all(recv: &mut RecvStream) -> usize {
    let mut read = 0;
    loop {
        match recv.item().await.unwrap() {
            Item::Data(data) => read += data.len(),
            Item::Finished => return read,
            Item::Head(_) => {}
        }
    }
}
