//! Passages: CONNECTs of which the agent sees the ClientHello at most.

use culvert_config::endpoint::Trust;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::super::hello::UNRECOGNIZED_NAME;
use super::*;
use crate::testing::client_hello;

const RULES: &str = r#"
version = 1
[[rule]]
id = "a"
action = "allow"
mode = ["connect"]
host = ["a.local", "10.0.0.5"]
"#;

/// Sends a CONNECT to `name` with a ClientHello for `server`: what the upstream got, and what the
/// caller.
async fn pass(name: &'static str, server: &str) -> (Vec<u8>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("https://{}", listener.local_addr().unwrap());
    let mut endpoint = endpoint(&upstream, Trust::SystemRoots);
    endpoint.modes = vec![Mode::Connect];
    endpoint.connect = ["a.local:443", "b.local:443", "10.0.0.5:443"]
        .map(|name| ConnectName::parse(name).unwrap())
        .to_vec();
    let tunnel = Tunnel::dialling(RULES, &endpoint).await;
    let head = CallHead {
        mode: Mode::Connect,
        body: BodyLength::Unknown,
        authority: Bytes::from_static(name.as_bytes()),
        ..head(Method::CONNECT, name)
    };
    let mut stream = tunnel.relay.open(&head, Bytes::new(), false).unwrap();
    assert_eq!(answer(&mut stream).await.status, 200);
    let sent = stream.send.write_bytes(client_hello(server).into()).await;
    sent.unwrap();
    tokio::join!(
        async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; 4096];
            // A caller that is refused is broken off.
            let length = tcp.read(&mut heard).await.unwrap_or(0);
            heard.truncate(length);
            heard
        },
        async {
            let (told, _) = body(&mut stream).await;
            let _ = stream.send.finish();
            told
        }
    )
}

#[tokio::test]
async fn a_connection_to_one_name_cannot_ask_the_upstream_for_another() {
    for (name, server) in [
        ("a.local:443", "a.local"),
        ("a.local:443", "A.Local"),
        // Without a server's name: addresses have none.
        ("10.0.0.5:443", "10.0.0.5"),
    ] {
        let (heard, told) = pass(name, server).await;
        assert!(!heard.is_empty(), "{name} {server}");
        assert!(told.is_empty(), "{name} {server}");
    }
    for (name, server) in [
        ("a.local:443", "b.local"),
        ("a.local:443", "c.local"),
        ("a.local:443", "10.0.0.5"),
        ("10.0.0.5:443", "a.local"),
    ] {
        let (heard, told) = pass(name, server).await;
        assert!(heard.is_empty(), "{name} {server}");
        assert_eq!(told, UNRECOGNIZED_NAME, "{name} {server}");
    }
}
