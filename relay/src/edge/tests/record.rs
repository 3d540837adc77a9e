//! What a call leaves in the log.

use std::sync::Arc;

use culvert_http::Alpn;
use serde_json::json;
use tokio::io::AsyncWriteExt;

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

#[tokio::test]
async fn each_call_leaves_one_access_line_without_secrets_however_it_ends() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // Tests on other threads meet the line too, and nobody listens there. With a single dispatcher
    // in the process, tracing would take their word for everybody's.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::callsite::rebuild_interest_cache();
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

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let parts: Vec<_> = token.split('.').collect();
    assert!(
        !text.contains(parts[1]) && !text.contains(parts[2]),
        "a token in the log"
    );
    let access: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["target"] == "culvert::access")
        .collect();
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
