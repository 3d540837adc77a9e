//! What a session may register, and for how long.

use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::GoawayCode;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::control::{Control, Offer, Registration};
use culvert_proto::head::Mode;
use culvert_proto::mux::Item;
use culvert_proto::priority::Priority;
use culvert_session::Session;
use serde_json::json;

use crate::directory::Lookup;
use crate::testing::Lines;

use super::rig::{Agent, Rig, call, good, soon};

#[tokio::test]
async fn endpoints_are_registered_within_the_tokens_patterns_and_refused_one_by_one() {
    let rig = Rig::new();
    let mut agent = rig.open(&rig.issuer.token(good())).await;
    let results = agent
        .register(&["vcenter", "nsx", "esx-01", "esx-01"])
        .await;
    let reasons: Vec<_> = results
        .iter()
        .map(|result| result.refused.as_deref())
        .collect();
    assert_eq!(
        reasons,
        [
            None,
            Some("the agent's token does not name it among the endpoints to register"),
            None,
            Some("it is offered twice"),
        ]
    );
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
    assert_eq!(rig.lookup("acme", "esx-01"), "session");
    assert_eq!(rig.lookup("acme", "nsx"), "unknown");
    assert_eq!(rig.lookup("globex", "vcenter"), "unknown");
}

#[tokio::test]
async fn a_name_that_has_no_host_name_is_refused() {
    let rig = Rig::new();
    let claims = json!({"tenant": "a".repeat(30), "culvert_endpoints": ["*"]});
    let mut agent = rig.open(&rig.issuer.token(claims)).await;
    let (fits, long) = ("b".repeat(31), "b".repeat(32));
    let results = agent.register(&[&fits, &long]).await;
    assert_eq!(results[0].refused, None);
    assert!(
        results[1]
            .refused
            .as_ref()
            .unwrap()
            .contains("61 characters")
    );
}

#[tokio::test]
async fn a_registration_replaces_the_one_before() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &["vcenter", "esx-01"]).await;
    agent.register(&["esx-01", "esx-02"]).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "offline");
    assert_eq!(rig.lookup("acme", "esx-01"), "session");
    assert_eq!(rig.lookup("acme", "esx-02"), "session");
    assert_eq!(rig.node.directory.served_here(), 2);
    agent.register(&[]).await;
    assert_eq!(rig.node.directory.served_here(), 0);
}

/// An agent of whose endpoints one is refused offers all of them again every minute.
#[tokio::test(start_paused = true)]
async fn who_offers_the_same_again_is_not_told_again_that_it_shares_the_calls() {
    let rig = Rig::new();
    let mut mine = rig.agent(good(), &["vcenter"]).await;
    let mut theirs = rig.agent(json!({"sub": "sddc-2"}), &["vcenter"]).await;
    for agent in [&mut mine, &mut theirs] {
        assert!(agent.notice().await.contains("they share the calls"));
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    let results = theirs.register(&["vcenter", "nsx"]).await;
    assert!(results[0].refused.is_none() && results[1].refused.is_some());
    for agent in [&mut mine, &mut theirs] {
        let told = tokio::time::timeout(Duration::from_secs(1), agent.controls.recv()).await;
        assert!(told.is_err(), "{told:?}");
    }
}

/// An agent that offers other endpoints again and again does not fill the log with their names.
#[tokio::test]
async fn a_registration_is_two_lines_however_many_endpoints_it_changes() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &[]).await;
    let (lines, _guards) = Lines::listen();
    let names = |kind: &'static str| (0..100).map(move |number| format!("{kind}-{number}"));
    let offered: Vec<_> = names("esx").chain(names("nsx")).collect();
    let offered: Vec<_> = offered.iter().map(String::as_str).collect();
    let said = || {
        let text = lines.text();
        let said = text
            .lines()
            .filter(|line| line.contains(r#""message":"regist"#));
        said.map(str::to_owned).collect::<Vec<_>>()
    };
    for round in 1..=3 {
        agent.register(&offered).await;
        // The same again is no news.
        agent.register(&offered).await;
        assert_eq!(said().len(), 2 * round, "{:?}", said());
        agent.register(&[]).await;
    }
    for (line, kind) in [
        (&said()[0], "registered: esx-0, "),
        (&said()[1], "refused: nsx-0 ("),
    ] {
        assert!(
            line.contains(kind) && line.contains(r#""count":100"#),
            "{line}"
        );
        assert!(line.contains(" and 84 more"), "{line}");
    }
}

/// An offer of an endpoint with these modes and one name to connect to.
fn named(endpoint: &str, modes: &[Mode], name: &str) -> Offer {
    Offer {
        endpoint: endpoint.parse().unwrap(),
        modes: modes.to_vec(),
        connect: vec![name.to_owned()],
        priority: None,
    }
}

/// The relay's answer to a registration, without further words.
async fn answer(agent: &mut Agent) -> Vec<Registration> {
    match agent.control().await {
        Control::Registered { results, .. } => results,
        other => panic!("unexpected {other:?}"),
    }
}

#[tokio::test]
async fn a_name_that_another_endpoint_has_costs_that_name_and_not_the_endpoint() {
    const NAME: &str = "vc.local:443";
    let rig = Rig::new();
    let mut rogue = rig.open(&rig.issuer.token(good())).await;
    rogue.offer(vec![named("esx-01", &[Mode::Connect], NAME)]);
    assert_eq!(answer(&mut rogue).await[0].refused, None);

    let mut agent = rig.open(&rig.issuer.token(good())).await;
    let both = [Mode::Http, Mode::Connect];
    let offers = || vec![named("vcenter", &both, NAME)];
    agent.offer(offers());
    let told = agent.notice().await;
    assert!(
        told.contains("vc.local:443 of vcenter (belongs to esx-01)"),
        "{told}"
    );
    assert_eq!(answer(&mut agent).await[0].refused, None);
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
    let holder = || {
        let name = ConnectName::parse(NAME).unwrap();
        let server = rig.node.directory.server(&"acme".parse().unwrap(), &name);
        server.map(|endpoint| endpoint.to_string())
    };
    assert_eq!(holder().as_deref(), Some("esx-01"));
    // It is told once.
    agent.offer(offers());
    answer(&mut agent).await;
    // Without the name there is nothing of this one.
    agent.offer(vec![named("esx-02", &[Mode::Connect], NAME)]);
    assert!(agent.notice().await.contains("has all its names"));
    let refused = answer(&mut agent).await[0].refused.clone().unwrap();
    assert!(refused.contains("belongs to the endpoint esx-01"));

    rogue.register(&["esx-01"]).await;
    agent.offer(offers());
    assert_eq!(answer(&mut agent).await[0].refused, None);
    assert_eq!(holder().as_deref(), Some("vcenter"));
}

#[tokio::test]
async fn calls_are_as_urgent_as_the_agent_offered_last() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &["vcenter"]).await;
    let urgent = || match rig
        .node
        .directory
        .lookup(&"acme".parse().unwrap(), &"vcenter".parse().unwrap())
    {
        Lookup::Session(_, priority) => priority,
        other => panic!("{other:?}"),
    };
    assert_eq!(urgent(), None);
    for priority in [Some(Priority::Bulk), Some(Priority::Interactive), None] {
        agent.priority = priority;
        agent.register(&["vcenter"]).await;
        assert_eq!(urgent(), priority);
    }
}

#[tokio::test]
async fn an_endpoint_is_offline_once_its_last_session_ended() {
    let rig = Rig::new();
    let first = rig.agent(good(), &["vcenter"]).await;
    let second = rig.agent(good(), &["vcenter"]).await;
    first.session.close(GoawayCode::Drain, "the test is over");
    let ended = async {
        while rig.node.agents.len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    soon(ended).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
    second.session.close(GoawayCode::Drain, "the test is over");
    soon(rig.becomes("vcenter", "offline")).await;
}

/// The relay's end of the only session there is.
fn relay_side(rig: &Rig) -> Session {
    rig.node.agents.records()[0].session.clone()
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_drains_gets_no_further_calls_and_ends_with_its_last_one() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &["vcenter"]).await;
    let mut call = relay_side(&rig).open(&call(), Bytes::new(), true).unwrap();
    let (_, mut served) = agent.incoming.accept().await.unwrap();
    agent.session.drain(Duration::ZERO);
    soon(rig.becomes("vcenter", "moving")).await;

    served
        .send
        .write_bytes(Bytes::from_static(b"the last word"))
        .await
        .unwrap();
    served.send.finish().unwrap();
    drop(served);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(agent.session.is_open(), "the answer was not read yet");
    assert!(matches!(call.recv.item().await, Ok(Item::Data(data)) if data == "the last word"));
    assert!(matches!(call.recv.item().await, Ok(Item::Finished)));
    drop(call);
    soon(agent.session.closed()).await;
}

#[tokio::test]
async fn an_agent_that_drains_leaves_the_endpoint_to_its_other_session() {
    let rig = Rig::new();
    let leaving = rig.agent(good(), &["vcenter"]).await;
    let _staying = rig.agent(good(), &["vcenter"]).await;
    leaving.session.drain(Duration::ZERO);
    soon(leaving.session.closed()).await;
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
}

#[tokio::test]
async fn an_agent_that_says_what_relays_say_is_cut_off() {
    let rig = Rig::new();
    let agent = rig.agent(good(), &["vcenter"]).await;
    let strange = Control::Registered {
        request: 1,
        results: Vec::new(),
    };
    agent.session.send_control(&strange).unwrap();
    assert_eq!(agent.closed().await, GoawayCode::Protocol);
    soon(rig.becomes("vcenter", "offline")).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_floods_its_relay_with_control_messages_is_cut_off() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &["vcenter"]).await;
    let notice = Control::Notice {
        code: None,
        text: "again".into(),
    };
    let flood = async {
        while agent.session.is_open() {
            // The next one when the last one has arrived, so that only the rate is at fault.
            let _ = agent.session.send_control(&notice);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    };
    soon(flood).await;
    assert_eq!(agent.closed().await, GoawayCode::Flood);
    let _ = agent.controls.recv().await;
}
