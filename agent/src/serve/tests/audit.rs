//! One line per call in the audit log, and the security log for what no relay should send.

use std::time::Duration;

use culvert_config::endpoint::Timeouts;
use culvert_config::units::Span;
use culvert_proto::code::{ErrorCode, GoawayCode};
use serde_json::Value;

use super::super::audit::shown_target;
use super::endings::patient;
use super::heads::{FILES, dav};
use super::*;
use crate::testing::log::{Line, Log};

/// The one audit line of a tunnel's one call, which is over.
async fn one(tunnel: &Tunnel) -> Value {
    tunnel.serving.calls().close();
    tunnel.serving.calls().wait().await;
    let mut lines = tunnel.serving.accounts().audit.take_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    serde_json::from_str(&lines.remove(0)).unwrap()
}

/// A line has these fields, and of those without a value none.
fn assert_line(line: &Value, expected: &[(&str, Value)]) {
    for (field, value) in expected {
        let found = line.get(*field).unwrap_or(&Value::Null);
        assert_eq!(found, value, "{field} in {line}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answered_call_leaves_a_line_with_all_that_was_decided() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.call(&post("/api/vms?x=1", BodyLength::Exact(4)), "four");
    let mut upstream = tunnel.asked().await;
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
    assert_line(
        &one(&tunnel).await,
        &[
            ("call", "07070707070707070707070707070707".into()),
            ("tenant", "acme".into()),
            ("caller", "director-7".into()),
            ("endpoint", "api".into()),
            ("mode", "http".into()),
            ("method", "POST".into()),
            ("target", "/api/vms?x=1".into()),
            ("decision", "allow".into()),
            ("rule", "read".into()),
            ("status", 200.into()),
            ("bytes_in", 4.into()),
            ("bytes_out", 5.into()),
            ("outcome", "answered".into()),
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn a_line_says_where_a_move_led_and_which_of_both_was_refused() {
    for (destination, shown, rule, reason) in [
        (
            "/files/secret%5bs%5d/b",
            "/files/secret%5Bs%5D/b",
            "secrets".into(),
            "destination: rule",
        ),
        (
            "https://other/ticket/b?token=c",
            "https://other/ticket/***?token=***",
            Value::Null,
            "destination: no-rule",
        ),
    ] {
        let tunnel = Tunnel::new(FILES).await;
        refusal(&mut tunnel.call(&dav("MOVE", &[destination]), "")).await;
        assert_line(
            &one(&tunnel).await,
            &[
                ("target", "/files/a".into()),
                ("destination", shown.into()),
                ("decision", "deny".into()),
                ("rule", rule),
                ("reason", reason.into()),
            ],
        );
    }
    let moved = ("MOVE", "/files/b".into(), "files".into());
    for (method, shown, rule) in [moved, ("GET", Value::Null, Value::Null)] {
        let mut tunnel = Tunnel::new(FILES).await;
        let (mut call, mut upstream) = tunnel.under_way(&dav(method, &["/files/b"])).await;
        upstream.send(HELLO).await;
        assert_eq!(body_of(&mut call).await, b"hello");
        assert_line(
            &one(&tunnel).await,
            &[
                ("destination", shown),
                ("decision", "allow".into()),
                ("destination_rule", rule),
                ("reason", Value::Null),
            ],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn every_ending_leaves_exactly_one_line() {
    let tunnel = Tunnel::new(POLICY).await;
    refusal(&mut tunnel.call(&get("/api/secrets/1"), "")).await;
    assert_line(
        &one(&tunnel).await,
        &[
            ("decision", "deny".into()),
            ("rule", "secrets".into()),
            ("reason", "rule".into()),
            ("status", 403.into()),
            ("outcome", "refused".into()),
        ],
    );

    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.call(&get("/api/1"), "");
    tunnel.connection().await.request().await.unwrap();
    refusal(&mut call).await;
    assert_line(
        &one(&tunnel).await,
        &[("status", 502.into()), ("outcome", "failed".into())],
    );

    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel.under_way(&get("/api/1")).await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
        .await;
    answer(&mut call).await;
    drop(upstream);
    body(&mut call).await.1.unwrap_err();
    assert_line(
        &one(&tunnel).await,
        &[
            ("status", 200.into()),
            ("bytes_out", 5.into()),
            ("outcome", "truncated".into()),
        ],
    );

    let mut tunnel = Tunnel::new(POLICY).await;
    let (call, _upstream) = tunnel.under_way(&get("/api/1")).await;
    drop(call);
    assert_line(&one(&tunnel).await, &[("outcome", "caller-gone".into())]);

    let mut tunnel = Tunnel::new(POLICY).await;
    let _call = tunnel.call(&get("/api/1"), "");
    let _upstream = tunnel.connection().await;
    tunnel.relay.close(GoawayCode::Internal, "gone");
    assert_line(&one(&tunnel).await, &[("outcome", "session-lost".into())]);

    let mut tunnel = Tunnel::new(POLICY).await;
    let _call = tunnel.call(&get("/api/1"), "");
    let _upstream = tunnel.connection().await;
    tunnel.policy.send_replace(policy(
        "version = 1\n[[rule]]\nid = \"no\"\naction = \"deny\"\n",
    ));
    assert_line(&one(&tunnel).await, &[("outcome", "withdrawn".into())]);
}

#[tokio::test(start_paused = true)]
async fn a_defect_of_the_agent_is_called_one_to_the_relay_in_the_log_and_in_the_count() {
    // No configuration has such a patience, and no clock holds the sum: that is a panic.
    let never = Span(Duration::MAX);
    let before_the_answer = Timeouts {
        head: never,
        ..Timeouts::default()
    };
    let amid_the_answer = Timeouts {
        idle: never,
        ..Timeouts::default()
    };
    for (timeouts, status) in [(before_the_answer, 0), (amid_the_answer, 200)] {
        let mut tunnel = Tunnel::with(POLICY, &patient(timeouts)).await;
        let (mut call, mut upstream) = tunnel.under_way(&get("/api/1")).await;
        upstream.send(HELLO).await;
        let error = first(&mut call).await.unwrap_err();
        assert_eq!(error, StreamError::Reset(ResetCode::Internal));
        assert_line(
            &one(&tunnel).await,
            &[
                ("decision", "allow".into()),
                ("status", status.into()),
                ("outcome", "defect".into()),
                ("reason", "a defect of the agent: see its log".into()),
                ("code", Value::Null),
            ],
        );
        let counts = tunnel.serving.accounts().metrics.render().unwrap();
        let counted = "culvert_agent_call_ends_total{outcome=\"defect\"} 1";
        assert!(counts.contains(counted), "{counts}");
        upstream.closed().await;
    }
}

/// The rule that allows a call and a limit of it that does not are told apart.
#[tokio::test(start_paused = true)]
async fn a_call_beyond_a_limit_of_its_rule_is_logged_with_the_name_of_the_limit() {
    let rule = |limit: &str| POLICY.replacen("method = [", &format!("{limit}\nmethod = ["), 1);
    let assert_reason = async |tunnel: &Tunnel, outcome: &str, code: &str, reason: &str| {
        tunnel.serving.calls().close();
        tunnel.serving.calls().wait().await;
        let lines = tunnel.serving.accounts().audit.take_lines();
        let mut lines = lines.iter().map(|line| serde_json::from_str(line).unwrap());
        let refused = lines.find(|line: &Value| line["code"] == code);
        let expected = [
            ("decision", "allow".into()),
            ("rule", "read".into()),
            ("outcome", outcome.into()),
            ("reason", reason.into()),
        ];
        assert_line(&refused.expect("a refusal"), &expected);
    };

    let tunnel = Tunnel::new(&rule("max_body = \"10\"")).await;
    refusal(&mut tunnel.call(&post("/api/a", BodyLength::Exact(11)), "")).await;
    assert_reason(&tunnel, "refused", "policy-denied", "max-body").await;

    let mut tunnel = Tunnel::new(&rule("max_body = \"10\"")).await;
    let (mut call, _upstream) = tunnel.uploading(&post("/api/a", BodyLength::Unknown)).await;
    let body = Bytes::from_static(b"more than ten");
    call.send.write_bytes(body).await.unwrap();
    refusal(&mut call).await;
    // The upstream has seen a part of it.
    assert_reason(&tunnel, "withdrawn", "policy-denied", "max-body").await;

    let mut tunnel = Tunnel::new(&rule("rate = \"1/h\"")).await;
    let first = tunnel.call(&get("/api/1"), "");
    let upstream = tunnel.connection().await;
    refusal(&mut tunnel.call(&get("/api/2"), "")).await;
    drop((first, upstream));
    assert_reason(&tunnel, "refused", "quota-exceeded", "rate").await;
}

#[tokio::test(start_paused = true)]
async fn a_shadow_rule_is_logged_and_counted_and_not_applied() {
    let rules = format!(
        "{POLICY}\n[[rule]]\nid = \"soon\"\naction = \"deny\"\npath = [\"/api/old/**\"]\nenforce = false\n"
    );
    let mut tunnel = Tunnel::new(&rules).await;
    let (call, _upstream) = tunnel.under_way(&get("/api/old/1")).await;
    drop(call);
    let line = one(&tunnel).await;
    assert_line(
        &line,
        &[
            ("shadow", serde_json::json!(["soon"])),
            ("decision", "allow".into()),
            ("rule", "read".into()),
        ],
    );
    let metrics = tunnel.serving.accounts().metrics.render().unwrap();
    assert!(
        metrics.contains("culvert_agent_shadow_hits_total{rule=\"soon\"} 1\n"),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_no_relay_in_good_order_sends_is_a_security_event() {
    let (log, _guard) = Log::listen("culvert::security");
    let tunnel = Tunnel::new(POLICY).await;
    refusal(&mut tunnel.call(&get("/api/../\"secrets"), "")).await;
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["relay"], "relay-1");
    assert_eq!(lines[0]["target"], "/api/../\\\"secrets");

    refusal(&mut tunnel.call(&get("/api/a;b"), "")).await;
    refusal(&mut tunnel.call(&get("/api/secrets/1"), "")).await;
    assert_eq!(
        log.take(),
        Vec::<Line>::new(),
        "callers' own doing is no security event"
    );
}

#[tokio::test(start_paused = true)]
async fn the_security_log_shows_no_more_of_a_target_than_the_audit_log() {
    let (log, _guard) = Log::listen("culvert::security");
    let tunnel = Tunnel::new(POLICY).await;
    refusal(&mut tunnel.call(&get("/api//vms?token=hunter2&x=1"), "")).await;
    assert_eq!(log.take()[0]["target"], "/api//vms?token=***&x=1");
    // However it is cut.
    let long = |length: usize| {
        let (path, more) = ("a".repeat(length), "z".repeat(600));
        String::leak(format!(
            "/api//{path}\"/ticket/hunter2?token=hunter2&x={more}"
        ))
    };
    for length in 488..506 {
        refusal(&mut tunnel.call(&get(long(length)), "")).await;
        let target = &log.take()[0]["target"];
        assert!(!target.contains("hunter"), "{length}: {target}");
        assert!(target.len() < 600, "{length}: {target}");
    }
    shown_target("\u{e4}".repeat(300).as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_relay_cannot_fill_the_log() {
    let (log, _guard) = Log::listen("culvert::security");
    let tunnel = Tunnel::new(POLICY).await;
    for _ in 0..100 {
        refusal(&mut tunnel.call(&get("/api/../secrets"), "")).await;
    }
    let lines = log.take().len();
    assert!((1..=20).contains(&lines), "{lines} lines");
    tokio::time::sleep(Duration::from_secs(60)).await;
    refusal(&mut tunnel.call(&get("/api/../secrets"), "")).await;
    assert_eq!(log.take()[0]["left_out"], (100 - lines).to_string());
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_said_and_how_long_it_took_is_in_the_line() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut head = get("/api/vms?sessionTicket=cst-1&x=2");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    head.headers.insert("traceparent", trace.parse().unwrap());
    let (mut call, mut upstream) = tunnel.under_way(&head).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
    let line = one(&tunnel).await;
    assert_line(
        &line,
        &[
            ("event", "call".into()),
            ("relay", "relay-1".into()),
            ("source", "192.0.2.1".into()),
            ("target", "/api/vms?sessionTicket=***&x=2".into()),
            ("upstream_status", 200.into()),
            ("upstream_ms", 2000.into()),
            ("duration_ms", 2000.into()),
            ("trace", "4bf92f3577b34da6a3ce929d0e0e4736".into()),
            ("code", Value::Null),
            ("reason", Value::Null),
            ("soap_op", Value::Null),
        ],
    );
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_trace_is_not_in_the_line() {
    for id in ["0".repeat(32), "4bf92f3577b34da6a3ce929d0e0e473".to_owned()] {
        let tunnel = Tunnel::new(POLICY).await;
        let mut head = get("/api/secrets/1");
        let trace = format!("00-{id}-00f067aa0ba902b7-01");
        head.headers.insert("traceparent", trace.parse().unwrap());
        refusal(&mut tunnel.call(&head, "")).await;
        assert_line(&one(&tunnel).await, &[("trace", Value::Null)]);
    }
}

fn expiring(target: &'static str, expires: u64) -> CallHead {
    let mut head = get(target);
    head.caller.expires = expires;
    head
}

fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The relay ends such a call before the agent would, and tells the caller why.
#[tokio::test(start_paused = true)]
async fn a_call_that_the_relay_ends_since_its_credential_expired_is_logged_as_such() {
    for (expires, outcome, reason) in [
        (now() - 30, "withdrawn", "credential-expired".into()),
        (now() - 25, "caller-gone", Value::Null),
    ] {
        let mut tunnel = Tunnel::new(POLICY).await;
        let (call, _upstream) = tunnel.under_way(&expiring("/api/long-poll", expires)).await;
        drop(call);
        let line = one(&tunnel).await;
        assert_line(&line, &[("outcome", outcome.into()), ("code", Value::Null)]);
        assert!(reason.is_null() || line["reason"] == reason, "{line}");
    }
}

async fn assert_expired(tunnel: &Tunnel, call: &mut Stream) {
    assert_eq!(refusal(call).await.code, ErrorCode::CallerUnverified);
    let expected = [
        ("outcome", "withdrawn".into()),
        ("reason", "credential-expired".into()),
        ("code", "caller-unverified".into()),
    ];
    assert_line(&one(tunnel).await, &expected);
}

/// By the wall clock, which does not stop for tests: within a second, as the grace is 40 s. The relay's is
/// over long before.
#[tokio::test]
async fn a_call_in_progress_ends_when_its_callers_credential_has_expired() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel
        .under_way(&expiring("/api/long-poll", now() - 39))
        .await;
    assert_expired(&tunnel, &mut call).await;
    upstream.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_of_an_expired_credential_does_not_reach_the_upstream() {
    for expires in [0, now() - 41] {
        let mut tunnel = Tunnel::new(POLICY).await;
        let mut call = tunnel.call(&expiring("/api/vms", expires), "");
        assert_expired(&tunnel, &mut call).await;
        tunnel.assert_untouched();
    }
    // One that never expires, whatever a relay says, harms nobody.
    let mut tunnel = Tunnel::new(POLICY).await;
    let (mut call, mut upstream) = tunnel.under_way(&expiring("/api/vms", u64::MAX)).await;
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
}

#[tokio::test(start_paused = true)]
async fn refused_calls_are_remembered_for_status_with_their_secrets_masked() {
    let tunnel = Tunnel::new(POLICY).await;
    refusal(&mut tunnel.call(&get("/api/secrets/1?token=t0ps3cret"), "")).await;
    one(&tunnel).await;
    let refusals = tunnel.serving.accounts().refusals();
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].target, "/api/secrets/1?token=***");
    assert_eq!(refusals[0].rule.as_deref(), Some("secrets"));
    assert_eq!(refusals[0].code, "policy-denied");
}
