//! What a call leaves in the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_config::relay::RelayLimits;
use culvert_http::{Alpn, Progress};
use culvert_proto::head::BodyLength;
use culvert_session::Stream;
use http::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncWriteExt, duplex};

use super::connect::{NAME, connect, way};
use super::rig::*;
use crate::edge::connection::Connection;
use crate::edge::record::CallRecord;
use crate::listener::{Door, Peer};
use crate::metrics::Metrics;
use crate::sessions::tests::rig::HANDSHAKE;
use crate::testing::Lines;

#[tokio::test]
async fn each_call_leaves_one_access_line_without_secrets_however_it_ends() {
    let (lines, _guards) = Lines::listen();
    let rig = Rig::new();
    let token = rig.token(json!({}));
    let mut agent = rig.agent("vc").await;

    let request = Rig::get(
        "/a?key=hidden",
        &format!("Culvert-Authorization: Bearer {token}\r\n"),
    );
    let agent_side = async {
        let (_, mut stream) = agent.accept().await;
        answer(&mut stream, 200, &[], b"ok").await;
    };
    let (answered, ()) = tokio::join!(rig.exchange(&request), agent_side);
    let refused = rig.exchange(Rig::get("/b", "Host: x\r\n")).await;
    let bad = rig
        .exchange(Rig::get("/c", "Culvert-Authorization: Bearer a.b.c\r\n"))
        .await;
    let ticket = rig.exchange(Rig::get("/ticket/lease", "")).await;
    let mut gone = rig.connect(Alpn::Http1);
    gone.write_all(request.as_bytes()).await.unwrap();
    let (head, mut stream) = agent.accept().await;
    drop(gone);
    stream.send.stopped().await;

    let text = lines.text();
    let parts: Vec<_> = token.split('.').collect();
    assert!(
        !text.contains(parts[1]) && !text.contains(parts[2]),
        "a token in the log"
    );
    let access = lines.access();
    let of = |call: &str| -> Vec<_> { access.iter().filter(|line| line["call"] == call).collect() };
    let expected = [
        (
            answered.header("culvert-call").to_owned(),
            "answered",
            json!(200),
            json!(null),
        ),
        (
            refused.header("culvert-call").to_owned(),
            "refused",
            json!(400),
            json!("bad-request"),
        ),
        (
            bad.header("culvert-call").to_owned(),
            "refused",
            json!(401),
            json!("unauthenticated"),
        ),
        (
            ticket.header("culvert-call").to_owned(),
            "refused",
            json!(401),
            json!("unauthenticated"),
        ),
        (
            head.call.to_string(),
            "caller-gone",
            json!(null),
            json!(null),
        ),
    ];
    assert_eq!(access.len(), expected.len(), "{text}");
    for (call, outcome, status, code) in expected {
        let lines = of(&call);
        assert_eq!(lines.len(), 1, "{outcome}: {text}");
        assert_eq!(lines[0]["outcome"], outcome);
        assert_eq!(lines[0]["status"], status);
        assert_eq!(lines[0]["code"], code);
    }
    let line = of(refused.header("culvert-call"))[0];
    assert_eq!(line["method"], json!(null));
    assert!(line["why"].as_str().unwrap().contains("more than one Host"));
    let line = of(answered.header("culvert-call"))[0];
    assert_eq!(line["tenant"], "acme");
    assert_eq!(line["endpoint"], "vc");
    assert_eq!(line["caller"], "director-7");
    assert_eq!(line["caller_tenant"], "acme");
    assert_eq!(line["mode"], "http");
    assert_eq!(line["method"], "GET");
    assert_eq!(line["path"], "/a");
    assert_eq!(line["sent"], 2);
    let line = of(ticket.header("culvert-call"))[0];
    assert_eq!(line["path"], "/ticket/***");
}

/// A subject means something only within its tenant.
#[tokio::test]
async fn a_caller_is_named_with_its_own_tenant_whatever_it_calls() {
    let (lines, _guards) = Lines::listen();
    let rig = Rig::new();
    let token = rig.token(json!({"tenant": "globex", "sub": "dir-9"}));
    let field = format!("Culvert-Authorization: Bearer {token}\r\n");
    let others = rig.exchange(Rig::get("/a", &field)).await;
    assert_eq!(others.code(), "unknown-endpoint");
    let field = format!("Proxy-Authorization: Bearer {token}\r\n");
    let unknown = connect(NAME, &format!("{field}Connection: close\r\n"));
    assert_eq!(rig.exchange(unknown).await.status, 404);
    let script = rig.exchange(own_page("/.culvert/proxy.pac", &field)).await;
    assert_eq!(script.status, 200);

    let access = lines.access();
    assert_eq!(access.len(), 3, "{}", lines.text());
    for (line, tenant) in access.iter().zip([json!("acme"), json!(null), json!(null)]) {
        assert_eq!(line["tenant"], tenant, "{line}");
        assert_eq!(line["caller"], "dir-9", "{line}");
        assert_eq!(line["caller_tenant"], "globex", "{line}");
    }
}

fn own_page(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n{fields}\r\n")
}

#[tokio::test]
async fn the_relays_own_pages_are_told_apart_and_a_request_for_a_session_is_no_call() {
    let (lines, _guards) = Lines::listen();
    let rig = Rig::new();
    rig.exchange(own_page("/.culvert/errors?a=b", "")).await;
    rig.exchange(own_page("/.culvert/proxy.pac", "")).await;
    let token = rig.token(json!({}));
    let ask = format!("{HANDSHAKE}Authorization: Bearer {token}\r\n\r\n");
    let ask = ask.replace("Connection: Upgrade", "Connection: upgrade, close");
    let refused = rig.exchange(ask).await;
    assert_eq!(refused.code(), "forbidden");

    let access = lines.access();
    let paths: Vec<_> = access.iter().map(|line| line["path"].clone()).collect();
    let expected = [
        "/.culvert/errors",
        "/.culvert/proxy.pac",
        "/.culvert/v1/session",
    ];
    assert_eq!(paths, expected, "{}", lines.text());
    let why = access[2]["why"].as_str().unwrap();
    for part in ["lacks the scope to register", "acme", "director-7"] {
        assert!(why.contains(part), "{why}");
    }

    let counted = rig.metrics.render().unwrap();
    for line in [
        "culvert_relay_calls_total{outcome=\"answered\",code=\"2xx\"} 1\n",
        "culvert_relay_calls_total{outcome=\"refused\",code=\"unauthenticated\"} 1\n",
        "culvert_relay_calls_total{outcome=\"refused\",code=\"forbidden\"} 0\n",
        "culvert_relay_call_duration_seconds_count 2\n",
        "culvert_relay_session_refusals_total{reason=\"forbidden\"} 1\n",
        "culvert_relay_calls_in_flight 0\n",
    ] {
        assert!(counted.contains(line), "{line}{counted}");
    }
}

/// Sends an answer without end, until nobody wants more of it.
async fn flood(mut stream: Stream) {
    let piece = Bytes::from_static(&[0; 4096]);
    while stream.send.write_bytes(piece.clone()).await.is_ok() {}
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_cut_off_for_taking_nothing_is_not_said_to_have_gone() {
    let (lines, _guards) = Lines::listen();
    let mut limits = RelayLimits::default();
    limits.stall.0 = Duration::from_secs(1);
    let rig = Rig::with_limits(limits);
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let opened = response(200, &[], BodyLength::Unknown);

    let mut http1 = rig.connect(Alpn::Http1);
    let request = Rig::get("/", &rig.bearer());
    http1.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    stream.send.send_head(&opened).await.unwrap();
    flood(stream).await;

    let mut http2 = rig.http2().await;
    let answer = http2.send_request(rig.request("GET", "/", ""));
    let serving = async {
        let (_, mut stream) = agent.accept().await;
        stream.send.send_head(&opened).await.unwrap();
        stream
    };
    let (_answer, stream) = tokio::join!(answer, serving);
    flood(stream).await;

    let (_way, stream) = way(&rig, &mut agent).await;
    flood(stream).await;

    let access = lines.access();
    assert_eq!(access.len(), 3, "{}", lines.text());
    for line in access {
        assert_eq!(line["outcome"], "cut-short", "{line}");
        assert_eq!(line["why"], "the caller took nothing for 1 s", "{line}");
    }
}

async fn fail(_record: CallRecord) {
    panic!("as the test wants it");
}

/// Whoever looks at lines and metrics looks for the fault here, and not with the caller.
#[tokio::test]
async fn a_call_that_a_defect_ends_is_the_relays_own_fault() {
    let (lines, _guards) = Lines::listen();
    let metrics = Arc::new(Metrics::new());
    let peer = Peer {
        address: "192.0.2.7:4711".parse().unwrap(),
        tls13: true,
        door: Door::Public,
    };
    let connection = Arc::new(Connection::new(peer, &duplex(1).0));
    let begin = || {
        let (metrics, connection) = (metrics.clone(), connection.clone());
        CallRecord::begin(metrics, connection, Method::GET, Progress::default().into())
    };
    let mut answering = begin();
    answering.on_answer(StatusCode::OK);
    let mut answered = begin();
    answered.on_answer(StatusCode::OK);
    answered.on_end();
    for record in [begin(), answering, answered] {
        assert!(tokio::spawn(fail(record)).await.unwrap_err().is_panic());
    }

    let access = lines.access();
    let ends: Vec<_> = access
        .iter()
        .map(|line| (&line["outcome"], &line["status"], &line["why"]))
        .collect();
    let why = json!("a defect of this relay");
    let (internal, none) = (json!("defect"), json!(null));
    let expected = [
        (&internal, &none, &why),
        (&internal, &json!(200), &why),
        (&json!("answered"), &json!(200), &none),
    ];
    assert_eq!(ends, expected, "{}", lines.text());
    let counted = metrics.render().unwrap();
    for line in [
        "calls_total{outcome=\"defect\",code=\"\"} 2\n",
        "calls_total{outcome=\"caller-gone\",code=\"\"} 0\n",
        "calls_in_flight 0\n",
    ] {
        assert!(counted.contains(line), "{line}{counted}");
    }
}
