//! The network between agent and relay, with a hand on each connection.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Passes connections on to a relay, and cuts those that a test picks.
#[derive(Debug)]
pub struct Wires {
    port: u16,
    /// In the order in which the agent opened them.
    wires: Arc<Mutex<Vec<Wire>>>,
}

/// One connection.
#[derive(Debug)]
struct Wire {
    agent: TcpStream,
    /// Kept open here, so that only the wire's threads can end it.
    _relay: TcpStream,
    stranded: Arc<AtomicBool>,
}

impl Wires {
    /// Listens on a port of its own and passes on to `relay`, another port.
    pub fn to(relay: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let wires = Self {
            port: listener.local_addr().expect("it listens").port(),
            wires: Arc::default(),
        };
        let known = wires.wires.clone();
        std::thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                // A relay that is not there is one that does not answer.
                if let Ok(relay) = TcpStream::connect((Ipv4Addr::LOCALHOST, relay)) {
                    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                    let ends = (agent.try_clone().expect("a socket"), relay.try_clone());
                    known.push(Wire {
                        agent: ends.0,
                        _relay: ends.1.expect("a socket"),
                        stranded: pass(agent, relay).expect("two sockets"),
                    });
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
        let _ = self.lock()[number].agent.shutdown(Shutdown::Both);
    }

    /// Cuts the `number`th connection on the agent's side alone: the relay hears nothing of it, nor
    /// anything else, as from a middlebox that has forgotten a connection.
    pub fn strand(&self, number: usize) {
        let wire = &self.lock()[number];
        wire.stranded.store(true, Ordering::SeqCst);
        let _ = wire.agent.shutdown(Shutdown::Both);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Wire>> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies both ways until either side ends, then ends both, but for the relay's while it is set that
/// the connection is stranded.
pub(crate) fn pass(agent: TcpStream, relay: TcpStream) -> io::Result<Arc<AtomicBool>> {
    let stranded = Arc::new(AtomicBool::new(false));
    let there = (agent.try_clone()?, relay.try_clone()?);
    for (mut from, mut to) in [there, (relay, agent)] {
        from.set_nodelay(true)?;
        let stranded = stranded.clone();
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            if !stranded.load(Ordering::SeqCst) {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            }
        });
    }
    Ok(stranded)
}
