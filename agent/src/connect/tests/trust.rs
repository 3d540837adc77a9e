//! What the relay is known by, while the file changes.

use culvert_session::dial::DialError;

use super::*;

#[tokio::test]
async fn a_new_relay_ca_counts_for_the_next_dial_and_one_that_is_of_no_use_changes_nothing() {
    let refuse = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
    let (server, identity, _accepted) = relay(Some(refuse)).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let replace = |text: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &ca).unwrap();
    };
    replace(&Identity::new(&["localhost"]).pem);
    let trust = RelayTrust::new(Some(&ca));
    let url = format!("wss://localhost:{}", server.address.port());
    let target = DialTarget::new(&url, trust.load().unwrap()).unwrap();
    // As those have it that dial.
    let way = target.clone();
    let dialled = async || dial(&way, "one", SOFTWARE).await.err().unwrap();
    assert!(matches!(dialled().await, DialError::Tls { .. }));

    replace(&identity.pem);
    trust.look(&target, false);
    assert!(dialled().await.refusal().is_some(), "TLS is no hindrance");

    replace("");
    trust.look(&target, false);
    trust.look(&target, true);
    assert!(dialled().await.refusal().is_some());

    replace(&Identity::new(&["localhost"]).pem);
    trust.look(&target, false);
    assert!(matches!(dialled().await, DialError::Tls { .. }));
}
