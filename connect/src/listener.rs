//! Taking tools' connections, until a signal asks for the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_process::descriptors::{self, Room};
use culvert_process::signals::EndSignals;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::passage;
use crate::relay::Relay;

/// Most connections at once; further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 4096;

/// How long connections may go on after a signal.
const DRAIN: Duration = Duration::from_secs(10);

/// How long connections may take to be broken off after that.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long it rests when the system has no file descriptor for another connection.
const REST: Duration = Duration::from_millis(100);

/// The proxy cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("cannot listen on {address}: {error}")]
    Listen {
        address: SocketAddr,
        error: io::Error,
    },
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
}

/// How many connections there may be at once: each takes a descriptor to the tool and one to the relay.
fn make_room() -> usize {
    let Room { files, connections } = descriptors::make_room_for(MAX_CONNECTIONS, 2);
    if connections < MAX_CONNECTIONS {
        tracing::warn!(
            files,
            connections,
            "the system's limit of open files allows fewer connections than the usual \
             {MAX_CONNECTIONS}: further ones wait"
        );
    }
    connections
}

/// Serves tools until SIGTERM or SIGINT; then lets those that are connected go on for a while, or until
/// a second signal, and breaks off what is left.
pub(crate) async fn run(address: SocketAddr, relay: Relay) -> Result<(), RunError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| RunError::Listen { address, error })?;
    let address = listener.local_addr().unwrap_or(address);
    let connections = make_room();
    let mut signals = EndSignals::listen().map_err(RunError::Signals)?;
    tracing::info!(
        %address,
        relay = relay.name(),
        version = env!("CARGO_PKG_VERSION"),
        "culvert-connect runs"
    );
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches this port from other machines calls with the token");
    }
    let relay = Arc::new(relay);
    let seats = Arc::new(Semaphore::new(connections));
    let tools = TaskTracker::new();
    let end = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = signals.next() => break,
            accepted = async {
                let seat = seats.clone().acquire_owned().await;
                (listener.accept().await, seat)
            } => accepted,
        };
        match accepted {
            (Ok((tool, peer)), seat) => {
                let (relay, end) = (relay.clone(), end.clone());
                tools.spawn(async move {
                    passage::serve(tool, peer, &relay, &end).await;
                    drop(seat);
                });
            }
            (Err(error), _) => {
                tracing::warn!("a connection cannot be taken: {error}");
                sleep(REST).await;
            }
        }
    }
    drop(listener);
    tools.close();
    if !tools.is_empty() {
        tracing::info!(
            connections = tools.len(),
            "asked to end: connections may go on for {} s",
            DRAIN.as_secs()
        );
    }
    let broken_off = tokio::select! {
        biased;
        () = tools.wait() => None,
        () = sleep(DRAIN) => Some("the time is up"),
        () = signals.next() => Some("asked again"),
    };
    if let Some(why) = broken_off {
        tracing::warn!(
            connections = tools.len(),
            "connections are broken off: {why}"
        );
        end.cancel();
        let _ = timeout(GOODBYE, tools.wait()).await;
    }
    Ok(())
}
