//! Who gets a session, and what the others are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use culvert_config::issuer::Introspection;
use culvert_config::relay::RelayLimits;
use culvert_config::units::Span;
use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpListener;

use super::rig::{HANDSHAKE, Rig, good, soon};
use crate::testing::TestIssuer;

#[tokio::test]
async fn who_has_no_good_token_gets_no_session() {
    let rig = Rig::new();
    let bearer = |token: &str| format!("{HANDSHAKE}Authorization: Bearer {token}\r\n\r\n");
    let wrong = [
        (format!("{HANDSHAKE}\r\n"), 401, "realm=\"culvert\"\r\n"),
        (bearer(""), 401, "invalid_request"),
        (bearer("a.b.c"), 401, "invalid_token"),
        (
            bearer(&rig.issuer.token(json!({"exp": 1_000_000_000}))),
            401,
            "the token expired",
        ),
        (
            bearer(&rig.issuer.token(json!({"aud": "other"}))),
            401,
            "another audience",
        ),
        (
            bearer(&rig.issuer.token(json!({"tenant": "no--name"}))),
            401,
            "invalid_token",
        ),
        (
            bearer(&rig.issuer.token(json!({"scope": "culvert:call"}))),
            403,
            "insufficient_scope",
        ),
        (
            bearer(&rig.issuer.token(json!({"culvert_endpoints": []}))),
            403,
            "insufficient_scope",
        ),
    ];
    for (request, status, challenge) in wrong {
        let (found, head) = rig.refused(request).await;
        assert_eq!(found, status, "{head}");
        assert!(head.contains("www-authenticate: Bearer"), "{head}");
        assert!(head.contains(challenge), "{head}");
        assert!(head.contains("application/problem+json"), "{head}");
    }
    assert!(rig.node.agents.is_empty());
    let metrics = rig.node.metrics.render().unwrap();
    assert!(
        metrics.contains("session_refusals_total{reason=\"unauthenticated\"} 6\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("session_refusals_total{reason=\"forbidden\"} 2\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn the_token_is_not_looked_at_where_the_handshake_is_wrong() {
    let rig = Rig::new();
    let request = HANDSHAKE.replace("culvert.v1\r", "other\r");
    let (status, head) = rig
        .refused(format!("{request}Authorization: Bearer a.b.c\r\n\r\n"))
        .await;
    assert_eq!(status, 426, "{head}");
}

#[tokio::test]
async fn a_full_node_says_when_to_come_back_and_takes_the_next_agent_once_one_left() {
    let rig = Rig::with_limits(RelayLimits {
        sessions: 1,
        ..RelayLimits::default()
    });
    let first = rig.open(&rig.issuer.token(good())).await;
    let (head, _) = rig.ask(&rig.issuer.token(good())).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.contains("retry-after: 5\r\n"), "{head}");
    drop(first);
    soon(async {
        while !rig.node.agents.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    rig.open(&rig.issuer.token(good())).await;
}

#[tokio::test]
async fn a_node_that_stops_takes_no_agents() {
    let rig = Rig::new();
    rig.node.agents.refuse_new();
    let (head, _) = rig.ask(&rig.issuer.token(good())).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.contains("retry-after: "), "{head}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_greet_loses_its_seat() {
    let limits = RelayLimits {
        sessions: 1,
        open: Span::secs(5),
        ..RelayLimits::default()
    };
    let rig = Rig::with_limits(limits);
    let (head, io) = rig.ask(&rig.issuer.token(good())).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(rig.node.agents.is_empty());
    rig.open(&rig.issuer.token(good())).await;
    drop(io);
}

#[tokio::test]
async fn a_session_is_listed_while_it_lives() {
    let rig = Rig::new();
    let agent = rig.agent(good(), &["vcenter"]).await;
    let records = rig.node.agents.records();
    assert_eq!(records.len(), 1);
    let state = records[0].state().clone();
    assert_eq!(
        state.hello.map(|hello| hello.name).as_deref(),
        Some("sddc-1")
    );
    assert_eq!(state.endpoints.len(), 1);
    drop((agent, records));
    rig.becomes("vcenter", "offline").await;
    soon(async {
        while !rig.node.agents.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Those whose tokens wait to be verified have no places of sessions: anybody can come with a token.
#[tokio::test]
async fn a_token_that_nobody_has_verified_holds_no_place() {
    let rig = Rig::with_limits(RelayLimits {
        sessions: 1,
        handshakes: 1,
        ..RelayLimits::default()
    });
    let agents = rig.node.agents.clone();
    let turn = agents.handshakes.turn().await.unwrap();
    let waiting = async {
        while rig.node.metrics.handshakes.waiting.get() < 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(agents.seats.available_permits(), 1);
        drop(turn);
    };
    let good = rig.issuer.token(good());
    let (first, second, agent, ()) =
        tokio::join!(rig.ask("a.b.c"), rig.ask("d.e.f"), rig.ask(&good), waiting);
    assert!(first.0.starts_with("HTTP/1.1 401 "), "{}", first.0);
    assert!(second.0.starts_with("HTTP/1.1 401 "), "{}", second.0);
    assert!(agent.0.starts_with("HTTP/1.1 101 "), "{}", agent.0);
    // And who finds none free is told so before anything is verified.
    let late = rig.ask("a.b.c").await.0;
    assert!(late.starts_with("HTTP/1.1 503 "), "{late}");
}

/// As many as for a source of callers: questions are few, and for all sources.
#[tokio::test(start_paused = true)]
async fn one_source_of_agents_has_sixteen_tokens_asked_about_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/introspect", listener.local_addr().unwrap());
    let mut issuer = TestIssuer::new();
    issuer.introspection = Some(Introspection {
        url: url.parse().unwrap(),
        client_id: "relay".into(),
        client_secret: "secret".into(),
    });
    let rig = Rig::of(issuer, RelayLimits::default());
    // Takes every question and answers none.
    let most = Arc::new(AtomicUsize::new(0));
    let asked = most.clone();
    let silent = tokio::spawn(async move {
        let mut questions = Vec::new();
        while let Ok((question, _)) = listener.accept().await {
            questions.push(question);
            asked.store(questions.len(), Ordering::Relaxed);
        }
    });
    let tokens: Vec<String> = (0..40).map(|number| format!("opaque-{number}")).collect();
    let heads = join_all(tokens.iter().map(|token| rig.ask(token))).await;
    let of = |status: &str| {
        let heads = heads.iter().map(|(head, _)| &head[9..12]);
        heads.filter(|found| *found == status).count()
    };
    // Those that were asked about are nobody's fault; the others are told before the first of these ends.
    assert_eq!((of("503"), of("429")), (16, 24));
    assert_eq!(most.load(Ordering::Relaxed), 16);
    silent.abort();
}
