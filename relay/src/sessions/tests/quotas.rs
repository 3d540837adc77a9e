//! How many sessions and endpoints a tenant may have.

use culvert_config::relay::RelayLimits;
use culvert_proto::code::GoawayCode;
use serde_json::json;

use super::rig::{HANDSHAKE, Rig, good, soon};

fn globex() -> serde_json::Value {
    json!({"tenant": "globex", "culvert_endpoints": ["*"]})
}

#[tokio::test]
async fn a_session_above_the_quota_is_refused_and_other_tenants_get_theirs() {
    let rig = Rig::with_limits(RelayLimits {
        tenant_max_sessions: Some(2),
        ..RelayLimits::default()
    });
    let first = rig.agent(good(), &["vcenter"]).await;
    let _second = rig.agent(good(), &["vcenter"]).await;
    let token = rig.issuer.token(good());
    let request = format!("{HANDSHAKE}Authorization: Bearer {token}\r\n\r\n");
    let (status, head) = rig.refused(request).await;
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: "), "{head}");
    let _globex = rig.agent(globex(), &["vcenter"]).await;
    first.session.close(GoawayCode::Drain, "the test goes on");
    let left = async {
        while rig.node.agents.len() > 2 || rig.node.tenants.list()[0].sessions > 1 {
            tokio::task::yield_now().await;
        }
    };
    soon(left).await;
    rig.agent(good(), &["vcenter"]).await;
    let metrics = rig.node.metrics.render().unwrap();
    let count = "culvert_relay_quota_refusals_total{quota=\"sessions\"} 1\n";
    assert!(metrics.contains(count), "{metrics}");
}

#[tokio::test]
async fn endpoints_above_the_quota_are_refused_one_by_one() {
    let rig = Rig::with_limits(RelayLimits {
        tenant_max_endpoints: 3,
        ..RelayLimits::default()
    });
    let mut first = rig.agent(good(), &["esx-01", "esx-02"]).await;
    let mut second = rig.open(&rig.issuer.token(good())).await;
    let refused = |results: &[culvert_proto::control::Registration]| {
        let refused = results.iter().filter(|result| result.refused.is_some());
        let names = refused.map(|result| result.endpoint.to_string());
        names.collect::<Vec<_>>().join(" ")
    };
    // One that is there already takes no room.
    let results = second
        .register(&["esx-01", "esx-03", "esx-04", "esx-05"])
        .await;
    assert_eq!(refused(&results), "esx-04 esx-05");
    assert!(
        results[2]
            .refused
            .as_ref()
            .unwrap()
            .contains("as many endpoints as it may")
    );
    assert_eq!(rig.lookup("acme", "esx-04"), "unknown");
    let _globex = rig.agent(globex(), &["esx-04"]).await;
    // What a session gives up has room for what it takes instead.
    assert_eq!(refused(&first.register(&["esx-06"]).await), "");
    assert_eq!(rig.lookup("acme", "esx-02"), "offline");
    assert_eq!(
        refused(&first.register(&["esx-06", "esx-02"]).await),
        "esx-02"
    );
    assert_eq!(rig.node.directory.served_here(), 4);
}
