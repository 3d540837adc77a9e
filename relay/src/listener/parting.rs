//! The end of a connection whose caller must not take what came for all there was.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use tokio::time::{Instant, sleep};

/// How long a peer may take what the kernel has for it, and how often that is looked at.
const LAST_BYTES: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// Ends a connection by a reset once all that was written to it is sent.
pub(super) async fn reset_behind(socket: Socket) {
    // From now on it is writable only where nothing waits to be sent.
    let _ = socket.set_tcp_notsent_lowat(1);
    let deadline = Instant::now() + LAST_BYTES;
    while !is_writable(&socket) && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Whether it is at this moment. One that is broken is, too.
fn is_writable(socket: &Socket) -> bool {
    let mut look = [PollFd::new(socket, PollFlags::OUT)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // A look that fails will fail again.
    poll(&mut look, Some(&at_once)).is_err() || !look[0].revents().is_empty()
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A reset by itself throws away what the peer has no room for yet.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_written_is_read_before_the_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        // More than the peer's first window.
        let (mut written, piece) = (0, [7; 10_000]);
        while let Ok(taken) = (&near).write(&piece) {
            written += taken;
        }
        assert!(written > 100_000);
        let parting = tokio::spawn(reset_behind(near.into()));
        let read = tokio::task::spawn_blocking(move || {
            let mut read = Vec::new();
            let error = far.read_to_end(&mut read).unwrap_err();
            (read.len(), error.kind())
        });
        assert_eq!(read.await.unwrap(), (written, ErrorKind::ConnectionReset));
        parting.await.unwrap();
    }
}
