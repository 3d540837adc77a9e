//! What an upstream is known by, and the agent to it, while the files change.

use std::path::{Path, PathBuf};

use culvert_config::endpoint::ClientIdentity;
use culvert_proto::names::EndpointName;

use super::*;

/// Puts a new file in the old one's place, as configuration management does.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

fn look(upstream: &Upstream, asked: bool) {
    upstream.look_at_files(&EndpointName::new("api").unwrap(), asked);
}

/// A server, its identity, and the client of it that trusts what is in a file.
struct Trusting {
    server: Server,
    identity: Identity,
    upstream: Upstream,
    ca: PathBuf,
    _folder: tempfile::TempDir,
}

impl Trusting {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let identity = Identity::new(&["127.0.0.1"]);
        std::fs::write(&ca, &identity.pem).unwrap();
        let server = Server::answering(Some(&identity), HELLO).await;
        Self {
            upstream: Upstream::new(&server.endpoint(Some(Trust::Ca(ca.clone())))).unwrap(),
            server,
            identity,
            ca,
            _folder: folder,
        }
    }
}

#[tokio::test]
async fn a_new_ca_file_counts_for_every_call_that_follows() {
    let Trusting {
        server: _server,
        identity,
        upstream,
        ca,
        _folder,
    } = Trusting::start().await;
    assert_eq!(text(&upstream).await, "hello");
    replace(&ca, &Identity::new(&["127.0.0.1"]).pem);
    assert_eq!(text(&upstream).await, "hello", "nobody has looked");
    look(&upstream, false);
    assert_eq!(upstream.pool.len(), 0, "it was let in by the old one");
    let error = upstream.get().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpstreamTls, "{error}");
    replace(&ca, &identity.pem);
    look(&upstream, false);
    assert_eq!(text(&upstream).await, "hello");
}

#[tokio::test]
async fn a_call_in_progress_goes_on_and_its_connection_is_not_used_again() {
    let trusting = Trusting::start().await;
    let upstream = &trusting.upstream;
    let answer = upstream.get().await.unwrap();
    look(upstream, true);
    assert_eq!(read(answer.body).await.unwrap(), b"hello");
    assert_eq!(upstream.pool.len(), 0);
    assert_eq!(text(upstream).await, "hello");
    assert_eq!((trusting.server.connections(), upstream.pool.len()), (2, 1));
}

#[tokio::test]
async fn a_ca_file_that_has_not_changed_leaves_idle_connections_alone() {
    let trusting = Trusting::start().await;
    for _ in 0..3 {
        assert_eq!(text(&trusting.upstream).await, "hello");
        look(&trusting.upstream, false);
    }
    assert_eq!(trusting.server.connections(), 1);
}

#[tokio::test]
async fn a_ca_file_that_is_of_no_use_changes_nothing() {
    const BROKEN: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let trusting = Trusting::start().await;
    let upstream = &trusting.upstream;
    assert_eq!(text(upstream).await, "hello");
    for bad in [Some(""), Some("no certificate"), Some(BROKEN), None] {
        match bad {
            Some(bad) => replace(&trusting.ca, bad),
            None => std::fs::remove_file(&trusting.ca).unwrap(),
        }
        for asked in [false, true] {
            look(upstream, asked);
        }
        assert_eq!(upstream.pool.len(), 1, "{bad:?}");
    }
    let (one, two) = tokio::join!(upstream.get(), upstream.get());
    for answer in [one, two] {
        assert_eq!(read(answer.unwrap().body).await.unwrap(), b"hello");
    }
    assert_eq!(trusting.server.connections(), 2, "a new one is let in too");
}

#[tokio::test]
async fn a_new_client_certificate_is_shown_once_its_key_is_there_too() {
    let (old, new) = (Identity::new(&["agent"]), Identity::new(&["agent"]));
    let mut identity = Identity::new(&["127.0.0.1"]);
    identity.client_ca = Some(new.certificate.clone());
    let server = Server::answering(Some(&identity), HELLO).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("client.pem"), &old.pem).unwrap();
    std::fs::write(at("client.key"), old.key_pem()).unwrap();
    let pins = Trust::Pins(vec![pin_of(&identity.certificate)]);
    let mut endpoint = server.endpoint(Some(pins));
    endpoint.client_identity = Some(ClientIdentity {
        certificate: at("client.pem"),
        private_key: at("client.key"),
    });
    let upstream = Upstream::new(&endpoint).unwrap();
    upstream.get().await.unwrap_err();
    replace(&at("client.pem"), &new.pem);
    look(&upstream, false);
    upstream.get().await.unwrap_err();
    replace(&at("client.key"), new.key_pem());
    look(&upstream, false);
    assert_eq!(text(&upstream).await, "hello");
}
