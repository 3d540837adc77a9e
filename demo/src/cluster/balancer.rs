//! The one address in front of the relays: passes TCP connections on to those that are ready.
//!
//! What any TCP balancer does, in a few lines: it asks each relay's `/readyz` five times a second,
//! gives new connections to the ready ones in turn, and tries the next one where nobody answers.
//! Bytes pass untouched: TLS ends at the relays.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::failure::{Doing, Result};

/// How often each relay is asked whether it is ready.
const HEALTH_INTERVAL: Duration = Duration::from_millis(200);

/// How long it may take to answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long accepting rests after it failed: what was short, like file descriptors, comes back.
const REST: Duration = Duration::from_millis(50);

/// A relay as the balancer sees it.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) public: u16,
    pub(super) admin: u16,
    ready: AtomicBool,
    /// Connections that pass through.
    open: AtomicUsize,
}

impl Backend {
    pub(super) fn new(public: u16, admin: u16) -> Arc<Self> {
        Arc::new(Self {
            public,
            admin,
            ready: AtomicBool::new(false),
            open: AtomicUsize::new(0),
        })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub(super) fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Listens, and passes on for as long as the set lives.
pub(super) async fn start(
    port: u16,
    backends: &[Arc<Backend>],
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.doing(|| format!("the balancer cannot listen on port {port}"))?;
    for backend in backends {
        tasks.spawn(watch(backend.clone()));
    }
    tasks.spawn(accept(listener, backends.to_vec()));
    Ok(())
}

async fn accept(listener: TcpListener, backends: Vec<Arc<Backend>>) {
    let mut passing = JoinSet::new();
    let mut turn = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((caller, _)) => {
                    turn += 1;
                    let mut order = backends.clone();
                    order.rotate_left(turn % backends.len());
                    passing.spawn(pass(caller, order));
                }
                Err(_) => sleep(REST).await,
            },
            Some(_) = passing.join_next() => {}
        }
    }
}

/// Passes a connection on to the first ready relay that takes it; closes it if none does.
async fn pass(mut caller: TcpStream, order: Vec<Arc<Backend>>) {
    for backend in order.into_iter().filter(|backend| backend.is_ready()) {
        let Ok(mut relay) = TcpStream::connect((Ipv4Addr::LOCALHOST, backend.public)).await else {
            continue;
        };
        let _ = caller.set_nodelay(true);
        let _ = relay.set_nodelay(true);
        backend.open.fetch_add(1, Ordering::Relaxed);
        let _ = copy_bidirectional(&mut caller, &mut relay).await;
        backend.open.fetch_sub(1, Ordering::Relaxed);
        return;
    }
}

async fn watch(backend: Arc<Backend>) {
    let mut ticks = interval(HEALTH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ready = timeout(HEALTH_TIMEOUT, is_ready(backend.admin)).await;
        backend
            .ready
            .store(matches!(ready, Ok(Ok(true))), Ordering::Relaxed);
    }
}

async fn is_ready(admin: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, admin)).await?;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(&status == b"HTTP/1.1 200")
}
