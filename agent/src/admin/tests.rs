//! What the admin listener answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use culvert_admin::Access;
use culvert_config::admin::{AdminAddress, AgentAdmin};
use culvert_config::audit::AuditConfig;
use culvert_config::endpoint::Trust;
use culvert_identity::{Grant, TokenSource};
use http::Method;
use http::header::{ALLOW, HOST};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::Instant;

use super::status::Status;
use super::*;
use crate::audit::Audit;
use crate::connect::LiveSessions;
use crate::reload::PolicySource;
use crate::serve::{Accounts, Serving};
use crate::testing::endpoint;

/// Of an agent that has no session.
pub(super) async fn desk() -> (tempfile::TempDir, Desk) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    std::fs::write(&file, "version = 1\n").unwrap();
    let policy = Arc::new(PolicySource::load(&file).unwrap());
    let endpoints = vec![endpoint("https://127.0.0.1:9", Trust::Pins(vec![[7; 32]]))];
    let accounts = Accounts::new(Audit::new(&AuditConfig::default()), &endpoints);
    let serving = Serving::new(&endpoints, "relay.example", policy.watch(), accounts).unwrap();
    let nothing = Grant::TokenFile(folder.path().join("token"));
    let (tokens, renewing) = TokenSource::new(nothing);
    tokio::spawn(renewing);
    let desk = Desk {
        started: Instant::now(),
        relay: "wss://relay.example.com".into(),
        endpoints,
        sessions: Arc::new(LiveSessions::default()),
        tokens,
        policy,
        serving: Arc::new(serving),
    };
    (folder, desk)
}

fn request(method: Method, host: &str, path: &str) -> Request<()> {
    let request = Request::builder().method(method).uri(path);
    request.header(HOST, host).body(()).unwrap()
}

/// Status and body of the answer to a GET.
async fn get(desk: &Desk, path: &str) -> (u16, String) {
    let response = answer(desk, &request(Method::GET, "127.0.0.1:9902", path));
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.into()).unwrap())
}

#[tokio::test]
async fn an_agent_without_a_session_works_and_is_not_ready() {
    let (_folder, desk) = desk().await;
    assert_eq!(get(&desk, "/healthz").await.0, 200);
    let (status, why) = get(&desk, "/readyz").await;
    assert_eq!((status, why.as_str()), (503, "a session with the relay\n"));
    assert_eq!(get(&desk, "/nothing").await.0, 404);
    let (_, page) = get(&desk, "/").await;
    assert!(page.contains("not ready"), "{page}");
}

#[tokio::test]
async fn an_agent_that_stops_is_not_ready() {
    let (_folder, desk) = desk().await;
    desk.serving.front().draining.cancel();
    assert_eq!(get(&desk, "/healthz").await.0, 200);
    let (status, why) = get(&desk, "/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(why, "the end of the calls in flight: the agent stops\n");
}

#[tokio::test]
async fn every_metric_is_there_from_the_start() {
    let (_folder, desk) = desk().await;
    let (status, text) = get(&desk, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "culvert_agent_calls_total{endpoint=\"api\",decision=\"deny\"} 0",
        "culvert_agent_call_ends_total{outcome=\"answered\"} 0",
        "culvert_agent_sessions 0",
        "culvert_agent_token_expiry_seconds 0",
        "culvert_agent_audit_alarm 0",
        "culvert_agent_audit_lost_lines_total 0",
        "culvert_agent_policy_reload_failures_total 0",
        "culvert_agent_policy_rules 0",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn only_this_machine_may_ask_and_nothing_can_be_changed() {
    let (_folder, desk) = desk().await;
    let foreign = answer(&desk, &request(Method::GET, "evil.example", "/healthz"));
    assert_eq!(foreign.status(), 403);
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let response = answer(&desk, &request(method, "localhost", "/api/v1/status"));
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET, HEAD");
    }
}

/// The description names the fields that the status has, no more and no fewer.
#[tokio::test]
async fn the_description_is_that_of_the_status() {
    let (_folder, desk) = desk().await;
    let api: Value = serde_json::from_str(&get(&desk, "/api/v1/openapi.json").await.1).unwrap();
    let status: Value = serde_json::from_str(&get(&desk, "/api/v1/status").await.1).unwrap();
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let schemas = &api["components"]["schemas"];
    for (schema, found) in [
        ("Status", &status),
        ("Token", &status["token"]),
        ("Policy", &status["policy"]),
        ("Audit", &status["audit"]),
        ("Endpoint", &status["endpoints"][0]),
    ] {
        assert_eq!(
            names(&schemas[schema]["properties"]),
            names(found),
            "{schema}"
        );
    }
    for path in api["paths"].as_object().unwrap().keys() {
        assert_ne!(get(&desk, path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn a_socket_in_the_file_system_is_for_one_agent() {
    let (folder, desk) = desk().await;
    let path = folder.path().join("admin.sock");
    let socket = AgentAdmin::open_at(AdminAddress::Socket(path.clone()));
    let admin = Admin::bind(&socket, desk).await.unwrap();
    tokio::spawn(admin.run());
    let address = Access::new(&format!("unix:{}", path.display()), None, None).unwrap();
    let body = CLIENT.get(&address, "/api/v1/status").await.unwrap();
    let status: Status = serde_json::from_slice(&body).unwrap();
    assert!(!status.ready);

    let (_other, desk) = self::desk().await;
    let taken = Admin::bind(&socket, desk).await;
    assert_eq!(taken.err().unwrap().key(), "admin.socket");
}

/// The folder that a service manager would have made is not looked for before the agent runs.
#[tokio::test]
async fn a_socket_without_a_folder_is_as_wrong_at_the_next_start() {
    let (folder, desk) = desk().await;
    let path = folder.path().join("nowhere/admin.sock");
    let socket = AgentAdmin::open_at(AdminAddress::Socket(path));
    let error = Admin::bind(&socket, desk).await.err().unwrap();
    assert_eq!((error.key(), error.is_lasting()), ("admin.socket", true));
    let error = Admin::check(&socket).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    let made = AgentAdmin::open_at(AdminAddress::Socket("/run/not-yet/admin.sock".into()));
    Admin::check(&made).unwrap();
}
