//! A session lives as long as its agent's token, renewed in-band, and a little longer.

use std::time::Duration;

use culvert_config::issuer::Introspection;
use culvert_config::relay::RelayLimits;
use culvert_proto::code::GoawayCode;
use serde_json::json;
use tokio::net::TcpListener;

use super::rig::{Rig, good};
use crate::testing::TestIssuer;
use culvert_trust::LEEWAY;

const LIFE: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn an_expired_token_first_stops_new_calls_and_then_the_session() {
    let rig = Rig::new();
    let mut agent = rig.open(&rig.issuer.token_for(LIFE)).await;
    agent.register(&["vcenter"]).await;
    // exp is in whole seconds: up to one of them is lost, and no timer is met at the very moment.
    tokio::time::sleep(LIFE + LEEWAY + 5 * SECOND - 2 * SECOND).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "offline");
    assert!(agent.notice().await.contains("expired"));
    assert!(agent.session.is_open(), "calls in flight go on");
    tokio::time::sleep(22 * SECOND).await;
    assert!(agent.session.is_open());
    tokio::time::sleep(3 * SECOND).await;
    assert!(!agent.session.is_open());
    assert_eq!(agent.closed().await, GoawayCode::TokenExpired);
    assert!(rig.node.agents.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_renewed_token_keeps_the_session() {
    let rig = Rig::new();
    let mut agent = rig.open(&rig.issuer.token_for(LIFE)).await;
    agent.register(&["vcenter"]).await;
    tokio::time::sleep(LIFE / 2).await;
    agent.renew(rig.issuer.token_for(10 * LIFE));
    tokio::time::sleep(5 * LIFE).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
    let metrics = rig.node.metrics.render().unwrap();
    assert!(
        metrics.contains("session_renewals_total{outcome=\"renewed\"} 1\n"),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_comes_late_brings_the_endpoints_back() {
    let rig = Rig::new();
    let mut agent = rig.open(&rig.issuer.token_for(LIFE)).await;
    agent.register(&["vcenter"]).await;
    tokio::time::sleep(LIFE + LEEWAY + 10 * SECOND).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "offline");
    assert!(agent.notice().await.contains("expired"));
    // What is offered meanwhile waits for the renewal, too, and the agent is told so.
    for result in agent.register(&["vcenter", "esx-01"]).await {
        assert!(result.refused.unwrap().contains("expired"));
    }
    assert_eq!(rig.lookup("acme", "esx-01"), "unknown");
    agent.renew(rig.issuer.token_for(10 * LIFE));
    rig.becomes("vcenter", "session").await;
    assert_eq!(rig.lookup("acme", "esx-01"), "session");
    tokio::time::sleep(LIFE).await;
    assert!(agent.session.is_open());
}

/// An issuer that takes the question and does not answer puts nothing off.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_being_checked_does_not_prolong_the_old_token() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut issuer = TestIssuer::new();
    issuer.introspection = Some(Introspection {
        url: format!("http://{}/", silent.local_addr().unwrap())
            .parse()
            .unwrap(),
        client_id: "relay".into(),
        client_secret: "s3cret".to_owned().into(),
    });
    let rig = Rig::of(issuer, RelayLimits::default());
    let mut agent = rig.open(&rig.issuer.token_for(LIFE)).await;
    agent.register(&["vcenter"]).await;
    tokio::time::sleep(LIFE + LEEWAY + 2 * SECOND).await;
    for number in 0..16 {
        agent.renew(format!("opaque-{number}"));
    }
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "offline");
    assert!(agent.notice().await.contains("in time"));
    assert!(agent.session.is_open());
    tokio::time::sleep(25 * SECOND).await;
    assert!(!agent.session.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_refused_is_told_and_the_old_token_counts() {
    let rig = Rig::new();
    let mut agent = rig.open(&rig.issuer.token_for(LIFE)).await;
    agent.register(&["vcenter"]).await;
    agent.renew("a.b.c".into());
    assert!(
        agent
            .notice()
            .await
            .contains("refused: the token is malformed")
    );
    agent.renew(rig.issuer.token(json!({"scope": "culvert:call"})));
    assert!(agent.notice().await.contains("scope"));
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
    tokio::time::sleep(LIFE + LEEWAY + 6 * SECOND).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "offline");
}

#[tokio::test]
async fn a_renewal_of_another_agent_ends_the_session_at_once() {
    for stranger in [json!({"sub": "sddc-2"}), json!({"tenant": "globex"})] {
        let rig = Rig::new();
        let agent = rig.agent(good(), &["vcenter"]).await;
        agent.renew(rig.issuer.token(stranger));
        assert_eq!(agent.closed().await, GoawayCode::Revoked);
        assert_eq!(rig.lookup("acme", "vcenter"), "offline");
        assert_eq!(rig.lookup("globex", "vcenter"), "unknown");
    }
}

#[tokio::test]
async fn a_renewed_token_that_covers_less_withdraws_the_rest() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &["vcenter", "esx-01"]).await;
    agent.renew(rig.issuer.token(json!({"culvert_endpoints": ["vcenter"]})));
    assert!(agent.notice().await.contains("esx-01 (the agent's token"));
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
    assert_eq!(rig.lookup("acme", "esx-01"), "offline");
}
