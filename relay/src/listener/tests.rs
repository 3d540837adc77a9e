//! The listener over loopback sockets.

use std::sync::atomic::{AtomicBool, Ordering};

use culvert_config::relay::{RelayLimits, RelayTls};
use culvert_session::tls::{ServerTrust, TlsMin, client_tls, provider};
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::testing::{Lines, TestIssuer, node};
use crate::tls::PublicTls;

const HANDSHAKE: Duration = Duration::from_secs(10);

struct Rig {
    address: SocketAddr,
    terms: Terms,
    leaf: CertificateDer<'static>,
    metrics: Arc<Metrics>,
    ending: Ending,
    served: mpsc::Receiver<(Alpn, Peer)>,
    /// Whether the last connection's socket keeps queues where the scheduler sees them.
    tuned: Arc<AtomicBool>,
    /// The thread that serves the last connection.
    thread: Arc<Mutex<Option<String>>>,
    running: JoinHandle<()>,
}

impl Rig {
    /// A listener that says whom it serves, and serves by echoing.
    async fn new(connections: usize) -> Self {
        Self::with(connections, &RelayLimits::default()).await
    }

    async fn with(connections: usize, limits: &RelayLimits) -> Self {
        Self::on(Workers::here(), connections, limits, |_| None).await
    }

    /// The same on these workers, of which a server's name may have one for its own.
    async fn on<H>(workers: Workers, connections: usize, limits: &RelayLimits, home: H) -> Self
    where
        H: Fn(&str) -> Option<Handle> + Clone + Send + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["relay.test".to_owned()]).unwrap();
        let leaf = leaf.self_signed(&key).unwrap();
        let files = RelayTls {
            certificate: folder.path().join("relay.pem"),
            private_key: folder.path().join("relay.key"),
            client_ca: None,
            sni: Vec::new(),
        };
        std::fs::write(&files.certificate, leaf.pem()).unwrap();
        std::fs::write(&files.private_key, key.serialize_pem()).unwrap();
        let tls = PublicTls::load(&files, "relay.test", std::iter::empty()).unwrap();
        let (metrics, ending) = (Arc::new(Metrics::new()), Ending::default());
        let terms = Terms {
            workers: Arc::new(workers),
            balancers: Arc::default(),
            tls,
            handshake: HANDSHAKE,
            connections,
            strangers: Strangers::new(limits, metrics.clone()),
            handshakes: Handshakes::new(limits, metrics.clone()),
        };
        let listener = Listener::bind(
            "127.0.0.1:0".parse().unwrap(),
            terms.clone(),
            metrics.clone(),
        )
        .unwrap();
        let address = listener.address().unwrap();
        let (tell, served) = mpsc::channel(100);
        let tuned = Arc::new(AtomicBool::new(false));
        let thread = Arc::new(Mutex::new(None));
        let (seen, on) = (tuned.clone(), thread.clone());
        let serve = move |connection, alpn, peer| {
            let tell = tell.clone();
            seen.store(is_tuned(&connection), Ordering::Relaxed);
            *on.lock().unwrap() = std::thread::current().name().map(ToOwned::to_owned);
            async move {
                tell.send((alpn, peer)).await.unwrap();
                let (mut read, mut write) = tokio::io::split(connection);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        };
        let running = tokio::spawn(listener.run(ending.clone(), home, serve));
        Self {
            address,
            terms,
            leaf: leaf.der().clone(),
            metrics,
            ending,
            served,
            tuned,
            thread,
            running,
        }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn tls(
        &self,
        config: Arc<ClientConfig>,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from("relay.test").unwrap();
        TlsConnector::from(config)
            .connect(name, self.tcp().await)
            .await
    }

    fn client(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let pin = culvert_session::tls::pin_of(&self.leaf);
        let mut config = (*client_tls(&ServerTrust::Pins(vec![pin]), TlsMin::V12).unwrap()).clone();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    fn has(&self, line: &str) -> bool {
        self.metrics
            .render()
            .unwrap()
            .contains(&format!("culvert_relay_{line}\n"))
    }
}

fn is_tuned(connection: &Connection) -> bool {
    let socket = SockRef::from(&connection.get_ref().0.io().tcp);
    #[cfg(target_os = "linux")]
    let low = socket.tcp_notsent_lowat().unwrap() == socket::NOT_SENT_LOW_WATER;
    #[cfg(not(target_os = "linux"))]
    let low = true;
    low && socket.tcp_nodelay().unwrap()
}

#[tokio::test]
async fn a_socket_that_may_become_a_session_queues_little_in_the_kernel() {
    let mut rig = Rig::new(10).await;
    let _io = rig.tls(rig.client(&[b"http/1.1"])).await.unwrap();
    rig.served.recv().await.unwrap();
    assert!(rig.tuned.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_connection_is_served_as_its_alpn_says() {
    let mut rig = Rig::new(10).await;
    let cases: [(&[&[u8]], Alpn); 4] = [
        (&[b"h2", b"http/1.1"], Alpn::H2),
        (&[b"http/1.1"], Alpn::Http1),
        (&[b"http/1.1", b"h2"], Alpn::H2),
        (&[], Alpn::Http1),
    ];
    for (offered, expected) in cases {
        let mut io = rig.tls(rig.client(offered)).await.unwrap();
        let (alpn, peer) = rig.served.recv().await.unwrap();
        assert_eq!(alpn, expected, "{offered:?}");
        assert!(peer.tls13);
        assert_eq!(peer.address, io.get_ref().0.local_addr().unwrap());
        io.write_all(b"x").await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), b'x');
    }
    assert!(rig.has("arrivals_total{outcome=\"established\"} 4"));
}

#[tokio::test]
async fn tls_1_2_is_taken_and_said_and_nothing_older() {
    let mut rig = Rig::new(10).await;
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier(&rig))
        .with_no_client_auth();
    let _io = rig.tls(Arc::new(old)).await.unwrap();
    let (_, peer) = rig.served.recv().await.unwrap();
    assert!(!peer.tls13);

    // A ClientHello of TLS 1.1, as far as it has to go.
    let mut tcp = rig.tcp().await;
    tcp.write_all(b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x02")
        .await
        .unwrap();
    tcp.write_all(&[7; 32]).await.unwrap();
    tcp.write_all(b"\x00\x00\x02\x00\x2f\x01\x00")
        .await
        .unwrap();
    let mut alert = Vec::new();
    let _ = tcp.read_to_end(&mut alert).await;
    assert_eq!(alert.first(), Some(&0x15), "an alert, not a handshake");
}

/// Trusts the rig's certificate: for a client that is as old as the test wants it.
fn verifier(rig: &Rig) -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rig.leaf.clone()).unwrap();
    rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .unwrap()
}

#[tokio::test]
async fn what_is_too_much_is_closed_before_tls_and_a_free_seat_is_used_again() {
    let mut rig = Rig::new(1).await;
    let first = rig.tls(rig.client(&[])).await.unwrap();
    rig.served.recv().await.unwrap();
    let mut second = rig.tcp().await;
    assert_eq!(
        second.read(&mut [0; 1]).await.unwrap_or(0),
        0,
        "closed without a word"
    );
    assert!(rig.has("arrivals_total{outcome=\"shed\"} 1"));
    assert!(rig.has("connections 1"));
    drop(first);
    while !rig.has("connections 0") {
        tokio::task::yield_now().await;
    }
    rig.tls(rig.client(&[])).await.unwrap();
    rig.served.recv().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let rig = Rig::new(1).await;
    let started = Instant::now();
    let mut silent = rig.tcp().await;
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(started.elapsed() >= HANDSHAKE);
    assert!(rig.has("arrivals_total{outcome=\"no-tls\"} 1"));
}

#[tokio::test]
async fn what_is_not_tls_harms_nobody() {
    let mut rig = Rig::new(10).await;
    let mut stranger = rig.tcp().await;
    stranger
        .write_all(b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer).await;
    assert!(answer.len() < 20, "an alert at most");
    rig.tls(rig.client(&[])).await.unwrap();
    rig.served.recv().await.unwrap();
}

#[tokio::test]
async fn a_node_that_drains_takes_no_connections_and_lets_the_others_go_on() {
    let mut rig = Rig::new(10).await;
    let mut io = rig.tls(rig.client(&[])).await.unwrap();
    rig.served.recv().await.unwrap();
    rig.ending.drain.cancel();
    (&mut rig.running).await.unwrap();
    assert!(TcpStream::connect(rig.address).await.is_err());
    io.write_all(b"x").await.unwrap();
    assert_eq!(io.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error() {
    let rig = Rig::new(1).await;
    let error = Listener::bind(rig.address, rig.terms, rig.metrics.clone())
        .err()
        .unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

/// A connection that says nothing, half of a ClientHello, or all of one and then nothing keeps nobody
/// waiting: a turn is for work.
#[tokio::test(start_paused = true)]
async fn who_stalls_in_tls_keeps_nobody_out() {
    let limits = RelayLimits {
        handshakes: 1,
        ..RelayLimits::default()
    };
    let mut rig = Rig::with(100, &limits).await;
    let client = rig.client(&[b"http/1.1"]);
    let name = ServerName::try_from("relay.test").unwrap();
    let mut hello = Vec::new();
    let mut stalled = rustls::ClientConnection::new(client.clone(), name).unwrap();
    stalled.write_tls(&mut hello).unwrap();
    let _silent = rig.tcp().await;
    let mut held = Vec::new();
    let half = hello.len() / 2;
    for begun in [&hello[..1], &hello[..half], &hello] {
        for _ in 0..10 {
            let mut tcp = rig.tcp().await;
            tcp.write_all(begun).await.unwrap();
            held.push(tcp);
        }
    }
    while !rig.has("connections 31") {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    let _io = rig.tls(client).await.unwrap();
    rig.served.recv().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// Whose turn does not come in time is closed, not served.
#[tokio::test]
async fn who_waits_for_too_long_is_closed() {
    let limits = RelayLimits {
        handshakes: 1,
        handshake_wait: culvert_config::units::Span(Duration::from_millis(50)),
        ..RelayLimits::default()
    };
    let rig = Rig::with(10, &limits).await;
    let _turn = rig.terms.handshakes.turn().await.unwrap();
    assert!(rig.tls(rig.client(&[b"http/1.1"])).await.is_err());
    assert!(rig.has("arrivals_total{outcome=\"late\"} 1"));
    assert!(rig.has("handshakes_late_total 1"));
}

/// What the kernel has accepted when the node begins to drain is served.
#[tokio::test]
async fn a_drain_leaves_no_accepted_connection_behind() {
    let mut rig = Rig::new(10).await;
    // Nobody has run since: the listener cannot have taken it.
    let address = rig.address;
    let tcp = std::net::TcpStream::connect(address).unwrap();
    rig.ending.drain.cancel();
    tcp.set_nonblocking(true).unwrap();
    let tcp = TcpStream::from_std(tcp).unwrap();
    let name = ServerName::try_from("relay.test").unwrap();
    let client = TlsConnector::from(rig.client(&[b"http/1.1"]));
    let _io = client.connect(name, tcp).await.unwrap();
    rig.served.recv().await.unwrap();
}

/// Also where nothing else is waited for.
#[tokio::test]
async fn an_idle_node_drains_no_sooner_than_what_the_kernel_has_accepted_is_served() {
    let mut rig = Rig::new(10).await;
    let node = node(&TestIssuer::new(), &RelayLimits::default());
    let tcp = std::net::TcpStream::connect(rig.address).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let tcp = TcpStream::from_std(tcp).unwrap();
    let (ending, metrics) = (rig.ending.clone(), rig.metrics.clone());
    let limit = Duration::from_secs(30);
    let draining = tokio::spawn(async move {
        crate::drain::drain(&ending, &node.agents, &metrics, limit, false).await;
    });
    let name = ServerName::try_from("relay.test").unwrap();
    let client = TlsConnector::from(rig.client(&[b"http/1.1"]));
    let io = client.connect(name, tcp).await.unwrap();
    rig.served.recv().await.unwrap();
    assert!(!draining.is_finished());
    drop(io);
    draining.await.unwrap();
}

/// What a call wakes on its way is on one thread: connections are served by the worker that the
/// session of their endpoint is with.
#[tokio::test]
async fn a_connection_goes_to_the_worker_that_its_name_belongs_to() {
    let workers = Workers::start(3).unwrap();
    let home = workers.next().clone();
    let home = move |name: &str| (name == "relay.test").then(|| home.clone());
    let mut rig = Rig::on(workers, 100, &RelayLimits::default(), home).await;
    for _ in 0..6 {
        let mut caller = rig.tls(rig.client(&[])).await.unwrap();
        rig.served.recv().await.unwrap();
        assert_eq!(rig.thread.lock().unwrap().as_deref(), Some("worker-0"));
        caller.write_all(b"hear me").await.unwrap();
        let mut echo = [0; 7];
        caller.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"hear me");
    }
}

/// It is the source that the balancer's header names which has too many, and that is what is counted and
/// said.
#[tokio::test]
async fn too_many_of_one_source_behind_a_balancer_are_shed_as_its() {
    let (lines, _guards) = Lines::listen();
    let limits = RelayLimits {
        unauthenticated_per_source: 1,
        ..RelayLimits::default()
    };
    let rig = Rig::with(10, &limits).await;
    let terms = Terms {
        balancers: ["127.0.0.1/32".parse().unwrap()].into(),
        ..rig.terms.clone()
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, terms, rig.metrics.clone()).unwrap();
    let address = listener.address().unwrap();
    let (tell, mut served) = mpsc::channel(10);
    let serve = move |mut connection: PlainConnection, peer: Peer| {
        let tell = tell.clone();
        async move {
            tell.send(peer.address).await.unwrap();
            // Nobody proves anything until the caller goes.
            let _ = connection.read(&mut [0; 1]).await;
        }
    };
    tokio::spawn(listener.run_plain(rig.ending.clone(), serve));
    let arrive = async || {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 80 443\r\n";
        tcp.write_all(header).await.unwrap();
        tcp
    };
    let _first = arrive().await;
    let first = served.recv().await.unwrap();
    assert_eq!(first, "192.0.2.7:80".parse().unwrap());
    let mut second = arrive().await;
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(rig.has("arrivals_total{outcome=\"source-shed\"} 1"));
    assert!(rig.has("arrivals_total{outcome=\"not-introduced\"} 0"));
    // A third one soon after is not worth another line.
    let mut third = arrive().await;
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let said = lines.text();
    let said = said.lines().filter(|line| line.contains("from 192.0.2.7"));
    let said: Vec<_> = said.collect();
    assert!(said.len() == 1 && said[0].contains("WARN"), "{said:?}");
}
