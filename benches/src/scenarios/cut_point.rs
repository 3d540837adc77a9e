//! A place through which thousands of connections pass, and where all are cut at one moment.
//!
//! [`Link`](crate::link::Link) can do more and has four threads a connection for it; here each
//! connection is one task.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::load::Failure;

/// After a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(10);

/// A listener whose connections go on to another address. Dropped, it cuts them and listens no more.
#[derive(Debug)]
pub(super) struct CutPoint {
    address: SocketAddr,
    cuts: watch::Sender<()>,
    /// Only there to end with this.
    _accepting: JoinSet<()>,
}

impl CutPoint {
    /// Listens on a free port of loopback; what comes is carried to `to`.
    pub(super) async fn start(to: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let cuts = watch::Sender::new(());
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, to, cuts.clone()));
        Ok(Self {
            address,
            cuts,
            _accepting: accepting,
        })
    }

    /// Where to connect to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections that there are; new ones are taken.
    pub(super) fn cut(&self) {
        self.cuts.send_replace(());
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, cuts: watch::Sender<()>) {
    let mut carrying = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((near, _)) => {
                carrying.spawn(carry(near, to, cuts.subscribe()));
            }
            // Out of files, say: whoever dials tries again.
            Err(_) => sleep(PAUSE).await,
        }
        while carrying.try_join_next().is_some() {}
    }
}

async fn carry(mut near: TcpStream, to: SocketAddr, mut cut: watch::Receiver<()>) {
    let carried = async {
        let mut far = TcpStream::connect(to).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        copy_bidirectional(&mut near, &mut far).await
    };
    tokio::select! {
        _ = cut.changed() => {}
        // Whoever is at the ends sees how it ended.
        _ = carried => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn all_connections_end_at_a_cut_and_the_next_ones_pass() {
        let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let point = CutPoint::start(target.local_addr().unwrap()).await.unwrap();
        for _ in 0..2 {
            let mut pairs = Vec::new();
            for _ in 0..3 {
                let mut near = TcpStream::connect(point.address()).await.unwrap();
                let (mut far, _) = target.accept().await.unwrap();
                near.write_all(b"hello").await.unwrap();
                let mut hello = [0; 5];
                far.read_exact(&mut hello).await.unwrap();
                pairs.push((near, far));
            }
            point.cut();
            for (mut near, mut far) in pairs {
                assert!(!matches!(near.read(&mut [0]).await, Ok(1..)));
                assert!(!matches!(far.read(&mut [0]).await, Ok(1..)));
            }
        }
    }
}
