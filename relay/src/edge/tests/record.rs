//! What a call leaves in the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_config::relay::RelayLimits;
use culvert_http::Alpn;
use culvert_proto::head::BodyLength;
use culvert_session::Stream;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;

use super::connect::{NAME, way};
use super::rig::*;

/// Collects log lines.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Collects what is logged on this thread, while the guards are there.
    fn listen() -> (Self, (DefaultGuard, Dispatch)) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        // Tests on other threads meet the line too, and nobody listens there. With a single dispatcher
        // in the process, tracing would take their word for everybody's.
        let other = Dispatch::new(tracing_subscriber::registry());
        tracing::callsite::rebuild_interest_cache();
        (lines, (guard, other))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The access lines.
    fn access(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &Value| line["target"] == "culvert::access")
            .collect()
    }
}

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
    assert_eq!(line["mode"], "http");
    assert_eq!(line["method"], "GET");
    assert_eq!(line["path"], "/a");
    assert_eq!(line["sent"], 2);
    let line = of(ticket.header("culvert-call"))[0];
    assert_eq!(line["path"], "/ticket/***");
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
