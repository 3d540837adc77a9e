//! The network between agent and relay, with a hand on each connection.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Passes connections on to a relay, and cuts those that a test picks.
#[derive(Debug)]
pub struct Wires {
    port: u16,
    /// In the order in which the agent opened them.
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wires {
    /// Listens on a port of its own and passes on to `relay`, another port.
    pub fn to(relay: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let wires = Self {
            port: listener.local_addr().expect("it listens").port(),
            ends: Arc::default(),
        };
        let ends = wires.ends.clone();
        std::thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                // A relay that is not there is one that does not answer.
                if let Ok(relay) = TcpStream::connect((Ipv4Addr::LOCALHOST, relay)) {
                    let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                    ends.push(agent.try_clone().expect("a socket"));
                    pass(agent, relay).expect("two sockets");
                }
            }
        });
        wires
    }

    /// The port to dial instead of the relay's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections so far.
    pub fn opened(&self) -> usize {
        self.lock().len()
    }

    /// Cuts the `number`th connection, from 0: both ends see that it is gone.
    pub fn cut(&self, number: usize) {
        // Its other half follows. It may have ended by itself.
        let _ = self.lock()[number].shutdown(Shutdown::Both);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies both ways until either side ends, then ends both.
pub(crate) fn pass(agent: TcpStream, relay: TcpStream) -> io::Result<()> {
    let there = (agent.try_clone()?, relay.try_clone()?);
    for (mut from, mut to) in [there, (relay, agent)] {
        from.set_nodelay(true)?;
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
