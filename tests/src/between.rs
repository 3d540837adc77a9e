//! The network between relays: passes connections on, or loses them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The way to one relay, for all others.
#[derive(Debug)]
pub struct Between {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing gets through, and nobody is told.
    lost: Mutex<bool>,
    changed: Condvar,
}

impl Between {
    /// Listens on a port of its own and passes on to `relay`, another port.
    pub fn to(relay: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it listens").port();
        let state: Arc<State> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || {
                    state.pass();
                    let Ok(there) = TcpStream::connect((Ipv4Addr::LOCALHOST, relay)) else {
                        return;
                    };
                    let (Ok(back), Ok(forth)) = (here.try_clone(), there.try_clone()) else {
                        return;
                    };
                    let other = state.clone();
                    std::thread::spawn(move || carry(there, back, &other));
                    carry(here, forth, &state);
                });
            }
        });
        Self { port, state }
    }

    /// The port to dial instead of the relay's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing gets through: bytes are held, as by a network that loses every packet.
    pub fn lose(&self) {
        *self.state.lock() = true;
    }

    /// Everything gets through again, what was held first.
    pub fn heal(&self) {
        *self.state.lock() = false;
        self.state.changed.notify_all();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something gets through.
    fn pass(&self) {
        let lost = self
            .changed
            .wait_while(self.lock(), |lost| *lost)
            .unwrap_or_else(PoisonError::into_inner);
        drop(lost);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = vec![0; 64 * 1024];
    let _ = from.set_nodelay(true);
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        state.pass();
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    state.pass();
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
