//! Thousands of agents in this process: the real dialling, greeting and waiting, and nothing behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use culvert_proto::control::{Control, Hello, Offer};
use culvert_proto::head::Mode;
use culvert_proto::limits::Limits;
use culvert_proto::mux;
use culvert_proto::names::EndpointName;
use culvert_session::Session;
use culvert_session::backoff::Backoff;
use culvert_session::dial::{DialError, DialTarget, dial};
use culvert_session::tls::{ServerTrust, TlsMin, client_tls};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::issuer::{AGENT, world};
use crate::stack::DOMAIN;

/// Agents that stay with the relays until it is dropped.
#[derive(Debug)]
pub struct Swarm {
    up: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    _runtime: Runtime,
}

struct Agent {
    number: usize,
    /// The relays, one of which a balancer would choose.
    targets: Arc<Vec<DialTarget>>,
    token: Arc<str>,
    up: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Swarm {
    /// Starts so many, of tenant `acme`, each with an endpoint of its own (`e0`, `e1`, ...) and a
    /// session on one of these ports by chance, again and again.
    pub fn start(count: usize, relays: &[u16]) -> Self {
        let ca = CertificateDer::from_pem_slice(world().authority.pem().as_bytes());
        let trust = ServerTrust::Ca(vec![ca.expect("a certificate")]);
        let tls = client_tls(&trust, TlsMin::V13).expect("a TLS configuration");
        let target = |port: &u16| {
            DialTarget::new(&format!("wss://{DOMAIN}:{port}"), tls.clone()).expect("an address")
        };
        let targets: Arc<Vec<_>> = Arc::new(relays.iter().map(target).collect());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread");
        let token = world().forge(|claims| {
            claims["sub"] = json!(AGENT);
            claims["scope"] = json!("culvert:register");
            claims["culvert_endpoints"] = json!(["e*"]);
        });
        let token: Arc<str> = token.into();
        let (up, refused) = (Arc::default(), Arc::default());
        for number in 0..count {
            let agent = Agent {
                number,
                targets: targets.clone(),
                token: token.clone(),
                up: Arc::clone(&up),
                refused: Arc::clone(&refused),
            };
            runtime.spawn(agent.keep());
        }
        Self {
            up,
            refused,
            _runtime: runtime,
        }
    }

    /// How many have a session.
    pub fn up(&self) -> usize {
        self.up.load(Ordering::SeqCst)
    }

    /// How often one was told to come back later.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }
}

impl Agent {
    async fn keep(self) {
        let mut backoff = Backoff::new();
        loop {
            let wait = match self.open().await {
                Ok(session) => {
                    self.up.fetch_add(1, Ordering::SeqCst);
                    session.closed().await;
                    self.up.fetch_sub(1, Ordering::SeqCst);
                    backoff.reset();
                    backoff.next_delay()
                }
                Err(error) => {
                    let retry_after = error.retry_after();
                    self.refused
                        .fetch_add(usize::from(retry_after.is_some()), Ordering::SeqCst);
                    backoff.next_delay_after(retry_after)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn open(&self) -> Result<Session, DialError> {
        let target = &self.targets[fastrand::usize(..self.targets.len())];
        let io = dial(target, &self.token, "culvert-tests").await?;
        let config = mux::Config {
            side: mux::Side::Dialer,
            hello: Hello {
                min_version: mux::VERSION,
                max_version: mux::VERSION,
                features: 0,
                name: format!("agent-{}", self.number),
                instance: (self.number as u128).to_be_bytes(),
                software: "culvert-tests".to_owned(),
                max_streams: 16,
                initial_window: 256 << 10,
                lane: None,
                slot: None,
            },
            limits: Limits::default(),
        };
        let (session, incoming, mut controls) = Session::spawn(io, config);
        // One that ends before it is registered is dialled again like any other.
        if session.ready().await.is_ok() {
            let offer = Offer {
                endpoint: EndpointName::new(&format!("e{}", self.number)).expect("a name"),
                modes: vec![Mode::Http],
                connect: Vec::new(),
                priority: None,
            };
            let offers = vec![offer];
            let _ = session.send_control(&Control::Register { request: 1, offers });
        }
        tokio::spawn(async move {
            let _incoming = incoming;
            while controls.recv().await.is_some() {}
        });
        Ok(session)
    }
}
