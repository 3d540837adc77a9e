//! What the admin listener answers, asked directly and over the wire.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_admin::Access;
use culvert_config::relay::RelayLimits;
use http::HeaderValue;
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;
use crate::sessions::tests::rig::{Rig, call, good, soon};
use crate::testing::{TestIssuer, node};

fn request(method: Method, path: &str) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "127.0.0.1:9901")
        .body(Bytes::new())
        .unwrap()
}

async fn text(response: Response<Full<Bytes>>) -> String {
    String::from_utf8(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .into(),
    )
    .unwrap()
}

/// Status, type and body of the answer to a GET.
async fn get(node: &Node, path: &str) -> (u16, String, String) {
    let response = answer(node, &request(Method::GET, path)).await;
    let kind = response.headers()[CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    (response.status().as_u16(), kind, text(response).await)
}

fn fresh_node() -> Arc<Node> {
    node(&TestIssuer::new(), &RelayLimits::default())
}

#[tokio::test]
async fn a_node_is_ready_while_it_listens_has_keys_and_does_not_drain() {
    let node = fresh_node();
    assert_eq!(get(&node, "/readyz").await.0, 200);

    node.listening.store(false, Ordering::Relaxed);
    let (status, _, why) = get(&node, "/readyz").await;
    assert_eq!((status, why.as_str()), (503, "the public listener\n"));
    node.listening.store(true, Ordering::Relaxed);

    let response = answer(&node, &request(Method::POST, "/api/v1/drain")).await;
    assert_eq!(response.status(), 202);
    assert_eq!(text(response).await, "{\"state\":\"draining\"}");
    assert!(node.ending.drain.is_cancelled());
    let (status, _, why) = get(&node, "/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains("drains"), "{why}");
    assert_eq!(get(&node, "/healthz").await.0, 200, "it still works");
}

#[tokio::test]
async fn a_node_without_keys_waits_for_them_by_name() {
    let issuer = culvert_config::issuer::Issuer {
        jwks: culvert_config::issuer::Jwks::Discovery,
        url: "https://127.0.0.1:9/nobody".into(),
        ..TestIssuer::new().config()
    };
    let verifier = Arc::new(
        culvert_trust::verifier(&[issuer], culvert_identity::Proxying::Environment).unwrap(),
    );
    let ready = fresh_node();
    let node = Node {
        neighbours: None,
        name: ready.name.clone(),
        started: ready.started,
        verifier,
        directory: ready.directory.clone(),
        agents: ready.agents.clone(),
        tenants: ready.tenants.clone(),
        revocations: ready.revocations.clone(),
        metrics: ready.metrics.clone(),
        ending: ready.ending.clone(),
        listening: true.into(),
    };
    let (status, _, why) = get(&node, "/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains("https://127.0.0.1:9/nobody"), "{why}");
}

#[tokio::test]
async fn the_description_names_what_there_is_and_says_how_the_status_looks() {
    let rig = Rig::new();
    let _agent = rig.agent(good(), &["vcenter"]).await;
    let node = &rig.node;
    let (_, kind, text) = get(node, "/api/v1/openapi.json").await;
    assert_eq!(kind, "application/json");
    let openapi: Value = serde_json::from_str(&text).unwrap();
    for (path, operations) in openapi["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let path = path.replace("{id}", "0123456789abcdef");
            let request = request(method.to_uppercase().parse().unwrap(), &path);
            let found = answer(node, &request).await.status().as_u16();
            let documented = operations.pointer(&format!("/{method}/responses/{found}"));
            assert!(documented.is_some(), "{method} {path}: {found}");
        }
    }
    let longest = &openapi["components"]["schemas"]["Revoke"]["properties"]["ttl_s"]["maximum"];
    assert_eq!(*longest, crate::revocations::LONGEST.as_secs());
    let (_, _, text) = get(node, "/api/v1/status").await;
    let status: Value = serde_json::from_str(&text).unwrap();
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let described = |schema: &str| {
        let schema = &openapi["components"]["schemas"][schema];
        let required = schema["required"].as_array().unwrap().iter();
        let required: BTreeSet<_> = required
            .map(|key| key.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(required, keys(&schema["properties"]));
        required
    };
    assert_eq!(keys(&status), described("Status"));
    assert_eq!(keys(&status["sessions"][0]), described("Session"));
    assert_eq!(keys(&status["endpoints"][0]), described("Endpoint"));
    assert_eq!(keys(&status["tenants"][0]), described("Tenant"));
    assert_eq!(keys(&status["issuers"][0]), described("Issuer"));
    let (_, _, made) = post(node, &json!({"tenant": "globex"})).await;
    assert_eq!(keys(&made), described("Revocation"));
}

/// Status, allowed methods or nothing, and body of the answer to a request for a revocation.
async fn post(node: &Node, asked: &Value) -> (u16, String, Value) {
    let mut request = request(Method::POST, "/api/v1/revocations");
    *request.body_mut() = asked.to_string().into();
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    let response = answer(node, &request).await;
    let kind = response.headers()[CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    let status = response.status().as_u16();
    let body = serde_json::from_str(&text(response).await).unwrap();
    (status, kind, body)
}

#[tokio::test]
async fn a_revocation_is_made_listed_and_lifted() {
    let node = fresh_node();
    let asked = json!({
        "subject": "director-7", "tenant": "acme", "reason": "laptop stolen", "ttl_s": 3600,
    });
    let (status, _, made) = post(&node, &asked).await;
    assert_eq!(status, 201, "{made}");
    for (key, value) in asked.as_object().unwrap() {
        assert!(key == "ttl_s" || made[key] == *value, "{made}");
    }
    let (since, expires) = (made["since"].as_u64(), made["expires"].as_u64());
    assert_eq!(expires.unwrap() - since.unwrap(), 3600);
    let (_, _, listed) = get(&node, "/api/v1/revocations").await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed, json!({ "revocations": [made] }));
    let (_, _, metrics) = get(&node, "/metrics").await;
    assert!(
        metrics.contains("culvert_relay_revocations 1\n"),
        "{metrics}"
    );

    let lift = async || {
        let path = format!("/api/v1/revocations/{}", made["id"].as_str().unwrap());
        answer(&node, &request(Method::DELETE, &path)).await
    };
    assert_eq!(lift().await.status(), 200);
    let again = lift().await;
    assert_eq!(again.status(), 404);
    let again = text(again).await;
    assert!(again.contains("no revocation"), "{again}");
    let nothing = request(Method::DELETE, "/api/v1/revocations/zzz");
    assert_eq!(answer(&node, &nothing).await.status(), 404);
    assert!(node.revocations.is_empty());
}

#[test]
fn a_person_reads_until_when_a_revocation_holds() {
    for (expires, end) in [
        (json!(1_795_954_540_u64), ", until 2026-11-29T12:15:40Z"),
        (json!(u64::MAX), ", until 18446744073709551615"),
        (json!(null), ""),
    ] {
        let shown = json!({
            "id": "ded3b3eda2a7914c", "subject": null, "tenant": "acme", "session": null,
            "endpoint": null, "reason": "moved", "since": 1, "expires": expires, "other_nodes": null,
        });
        let shown: revocations::Shown = serde_json::from_value(shown).unwrap();
        let expected = format!("ded3b3eda2a7914c tenant acme{end}: moved");
        assert_eq!(shown.to_string(), expected);
    }
}

#[tokio::test]
async fn a_revocation_that_makes_no_sense_is_not_made() {
    let node = fresh_node();
    for (asked, word) in [
        (json!({}), "at least one"),
        (json!({"reason": "x", "ttl_s": 5}), "at least one"),
        (json!({"endpoint": "vcenter"}), "tenant"),
        (json!({"tenant": "Acme"}), "tenant"),
        (json!({"tenant": "acme", "endpoint": "a--b"}), "endpoint"),
        (json!({"tenant": "acme", "ttl_s": 0}), "over already"),
        (json!({"tenant": "acme", "expires": 1}), "over already"),
        (
            json!({"tenant": "acme", "expires": 1_795_909_655_000_000_000_u64}),
            "a hundred years",
        ),
        (
            json!({"tenant": "acme", "ttl_s": u64::MAX}),
            "a hundred years",
        ),
        (
            json!({"tenant": "acme", "ttl_s": 1, "expires": 4_000_000_000_u64}),
            "not both",
        ),
        (json!({"tenant": "acme", "ttl_s": -1}), "u64"),
        (json!({"tenant": "acme", "tennant": "x"}), "tennant"),
        (json!({"subject": ""}), "subject"),
        (json!({"subject": "x", "reason": "a\u{7}b"}), "reason"),
        (json!({"subject": "x", "reason": "r".repeat(513)}), "reason"),
        (json!({"session": "1"}), "u64"),
        (json!(["acme"]), "object"),
    ] {
        let (status, kind, body) = post(&node, &asked).await;
        assert_eq!(
            (status, kind.as_str()),
            (400, "application/problem+json"),
            "{asked}"
        );
        let detail = body["detail"].as_str().unwrap();
        assert!(
            detail.contains(word) || word == "ttl_s",
            "{asked}: {detail}"
        );
    }
    assert!(node.revocations.is_empty());
}

/// Where other nodes have to know too, the answer says whether they can, and does not wait for long.
#[tokio::test(start_paused = true)]
async fn a_revocation_says_whether_other_nodes_can_know() {
    let node = fresh_node();
    node.revocations.share();
    let (status, _, made) = post(&node, &json!({"tenant": "acme"})).await;
    assert_eq!((status, &made["other_nodes"]), (202, &json!("pending")));
    let others = node.clone();
    let telling = tokio::spawn(async move {
        let mut changes = others.revocations.changes();
        loop {
            others.revocations.on_told(&others.revocations.untold());
            changes.changed().await.unwrap();
        }
    });
    let (status, _, told) = post(&node, &json!({"tenant": "globex"})).await;
    assert_eq!((status, &told["other_nodes"]), (201, &json!("told")));
    let (_, _, listed) = get(&node, "/api/v1/revocations").await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let known = listed["revocations"].as_array().unwrap().iter();
    let known: Vec<_> = known.map(|one| one["other_nodes"].clone()).collect();
    assert_eq!(
        known
            .iter()
            .filter(|known| **known == json!("told"))
            .count(),
        2
    );
    telling.abort();
    let _ = telling.await;
    let path = format!("/api/v1/revocations/{}", told["id"].as_str().unwrap());
    let response = answer(&node, &request(Method::DELETE, &path)).await;
    assert_eq!(response.status(), 202, "it holds elsewhere yet");
}

/// Ids count upwards: that of a session that has not come yet will be somebody else's.
#[tokio::test]
async fn a_session_is_revoked_only_where_and_while_it_is() {
    let rig = Rig::new();
    rig.node.revocations.share();
    let _agent = rig.agent(good(), &["vcenter"]).await;
    let here = rig.node.agents.records()[0].id.0;
    let next = here + 1;
    let (status, _, refused) = post(&rig.node, &json!({ "session": next })).await;
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        status == 404 && detail.contains(&format!("no session {next}")),
        "{status} {detail}"
    );
    assert!(rig.node.revocations.is_empty(), "it would hold for an hour");
    // That of a session is no other node's affair.
    let (status, _, made) = post(&rig.node, &json!({ "session": here })).await;
    assert_eq!((status, &made["other_nodes"]), (201, &json!(null)));
    assert_eq!(made["session"], here);
}

/// What a form, a link or a script of a foreign page could send.
#[tokio::test]
async fn a_web_page_revokes_and_lifts_nothing() {
    let node = fresh_node();
    let (_, _, made) = post(&node, &json!({"tenant": "acme"})).await;
    let path = format!("/api/v1/revocations/{}", made["id"].as_str().unwrap());
    let send = async |method: Method, path: &str, fields: &[(&'static str, &'static str)]| {
        let mut request = request(method, path);
        *request.body_mut() = Bytes::from_static(br#"{"tenant":"globex"}"#);
        for (name, value) in fields {
            request
                .headers_mut()
                .insert(*name, HeaderValue::from_static(value));
        }
        answer(&node, &request).await.status().as_u16()
    };
    let list = "/api/v1/revocations";
    let json = ("content-type", "application/json");
    assert_eq!(send(Method::POST, list, &[]).await, 415);
    for form in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        assert_eq!(
            send(Method::POST, list, &[("content-type", form)]).await,
            415
        );
    }
    for origin in ["https://evil.example", "null", "http://127.0.0.1:9901"] {
        assert_eq!(
            send(Method::POST, list, &[json, ("origin", origin)]).await,
            403
        );
        assert_eq!(
            send(Method::DELETE, &path, &[("origin", origin)]).await,
            403
        );
    }
    assert_eq!(
        send(Method::POST, list, &[json, ("host", "evil.example")]).await,
        403
    );
    assert_eq!(send(Method::GET, &path, &[]).await, 405);
    assert_eq!(send(Method::PUT, list, &[json]).await, 405);
    assert_eq!(node.revocations.len(), 1);
}

#[tokio::test]
async fn the_status_shows_sessions_and_endpoints_as_json_text_and_page() {
    let rig = Rig::new();
    let _agent = rig.agent(good(), &["vcenter"]).await;
    rig.node.metrics.certificate_expiry.set(1_262_304_000);
    let (_, _, json) = get(&rig.node, "/api/v1/status").await;
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status.state, State::Ready);
    assert_eq!(status.sessions[0].endpoints, ["vcenter"]);
    assert_eq!(status.sessions[0].subject, "sddc-1");
    let text = status.to_string();
    assert!(
        text.contains("\n1 session\n") && text.contains("vcenter--acme: 1 session\n"),
        "{text}"
    );
    assert!(
        text.contains("certificate good until 2010-01-01T00:00:00Z\n"),
        "{text}"
    );
    let (_, kind, page) = get(&rig.node, "/").await;
    assert!(kind.starts_with("text/html"));
    assert!(page.contains("vcenter--acme: 1 session"), "{page}");
    let (_, kind, metrics) = get(&rig.node, "/metrics").await;
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(metrics.contains("culvert_relay_sessions 1\n"), "{metrics}");
    assert!(metrics.contains("culvert_relay_endpoints 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_session_that_drains_is_not_shown_as_one_that_serves() {
    let rig = Rig::new();
    let mut agent = rig.agent(good(), &["vcenter"]).await;
    let session = rig.node.agents.records()[0].session.clone();
    // Held: with its last call the session would end.
    let _call = session.open(&call(), Bytes::new(), true).unwrap();
    let _served = agent.incoming.accept().await.unwrap();
    agent.session.drain(Duration::ZERO);
    soon(rig.becomes("vcenter", "moving")).await;
    let (_, _, json) = get(&rig.node, "/api/v1/status").await;
    let status: Status = serde_json::from_str(&json).unwrap();
    let text = status.to_string();
    assert!(
        text.contains("vcenter--acme: offline, 1 draining\n"),
        "{text}"
    );
    let (_, _, metrics) = get(&rig.node, "/metrics").await;
    assert!(metrics.contains("culvert_relay_sessions 1\n"), "{metrics}");
    assert!(metrics.contains("culvert_relay_endpoints 0\n"), "{metrics}");
}

#[tokio::test]
async fn what_an_agent_calls_itself_stays_text() {
    let rig = Rig::new();
    let _agent = rig.agent(good(), &["vcenter"]).await;
    let records = rig.node.agents.records();
    if let Some(hello) = &mut records[0].state().hello {
        hello.name = "<script>\u{1b}[2J".into();
    }
    let (_, _, page) = get(&rig.node, "/").await;
    assert!(page.contains("&lt;script&gt;\\u{1b}[2J"), "{page}");
}

#[tokio::test]
async fn web_pages_of_others_get_nothing() {
    let node = fresh_node();
    let foreign = ("host", "evil.example:9901");
    let page = ("origin", "https://evil.example");
    for (method, path, (name, value)) in [
        (Method::GET, "/api/v1/status", foreign),
        (Method::POST, "/api/v1/drain", foreign),
        (Method::POST, "/api/v1/drain", page),
    ] {
        let mut request = request(method, path);
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
        assert_eq!(answer(&node, &request).await.status(), 403);
    }
    assert!(!node.ending.drain.is_cancelled());
}

#[tokio::test]
async fn what_is_not_there_is_said_in_words() {
    let node = fresh_node();
    let (status, kind, body) = get(&node, "/nothing").await;
    assert_eq!((status, kind.as_str()), (404, "application/problem+json"));
    assert!(body.contains("openapi.json"), "{body}");
    let response = answer(&node, &request(Method::GET, "/api/v1/drain")).await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()[ALLOW], "POST");
    let response = answer(&node, &request(Method::POST, "/api/v1/status")).await;
    assert_eq!(response.headers()[ALLOW], "GET, HEAD");
}

#[tokio::test]
async fn the_command_line_reaches_the_listener() {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(Admin::new(listener, fresh_node()).run());
    let access = Access::new(&url, None, None).unwrap();
    let status = CLIENT.get(&access, "/api/v1/status").await.unwrap();
    serde_json::from_slice::<Status>(&status).unwrap();
}
