//! The way to an upstream: names, addresses, certificates.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn an_upstream_that_is_down_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let upstream = Upstream::new(&endpoint(&format!("http://{address}"), Trust::SystemRoots));
    let error = upstream.unwrap().get().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamUnreachable);
    assert!(
        error.to_string().contains(&address.port().to_string()),
        "{error}"
    );
    assert!(
        error.detail().contains("connection refused"),
        "{}",
        error.detail()
    );
    assert!(
        !error.detail().contains("127.0.0.1"),
        "the caller learns no inner address"
    );
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_unreachable() {
    let endpoint = endpoint("http://name.invalid", Trust::SystemRoots);
    let error = Upstream::new(&endpoint).unwrap().get().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamUnreachable);
    assert!(
        !error.detail().contains("name.invalid"),
        "the caller learns no inner name"
    );
}

#[tokio::test]
async fn localhost_speaks_for_itself_and_is_reached() {
    let server = Server::answering(None, HELLO).await;
    let port = server.address.port();
    let endpoint = endpoint(&format!("http://localhost:{port}"), Trust::SystemRoots);
    assert_eq!(text(&Upstream::new(&endpoint).unwrap()).await, "hello");
}

#[tokio::test]
async fn how_an_upstream_is_doing_is_known() {
    let server = Server::answering(None, HELLO).await;
    let upstream = upstream(&server);
    assert!(upstream.status().last_success.is_none());
    text(&upstream).await;
    assert!(upstream.status().last_success.is_some());
    let endpoint = endpoint("http://name.invalid", Trust::SystemRoots);
    let down = Upstream::new(&endpoint).unwrap();
    for _ in 0..3 {
        down.get().await.unwrap_err();
    }
    let status = down.status();
    assert_eq!(status.failures, 3);
    assert!(
        status
            .last_failure
            .unwrap()
            .1
            .contains("cannot resolve name.invalid")
    );
}

#[tokio::test]
async fn how_an_upstream_is_doing_is_known_from_calls_that_leave_http_too() {
    let server = Server::answering(None, HELLO).await;
    let reached = upstream(&server);
    reached.tcp(permit(), server.address.port()).await.unwrap();
    assert!(reached.status().last_success.is_some());
    let down = Upstream::new(&endpoint("http://name.invalid", Trust::SystemRoots)).unwrap();
    down.tcp(permit(), 443).await.unwrap_err();
    assert_eq!(down.status().failures, 1);
    let request = down.request(parts(Method::GET), RequestBody::empty());
    let request = request.unwrap();
    down.switch(permit(), request, "websocket")
        .await
        .unwrap_err();
    assert_eq!(down.status().failures, 2);
    let request = reached.request(parts(Method::GET), RequestBody::empty());
    let stays = reached
        .switch(permit(), request.unwrap(), "websocket")
        .await;
    assert!(matches!(stays, Ok(Switch::Refused(_))));
}

/// A port at which nothing answers, not even with a refusal, for as long as this is kept.
async fn silent() -> (u16, impl Sized) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // Who is not accepted takes up the room; further ones are not heard.
    let mut taken = Vec::new();
    let connect = || timeout(Duration::from_millis(200), TcpStream::connect(address));
    while let Ok(Ok(tcp)) = connect().await {
        taken.push(tcp);
    }
    (address.port(), (listener, taken))
}

#[tokio::test]
async fn a_port_that_is_silent_is_no_hindrance_to_another_one() {
    let server = Server::answering(None, HELLO).await;
    let (silent, _keep) = silent().await;
    let mut endpoint = server.endpoint(None);
    endpoint.timeouts.connect = culvert_config::units::Span(Duration::from_millis(500));
    let upstream = Upstream::new(&endpoint).unwrap();
    for _ in 0..2 {
        let error = upstream.tcp(permit(), silent).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamTimeout);
        let port = server.address.port();
        upstream.tcp(permit(), port).await.unwrap();
    }
    assert_eq!(text(&upstream).await, "hello");
}

fn ca_file(identity: &Identity) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &identity.pem).unwrap();
    file
}

#[tokio::test]
async fn the_certificate_of_the_ca_or_the_pin_is_accepted() {
    let identity = Identity::new(&["127.0.0.1"]);
    let server = Server::answering(Some(&identity), HELLO).await;
    let ca = ca_file(&identity);
    for trust in [
        Trust::Ca(ca.path().to_owned()),
        Trust::Pins(vec![[7; 32], pin_of(&identity.certificate)]),
    ] {
        let upstream = Upstream::new(&server.endpoint(Some(trust))).unwrap();
        assert_eq!(text(&upstream).await, "hello");
        assert_eq!(text(&upstream).await, "hello");
    }
    assert_eq!(
        server.connections(),
        2,
        "TLS connections are kept like others"
    );
}

#[tokio::test]
async fn another_certificate_is_refused_with_its_pin_in_the_log_before_a_byte_is_sent() {
    let identity = Identity::new(&["127.0.0.1"]);
    let other = Identity::new(&["127.0.0.1"]);
    let elsewhere = Identity::new(&["elsewhere.example"]);
    let (ca, elsewhere_ca) = (ca_file(&other), ca_file(&elsewhere));
    let pin = |identity: &Identity| {
        let pin = pin_of(&identity.certificate);
        pin.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    for (server_identity, trust, problem) in [
        (
            &identity,
            Trust::Ca(ca.path().to_owned()),
            "not signed by an authority",
        ),
        (
            &identity,
            Trust::Pins(vec![pin_of(&other.certificate)]),
            "not the pinned one",
        ),
        (
            &elsewhere,
            Trust::Ca(elsewhere_ca.path().to_owned()),
            "for another name",
        ),
    ] {
        let server = Server::start(Some(server_identity), |mut connection: Peer| async move {
            assert_eq!(connection.request().await, None);
        })
        .await;
        let upstream = Upstream::new(&server.endpoint(Some(trust))).unwrap();
        let error = upstream.get().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamTls);
        assert!(error.detail().contains(problem), "{}", error.detail());
        assert!(error.to_string().contains(&pin(server_identity)), "{error}");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_tls_says_so() {
    let server = Server::start(None, |mut connection: Peer| async move {
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        connection.closed().await;
    })
    .await;
    let upstream = Upstream::new(&server.endpoint(Some(Trust::Pins(vec![[7; 32]])))).unwrap();
    let error = upstream.get().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamTls);
    assert!(
        error.detail().contains("does not speak TLS"),
        "{}",
        error.detail()
    );
}

#[tokio::test]
async fn a_resolved_name_that_leads_home_is_not_dialled() {
    let found = |addresses: &[&str]| {
        let parsed: Vec<std::net::SocketAddr> = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        dial::permitted(
            "vc.example",
            address::Scope::Network,
            &[],
            parsed.into_iter(),
        )
    };
    let error = found(&["127.0.0.1:443", "[::1]:443"]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamUnreachable);
    assert!(error.detail().contains("loopback"), "{}", error.detail());
    let mixed = found(&["169.254.169.254:443", "10.0.0.7:443"]).unwrap();
    assert_eq!(
        mixed,
        ["10.0.0.7:443".parse().unwrap()],
        "only what was checked is dialled"
    );
}

#[test]
fn an_agent_without_file_descriptors_says_that_it_is_the_one_and_what_to_do() {
    for source in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE] {
        let error = UpstreamError::Connect {
            host: "vc.sddc.local".into(),
            port: 443,
            source: source.into(),
        };
        for error in [
            UpstreamError::Resolve {
                name: "vc.sddc.local".into(),
                source: source.into(),
            },
            UpstreamError::Shared(Arc::new(error)),
        ] {
            assert_eq!(error.code(), ErrorCode::Overloaded);
            assert!(error.detail().contains("agent has no file descriptors"));
            assert!(error.to_string().contains("raise its limit"), "{error}");
        }
    }
}

/// An error as the agent's own code makes it, for what is hard to bring about.
#[test]
fn words_for_the_caller_name_no_inner_host() {
    let host = "vc.sddc.local".to_owned();
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    for error in [
        UpstreamError::Resolve {
            name: host.clone(),
            source: refused(),
        },
        UpstreamError::Connect {
            host: host.clone(),
            port: 443,
            source: refused(),
        },
        UpstreamError::Tls {
            host: host.clone(),
            source: refused(),
            pin: None,
        },
    ] {
        assert!(error.to_string().contains(&host));
        assert!(!error.detail().contains(&host), "{}", error.detail());
    }
}
