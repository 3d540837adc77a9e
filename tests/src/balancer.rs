//! The one address in front of several relays: passes TCP connections on, in turn, to those that
//! take them.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::wires::pass;

/// A balancer in this process; its threads end with it.
#[derive(Debug)]
pub struct Balancer {
    port: u16,
    relays: Arc<Mutex<Vec<u16>>>,
}

impl Balancer {
    /// Listens on a port of its own and passes on to these.
    pub fn to(relays: &[u16]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it listens").port();
        let relays = Arc::new(Mutex::new(relays.to_vec()));
        let known = relays.clone();
        std::thread::spawn(move || {
            let next = AtomicUsize::new(0);
            for caller in listener.incoming().flatten() {
                let relays = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let first = next.fetch_add(1, Ordering::Relaxed);
                let mut tries = (0..relays.len()).map(|at| relays[(first + at) % relays.len()]);
                // One that nobody takes is closed.
                if let Some(relay) =
                    tries.find_map(|relay| TcpStream::connect((Ipv4Addr::LOCALHOST, relay)).ok())
                {
                    let _ = pass(caller, relay);
                }
            }
        });
        Self { port, relays }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on it passes on to these: what a health check would find.
    pub fn set(&self, relays: &[u16]) {
        *self.relays.lock().unwrap_or_else(PoisonError::into_inner) = relays.to_vec();
    }
}
