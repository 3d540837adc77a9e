//! What `diagnose` is told of an upstream.

use std::time::Duration;

use culvert_config::endpoint::UpstreamProtocol;
use culvert_config::units::Span;
use http::{Response, StatusCode};

use super::*;

const OK: Heard = Heard::Answer(StatusCode::OK);

/// Trusts the identity's own certificate.
fn pinned(identity: &Identity) -> Option<Trust> {
    Some(Trust::Pins(vec![pin_of(&identity.certificate)]))
}

/// Of a server without TLS, which may wait for ever for the rest of a client's first words.
fn impatient(server: &Server) -> Endpoint {
    let mut endpoint = server.endpoint(None);
    endpoint.timeouts.tls = Span(Duration::from_millis(50));
    endpoint
}

async fn heard(endpoint: &Endpoint) -> Result<Heard, ProbeError> {
    let probed = Upstream::new(endpoint).unwrap().probe(true).await?;
    Ok(probed.heard)
}

#[tokio::test]
async fn the_head_of_the_root_is_all_that_is_asked() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(None, move |mut connection: Peer| {
        let sender = sender.clone();
        async move {
            while let Some(request) = connection.request().await {
                sender.send(request).unwrap();
                connection.send(HELLO).await;
            }
        }
    });
    let server = server.await;
    assert_eq!(heard(&server.endpoint(None)).await.unwrap(), OK);
    let request = seen.recv().await.unwrap();
    assert!(request.starts_with("HEAD / HTTP/1.1\r\n"), "{request}");
    assert!(
        request.contains(&format!("host: {}\r\n", server.address)),
        "{request}"
    );
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_upstream_of_calls_that_are_bytes_is_asked_nothing() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(None, move |mut connection: Peer| {
        let sender = sender.clone();
        async move { sender.send(connection.request().await).unwrap() }
    });
    let upstream = upstream(&server.await);
    let probed = upstream.probe(false).await.unwrap();
    assert_eq!(probed.heard, Heard::Nothing);
    assert_eq!(seen.recv().await.unwrap(), None);
}

#[tokio::test]
async fn tls_where_the_endpoint_says_http_is_called_that() {
    let identity = Identity::new(&["127.0.0.1"]);
    let server = Server::answering(Some(&identity), HELLO).await;
    for protocol in [
        UpstreamProtocol::Auto,
        UpstreamProtocol::Http1,
        UpstreamProtocol::H2,
    ] {
        let mut endpoint = server.endpoint(None);
        endpoint.upstream_protocol = protocol;
        let error = heard(&endpoint).await.unwrap_err();
        assert!(matches!(error, ProbeError::WantsTls(_)), "{error:?}");
    }
    // The same answer from a server without TLS is only that.
    let server = Server::answering(None, "HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n").await;
    let refused = Heard::Answer(StatusCode::BAD_REQUEST);
    assert_eq!(heard(&impatient(&server)).await.unwrap(), refused);
}

#[tokio::test]
async fn a_client_certificate_that_is_missing_is_found_behind_the_handshake() {
    let mut identity = Identity::new(&["127.0.0.1"]);
    identity.client_ca = Some(identity.certificate.clone());
    for alpn in [&b"http/1.1"[..], b"h2"] {
        identity.alpn = vec![alpn.to_vec()];
        let server = Server::answering(Some(&identity), HELLO).await;
        let endpoint = server.endpoint(pinned(&identity));
        let error = heard(&endpoint).await.unwrap_err();
        let is_named = matches!(error, ProbeError::WantsCertificate(_));
        assert!(is_named, "{error:?}");
    }
}

#[tokio::test]
async fn what_speaks_no_http_or_nothing_at_all_does_not_pass() {
    for said in ["SSH-2.0-OpenSSH_9.6\r\n", ""] {
        let server = Server::start(None, move |mut connection: Peer| async move {
            connection.request().await;
            connection.send(said).await;
        });
        let error = heard(&impatient(&server.await)).await.unwrap_err();
        let is_http = matches!(error, ProbeError::Upstream(UpstreamError::Http(_)));
        assert!(is_http, "{said:?}: {error:?}");
    }
    let silent = Server::start(None, |mut connection: Peer| async move {
        connection.closed().await;
    });
    let mut endpoint = impatient(&silent.await);
    endpoint.timeouts.head = Span(Duration::from_millis(50));
    let error = heard(&endpoint).await.unwrap_err();
    let timeout = |error: &ProbeError| match error {
        ProbeError::Upstream(UpstreamError::Timeout { phase, .. }) => Some(*phase),
        _ => None,
    };
    assert_eq!(timeout(&error), Some(Phase::Head), "{error:?}");
}

#[tokio::test]
async fn http_2_is_found_where_there_is_nothing_else() {
    let mut identity = Identity::new(&["127.0.0.1"]);
    identity.alpn = vec![b"h2".to_vec()];
    for (identity, alone) in [(Some(&identity), OK), (None, Heard::OnlyGrpc)] {
        let server = Server::start(identity, |connection: Peer| async move {
            let Ok(mut http2) = h2::server::handshake(connection.into_io()).await else {
                return;
            };
            while let Some(Ok((_, mut respond))) = http2.accept().await {
                respond.send_response(Response::new(()), true).unwrap();
            }
        });
        let mut endpoint = server.await.endpoint(identity.and_then(pinned));
        assert_eq!(heard(&endpoint).await.unwrap(), alone);
        endpoint.upstream_protocol = UpstreamProtocol::H2;
        assert_eq!(heard(&endpoint).await.unwrap(), OK);
    }
}
