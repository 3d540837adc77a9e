//! What a dialer trusts, and what it says when a dial fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::GoawayCode;
use culvert_proto::mux::Side;
use culvert_session::WebSocketIo;
use culvert_session::dial::{DialError, DialPhase, DialTarget, dial};
use culvert_session::tls::{ServerTrust, TlsConfigError, TlsMin, client_tls, server_identity};
use rustls::{CertificateError, ClientConfig, NamedGroup, ProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::relay::{Certificates, Relay, read_request, upgrade};
use crate::support::{End, config, read_all, soon, stream};

fn trust_ca(certificates: &Certificates) -> Arc<ClientConfig> {
    client_tls(
        &ServerTrust::CaFile(certificates.path("ca.pem")),
        TlsMin::V13,
    )
    .unwrap()
}

async fn dial_error(url: &str, tls: Arc<ClientConfig>) -> DialError {
    let target = DialTarget::new(url, tls).unwrap();
    dial(&target, "token", "culvert-test/0")
        .await
        .map(drop)
        .unwrap_err()
}

/// Dials a relay that takes TLS connections until the dial is decided.
async fn dial_tls(relay: &Relay, tls: Arc<ClientConfig>) -> DialError {
    let url = relay.url();
    let (error, _) = tokio::join!(dial_error(&url, tls), relay.accept());
    error
}

fn certificate_error(error: &DialError) -> &CertificateError {
    let DialError::Tls { source, .. } = error else {
        panic!("{error}")
    };
    match source.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_dial_speaks_tls_1_3_with_a_post_quantum_key_exchange_and_http_1_1() {
    let certificates = Certificates::new();
    let relay = Relay::new(certificates.server()).await;
    let target = DialTarget::new(&relay.url(), trust_ca(&certificates)).unwrap();
    let accept = async {
        let mut io = relay.accept().await.unwrap();
        let request = upgrade(&mut io).await;
        (io, request)
    };
    let (dialled, (io, request)) = tokio::join!(dial(&target, "t0ken", "culvert-test/0"), accept);
    dialled.unwrap();
    let connection = io.get_ref().1;
    assert_eq!(
        connection.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    let group = connection.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
    let host = format!("\r\nHost: localhost:{}\r\n", relay.address().port());
    assert!(request.contains(&host), "{request}");
    assert!(
        request.contains("\r\nAuthorization: Bearer t0ken\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn a_session_over_a_dialled_connection_moves_data_both_ways() {
    let certificates = Certificates::new();
    let relay = Relay::new(certificates.server()).await;
    let target = DialTarget::new(&relay.url(), trust_ca(&certificates)).unwrap();
    let accept = async {
        let mut io = relay.accept().await.unwrap();
        upgrade(&mut io).await;
        End::over(WebSocketIo::acceptor(io), config(Side::Acceptor))
    };
    let (dialled, relay) = tokio::join!(dial(&target, "t", "u"), accept);
    let mut agent = End::over(dialled.unwrap(), config(Side::Dialer));
    soon(relay.session.ready()).await.unwrap();

    let (near, far) = soon(stream(&relay, &mut agent)).await;
    let bytes = Bytes::from(vec![7; 8 << 20]);
    let transfers = [near.split(), far.split()].map(|(mut send, mut recv)| {
        let bytes = bytes.clone();
        async move {
            let sent = async {
                send.write_bytes(bytes.clone()).await.unwrap();
                send.finish().unwrap();
            };
            let ((), received) = tokio::join!(sent, read_all(&mut recv));
            assert!(bytes == received);
        }
    });
    soon(futures_util::future::join_all(transfers)).await;

    agent.session.close(GoawayCode::Drain, "the test is over");
    soon(relay.session.closed()).await;
}

#[tokio::test]
async fn only_the_named_authority_is_trusted() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let relay = Relay::new(certificates.server()).await;
    let error = dial_tls(&relay, trust_ca(&others)).await;
    assert!(
        matches!(certificate_error(&error), CertificateError::UnknownIssuer),
        "{error}"
    );
    assert!(error.advice().contains("set relay.ca"));
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let certificates = Certificates::new();
    let relay = Relay::new(certificates.server()).await;
    let url = format!("wss://127.0.0.1:{}", relay.address().port());
    let (error, _) = tokio::join!(dial_error(&url, trust_ca(&certificates)), relay.accept());
    let expected = matches!(
        certificate_error(&error),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    );
    assert!(expected, "{error}");
    assert_eq!(error.phase(), DialPhase::Tls);
}

#[tokio::test]
async fn a_pin_takes_the_place_of_chain_and_name_and_a_wrong_one_is_refused_with_the_right_one() {
    let certificates = Certificates::new();
    let relay = Relay::new(certificates.server()).await;
    let url = format!("wss://127.0.0.1:{}", relay.address().port());
    let pinned = client_tls(
        &ServerTrust::Pins(vec![[9; 32], certificates.pin()]),
        TlsMin::V13,
    );
    let target = DialTarget::new(&url, pinned.unwrap()).unwrap();
    let accept = async {
        let mut io = relay.accept().await.unwrap();
        upgrade(&mut io).await;
        io
    };
    let (dialled, _io) = tokio::join!(dial(&target, "t", "u"), accept);
    dialled.unwrap();

    let wrong = client_tls(&ServerTrust::Pins(vec![[9; 32]]), TlsMin::V13).unwrap();
    let error = dial_tls(&relay, wrong).await;
    let found: String = certificates
        .pin()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(error.to_string().contains(&found), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_1_3_is_refused_by_dials_and_taken_by_upstream_configurations() {
    let certificates = Certificates::new();
    let relay = Relay::new(certificates.old_server()).await;
    let error = dial_tls(&relay, trust_ca(&certificates)).await;
    assert_eq!(error.phase(), DialPhase::Tls);
    assert!(
        error.advice().contains("TLS 1.3"),
        "{error}: {}",
        error.advice()
    );

    // The same with a pin: its verifier checks TLS 1.2 signatures as well.
    let trust = ServerTrust::Pins(vec![certificates.pin()]);
    for trust in [ServerTrust::CaFile(certificates.path("ca.pem")), trust] {
        let target =
            DialTarget::new(&relay.url(), client_tls(&trust, TlsMin::V12).unwrap()).unwrap();
        let accept = async {
            let mut io = relay.accept().await.unwrap();
            upgrade(&mut io).await;
            io
        };
        let (dialled, _io) = tokio::join!(dial(&target, "t", "u"), accept);
        dialled.unwrap();
    }
}

#[tokio::test]
async fn each_phase_fails_with_its_own_error() {
    let tls = client_tls(&ServerTrust::Pins(vec![[0; 32]]), TlsMin::V13).unwrap();

    let error = dial_error("wss://no-such-host.invalid", tls.clone()).await;
    assert_eq!(error.phase(), DialPhase::Dns, "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let hang_up = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
    };
    let (error, ()) = tokio::join!(dial_error(&url, tls.clone()), hang_up);
    assert!(matches!(error, DialError::Tls { .. }), "{error}");

    drop(listener);
    let error = dial_error(&url, tls).await;
    assert!(matches!(error, DialError::Tcp { .. }), "{error}");
    assert!(error.advice().contains("proxy"));
}

#[tokio::test]
async fn a_refused_upgrade_carries_status_retry_after_and_text() {
    let certificates = Certificates::new();
    let relay = Relay::new(certificates.server()).await;
    let refuse = async {
        let mut io = relay.accept().await.unwrap();
        read_request(&mut io).await;
        // The body comes in its own packets, after the head.
        let head =
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 9\r\ncontent-length: 15\r\n\r\n";
        io.write_all(head.as_bytes()).await.unwrap();
        io.flush().await.unwrap();
        io.write_all(b"node is").await.unwrap();
        io.flush().await.unwrap();
        io.write_all(b" drained").await.unwrap();
        io.flush().await.unwrap();
        io
    };
    let url = relay.url();
    let (error, _io) = tokio::join!(dial_error(&url, trust_ca(&certificates)), refuse);
    assert_eq!(error.phase(), DialPhase::WebSocket);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.status, http::StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refusal.body, "node is drained");
    assert!(
        !format!("{error:?} {error}").contains("token"),
        "the token stays out of errors"
    );
}

#[tokio::test]
async fn a_silent_server_is_given_up_after_the_phase_s_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let tls = client_tls(&ServerTrust::Pins(vec![[0; 32]]), TlsMin::V13).unwrap();
    let dialling = tokio::spawn(async move { dial_error(&url, tls).await });
    let (_silent, _) = listener.accept().await.unwrap();
    tokio::time::pause();
    let error = dialling.await.unwrap();
    assert!(
        matches!(
            error,
            DialError::Timeout {
                phase: DialPhase::Tls,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn errors_about_files_name_the_file() {
    let certificates = Certificates::new();
    let garbage = certificates.write("garbage.pem", "hello");
    let other_key = Certificates::new().path("leaf.key");
    let (leaf, key) = (certificates.path("leaf.pem"), certificates.path("leaf.key"));
    let missing = Path::new("missing.pem");
    let ca = |path: &Path| client_tls(&ServerTrust::CaFile(path.into()), TlsMin::V13).map(drop);
    let identity = |leaf: &Path, key: &Path| server_identity(leaf, key).map(drop);

    assert!(identity(&leaf, &key).is_ok());
    for (result, file, word) in [
        (ca(missing), missing, "cannot be read"),
        (ca(&garbage), &garbage, "no certificate found"),
        (ca(&key), &key, "no certificate found"),
        (identity(&leaf, &leaf), &leaf, "no private key found"),
        (identity(missing, &key), missing, "cannot be read"),
        (identity(&leaf, &other_key), &other_key, ""),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(&*file.to_string_lossy()), "{error}");
        assert!(error.contains(word), "{error}");
    }
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let damaged = certificates.write("damaged.pem", damaged);
    assert!(matches!(
        ca(&damaged),
        Err(TlsConfigError::BadCertificate { number: 1, .. })
    ));
    let none = client_tls(&ServerTrust::Pins(vec![]), TlsMin::V13);
    assert!(matches!(none, Err(TlsConfigError::BadTrust { .. })));
}
