//! Sessions over several connections: who may join, and what joining is good for.

use std::time::Duration;

use bytes::Bytes;
use culvert_config::relay::RelayLimits;
use culvert_proto::code::GoawayCode;
use culvert_proto::control::{Control, Hello, Lane, Offer};
use culvert_proto::mux::{self, LANES};
use culvert_proto::names::{EndpointName, TenantName};
use culvert_session::SessionError;
use serde_json::{Value, json};

use super::rig::{Agent, Rig, call, good, hello, soon};
use crate::admin::status::Status;
use crate::directory::Lookup;
use culvert_trust::LEEWAY;

const ID: [u8; 16] = *b"0123456789abcdef";
const FIRST: Option<Lane> = Some(Lane::First(ID));
const JOINS: Option<Lane> = Some(Lane::Joins(ID));

fn greeting(lane: Option<Lane>) -> Hello {
    Hello {
        features: LANES,
        lane,
        ..hello()
    }
}

impl Rig {
    async fn greet(&self, lane: Option<Lane>) -> Agent {
        self.greet_with(good(), greeting(lane)).await
    }

    async fn greet_with(&self, claims: Value, hello: Hello) -> Agent {
        self.open_with(&self.issuer.token(claims), hello).await
    }

    /// A session that others may join, with an endpoint.
    async fn laned(&self) -> Agent {
        let mut agent = self.greet(FIRST).await;
        agent.register(&["vcenter"]).await;
        agent
    }

    /// Waits until the only session has so many connections.
    async fn has_lanes(&self, lanes: usize) {
        let has = async {
            loop {
                let records = self.node.agents.records();
                if records.len() == 1 && records[0].session.lanes() == lanes {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon(has).await;
    }
}

/// With which code and words the relay ends a connection.
async fn told(agent: &Agent) -> (GoawayCode, String) {
    match soon(agent.session.closed()).await {
        SessionError::Protocol(mux::SessionError::Closed { code, reason }) => (code, reason),
        other => panic!("unexpected {other:?}"),
    }
}

fn register() -> Control {
    let offer = Offer {
        endpoint: EndpointName::new("esx-01").unwrap(),
        modes: vec![],
        connect: vec![],
        priority: None,
    };
    Control::Register {
        request: 1,
        offers: vec![offer],
    }
}

#[tokio::test]
async fn a_further_connection_takes_calls_of_the_session_it_joins() {
    let rig = Rig::new();
    let mut first = rig.laned().await;
    assert_eq!(first.session.features(), LANES);
    let mut lane = rig.greet(JOINS).await;
    rig.has_lanes(2).await;
    let (tenant, endpoint) = (
        TenantName::new("acme").unwrap(),
        EndpointName::new("vcenter").unwrap(),
    );
    let open = || match rig.node.directory.lookup(&tenant, &endpoint) {
        Lookup::Session(session, _) => session.open(&call(), Bytes::new(), true).unwrap(),
        other => panic!("unexpected {other:?}"),
    };
    let _calls = (open(), open());
    soon(first.incoming.accept()).await.unwrap();
    soon(lane.incoming.accept()).await.unwrap();

    let list = rig.node.directory.list();
    assert_eq!((list.len(), list[0].sessions), (1, 1));
    let metrics = rig.node.metrics.render().unwrap();
    for line in [
        "culvert_relay_sessions 1\n",
        "culvert_relay_session_opens_total 1\n",
        "culvert_relay_lanes 1\n",
        "culvert_relay_lane_joins_total{outcome=\"joined\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let status = Status::of(&rig.node).to_string();
    assert!(status.contains(", 2 lanes"), "{status}");
}

#[tokio::test]
async fn who_does_not_belong_to_a_session_cannot_tell_that_it_exists() {
    let rig = Rig::new();
    let _first = rig.laned().await;
    let join = || greeting(JOINS);
    let strangers = [
        (
            "another id",
            good(),
            greeting(Some(Lane::Joins(*b"fedcba9876543210"))),
        ),
        ("another tenant", json!({"tenant": "globex"}), join()),
        ("another subject", json!({"sub": "sddc-2"}), join()),
        (
            "another process",
            good(),
            Hello {
                instance: [8; 16],
                ..join()
            },
        ),
    ];
    for (what, claims, hello) in strangers {
        let stranger = rig.greet_with(claims, hello).await;
        let nothing = "this relay node has no such session of this agent".to_owned();
        let expected = (GoawayCode::NotJoined, nothing);
        assert_eq!(told(&stranger).await, expected, "{what}");
        rig.has_lanes(1).await;
    }
    let metrics = rig.node.metrics.render().unwrap();
    let line = "culvert_relay_lane_joins_total{outcome=\"refused\"} 4\n";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_session_that_gave_no_id_cannot_be_joined() {
    let rig = Rig::new();
    let _first = rig.agent(good(), &["vcenter"]).await;
    let lane = rig.greet(JOINS).await;
    assert_eq!(told(&lane).await.0, GoawayCode::NotJoined);
}

#[tokio::test]
async fn a_session_has_no_more_connections_than_it_may() {
    let rig = Rig::with_limits(RelayLimits {
        lanes_per_session: 3,
        ..RelayLimits::default()
    });
    let _first = rig.laned().await;
    let lanes = (rig.greet(JOINS).await, rig.greet(JOINS).await);
    rig.has_lanes(3).await;
    let (code, reason) = told(&rig.greet(JOINS).await).await;
    assert_eq!(code, GoawayCode::NotJoined);
    assert_eq!(reason, "the session has as many connections as it may");
    lanes.0.session.close(GoawayCode::Drain, "room for another");
    rig.has_lanes(2).await;
    let _again = rig.greet(JOINS).await;
    rig.has_lanes(3).await;
}

#[tokio::test]
async fn a_relay_that_takes_one_connection_a_session_names_no_feature() {
    let rig = Rig::with_limits(RelayLimits {
        lanes_per_session: 1,
        ..RelayLimits::default()
    });
    let first = rig.laned().await;
    assert_eq!(first.session.features() & LANES, 0);
    // What belongs to a feature that is not agreed on says nothing.
    let mut other = rig.greet(JOINS).await;
    assert_eq!(other.register(&["esx-01"]).await[0].refused, None);
    assert_eq!(rig.node.agents.len(), 2);
}

#[tokio::test]
async fn a_lane_takes_a_seat_like_any_connection() {
    let rig = Rig::with_limits(RelayLimits {
        sessions: 2,
        ..RelayLimits::default()
    });
    let _first = rig.laned().await;
    let _lane = rig.greet(JOINS).await;
    let (head, _) = rig.ask(&rig.issuer.token(good())).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
}

#[tokio::test]
async fn a_lane_that_says_what_belongs_on_the_first_connection_is_cut_off_alone() {
    let rig = Rig::new();
    let first = rig.laned().await;
    let token = rig.issuer.token(good());
    for control in [register(), Control::Auth { token }] {
        let lane = rig.greet(JOINS).await;
        rig.has_lanes(2).await;
        lane.session.send_control(&control).unwrap();
        assert_eq!(told(&lane).await.0, GoawayCode::Protocol);
        rig.has_lanes(1).await;
    }
    assert!(first.session.is_open());
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
    assert_eq!(rig.lookup("acme", "esx-01"), "unknown");
}

#[tokio::test]
async fn a_connection_that_is_refused_registers_nothing() {
    let rig = Rig::new();
    let stray = rig.greet(JOINS).await;
    let _ = stray.session.send_control(&register());
    assert_eq!(told(&stray).await.0, GoawayCode::NotJoined);
    assert_eq!(rig.lookup("acme", "esx-01"), "unknown");
}

#[tokio::test]
async fn lanes_end_with_their_session_and_nothing_is_left_to_join() {
    let rig = Rig::new();
    let first = rig.laned().await;
    let lane = rig.greet(JOINS).await;
    rig.has_lanes(2).await;
    let again = greeting(JOINS);
    first.session.close(GoawayCode::Drain, "the agent ends");
    soon(lane.session.closed()).await;
    soon(rig.becomes("vcenter", "offline")).await;
    assert!(rig.node.agents.is_empty());
    let late = rig.greet_with(good(), again).await;
    assert_eq!(told(&late).await.0, GoawayCode::NotJoined);
    let metrics = rig.node.metrics.render().unwrap();
    assert!(metrics.contains("culvert_relay_lanes 0\n"), "{metrics}");
    assert!(metrics.contains("culvert_relay_sessions 0\n"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_lane_lives_as_long_as_the_token_of_the_first_connection() {
    const LIFE: Duration = Duration::from_secs(300);
    let rig = Rig::new();
    let first = rig
        .open_with(&rig.issuer.token_for(LIFE), greeting(FIRST))
        .await;
    // Its own token would be good for longer; that of the session counts.
    let lane = rig.greet(JOINS).await;
    tokio::time::sleep(LIFE / 2).await;
    first.renew(rig.issuer.token_for(4 * LIFE));
    tokio::time::sleep(3 * LIFE).await;
    assert!(lane.session.is_open());
    tokio::time::sleep(LIFE / 2 + LEEWAY + Duration::from_secs(40)).await;
    assert_eq!(told(&first).await.0, GoawayCode::TokenExpired);
    assert_eq!(told(&lane).await.0, GoawayCode::TokenExpired);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_drains_tells_every_lane_and_takes_no_more() {
    let rig = Rig::new();
    let mut first = rig.laned().await;
    let mut lane = rig.greet(JOINS).await;
    rig.has_lanes(2).await;
    let (head, io) = rig.ask(&rig.issuer.token(good())).await;
    rig.node.agents.refuse_new();
    rig.node.agents.drain();
    for agent in [&mut first, &mut lane] {
        let event = soon(agent.controls.recv()).await;
        assert!(
            matches!(event, Some(culvert_session::SessionEvent::Draining { .. })),
            "{event:?}"
        );
    }
    // Admitted before, it greets only now.
    let late = Agent::over(&head, io, greeting(JOINS)).await;
    assert_eq!(told(&late).await.0, GoawayCode::NotJoined);
    rig.node.agents.close(GoawayCode::Drain, "the relay stops");
    assert_eq!(told(&first).await.0, GoawayCode::Drain);
    assert_eq!(told(&lane).await.0, GoawayCode::Drain);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_drains_alone_ends_with_its_last_call() {
    let rig = Rig::new();
    let first = rig.laned().await;
    let lane = rig.greet(JOINS).await;
    rig.has_lanes(2).await;
    lane.session.drain(Duration::ZERO);
    assert_eq!(told(&lane).await.0, GoawayCode::Drain);
    rig.has_lanes(1).await;
    assert!(!first.session.is_draining());
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
}
