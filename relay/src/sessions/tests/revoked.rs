//! A revoked agent loses its sessions, is told why, and stays out until the revocation is over.

use std::time::Duration;

use culvert_proto::code::GoawayCode;
use culvert_proto::mux;
use culvert_proto::names::TenantName;
use culvert_session::SessionError;
use serde_json::json;

use super::rig::{Agent, HANDSHAKE, Rig, good, soon};
use crate::revocations::enforce::enforce;
use crate::revocations::{Revocation, RevocationId, Scope};

fn rig() -> Rig {
    let rig = Rig::new();
    tokio::spawn(enforce(rig.node.clone()));
    rig
}

fn revoke(rig: &Rig, scope: Scope, ttl: Option<Duration>) -> RevocationId {
    let revocation = Revocation::new(scope, Some("key lost".into()), ttl);
    rig.node.revocations.add(revocation).unwrap().id
}

fn subject() -> Scope {
    Scope {
        subject: Some("sddc-1".into()),
        ..Scope::default()
    }
}

/// The code and reason with which the relay ended a session.
async fn told(agent: &Agent) -> (GoawayCode, String) {
    match soon(agent.session.closed()).await {
        SessionError::Protocol(mux::SessionError::Closed { code, reason }) => {
            (code, reason.to_string())
        }
        other => panic!("unexpected {other:?}"),
    }
}

/// Status and Retry-After of the answer to a good agent that asks for a session.
async fn asked(rig: &Rig) -> (u16, Option<u64>) {
    let token = rig.issuer.token(good());
    let request = format!("{HANDSHAKE}Authorization: Bearer {token}\r\n\r\n");
    let (status, head) = rig.refused(request).await;
    let retry = head
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "));
    (status, retry.map(|seconds| seconds.parse().unwrap()))
}

#[tokio::test]
async fn matching_sessions_end_with_the_reason_and_others_go_on() {
    for scope in [
        subject(),
        Scope {
            tenant: Some(TenantName::new("acme").unwrap()),
            ..Scope::default()
        },
    ] {
        let rig = rig();
        let agents = [
            rig.agent(good(), &["vcenter"]).await,
            rig.agent(good(), &["esx-01"]).await,
        ];
        let stranger = json!({"tenant": "globex", "sub": "sddc-9"});
        let stranger = rig.agent(stranger, &["vcenter"]).await;
        revoke(&rig, scope, None);
        for agent in &agents {
            let (code, reason) = told(agent).await;
            assert_eq!(code, GoawayCode::Revoked);
            assert!(
                reason.contains("operator") && reason.contains("key lost"),
                "{reason}"
            );
        }
        soon(rig.becomes("vcenter", "offline")).await;
        assert!(stranger.session.is_open());
        assert_eq!(rig.lookup("globex", "vcenter"), "session");
        let metrics = rig.node.metrics.render().unwrap();
        let count = "culvert_relay_revoked_total{outcome=\"session-ended\"} 2\n";
        assert!(metrics.contains(count), "{metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_agent_is_turned_away_with_a_time_to_come_back_until_it_is_over() {
    let rig = rig();
    let id = revoke(&rig, subject(), None);
    assert_eq!(asked(&rig).await, (403, Some(30)));
    rig.node.revocations.lift(id).unwrap();
    rig.agent(good(), &["vcenter"]).await;

    revoke(&rig, subject(), Some(Duration::from_secs(8)));
    assert_eq!(asked(&rig).await, (403, Some(8)));
    tokio::time::sleep(Duration::from_secs(8)).await;
    rig.agent(good(), &["vcenter"]).await;
}

#[tokio::test]
async fn one_session_can_be_ended_and_its_agent_may_come_back() {
    let rig = rig();
    let (one, other) = (
        rig.agent(good(), &["vcenter"]).await,
        rig.agent(good(), &["vcenter"]).await,
    );
    let scope = Scope {
        session: Some(rig.node.agents.records()[0].id),
        ..Scope::default()
    };
    revoke(&rig, scope, None);
    assert_eq!(told(&one).await.0, GoawayCode::Revoked);
    assert!(other.session.is_open());
    rig.agent(good(), &["vcenter"]).await;
}

#[tokio::test]
async fn a_revoked_endpoint_keeps_its_registration_for_when_it_is_lifted() {
    let rig = rig();
    let agent = rig.agent(good(), &["vcenter"]).await;
    let scope = Scope {
        tenant: Some(TenantName::new("acme").unwrap()),
        endpoint: Some("vcenter".parse().unwrap()),
        ..Scope::default()
    };
    revoke(&rig, scope, None);
    tokio::task::yield_now().await;
    assert!(agent.session.is_open());
    assert_eq!(rig.lookup("acme", "vcenter"), "session");
}

/// A list that was there first counts from the first moment.
#[tokio::test]
async fn what_was_revoked_before_is_enforced_when_the_node_begins() {
    let rig = Rig::new();
    let agent = rig.agent(good(), &["vcenter"]).await;
    revoke(&rig, subject(), None);
    tokio::spawn(enforce(rig.node.clone()));
    assert_eq!(told(&agent).await.0, GoawayCode::Revoked);
}
