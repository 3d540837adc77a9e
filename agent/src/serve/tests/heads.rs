//! What a relay may send as a head, and what is refused before the policy is asked.

use culvert_proto::code::ErrorCode;
use http::HeaderValue;

use super::*;

#[tokio::test(start_paused = true)]
async fn targets_that_are_not_canonical_never_reach_the_upstream() {
    let mut tunnel = Tunnel::new(POLICY).await;
    for target in [
        "",
        "api/vms",
        "/api/../other",
        "/api/./vms",
        "/api//vms",
        "/api/%2e%2e/other",
        "/api/%2E/vms",
        "/api/vms%2Fsecret",
        "/api/%5Cvms",
        "/api/vm%73",
        "/api/v%c3%a4",
        "/api/a;b",
        "/api/a\\b",
        "/api/a#b",
        "/api/%00",
        "/api/vms?a=%zz",
        "http://elsewhere/api/vms",
        "*",
    ] {
        let refusal = refusal(&mut tunnel.call(&get(target), "")).await;
        assert_eq!(refusal.code, ErrorCode::BadRequest, "{target:?}");
        assert!(
            refusal.detail.contains("target"),
            "{target:?}: {}",
            refusal.detail
        );
    }
    tunnel.assert_untouched();
}

/// A tool's user can do something about a character, and nothing about a word of ours.
#[tokio::test(start_paused = true)]
async fn whoever_sends_a_target_that_is_not_accepted_is_told_what_is_in_the_way() {
    let mut tunnel = Tunnel::new(POLICY).await;
    for (target, words) in [
        (
            "/api/a;b",
            "a ';' at 6, which this endpoint does not accept",
        ),
        ("/api/a%2Fb", "the escape %2F at 6, which is not accepted"),
        ("/api//vms", "an empty segment"),
        (
            "/api/vms?a=%zz",
            "'%' at 11 is not followed by two hex digits",
        ),
    ] {
        let refusal = refusal(&mut tunnel.call(&get(target), "")).await;
        assert!(
            refusal.detail.contains(words),
            "{target}: {}",
            refusal.detail
        );
    }
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_not_offered_is_refused() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let head = CallHead {
        endpoint: EndpointName::new("other").unwrap(),
        ..get("/api/vms")
    };
    let refusal = refusal(&mut tunnel.call(&head, "")).await;
    assert_eq!(refusal.code, ErrorCode::UnknownEndpoint);
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn methods_that_no_relay_forwards_are_refused() {
    let mut tunnel = Tunnel::new(POLICY.replace("method = ", "# method = ").as_str()).await;
    for method in ["CONNECT", "TRACE"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let refusal = refusal(&mut tunnel.call(&head(method.clone(), "/api/vms"), "")).await;
        assert_eq!(refusal.code, ErrorCode::BadRequest, "{method}");
    }
    tunnel.assert_untouched();
    // An unusual method is the policy's business.
    let method = Method::from_bytes(b"PROPFIND").unwrap();
    let _call = tunnel.call(&head(method, "/api/vms"), "");
    let request = tunnel.connection().await.request().await.unwrap();
    assert!(request.starts_with("PROPFIND /api/vms HTTP/1.1\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_forwards_an_upgrade_header_is_refused() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut head = get("/api/console");
    head.headers
        .insert("upgrade", HeaderValue::from_static("websocket"));
    let refusal = refusal(&mut tunnel.call(&head, "")).await;
    assert_eq!(refusal.code, ErrorCode::BadRequest);
    assert!(refusal.detail.contains("upgrade"), "{}", refusal.detail);
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn modes_that_the_endpoint_does_not_have_are_refused() {
    let mut tunnel = Tunnel::new(POLICY).await;
    for mode in [Mode::Connect, Mode::Terminate, Mode::Tcp] {
        let refusal = refusal(&mut tunnel.call(
            &CallHead {
                mode,
                ..get("/api/vms")
            },
            "",
        ))
        .await;
        assert_eq!(refusal.code, ErrorCode::BadRequest, "{mode:?}");
    }
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn a_public_name_that_could_forge_headers_is_refused() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let head = CallHead {
        authority: Bytes::from_static(b"a\";for=\"x"),
        ..get("/api/vms")
    };
    let refusal = refusal(&mut tunnel.call(&head, "")).await;
    assert_eq!(refusal.code, ErrorCode::BadRequest);
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn headers_that_a_relay_forges_do_not_reach_the_upstream() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut head = get("/api/vms");
    for (name, value) in [
        ("x-forwarded-for", "6.6.6.6"),
        ("connection", "x-secret"),
        ("x-secret", "1"),
        ("transfer-encoding", "chunked"),
        ("content-length", "99"),
        ("host", "elsewhere"),
        ("culvert-authorization", "Bearer x"),
        ("proxy-authorization", "Bearer x"),
        ("authorization", "Basic dXBzdHJlYW0="),
    ] {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    let _call = tunnel.call(&head, "");
    let request = tunnel
        .connection()
        .await
        .request()
        .await
        .unwrap()
        .to_ascii_lowercase();
    assert!(
        request.contains("\r\nx-forwarded-for: 192.0.2.1\r\n"),
        "{request}"
    );
    assert!(request.contains("\r\nhost: 127.0.0.1:9\r\n"), "{request}");
    assert!(
        request.contains("\r\nauthorization: basic dxbzdhjlyw0=\r\n"),
        "{request}"
    );
    for absent in [
        "6.6.6.6",
        "x-secret",
        "transfer-encoding",
        "content-length",
        "bearer",
    ] {
        assert!(!request.contains(absent), "{absent}: {request}");
    }
}

pub(super) const FILES: &str = r#"
version = 1
[[rule]]
id = "files"
action = "allow"
method = ["GET", "COPY", "MOVE"]
path = ["/files/**"]
[[rule]]
id = "secrets"
action = "deny"
path = ["/files/secret%5Bs%5D/**"]
"#;

/// A call of WebDAV with these fields.
pub(super) fn dav(method: &str, destinations: &[&'static str]) -> CallHead {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut head = head(method, "/files/a");
    for destination in destinations {
        let value = HeaderValue::from_static(destination);
        head.headers.append("destination", value);
    }
    head
}

/// `Destination` is written to, and the upstream sees what was decided on.
#[tokio::test(start_paused = true)]
async fn a_copy_or_move_leads_only_where_the_policy_would_let_it_begin() {
    let mut tunnel = Tunnel::new(FILES).await;
    for (destinations, code) in [
        (
            &["https://api--acme.relay.example/files/secret[s]/b"][..],
            ErrorCode::PolicyDenied,
        ),
        (
            &["https://api--acme.relay.example/Files/Secret%5bs%5d/b"],
            ErrorCode::PolicyDenied,
        ),
        (
            &["https://api--acme.relay.example/elsewhere/b"],
            ErrorCode::PolicyDenied,
        ),
        (&["/elsewhere/b"], ErrorCode::PolicyDenied),
        (&["//other/elsewhere/b"], ErrorCode::PolicyDenied),
        (&["https://other/elsewhere/b"], ErrorCode::PolicyDenied),
        (&["/files/../elsewhere/b"], ErrorCode::BadRequest),
        (&["/files/%2e%2e/elsewhere"], ErrorCode::BadRequest),
        (
            &["https://u@api--acme.relay.example/files/b"],
            ErrorCode::BadRequest,
        ),
        (&["https://api--acme.relay.example"], ErrorCode::BadRequest),
        (&["files/b"], ErrorCode::BadRequest),
        (&[""], ErrorCode::BadRequest),
        (&["/files/b", "/files/c"], ErrorCode::BadRequest),
    ] {
        for method in ["COPY", "MOVE"] {
            let refusal = refusal(&mut tunnel.call(&dav(method, destinations), "")).await;
            assert_eq!(refusal.code, code, "{method} {destinations:?}");
            assert!(refusal.detail.contains("Destination"), "{}", refusal.detail);
        }
    }
    tunnel.assert_untouched();
    let mut upstream = None;
    for (method, destination, seen) in [
        (
            "MOVE",
            "https://api--acme.relay.example/files/b%7e[1]",
            "http://127.0.0.1:9/files/b~%5B1%5D",
        ),
        ("COPY", "/files/b", "/files/b"),
        // It means nothing there.
        ("GET", "/elsewhere/../b", "/elsewhere/../b"),
    ] {
        let mut call = tunnel.call(&dav(method, &[destination]), "");
        if upstream.is_none() {
            upstream = Some(tunnel.connection().await);
        }
        let upstream = upstream.as_mut().unwrap();
        let request = upstream.request().await.unwrap().to_ascii_lowercase();
        let line = format!("\r\ndestination: {}\r\n", seen.to_ascii_lowercase());
        assert!(request.contains(&line), "{request}");
        upstream.send(HELLO).await;
        assert_eq!(body_of(&mut call).await, b"hello");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_endpoint_sheds_calls_and_serves_again_when_there_is_room() {
    let mut endpoint = endpoint(
        "http://127.0.0.1:9",
        culvert_config::endpoint::Trust::SystemRoots,
    );
    endpoint.max_streams = 1;
    let mut tunnel = Tunnel::with(POLICY, &endpoint).await;
    let (mut one, mut upstream) = tunnel.under_way(&get("/api/1")).await;
    let shed = refusal(&mut tunnel.call(&get("/api/2"), "")).await;
    assert_eq!(shed.code, ErrorCode::Overloaded);
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut one).await, b"hello");
    tunnel.serving.calls().close();
    tunnel.serving.calls().wait().await;
    let mut three = tunnel.call(&get("/api/3"), "");
    upstream.request().await.unwrap();
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut three).await, b"hello");
}

fn two_calls_per(unit: &str) -> String {
    format!(
        r#"
version = 1
[[rule]]
id = "few"
action = "allow"
path = ["/api/**"]
rate = "2/{unit}"
"#
    )
}

/// How the third of three calls at once is refused.
async fn third_call(tunnel: &mut Tunnel) -> Refusal {
    let _calls = [
        tunnel.call(&get("/api/1"), ""),
        tunnel.call(&get("/api/2"), ""),
    ];
    tunnel.connection().await;
    tunnel.connection().await;
    refusal(&mut tunnel.call(&get("/api/3"), "")).await
}

#[tokio::test(start_paused = true)]
async fn a_rule_with_a_rate_lets_so_many_calls_through() {
    let mut tunnel = Tunnel::new(&two_calls_per("s")).await;
    for round in 0..2 {
        let refusal = third_call(&mut tunnel).await;
        assert_eq!(refusal.code, ErrorCode::QuotaExceeded, "round {round}");
        assert!(refusal.detail.ends_with("try again in 1 s."), "{refusal:?}");
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_has_used_up_a_rate_is_told_for_how_long() {
    let mut tunnel = Tunnel::new(&two_calls_per("h")).await;
    let refusal = third_call(&mut tunnel).await;
    let (_, wait) = refusal.detail.split_once("try again in ").unwrap();
    let seconds: u64 = wait.strip_suffix(" s.").unwrap().parse().unwrap();
    assert!((1_700..=1_800).contains(&seconds), "{refusal:?}");
}
