//! The address for nodes, and who comes there.

use culvert_config::relay::RelayLimits;
use culvert_proto::growth::GrowthBudget;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::yield_now;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::peer::tls::tests::{Authority, NAME};
use crate::peer::{Peers, Target};
use crate::testing::{self, Lines, TestIssuer};

const SOON: Duration = Duration::from_secs(100);

fn introduction(process: u8) -> Introduction {
    Introduction {
        name: format!("n{process}"),
        instance: [process; 16],
        growth: GrowthBudget::new(1 << 20),
        waiting: GrowthBudget::new(1 << 20).by_tenant(),
    }
}

/// Node 1, which takes connections with what is in these files.
async fn start(tls: PeerTls) -> (SocketAddr, AbortOnDropHandle<()>) {
    let node = testing::node(&TestIssuer::new(), &RelayLimits::default());
    let acceptor = Acceptor::bind(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        Arc::new(tls),
        introduction(1),
        &node,
        Arc::new(Workers::here()),
    );
    let acceptor = acceptor.await.unwrap();
    let address = acceptor.socket.local_addr().unwrap();
    let running = tokio::spawn(acceptor.run());
    (address, AbortOnDropHandle::new(running))
}

async fn until_said(lines: &Lines, what: &str) {
    let said = async {
        while !lines.text().contains(what) {
            yield_now().await;
        }
    };
    let in_time = timeout(SOON, said).await;
    assert!(in_time.is_ok(), "{what}: {}", lines.text());
}

#[tokio::test]
async fn a_node_whose_certificate_others_refuse_says_that_it_is_its_own() {
    let refused = "the other side refuses this node's certificate: CertificateExpired";
    // (until when that of the node that takes is good, and of the one that dials, and what either says)
    for (takes, dials, said) in [
        (2100, 2010, format!("a node cannot be reached: {refused}")),
        (
            2010,
            2100,
            format!("a connection at the address for nodes is closed: {refused}"),
        ),
    ] {
        let (lines, _guards) = Lines::listen();
        let authority = Authority::new();
        let load = |node, until| PeerTls::load(&authority.write(node, NAME, until)).unwrap();
        let (address, _running) = start(load("n1", takes)).await;
        let tls = Arc::new(load("n2", dials));
        let peers = Peers::new(tls, introduction(2), Arc::new(Workers::here()));
        let (_link, _kept_up) = peers.link(Target {
            name: "n1".into(),
            instance: [1; 16],
            address: address.to_string(),
        });
        until_said(&lines, &said).await;
    }
}

#[tokio::test]
async fn silent_connections_of_one_source_keep_no_node_out() {
    let authority = Authority::new();
    let load = |node| PeerTls::load(&authority.write(node, NAME, 2100)).unwrap();
    let (address, _running) = start(load("n1")).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut last = silent.pop().unwrap();
    let closed = timeout(SOON, last.read(&mut [0])).await.unwrap();
    assert!(!matches!(closed, Ok(1..)), "{closed:?}");

    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let tcp = socket.connect(address).await.unwrap();
    let tls = load("n2");
    let tls = TlsConnector::from(tls.client()).connect(tls.name(), ReadAhead::new(tcp));
    let tls = timeout(SOON, tls).await.unwrap().unwrap();
    let config = introduction(2).config(Side::Dialer);
    let (session, _, _) = Session::spawn(WebSocketIo::dialer(tls, Vec::new()), config);
    let hello = timeout(SOON, session.ready()).await.unwrap().unwrap();
    assert_eq!(hello.instance, [1; 16]);
}

#[tokio::test]
async fn strangers_have_no_line_for_each_connection() {
    let (lines, _guards) = Lines::listen();
    let tls = PeerTls::load(&Authority::new().write("n1", NAME, 2100)).unwrap();
    let (address, _running) = start(tls).await;
    for _ in 0..20 {
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(SOON, stranger.read_to_end(&mut answer))
            .await
            .unwrap();
    }
    let said = lines.text().matches("no node of this cluster").count();
    assert_eq!(said, 1, "{}", lines.text());
}
