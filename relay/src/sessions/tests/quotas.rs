//! How many sessions and endpoints a tenant may have.

use culvert_config::relay::RelayLimits;
use culvert_proto::code::GoawayCode;
use culvert_proto::control::{Control, Offer};
use culvert_proto::head::Mode;
use serde_json::json;

use super::rig::{Agent, HANDSHAKE, Rig, good, soon};

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

/// Each session may bring others, and whatever is done with a tenant's names costs by how many there are.
#[tokio::test]
async fn names_above_four_for_each_endpoint_of_the_quota_are_refused_with_their_endpoint() {
    let rig = Rig::with_limits(RelayLimits {
        tenant_max_endpoints: 300,
        ..RelayLimits::default()
    });
    let offer = |endpoint: u32, names: std::ops::Range<u32>| Offer {
        endpoint: format!("esx-{endpoint}").parse().unwrap(),
        modes: vec![Mode::Http, Mode::Connect],
        connect: names.map(|n| format!("h{n}.x:{}", endpoint + 1)).collect(),
        priority: None,
    };
    let offers = async |agent: &mut Agent, offers: Vec<Offer>| {
        agent.offer(offers);
        match agent.control().await {
            Control::Registered { results, .. } => {
                let results = results.into_iter();
                results.map(|it| it.refused).collect::<Vec<_>>()
            }
            other => panic!("unexpected {other:?}"),
        }
    };
    let full = |refused: &Option<String>| {
        let refused = refused.as_ref();
        refused.is_some_and(|reason| reason.contains("as many names to connect to as they may"))
    };
    let mut first = rig.open(&rig.issuer.token(good())).await;
    let many = (0..16).map(|endpoint| offer(endpoint, 0..64)).collect();
    let refused = offers(&mut first, many).await;
    assert!(refused.iter().all(Option::is_none), "{refused:?}");

    // 176 are left. Other names of an endpoint that is there count like those of another one.
    let mut second = rig.open(&rig.issuer.token(good())).await;
    let more = vec![offer(0, 64..128), offer(1, 64..128), offer(2, 64..128)];
    let refused = offers(&mut second, more.clone()).await;
    assert!(refused[0].is_none() && refused[1].is_none(), "{refused:?}");
    assert!(full(&refused[2]), "{refused:?}");
    assert_eq!(
        rig.node.directory.served_of(&"acme".parse().unwrap()).names,
        1152
    );
    // The same ones take no room.
    let same = vec![
        more[0].clone(),
        more[1].clone(),
        offer(2, 0..64),
        offer(20, 0..0),
    ];
    let refused = offers(&mut second, same).await;
    assert!(refused.iter().all(Option::is_none), "{refused:?}");
    // What is refused is not served with the names that it had before.
    let others = vec![more[0].clone(), more[1].clone(), offer(20, 0..64)];
    let refused = offers(&mut second, others.clone()).await;
    assert!(full(&refused[2]), "{refused:?}");
    assert_eq!(rig.lookup("acme", "esx-20"), "offline");
    let _globex = rig.agent(globex(), &["esx-20"]).await;

    offers(&mut first, vec![offer(0, 0..64)]).await;
    let refused = offers(&mut second, others).await;
    assert!(refused.iter().all(Option::is_none), "{refused:?}");
    let metrics = rig.node.metrics.render().unwrap();
    let count = "culvert_relay_quota_refusals_total{quota=\"names\"} 2\n";
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
