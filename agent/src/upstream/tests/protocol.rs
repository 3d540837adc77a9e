//! Which HTTP a call is spoken in.

use culvert_config::endpoint::{ClientIdentity, UpstreamProtocol};
use http::Response;
use http::header::CONTENT_TYPE;

use super::*;

/// A server that speaks what its certificate's ALPN says, and answers with what it was.
async fn server(alpn: &[&str]) -> (Server, Trust) {
    let mut identity = Identity::new(&["127.0.0.1"]);
    identity.alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let server = speaking(&identity).await;
    (server, Trust::Pins(vec![pin_of(&identity.certificate)]))
}

async fn speaking(identity: &Identity) -> Server {
    let has_http2 = identity.alpn.contains(&b"h2".to_vec());
    Server::start(Some(identity), move |mut connection: Peer| async move {
        // The first bytes tell: HTTP/2 begins with a preface of its own (RFC 9113, 3.4).
        if has_http2 && connection.begins_with(b"PRI * HTTP/2.0").await {
            let mut http2 = h2::server::handshake(connection.into_io()).await.unwrap();
            while let Some(Ok((_, mut respond))) = http2.accept().await {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"h2"), true).unwrap();
            }
            return;
        }
        while connection.request().await.is_some() {
            connection
                .send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhttp1")
                .await;
        }
    })
    .await
}

async fn called(upstream: &Upstream, media: Option<&'static str>) -> Result<String, UpstreamError> {
    let mut parts = parts(Method::POST);
    if let Some(media) = media {
        parts
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    }
    let request = upstream.request(parts, RequestBody::empty()).unwrap();
    let answer = upstream.send(permit(), request, None).await?;
    Ok(String::from_utf8(read(answer.body).await?).unwrap())
}

#[tokio::test]
async fn a_call_is_spoken_in_http_1_unless_it_or_the_upstream_needs_http_2() {
    use UpstreamProtocol::{Auto, H2, Http1};
    const GRPC: Option<&str> = Some("application/grpc+proto");
    const WEB: Option<&str> = Some("application/grpc-web");
    for (alpn, setting, media, expected) in [
        (&["h2", "http/1.1"][..], Auto, None, Some("http1")),
        (&["h2", "http/1.1"], Auto, WEB, Some("http1")),
        (&["h2", "http/1.1"], Auto, GRPC, Some("h2")),
        (
            &["h2", "http/1.1"],
            Auto,
            Some("application/grpc"),
            Some("h2"),
        ),
        (&["h2", "http/1.1"], Http1, GRPC, Some("http1")),
        (&["h2", "http/1.1"], H2, None, Some("h2")),
        (&["h2"], Auto, None, Some("h2")),
        (&["h2"], Http1, None, None),
        (&["http/1.1"], Auto, None, Some("http1")),
        (&["http/1.1"], Auto, GRPC, None),
        (&["http/1.1"], H2, None, None),
        (&[], Auto, None, Some("http1")),
        (&[], Auto, GRPC, None),
    ] {
        let (server, trust) = server(alpn).await;
        let mut endpoint = server.endpoint(Some(trust));
        endpoint.upstream_protocol = setting;
        let upstream = Upstream::new(&endpoint).unwrap();
        let case = format!("{alpn:?} {setting:?} {media:?}");
        for _ in 0..2 {
            match (called(&upstream, media).await, expected) {
                (Ok(spoken), Some(expected)) => assert_eq!(spoken, expected, "{case}"),
                (Err(error), None) => {
                    let code = error.code().as_str();
                    assert!(code.starts_with("upstream-"), "{case}: {code}");
                }
                (outcome, _) => panic!("{case}: {outcome:?}"),
            }
        }
        if expected.is_some() {
            // One that is turned down, and one that is kept.
            let tried = if alpn == ["h2"] && setting == Auto {
                2
            } else {
                1
            };
            assert_eq!(server.connections(), tried, "{case}");
        }
    }
}

/// That it has no HTTP/2 says nothing of calls that need none.
#[tokio::test]
async fn a_call_that_needs_http_2_in_vain_is_no_hindrance_to_others() {
    let (server, trust) = server(&["http/1.1"]).await;
    let upstream = Upstream::new(&server.endpoint(Some(trust))).unwrap();
    let grpc = || called(&upstream, Some("application/grpc"));
    assert!(grpc().await.is_err());
    let (in_vain, other) = tokio::join!(grpc(), called(&upstream, None));
    assert!(in_vain.is_err());
    assert_eq!(other.unwrap(), "http1");
}

#[tokio::test]
async fn an_upstream_that_had_nothing_but_http_2_may_change() {
    let (server, trust) = server(&["http/1.1"]).await;
    let upstream = Upstream::new(&server.endpoint(Some(trust))).unwrap();
    upstream.has_only_http2.store(true, Ordering::Relaxed);
    assert!(called(&upstream, Some("application/grpc")).await.is_err());
    upstream.has_only_http2.store(true, Ordering::Relaxed);
    assert_eq!(called(&upstream, None).await.unwrap(), "http1");
    assert_eq!(called(&upstream, None).await.unwrap(), "http1");
    // One that is turned down for each of the first two, and one that is kept.
    assert_eq!(server.connections(), 3);
}

/// A server that asks for a client certificate, and says `hello` in either HTTP.
async fn demanding(client: &Identity) -> (Server, Trust) {
    let mut identity = Identity::new(&["127.0.0.1"]);
    identity.alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    identity.client_ca = Some(client.certificate.clone());
    let server = speaking(&identity).await;
    (server, Trust::Pins(vec![pin_of(&identity.certificate)]))
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_asked_for_and_said_to_be_missing_otherwise() {
    let client = Identity::new(&["agent"]);
    let folder = tempfile::tempdir().unwrap();
    let (certificate, private_key) = (folder.path().join("c.pem"), folder.path().join("c.key"));
    std::fs::write(&certificate, &client.pem).unwrap();
    std::fs::write(&private_key, client.key_pem()).unwrap();
    for (protocol, spoken) in [
        (UpstreamProtocol::Http1, "http1"),
        (UpstreamProtocol::H2, "h2"),
    ] {
        let (server, trust) = demanding(&client).await;
        let mut endpoint = server.endpoint(Some(trust));
        endpoint.upstream_protocol = protocol;
        let error = called(&Upstream::new(&endpoint).unwrap(), None)
            .await
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::UpstreamTls, "{spoken}: {error}");
        assert!(
            error.detail().contains("client certificate"),
            "{}",
            error.detail()
        );
        endpoint.client_identity = Some(ClientIdentity {
            certificate: certificate.clone(),
            private_key: private_key.clone(),
        });
        let upstream = Upstream::new(&endpoint).unwrap();
        assert_eq!(called(&upstream, None).await.unwrap(), spoken);
    }
    // A key of another certificate is noticed at the start.
    std::fs::write(&private_key, Identity::new(&["other"]).key_pem()).unwrap();
    let (server, trust) = demanding(&client).await;
    let mut endpoint = server.endpoint(Some(trust));
    endpoint.client_identity = Some(ClientIdentity {
        certificate,
        private_key,
    });
    let error = Upstream::new(&endpoint).unwrap_err().to_string();
    assert!(error.contains("does not serve the certificate"), "{error}");
}
